"""How long a report of many records takes, how much memory, and how large it is.

    python -m benchmarks.report [--records 10000] [--methods 6] [--side 64] [--out DIR]

Writes a folder benchmark and the pictures of as many methods, each of another shade, so that
nothing but reading, scoring and reporting takes time. Scores them with --score-only, then makes the
report alone in a process of its own. Prints the seconds of both, the peak of memory, and the size
of report.html.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

CONFIG = """from brushjax.evaluation.benchmarks.folder import Folder
from brushjax.evaluation.sweep import Sweep


def get_config():
    names = ("mae_keep", "psnr_keep", "mae_hole", "psnr_hole", "mae_truth")
    return Sweep((Folder({folder!r}, truth="folder"),), (), profiles=("clean",), metrics=names)
"""


def write(folder, records, methods, side):
    """The benchmark, and the results of every method."""
    for name in ("images", "masks", "truths", *(f"m{n}" for n in range(methods))):
        (folder / name).mkdir(parents=True)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    random = np.random.default_rng(0)
    prompts = {}
    for n in range(records):
        picture = cv2.resize(random.integers(0, 200, (4, 4, 3), np.uint8), (side, side))
        cv2.imwrite(str(folder / f"images/r{n:05}.png"), picture)
        cv2.imwrite(str(folder / f"truths/r{n:05}.png"), picture + np.uint8(9))
        cv2.imwrite(str(folder / f"masks/r{n:05}.png"), mask)
        for method in range(methods):
            made = picture + np.uint8(5 + method + n % 7)
            cv2.imwrite(str(folder / f"m{method}/r{n:05}.png"), made)
        prompts[f"r{n:05}"] = f"a picture of thing {n} in front of a wall that is not there"
    (folder / "prompts.json").write_text(json.dumps(prompts))
    (folder / "config.py").write_text(CONFIG.format(folder=str(folder)))


def run(folder, methods, stages):
    """Seconds of a process that runs these stages, and the most memory of any so far in GiB."""
    given = [word for n in range(methods) for word in ("--score-only", f"m{n}={folder}/m{n}")]
    command = [sys.executable, "evaluate.py", str(folder / "config.py"), *given]
    start = time.perf_counter()
    # Of a report of shades an error is expected: results equal to another method's.
    subprocess.run(
        [*command, "--out", str(folder / "out"), "--baseline", "m0", "--stages", stages],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return time.perf_counter() - start, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--methods", type=int, default=6)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--out", type=Path, help="folder to keep; default: none is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.out or Path(scratch)) / "report"
        if not folder.exists():
            write(folder, options.records, options.methods, options.side)
        scored, before = run(folder, options.methods, "plan,generate,score")
        reported, peak = run(folder, options.methods, "report")
        size = (folder / "out/report.html").stat().st_size / 2**20
        shown = len(list((folder / "out/report_pictures").iterdir()))
    print(f"{options.records} records x {options.methods} methods, {options.side} pixels")
    print(f"scoring {scored:.0f} s ({before:.2f} GiB), report {reported:.0f} s")
    print(f"peak of both {peak:.2f} GiB, report.html {size:.2f} MiB, {shown} pictures beside it")


if __name__ == "__main__":
    main()
