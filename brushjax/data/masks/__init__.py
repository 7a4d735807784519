"""Masks of regions to edit: drawn, derived from objects, stored as run lengths."""
