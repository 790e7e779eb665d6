"""The reader study: workbooks of answers and their analysis."""
