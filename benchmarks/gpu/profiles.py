"""Which kernels a run spends its time in, from JAX's profiler."""

import collections
import gzip
import re
import shutil
import tempfile
from pathlib import Path

SHOWN = 60  # kinds of kernels that are kept


def profiled(run, options, name):
    """Traces `run` once; returns the kernels by time, and leaves the trace in the folder.

    Returns:
        [milliseconds, calls, kernel's name], of the kinds that took most, largest first; then the
        sum of all and the time from the first kernel's start to the last one's end.
    """
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        if options.folder:
            with (
                open(trace, "rb") as plain,
                gzip.open(named(options, name, "xplane.pb"), "wb") as f,
            ):
                shutil.copyfileobj(plain, f)
        return kernels(jax.profiler.ProfileData.from_file(str(trace)))


def kernels(data):
    """Adds up the events on the device's streams by name."""
    total, calls, first, last = collections.Counter(), collections.Counter(), None, 0
    for plane in data.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = kind(event.name)
                total[name] += event.duration_ns
                calls[name] += 1
                first = event.start_ns if first is None else min(first, event.start_ns)
                last = max(last, event.start_ns + event.duration_ns)
    rows = [[1e-6 * time, calls[name], name] for name, time in total.most_common(SHOWN)]
    whole = 1e-6 * (last - (first or 0))
    return {"kernels": rows, "busy": 1e-6 * sum(total.values()), "whole": whole}


def kind(name):
    """A kernel's name without the numbers that tell its copies apart."""
    return re.sub(r"[_.]\d+(?=$|_)", "", name)[:120]


def save_text(options, name, program):
    """Leaves a compiled program's text in the folder."""
    if options.folder:
        with gzip.open(named(options, name, "hlo"), "wt", compresslevel=1) as file:
            file.write(program.as_text())


def named(options, name, ending):
    """A file of the folder."""
    return Path(options.folder) / f"{re.sub('[^a-z0-9]+', '_', name)}.{ending}.gz"
