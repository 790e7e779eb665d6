"""A cohort, its splits, and the images that show the same skin (notebook 00)."""
