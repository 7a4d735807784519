"""Runs of the training command in processes of their own: several hosts, and signals."""

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from brushjax.training.logging import read_rows

ROOT = Path(__file__).parents[2]
LINE = "tests/training/tiny.py"
BRANCH = "tests/training/tiny_branch.py"


def launch(workdir, processes, devices, *overrides, config=LINE):
    """Starts the processes of one run, each with so many devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hosts = ",".join([f"127.0.0.1:{port}", *["127.0.0.1"] * (processes - 1)])
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = os.environ | {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    started = []
    for process in range(processes):
        several = ["--hosts", hosts, "--process", str(process)] if processes > 1 else []
        command = [sys.executable, "train.py", config, "--workdir", str(workdir), *several]
        with (workdir.parent / f"{workdir.name}.{process}.log").open("a") as log:
            started.append(
                subprocess.Popen(
                    [*command, *overrides], cwd=ROOT, env=environment, stdout=log, stderr=log
                )
            )
    return started


def wait(processes, workdir):
    """Waits for all to end well."""
    for number, process in enumerate(processes):
        code = process.wait(timeout=900)
        text = (workdir.parent / f"{workdir.name}.{number}.log").read_text()[-3000:]
        assert code == 0, f"process {number} ended with {code}:\n{text}"


def wait_for_rows(workdir, count, processes):
    """Waits until so many steps are logged."""
    while len(losses(workdir)) < count:
        assert processes[0].poll() is None, f"ended before it had {count} rows"
        time.sleep(0.01)


def losses(workdir):
    """Returns the loss of each step that is logged."""
    return {row["step"]: row["loss"] for row in read_rows(workdir / "metrics.jsonl")}


def saved(workdir):
    """Returns the steps that are saved completely."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def killed(workdir, kills, settings, config=LINE, most_rows=40):
    """Kills runs of 2 x 4 devices at random moments, every other one while a checkpoint is being
    written, lets each end, and fails if one ends otherwise than a run that was never killed.

    Returns: at each kill, (rows that were logged, the last checkpoint, partial ones).
    """
    whole = workdir / "whole"
    start = time.monotonic()
    wait(launch(whole, 2, 4, *settings, config=config), whole)
    lasted = time.monotonic() - start
    rng, moments = random.Random(0), []
    for kill in range(kills):
        folder = workdir / f"killed{kill}"
        processes = launch(folder, 2, 4, *settings, config=config)
        if kill % 2:
            wait_for_rows(folder, rng.randrange(1, most_rows), processes)
            while not list((folder / "checkpoints").glob("*tmp*")) and processes[0].poll() is None:
                pass
            time.sleep(rng.random() * 0.02)
        else:
            time.sleep(rng.random() * lasted)
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        steps = saved(folder) if (folder / "checkpoints").is_dir() else []
        cut = len(list((folder / "checkpoints").glob("*tmp*")))
        moments.append((len(losses(folder)), steps[-1:], cut))
        wait(launch(folder, 2, 4, *settings, config=config), folder)
        assert losses(folder) == losses(whole)
        compare_exports(folder / "export", whole / "export")
    print("(rows, last checkpoint, partial ones) at each kill:", moments)
    return moments


def compare_exports(folder, expected):
    """Fails where a tensor of two exports differs in a bit."""
    files = sorted(expected.rglob("*.safetensors"))
    assert files
    for file in files:
        tensors, ended = load_file(file), load_file(folder / file.relative_to(expected))
        assert tensors.keys() == ended.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(ended[name], tensor, err_msg=f"{folder}: {name}")
