"""One's own pictures, masks and prompts, on the small base of the package or any other.

python evaluate.py configs/eval/folder.py --out runs/mine --weights runs/quickstart/export
"""

from brushjax.evaluation.benchmarks.folder import Folder
from brushjax.evaluation.methods.baselines import Copy, Telea
from brushjax.evaluation.methods.inpainting import Grid
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(Folder(folder="data/mine"),),
        methods=(
            Grid(
                checkpoints=("", "zero"),
                steps=(20,),
                guidance=(3.0,),  # the papers' 7.5 bleaches the colours of the small base
                blends=("none",),  # the seam stays visible to the metrics
            ),
            Telea(),
            Copy(),
        ),
        seeds=(0, 1),
        baseline="branch zero",
    )
