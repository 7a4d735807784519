"""GEdit-Bench, real users' edits in English, judged by VIEScore.

python evaluate.py configs/eval/gedit.py --out runs/gedit --score-only results/theirs \\
    --judge-requests ask.jsonl
python evaluate.py configs/eval/gedit.py --out runs/gedit --score-only results/theirs \\
    --judge-answers said.jsonl
"""

from brushjax.evaluation.benchmarks.judged.gedit import GEditBench
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(GEditBench(),),
        methods=(Copy(),),  # what a judge gives for doing nothing
    )
