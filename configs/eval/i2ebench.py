"""I2EBench, judged by a question each, a truth or a mask.

python evaluate.py configs/eval/i2ebench.py --out runs/i2ebench --score-only results/theirs \\
    --judge-requests ask.jsonl
python evaluate.py configs/eval/i2ebench.py --out runs/i2ebench --score-only results/theirs \\
    --judge-answers said.jsonl
"""

from brushjax.evaluation.benchmarks.judged.i2ebench import I2EBench
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.sweep import Sweep


def get_config() -> Sweep:
    """Returns the evaluation."""
    return Sweep(
        benchmarks=(I2EBench(),),
        methods=(Copy(),),  # what a judge gives for doing nothing
    )
