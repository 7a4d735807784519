"""The former place of `brushjax.data.sets.brushdata`, which recipes of users import."""

from brushjax.data.sets.brushdata import BrushData, BrushSamples

__all__ = ["BrushData", "BrushSamples"]
