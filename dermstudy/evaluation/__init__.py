"""Image quality: encoders, distances and the reference classifier (notebook 04)."""
