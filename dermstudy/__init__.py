"""Text-to-image synthesis of dermatoscopic images with GLIDE: a reproducible study."""

import warnings

# diffusers' progress bars ask for a notebook widget that headless runs cannot show; the study prints plain lines.
warnings.filterwarnings("ignore", message="IProgress not found")
warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)  # FID-Inception is a TorchScript file

__version__ = "1.0.0"
