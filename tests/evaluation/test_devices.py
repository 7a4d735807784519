"""Results do not depend on devices, processes, batch size or order."""

import dataclasses
import os
import random
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from brushjax.evaluation.store import read_table
from brushjax.evaluation.sweep import Run
from tests.evaluation import tiny
from tests.evaluation.worker import SWEEP

ROOT = Path(__file__).parents[2]
SMALL = dataclasses.replace(SWEEP, methods=SWEEP.methods[:1], baseline="", seeds=(0,))


@pytest.fixture(scope="module")
def models():
    return tiny.models()


def compare(one, other):
    """The same rows in the same order, of the same pictures; returns the largest difference."""
    a, b = (read_table(out / "scores.parquet") for out in (one, other))
    largest = 0.0
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        for name in left.keys() - {"seconds"}:  # keys, seeds, settings, pictures' digests, metrics
            if not isinstance(left[name], float) or np.isnan(left[name]):
                assert str(left[name]) == str(right[name]), name  # NaN too
            else:
                largest = max(largest, abs(left[name] - right[name]))
    assert largest <= 1e-6, largest
    return largest


@pytest.mark.slow
def test_eight_devices_make_the_numbers_of_one(models, tmp_path):
    devices = jax.local_devices()
    assert len(devices) == 8
    for name, chosen in (("one", devices[:1]), ("eight", devices)):
        sweep = SMALL if name == "one" else dataclasses.replace(SMALL, batch_size=16)
        Run(sweep, tmp_path / name, models, devices=chosen, progress=False).all()
    print(compare(tmp_path / "one", tmp_path / "eight"))


def start(out, share, devices, *coordinator):
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    flags += f" --xla_force_host_platform_device_count={devices}"
    arguments = [sys.executable, "-m", "tests.evaluation.worker", str(out), share, *coordinator]
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        # On a CPU the sums also depend on how many threads share a product. A process has as many
        # as it has devices or, where that is more, cores: NPROC, if it is set.
        env={**os.environ, "XLA_FLAGS": flags, "NPROC": "8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    texts = [process.communicate(timeout=500)[0] for process in processes]
    for process, text in zip(processes, texts, strict=True):
        assert process.returncode == 0, text[-3000:]
    return texts


@pytest.mark.slow  # five processes, each of which compiles: two minutes of CPU
def test_two_processes_of_four_devices_make_the_numbers_of_one(models, tmp_path, monkeypatch):
    finish(start(tmp_path / "one", "0/1", 1))
    finish(start(tmp_path / "shared", "0/2", 4), start(tmp_path / "shared", "1/2", 4))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    processes = [start(tmp_path / "slice", f"{index}/2", 4, address) for index in range(2)]
    assert any("4 devices" in text for text in finish(*processes))

    mine = Run.units.fget
    monkeypatch.setattr(
        Run, "units", property(lambda self: random.Random(5).sample(mine(self), len(mine(self))))
    )
    other = dataclasses.replace(SWEEP, batch_size=3)
    Run(other, tmp_path / "order", models, devices=jax.local_devices()[:1], progress=False).all()
    for name in ("shared", "slice", "order"):
        print(name, compare(tmp_path / "one", tmp_path / name))
