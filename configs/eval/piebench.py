"""Table II of BrushEdit: PIE-Bench with its own masks, all ten kinds of edit.

python evaluate.py configs/eval/piebench.py --out runs/piebench --weights path/to/branch
"""

from brushjax.evaluation.benchmarks.piebench import PieBench
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.methods.inpainting import Grid
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(PieBench(),),
        methods=(
            Grid(
                schedulers=("unipc",),
                steps=(50,),  # the papers'
                guidance=(7.5,),
                blends=("feather",),  # BrushEdit blends its results
                label="BrushNet",
            ),
            Copy(),
        ),
        seeds=(1234,),
        base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        networks=(
            ("clip_l14", "weights/clip_l14"),
            ("lpips_squeeze", "weights/lpips_squeeze"),
            ("dino_b8", "weights/dino_b8"),
        ),
    )
