"""BrushEdit's agent, learnable regions, FireEdit and their rivals on the same records.

python evaluate.py configs/eval/three_papers.py --out runs/three --dry-run
python evaluate.py configs/eval/three_papers.py --out runs/three

Runs with what the package ships, on the miniature alone; every weight and benchmark whose folder is
there joins in, and the report says what was left out.
"""

from brushjax.evaluation.comparisons.three_papers import ThreePapers


def get_config() -> ThreePapers:
    """Returns the evaluation."""
    return ThreePapers()
