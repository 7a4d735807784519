"""A share of a slow sweep: python -m tests.evaluation.slow_worker DATA OUT I/N.

DATA is a folder of pictures, or "miniature" for the shipped benchmark.
"""

import dataclasses
import functools
import sys
import time

from brushjax.evaluation import sweep as module
from brushjax.evaluation.benchmarks.folder import Folder
from brushjax.evaluation.benchmarks.miniature import Miniature
from brushjax.evaluation.methods.baselines import Copy, Telea
from brushjax.evaluation.results import Shown
from brushjax.evaluation.sweep import Run, Sweep
from tests.evaluation.test_sweep import Noisy


@dataclasses.dataclass(frozen=True)
class Slow(Noisy):
    """Noise that takes a while, so that a kill finds it at work."""

    label: str = "slow"

    def one(self, task):
        time.sleep(0.02)
        return super().one(task)


def main(data, out, share):
    """Do one share, writing scores in small parts."""
    module.score_units = functools.partial(module.score_units, chunk=4)
    small = Miniature(count=5, size=64, parts=("held-out",))
    sweep = Sweep(
        benchmarks=(small if data == "miniature" else Folder(data),),
        methods=(Slow(), Telea(), Copy()),
        seeds=(0, 1),
        baseline="copy",
        batch_size=2,
        shown=Shown(4, 4),
    )
    Run(sweep, out, share=share, devices=[None], progress=False).all()  # no accelerator to wait for


if __name__ == "__main__":
    index, count = map(int, sys.argv[3].split("/"))
    main(sys.argv[1], sys.argv[2], (index, count))
