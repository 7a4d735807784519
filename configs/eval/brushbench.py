"""Tables IV, VI and VII of BrushEdit: BrushBench, inside and outside.

python evaluate.py configs/eval/brushbench.py --out runs/brushbench --weights path/to/branch
"""

from brushjax.evaluation.benchmarks.brushbench import BrushBench
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.methods.inpainting import Blended, Grid, Sampling
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(BrushBench(split="inside"), BrushBench(split="outside")),
        methods=(
            Grid(
                schedulers=("unipc-reference",),  # how BrushNet's fork ends UniPC
                steps=(50,),  # the papers'
                guidance=(7.5,),  # the pipeline's default, which the script does not change
                scales=(1.0,),
                blends=("feather",),  # the rows with a star
                label="BrushNet",
            ),
            Blended(sampling=Sampling(50, 7.5), blend="feather"),
            Copy(),  # the floor that JPEG sets in the papers' profile
        ),
        seeds=(1234,),  # the script's; our noise also depends on the record
        baseline="blended",
        base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        networks=(
            ("clip_l14", "weights/clip_l14"),
            ("lpips_squeeze", "weights/lpips_squeeze"),
        ),
    )
