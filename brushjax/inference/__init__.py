"""From weights and a picture to an edited picture. Names load on first use: help needs no JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brushjax.inference.fireedit import FireEditor, FireEditResult
    from brushjax.inference.inpaint import Inpainter
    from brushjax.inference.inpaint_settings import InpaintSettings
    from brushjax.inference.result import InpaintResult
    from brushjax.inference.strip import strip

_HOME_OF = {
    "FireEditResult": "brushjax.inference.fireedit",
    "FireEditor": "brushjax.inference.fireedit",
    "InpaintResult": "brushjax.inference.result",
    "InpaintSettings": "brushjax.inference.inpaint_settings",
    "Inpainter": "brushjax.inference.inpaint",
    "strip": "brushjax.inference.strip",
}

__all__ = ["FireEditResult", "FireEditor", "InpaintResult", "InpaintSettings", "Inpainter", "strip"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'brushjax.inference' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
