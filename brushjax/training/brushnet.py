"""The former place of `brushjax.training.objectives.brushnet`, which recipes of users import."""

from brushjax.training.objectives.brushnet import BrushNetObjective

__all__ = ["BrushNetObjective"]
