"""Commands and pages around the study: what runs, proves, serves and makes. No notebook imports it."""
