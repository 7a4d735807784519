"""Diffusion inpainting in JAX: BrushNet branches, their training, and weights to and from PyTorch.

`import brushjax` is cheap: each public name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brushjax import (
        agents,
        data,
        diffusion,
        evaluation,
        inference,
        metrics,
        models,
        training,
        weights,
    )
    from brushjax.agents import EditPlan
    from brushjax.inference import FireEditor, Inpainter
    from brushjax.typing import AddedCondition, Residuals
    from brushjax.weights import load, save

__version__ = "0.1.0.dev0"

_HOME_OF = {
    "AddedCondition": "brushjax.typing",
    "EditPlan": "brushjax.agents",
    "FireEditor": "brushjax.inference",
    "Inpainter": "brushjax.inference",
    "Residuals": "brushjax.typing",
    "load": "brushjax.weights",
    "save": "brushjax.weights",
}
_FOLDERS = frozenset(
    {
        "agents",
        "data",
        "diffusion",
        "evaluation",
        "inference",
        "metrics",
        "models",
        "training",
        "weights",
    }
)

__all__ = [
    "AddedCondition",
    "EditPlan",
    "FireEditor",
    "Inpainter",
    "Residuals",
    "__version__",
    "agents",
    "data",
    "diffusion",
    "evaluation",
    "inference",
    "load",
    "metrics",
    "models",
    "save",
    "training",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
    elif name in _FOLDERS:
        value = importlib.import_module(f"brushjax.{name}")
    else:
        raise AttributeError(f"module 'brushjax' has no attribute {name!r}; it has {__all__}")
    globals()[name] = value  # the next access does not come here again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
