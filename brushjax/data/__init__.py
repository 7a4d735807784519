"""Photographs, masks, captions and the input pipeline. Knows no model."""
