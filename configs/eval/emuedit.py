"""Tables 2 and 4 (learnable regions), 1 and 3 (FireEdit): Emu Edit's test set, pictures of anyone.

python evaluate.py configs/eval/emuedit.py --out runs/emuedit --score-only results/theirs
"""

from brushjax.evaluation.benchmarks.tables import EmuEdit
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(EmuEdit(split="test"),),  # 3589 rows; the papers don't say which split
        methods=(Copy(),),  # without masks there is nothing for a branch to fill
        networks=(
            ("clip_b32", "weights/clip_b32"),
            ("dino_s16", "weights/dino_s16"),
            ("lpips_alex", "weights/lpips_alex"),
        ),
    )
