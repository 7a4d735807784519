"""Table V of BrushEdit: EditBench.

python evaluate.py configs/eval/editbench.py --out runs/editbench --weights path/to/branch
"""

from brushjax.evaluation.benchmarks.brushbench import EditBench
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.methods.inpainting import Grid
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(EditBench(),),
        methods=(
            Grid(
                schedulers=("unipc-reference",),  # how BrushNet's fork ends UniPC
                steps=(50,),  # the papers', as the numbers below
                guidance=(7.5,),
                blends=("feather",),
                label="BrushNet",
            ),
            Copy(),
        ),
        seeds=(1234,),  # the script's; our noise also depends on the record
        base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        networks=(
            ("clip_l14", "weights/clip_l14"),
            ("lpips_squeeze", "weights/lpips_squeeze"),
        ),
    )
