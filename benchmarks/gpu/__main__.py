"""All that a GPU can tell of brushjax, in one job of minutes: parity, edits, training, scoring.

    python -m benchmarks.gpu --out results.json                    every part, within 8 minutes
    python -m benchmarks.gpu --parts edit --profile edit           some parts, and their kernels
    python -m benchmarks.gpu --tiny                                does it run at all? also on a CPU
    python -m benchmarks.gpu --table results.json                  the table of a run

Parts prepare (build and compile) side by side, in waves, and then measure one after the other, so
that nothing else runs while something is timed. A part that outlasts its time is ended; the JSON is
written after every part. Weights are random, of full size, made on the machine: nothing is fetched.
PyTorch's side runs what the reference pipeline runs, in bfloat16 with channels_last and its fused
attention. Needs PyTorch, diffusers and transformers beside brushjax.
"""

import argparse
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.gpu.report import table
from brushjax.files import write_bytes

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Part:
    """A process: its wave, and the seconds within which it has to be ready and to be done."""

    wave: int
    ready: int
    done: int


PARTS = {  # in the order of their worth
    "check": Part(1, 185, 20),
    "edit": Part(1, 185, 40),
    "edit_torch_1": Part(1, 185, 20),
    "train_torch": Part(1, 185, 25),
    "train": Part(1, 185, 60),
    "edit_torch_8": Part(1, 185, 40),
    "sdxl": Part(2, 150, 30),
    "sdxl_torch": Part(2, 150, 60),
    "score": Part(2, 150, 60),
    "fireedit": Part(2, 200, 40),
    "start": Part(3, 60, 60),
}


class Child:
    """A part's process and the lines that it has printed."""

    def __init__(self, name, settings, cache, patience):
        self.name, self.begun, part = name, time.perf_counter(), PARTS[name]
        self.ready, self.done = (patience * limit for limit in (part.ready, part.done))
        env = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the others need memory too
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.97",
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.child", name, json.dumps(settings)],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def next(self, until):
        """The next line; None at the end. Raises queue.Empty when `until` has come."""
        return self._lines.get(timeout=max(0.01, until - time.perf_counter()))

    def go(self):
        """Lets it measure."""
        print("go", file=self._process.stdin, flush=True)

    def end(self):
        """Ends it, if it has not ended."""
        try:
            self._process.wait(timeout=0 if self._process.poll() is None else 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Run:
    """What is known so far, kept in a file."""

    def __init__(self, options, settings):
        self._options, self._settings = options, settings
        self._begun = time.perf_counter()
        self.results = {"settings": settings, "rows": [], "parts": {}}

    def left(self):
        """Seconds of the whole budget that are left."""
        return self._options.seconds - (time.perf_counter() - self._begun)

    def wave(self, names, cache):
        """Prepares parts together, then measures them in turn."""
        patience = self._options.patience
        children = [Child(name, self._settings, cache, patience) for name in names]
        try:
            started = [child for child in children if self._prepared(child)]
            for child in started:
                self._measure(child)
        finally:
            for child in children:
                child.end()

    def _prepared(self, child):
        until = min(child.begun + child.ready, time.perf_counter() + self.left())
        try:
            line = child.next(until)
        except queue.Empty:
            line = None
            self._note(child.name, "not ready in time")
        else:
            self._note(child.name, "ended early" if line is None else {"prepared": line})
        if line is None:
            child.end()
        return line is not None

    def _measure(self, child):
        before = time.perf_counter()
        until = before + min(child.done, self.left())
        child.go()
        try:
            while (line := child.next(until)) is not None:
                self.results["rows"].append({"part": child.name} | line)
        except queue.Empty:
            self.results["parts"][child.name]["cut"] = True
        child.end()
        known = self.results["parts"][child.name]
        self._note(child.name, known | {"measured": time.perf_counter() - before})

    def _note(self, name, what):
        self.results["parts"][name] = what if isinstance(what, dict) else {"failed": what}
        self.results["seconds"] = time.perf_counter() - self._begun
        print(
            f"{self.results['seconds']:6.1f} s  {name}: {self.results['parts'][name]}", flush=True
        )
        if self._options.out:
            write_bytes(self._options.out, json.dumps(self.results, indent=1).encode())


def device():
    """The card's name, and the versions of what runs on it."""
    import importlib.metadata

    names = ("jax", "jaxlib", "flax", "torch", "diffusers")
    found = {name: importlib.metadata.version(name) for name in names}
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        card = "no NVIDIA card"
    return {"card": card, "cores": os.cpu_count()} | found


def settings_of(options):
    """What the parts are told."""
    tiny, sizes = options.tiny, options.train_batches
    return {
        "tiny": tiny,
        "torch_graphs": options.torch_graphs,
        "profile": options.profile,
        "folder": str(options.folder) if options.folder else None,
        "rounds": options.rounds,
        "batches": [1] if tiny else [1, 8],
        "train_batches": [2] if tiny else sizes,
        "profiled_batch": 2 if tiny else 16,
        "torch_train_batches": [2] if tiny else [n for n in sizes if n >= 16][:1],
        "fireedit_batch": 4,
    }


def main():
    """Runs the parts and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--folder", type=Path, help="for traces and compiled programs")
    parser.add_argument("--profile", nargs="*", default=[], help="parts to trace: edit, train")
    parser.add_argument("--seconds", type=float, default=480, help="of all parts together")
    parser.add_argument("--patience", type=float, default=1, help="times the parts' own limits")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="narrow networks, to try the script")
    parser.add_argument("--train-batches", type=int, nargs="+", default=[1, 16, 32, 48])
    parser.add_argument("--torch-graphs", action="store_true", help="time PyTorch's graphs as well")
    parser.add_argument("--table", type=Path, help="print the table of this file, run nothing")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    run = Run(options, settings_of(options))
    run.results |= device()
    with tempfile.TemporaryDirectory() as cache:
        for wave in sorted({PARTS[name].wave for name in options.parts}):
            names = [name for name in options.parts if PARTS[name].wave == wave]
            if run.left() > 0:
                run.wave(names, Path(cache))
    print(table(run.results))


if __name__ == "__main__":
    main()
