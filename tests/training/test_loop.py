"""The loop on the smallest objective: what it writes, how it stops, how it goes on."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from brushjax.config import ConfigError
from brushjax.files import whole_folder
from brushjax.training import loop
from brushjax.training.checkpoint import Checkpoints
from brushjax.training.logging import read_rows
from brushjax.training.loop import run
from brushjax.training.plan import make_plan
from tests.training import tiny

ROOT = Path(__file__).parents[2]


def recipe(**changes):
    return dataclasses.replace(tiny.get_config(), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    run(recipe(), workdir)
    return workdir


def weights(workdir):
    return load_file(workdir / "export" / "line.safetensors")


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_run_learns_and_writes_its_files(finished):
    slope = weights(finished)["slope"].sum() * tiny.Line.factor
    assert slope == pytest.approx(3, abs=0.5)
    rows = read_rows(finished / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(2, 25, 2))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {"gradient_norm", "slope", "images_per_second"} <= rows[0].keys()
    assert list((finished / "tensorboard").glob("events*"))
    steps = sorted(int(p.name) for p in (finished / "checkpoints").iterdir() if p.name.isdigit())
    assert steps == [20, 24]  # the two newest, of 5, 10, 15, 20 and the end


def test_run_exports_with_the_first_samples_of_the_data(finished):
    expected = np.stack([tiny.Numbers()[n]["x"] for n in range(12)])
    np.testing.assert_array_equal(weights(finished)["x"], expected)


def test_run_exports_the_moving_average(finished):
    plan = make_plan(recipe())
    checkpoints = Checkpoints(finished / "checkpoints", keep=2)
    state, _ = checkpoints.restore(24, plan.state, plan.places.state)
    checkpoints.close()
    assert int(state["step"]) == 24
    exported = weights(finished)
    np.testing.assert_array_equal(exported["slope"], state["ema"]["slope"])
    assert np.abs(exported["slope"] - state["params"]["slope"]).max() > 0


def test_run_interrupted_anywhere_ends_the_same(finished, tmp_path):
    class Stop(BaseException):  # as a signal: an evaluator's exception would not end the run
        pass

    def stop(step, export, workdir):
        raise Stop

    # The evaluator stops the run between two checkpoints: steps 11 and 12 are done again.
    with pytest.raises(Stop):
        run(recipe(export_every=12), tmp_path, [stop])
    assert max(row["step"] for row in read_rows(tmp_path / "metrics.jsonl")) == 12
    run(recipe(export_every=0), tmp_path)
    assert_same_weights(finished, tmp_path)
    steps = [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_run_that_encodes_once_equals_the_one_that_encodes_in_every_step(finished, tmp_path):
    run(recipe(encode_once=True), tmp_path)
    for name, value in weights(tmp_path).items():
        # The same samples in another order of the pool; only the noise of the order remains.
        np.testing.assert_allclose(value.sum(), weights(finished)[name].sum(), atol=0.3)


def test_finished_run_only_evaluates_again(finished):
    before = weights(finished)
    rows = read_rows(finished / "metrics.jsonl")
    calls = []

    def judge(step, export, workdir):
        calls.append((step, export, workdir))
        return {"score": 1.5}

    for _ in range(2):
        run(recipe(evaluators=(judge,)), finished)
    assert calls == [(24, finished / "export", finished)] * 2
    assert read_rows(finished / "metrics.jsonl") == [*rows, {"step": 24, "eval/score": 1.5}]
    assert weights(finished)["offset"] == before["offset"]


def test_run_refuses_the_workdir_of_another_config(finished):
    other = dataclasses.replace(tiny.get_config().optimizer, learning_rate=0.5)
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate: 0.05 -> 0.5"):
        run(recipe(optimizer=other), finished)


def test_run_stops_at_a_loss_that_is_not_finite(tmp_path):
    # Sample 9 is in the second batch of eight when the order is the data's own.
    config = recipe(data=tiny.Numbers(pool=12, infinite_at=9), checkpoint_every=1)
    with pytest.raises(FloatingPointError, match=r"step \d: .*loss.*inf"):
        run(config, tmp_path)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_step_refuses_arrays_that_are_not_on_the_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "to_devices", lambda batch, mesh: batch)
    with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device"):
        run(recipe(), tmp_path)


def test_log_drops_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_rows(path) == [{"step": 1, "loss": 2.0}]


def test_folder_keeps_its_old_content_when_writing_fails(tmp_path):
    folder = tmp_path / "export"
    with whole_folder(folder) as new:
        (new / "a").write_text("old")
    with pytest.raises(OSError, match=r"can.t write .*export"), whole_folder(folder) as new:
        (new / "nowhere" / "a").write_text("new")
    assert (folder / "a").read_text() == "old"
    with whole_folder(folder) as new:
        (new / "b").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_checkpoints_ignore_one_that_was_cut_off(tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / "30.orbax-checkpoint-tmp" / "state").mkdir(parents=True)  # renamed when complete
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.latest() is None
    checkpoints.close()


PROGRAM = """
import sys
from pathlib import Path
from brushjax import config
from brushjax.training.loop import run
recipe = config.override(config.load("tests/training/tiny.py"), sys.argv[2:])
run(recipe, Path(sys.argv[1]))
foreign = [name for name in ("torch", "tensorflow") if name in sys.modules]
assert not foreign, foreign
"""


def start(workdir, *overrides):
    """Trains in a process of its own, on this process's devices."""
    command = [sys.executable, "-c", PROGRAM, str(workdir), *overrides]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def wait(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def test_run_killed_at_any_moment_ends_bit_identical(finished, tmp_path):
    killed = start(tmp_path / "killed", "--data.pause", "0.004")  # some 0.03 s a step
    log = tmp_path / "killed" / "metrics.jsonl"
    while killed.poll() is None and len(read_rows(log)) < 6:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    wait(start(tmp_path / "killed", "--data.pause", "0.004"))
    assert_same_weights(finished, tmp_path / "killed")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(2, 25, 2))
