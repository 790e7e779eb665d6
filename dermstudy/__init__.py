"""Text-to-image synthesis of dermatoscopic images with GLIDE: a reproducible study."""

__version__ = "0.1.0"
