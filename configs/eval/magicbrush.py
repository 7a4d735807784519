"""Tables 3 (learnable regions) and 2 (FireEdit): MagicBrush's test split, both protocols.

python evaluate.py configs/eval/magicbrush.py --out runs/magicbrush --weights path/to/branch
python evaluate.py configs/eval/magicbrush.py --out runs/theirs --score-only results/theirs
"""

from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.methods.inpainting import Grid
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(MagicBrush(protocol="single"), MagicBrush(protocol="multi")),
        methods=(
            # A branch is given the benchmark's masks and captions; instruction-driven methods are
            # not, so that the papers' rows are no fair rivals of it.
            Grid(steps=(50,), guidance=(7.5,), blends=("feather",), label="BrushNet"),
            Copy(),
        ),
        base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        networks=(
            ("clip_b32", "weights/clip_b32"),
            ("dino_s16", "weights/dino_s16"),
        ),
    )
