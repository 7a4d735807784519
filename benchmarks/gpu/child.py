"""One part of the benchmark in a process of its own.

    python -m benchmarks.gpu.child PART SETTINGS_AS_JSON

Prepares (builds, compiles), prints a line of JSON, waits for a line, and then prints a line for
every figure as soon as there is one.
"""

import importlib
import json
import os
import sys
import time
from types import SimpleNamespace

MODULES = {
    "check": "checks",
    "edit": "edits",
    "edit_torch_1": "edits",
    "edit_torch_8": "edits",
    "train": "trainings",
    "train_torch": "trainings",
    "sdxl": "edits",
    "sdxl_torch": "edits",
    "score": "scoring",
    "fireedit": "trainings",
    "start": "edits",
}


def main():
    """Runs the part."""
    name, options = sys.argv[1], SimpleNamespace(**json.loads(sys.argv[2]))
    answers, sys.stdout = (
        os.fdopen(os.dup(1), "w"),
        sys.stderr,
    )  # what a library prints is no answer
    os.dup2(2, 1)

    def answer(figures):
        print(json.dumps(figures), file=answers, flush=True)

    started = time.perf_counter()
    part = getattr(importlib.import_module(f"benchmarks.gpu.{MODULES[name]}"), name)
    figures = part(options)
    ready = next(figures)
    answer({"ready": time.perf_counter() - started} | ready)
    sys.stdin.readline()
    for figure in figures:
        answer(figure)


if __name__ == "__main__":
    main()
