"""Names and shapes of the region predictor."""

from __future__ import annotations

from typing import Any

from brushjax.weights.rules import Dialect, Shapes, WeightMap

SIGN = "cross_attention.to_q.weight"


def infer(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from the shapes."""
    width, instruction = shapes["cross_attention.to_k.weight"]
    return {
        "_class_name": "RegionPredictor",
        "width": width,
        "instruction_width": None if instruction == width else instruction,
        "mlp_width": shapes["mlp.fc1.weight"][0],
        "semantics_width": shapes["semantics.fc1.weight"][0],
        "residual": "norm_image.weight" in shapes,
    }


REGION = WeightMap(
    kind="region",
    folder="region",
    stem="model",
    classes=("RegionPredictor",),
    model=("brushjax.models.region", "RegionPredictor", "RegionConfig"),
    dialects=(Dialect("diffusers", "", SIGN, infer),),
    ldm_dialect=lambda config, kinds: Dialect("ldm", "", SIGN, infer),
)
