"""The page that paints."""
