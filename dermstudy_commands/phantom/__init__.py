"""The embedded cohort: procedural dermoscopy where real images may not be shipped (notebook 00)."""
