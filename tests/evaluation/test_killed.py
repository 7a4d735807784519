"""A sweep that is killed again and again ends with the numbers of one that was not."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from brushjax.evaluation.store import read_table
from tests.evaluation import miniatures
from tests.evaluation.test_sweep import same, table

ROOT = Path(__file__).parents[2]
KILLS = ["plan"] * 2 + ["generate"] * 6 + ["score"] * 5 + ["report"] * 2


def start(data, out):
    """Two processes that share a sweep."""
    command = [sys.executable, "-m", "tests.evaluation.slow_worker", str(data), str(out)]
    return [
        subprocess.Popen(
            [*command, f"{n}/2"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for n in range(2)
    ]


def finish(processes):
    for process in processes:
        text, _ = process.communicate(timeout=300)
        assert process.returncode == 0, text.decode()[-3000:]


def parts(out, stage):
    return len(list((out / stage).glob("part-*.parquet")))


def stage_of(out, generated, scored):
    """Where a sweep stands, by its files."""
    if not (out / "plan.parquet").exists() or not parts(out, "generated"):
        return "plan"
    if parts(out, "generated") < generated:
        return "generate"
    return "score" if parts(out, "scores") < scored else "report"


def kill(processes, out, stage, whole, draw):
    """Kill one or both of the processes at a random moment of a stage; where they stood."""
    before = {name: parts(out, name) for name in ("generated", "scores")}
    more = draw.randint(1, 4)
    wanted = {
        "plan": lambda: True,
        "generate": lambda: parts(out, "generated") >= min(before["generated"] + more, whole[0]),
        "score": lambda: parts(out, "scores") >= min(before["scores"] + more, whole[1]),
        "report": lambda: parts(out, "scores") >= whole[1],
    }[stage]
    deadline = time.monotonic() + 200
    while not wanted() and time.monotonic() < deadline:
        if all(process.poll() is not None for process in processes):
            break
        time.sleep(0.002)
    time.sleep(draw.random() * (0.5 if stage in ("plan", "report") else 0.05))
    found = stage_of(out, *whole)
    for process in processes if draw.random() < 0.7 else [draw.choice(processes)]:
        process.kill()
    time.sleep(draw.random() * 0.2)
    for process in processes:  # what the other one still did counts, too
        process.kill()
        process.communicate()
    return found


@pytest.mark.slow  # thirty-four processes: some minutes of CPU
def test_fifteen_kills_change_nothing(tmp_path):
    data = miniatures.folder_of_pictures(tmp_path / "data", sizes=((64, 64),) * 24)
    finish(start(data, tmp_path / "calm"))
    whole = parts(tmp_path / "calm", "generated"), parts(tmp_path / "calm", "scores")
    out, draw = tmp_path / "killed", random.Random(0)
    found = Counter(kill(start(data, out), out, stage, whole, draw) for stage in KILLS)
    print("killed while at", dict(found))
    assert sum(found.values()) == 15
    assert set(found) == {"plan", "generate", "score", "report"}
    finish(start(data, out))
    same(table(tmp_path / "calm"), table(out))
    for name in ("table.csv", "changes.csv", "table.md", "table.tex"):
        assert (out / name).read_text() == (tmp_path / "calm" / name).read_text(), name
    rows = [row["key"] for part in (out / "scores").glob("part-*") for row in read_table(part)]
    assert len(rows) == len(set(rows)) == 24 * 4  # nothing twice, nothing lost
    assert len(list((out / "pictures").rglob("*.png"))) == 24 * 4
