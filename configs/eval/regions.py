"""Where an instruction edits: a predictor's regions against the masks of PIE-Bench and MagicBrush.

python evaluate.py configs/eval/regions.py --out runs/regions
"""

from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.benchmarks.piebench import PieBench
from brushjax.evaluation.methods.regions import Fixed, Predicted, Proposed
from brushjax.evaluation.sweep import Sweep

PREDICTOR = ""  # runs/predictor/export of configs/region/predictor.py; empty: the one that ships


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(PieBench(), MagicBrush(protocol="single")),
        methods=(
            Predicted(predictor=PREDICTOR),
            Proposed(predictor=PREDICTOR),
            Fixed("oracle", by="oracle"),
            Fixed("everything"),
            Fixed("random box", by="random"),
        ),
        profiles=("clean",),
        metrics=("region_iou", "region_precision", "region_recall", "region_area"),
        base="stable-diffusion-v1-5/stable-diffusion-v1-5",
    )
