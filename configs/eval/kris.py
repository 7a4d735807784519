"""KRIS-Bench, edits that need knowledge, judged by up to four scores.

python evaluate.py configs/eval/kris.py --out runs/kris --score-only results/theirs \\
    --judge-requests ask.jsonl
python evaluate.py configs/eval/kris.py --out runs/kris --score-only results/theirs \\
    --judge-answers said.jsonl
"""

from brushjax.evaluation.benchmarks.judged.kris import KrisBench
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(KrisBench(),),
        methods=(Copy(),),  # what a judge gives for doing nothing
    )
