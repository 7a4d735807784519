"""Latents that were encoded beforehand: how they are stored, and how they are read."""
