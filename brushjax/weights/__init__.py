"""Weights from and to PyTorch programs: diffusers, transformers, ComfyUI, and the original Stable Diffusion code."""

from brushjax.weights.loading import load
