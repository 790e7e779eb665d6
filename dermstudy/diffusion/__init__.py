"""GLIDE: its networks, their training and their samplers (notebooks 01, 02 and 03)."""
