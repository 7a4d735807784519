"""The toy paper's names and shapes in files."""

from brushjax.weights.maps import register
from brushjax.weights.rules import Dialect, WeightMap

SIGN = "conv_mid.weight"


def infer(shapes):
    """Tells the config from the shapes."""
    return {"_class_name": "ToyPainter", "width": shapes[SIGN][0]}


TOY = register(
    WeightMap(
        kind="toy",
        folder="toy",
        stem="model",
        classes=("ToyPainter",),
        model=("tests.toy_paper.model", "ToyPainter", "ToyConfig"),
        dialects=(Dialect("diffusers", "", SIGN, infer),),
        ldm_dialect=lambda config, kinds: None,
    )
)
