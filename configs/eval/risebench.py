"""RISEBench, edits that need reasoning, judged by three scores.

python evaluate.py configs/eval/risebench.py --out runs/risebench --score-only results/theirs \\
    --judge-requests ask.jsonl
python evaluate.py configs/eval/risebench.py --out runs/risebench --score-only results/theirs \\
    --judge-answers said.jsonl
"""

from brushjax.evaluation.benchmarks.judged.risebench import RiseBench
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(RiseBench(),),
        methods=(Copy(),),  # what a judge gives for doing nothing
    )
