"""ImgEdit's basic benchmark, judged by three scores.

python evaluate.py configs/eval/imgedit.py --out runs/imgedit --score-only results/theirs \\
    --judge-requests ask.jsonl
python evaluate.py configs/eval/imgedit.py --out runs/imgedit --score-only results/theirs \\
    --judge-answers said.jsonl
"""

from brushjax.evaluation.benchmarks.judged.imgedit import ImgEdit
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(ImgEdit(),),
        methods=(Copy(),),  # what a judge gives for doing nothing
    )
