"""A sweep that is killed again and again ends with the numbers of one that was not."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from brushjax.evaluation.benchmarks.miniature import Miniature
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.results import Shown
from brushjax.evaluation.store import read_table
from brushjax.evaluation.sweep import Run, Sweep
from brushjax.metrics.bootstrap import Bootstrap
from tests.evaluation import miniatures
from tests.evaluation.test_sweep import Noisy, same, table

ROOT = Path(__file__).parents[2]
KILLS = ["plan"] * 2 + ["generate"] * 6 + ["score"] * 5 + ["report"] * 2
FEWER = ["plan"] + ["generate"] * 4 + ["score"] * 3 + ["report"] * 2
TABLES = ("table.csv", "changes.csv", "table.md", "table.tex")


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


def killed_again_and_again(data, folder, kills, pictures):
    """Compares a sweep that was left alone with one that was killed at these stages."""
    finish(start(data, folder / "calm"))
    whole = parts(folder / "calm", "generated"), parts(folder / "calm", "scores")
    out, draw = folder / "killed", random.Random(0)
    found = Counter(kill(start(data, out), out, stage, whole, draw) for stage in kills)
    print("killed while at", dict(found))
    assert sum(found.values()) == len(kills)
    assert set(found) == {"plan", "generate", "score", "report"}
    finish(start(data, out))
    same(table(folder / "calm"), table(out))
    for name in TABLES:
        assert (out / name).read_text() == (folder / "calm" / name).read_text(), name
    rows = [row["key"] for part in (out / "scores").glob("part-*") for row in read_table(part)]
    assert len(rows) == len(set(rows)) == pictures  # nothing twice, nothing lost
    assert len(list((out / "pictures").rglob("*.png"))) == pictures


@pytest.mark.slow  # thirty-four processes: some minutes of CPU
def test_fifteen_kills_change_nothing(tmp_path):
    data = miniatures.folder_of_pictures(tmp_path / "data", sizes=((64, 64),) * 24)
    killed_again_and_again(data, tmp_path, KILLS, 24 * 4)


@pytest.mark.slow  # twenty-four processes: some minutes of CPU
def test_ten_kills_change_nothing_on_the_miniature(tmp_path):
    killed_again_and_again("miniature", tmp_path, FEWER, 25 * 4)


class Stopped(BaseException):
    """What nothing catches, as a kill."""


def test_miniature_stopped_at_some_writes_ends_with_the_same_tables(tmp_path, monkeypatch):
    """The same in one process, stopped before a file gets its name."""
    sweep = Sweep(
        benchmarks=(Miniature(count=1, size=64, parts=("held-out",)),),
        methods=(Noisy(), Copy()),
        seeds=(0, 1),
        baseline="copy",
        batch_size=2,
        shown=Shown(0, 1),
        bootstrap=Bootstrap(resamples=50),
    )
    replace, written, last = os.replace, [], [10**9]

    def named(old, new):
        if len(written) >= last[0]:
            raise Stopped
        written.append(new)
        replace(old, new)

    monkeypatch.setattr(os, "replace", named)

    def run(out):
        Run(sweep, out, devices=[None], progress=False).all()

    run(tmp_path / "calm")
    whole = len(written)
    for moment in range(5):
        last[0] = len(written) + (whole // 6) - moment % 2  # each start comes a little further
        with pytest.raises(Stopped):
            run(tmp_path / "stopped")
    last[0] = 10**9
    run(tmp_path / "stopped")
    same(table(tmp_path / "calm"), table(tmp_path / "stopped"))
    for name in TABLES:
        text = (tmp_path / "calm" / name).read_text()
        assert (tmp_path / "stopped" / name).read_text() == text, name
    assert not list((tmp_path / "stopped").rglob("*.part"))
