"""ReasonEdit's understanding and reasoning scenes, with masks.

python evaluate.py configs/eval/reasonedit.py --out runs/reasonedit --weights path/to/branch
python evaluate.py configs/eval/reasonedit.py --out runs/theirs --score-only results/theirs
"""

from brushjax.evaluation.benchmarks.reasonedit import ReasonEdit
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.methods.inpainting import Grid
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(ReasonEdit(),),
        methods=(
            # A branch is given the masks and captions, which instruction-driven methods are not.
            Grid(steps=(50,), guidance=(7.5,), blends=("feather",), label="BrushNet"),
            Copy(),
        ),
        base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        networks=(
            ("clip_l14", "weights/clip_l14"),
            ("lpips_squeeze", "weights/lpips_squeeze"),
        ),
    )
