"""One process of a sweep over tiny random networks: python -m tests.evaluation.worker OUT I/N."""

import dataclasses
import sys
from pathlib import Path

import jax

from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.methods.inpainting import Branch, Sampling
from brushjax.evaluation.results import Shown
from brushjax.evaluation.sweep import Run, Sweep
from tests.evaluation import tiny

SWEEP = Sweep(
    benchmarks=(dataclasses.replace(tiny.CONFIG.held_out, count=5),),
    methods=(Branch(sampling=Sampling(steps=2)), Copy()),
    seeds=(0, 1),
    profiles=("clean",),
    baseline="copy",
    batch_size=2,
    shown=Shown(2, 1),
)


def main(out, share, distributed=False):
    """Do one share of the sweep."""
    if distributed:
        jax.distributed.initialize(cluster_detection_method="deactivate", **distributed)
        share = jax.process_index(), jax.process_count()
    run = Run(SWEEP, Path(out), tiny.models(), share=share, progress=False)
    report = run.all()
    print(
        f"{jax.local_device_count()} devices, {len(run.units)} units, report: {report is not None}"
    )


if __name__ == "__main__":
    index, count = map(int, sys.argv[2].split("/"))
    together = None
    if len(sys.argv) > 3:
        together = {
            "coordinator_address": sys.argv[3],
            "num_processes": count,
            "process_id": index,
            "local_device_ids": list(range(4)),
        }
    main(sys.argv[1], (index, count), together)
