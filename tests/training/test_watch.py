"""What a run says of itself: means, speed, faults, samples that broke it, the best so far."""

import dataclasses
import json
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from brushjax.config import ConfigError
from brushjax.training.checkpoint import Checkpoints
from brushjax.training.lifecycle.publishing import keep_best
from brushjax.training.lifecycle.stopping import Interrupted, Interruption
from brushjax.training.logging import RunLog, means, read_rows
from brushjax.training.loop import run
from brushjax.training.objectives.contract import Mean
from brushjax.training.watch import Meter, peak_of
from tests.training import tiny


def recipe(**changes):
    return dataclasses.replace(tiny.get_config(), **changes)


def test_means_weigh_parts_by_their_samples():
    rows = [
        {"loss": 1.0, "part": Mean(np.float32([2, 0]), np.float32([0.5, 0]))},
        {"loss": 3.0, "part": Mean(np.float32([1, 0]), np.float32([1.0, 0]))},
    ]
    assert means(rows) == {"loss": 2.0, "part_1": 2.0}  # the second part has seen no sample


def test_meter_counts_useful_work_against_the_peak(monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("brushjax.training.watch.peak_of", lambda kind: 1e12)
    meter = Meter(16, lambda: 8e12)
    with meter.waiting():
        pass  # a second
    meter.step_done()  # at 2 s
    meter.step_done()  # at 4 s
    numbers = meter.numbers()
    assert numbers["images_per_second"] == 8
    assert numbers["images_per_second_per_device"] == 1
    assert numbers["step_seconds_p50"] == 2
    assert numbers["data_wait_share"] == 0.25
    assert numbers["mfu"] == pytest.approx(8e12 * 2 / 4 / (8 * 1e12))


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("NVIDIA H200", 989e12), ("cpu", None)],
)
def test_peaks_are_found_by_the_devices_name(kind, peak):
    assert peak_of(kind) == peak


def test_log_names_the_samples_of_a_step_that_is_not_finite(tmp_path):
    metrics = {"loss": jnp.float32(np.nan), "gradient_norm": jnp.float32(1)}
    log = RunLog(recipe(), tmp_path, 0)
    log.step(1, metrics, np.array([41, 7]))
    with pytest.raises(FloatingPointError, match=r"step 1: {'loss': nan}, samples \[41, 7\]"):
        log.settle()
    log.close()


def test_log_gives_up_after_many_skipped_steps_in_a_row(tmp_path, caplog):
    good = {"loss": jnp.float32(1), "gradient_norm": jnp.float32(1)}
    bad = {**good, "gradient_norm": jnp.float32(np.inf)}
    log = RunLog(recipe(nonfinite="skip", log_every=5), tmp_path, 0, lambda: {"bad size": 3})
    for step, metrics in enumerate([bad, good] * 10 + [bad] * 10, start=1):
        log.step(step, metrics, np.array([step]))
    log.settle()
    row = read_rows(tmp_path / "metrics.jsonl")[0]
    assert row["skipped_steps"] == 3  # of five
    assert (row["loss"], row["faults/bad size"]) == (1, 3)
    assert "samples [1]; left out" in caplog.text
    log.step(99, bad, np.array([99]))
    with pytest.raises(FloatingPointError, match="step 99"):
        log.settle()
    log.close()


def test_run_skips_what_is_not_finite_and_validates(tmp_path):
    config = recipe(
        data=tiny.Numbers(infinite_at=9),
        nonfinite="skip",
        validation=tiny.Numbers(),
        validate_every=8,
        validation_batches=2,
        export_every=8,
        best="validation/loss",
    )
    run(config, tmp_path)
    rows = read_rows(tmp_path / "metrics.jsonl")
    validated = {row["step"]: row["validation/loss"] for row in rows if "validation/loss" in row}
    assert list(validated) == [8, 16, 24]
    assert rows[-1]["skipped_steps"] > 0
    assert all(np.isfinite(value) for value in validated.values())
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    assert best["value"] == min(validated.values()) == validated[best["step"]]
    assert (tmp_path / "best" / "line.safetensors").is_file()


def test_tensorboard_shows_the_loss_before_what_is_measured_beside(tmp_path, monkeypatch):
    board = types.SimpleNamespace(tags=[], close=lambda: None)
    board.add_scalar = lambda name, value, step: board.tags.append(name)
    board.add_image = lambda name, *values, **options: board.tags.append(name)
    monkeypatch.setattr("brushjax.training.logging._summary_writer", lambda *arguments: board)
    log = RunLog(recipe(log_every=1), tmp_path, 0, lambda: {"bad size": 1})
    log.step(1, {"loss": jnp.float32(1), "gradient_norm": jnp.float32(1)}, np.array([1]))
    log.settle()
    log.report(1, {"validation/loss": 1.0, "eval/psnr": 20.0})
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "samples" / "fill.png")
    log.show(1, tmp_path / "samples")
    log.close()
    groups = dict.fromkeys(tag.partition("/")[0].partition(" ")[2] for tag in sorted(board.tags))
    assert list(groups) == ["train", "validation", "eval", "faults", "samples"]
    assert sorted(board.tags)[0].startswith("1 train/")


def test_best_export_stays_until_a_better_one(tmp_path):
    config = recipe(best="eval/psnr", best_is="highest")
    (tmp_path / "export").mkdir()
    for step, number in enumerate([20.0, 30.0, 25.0]):
        (tmp_path / "export" / "weights").write_text(str(number))
        keep_best(config, number, step, tmp_path)
    assert (tmp_path / "best" / "weights").read_text() == "30.0"
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 1


def test_best_checkpoint_stays_beside_the_newest(tmp_path):
    best = [None]
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2, lambda: best[0])
    for step in range(1, 7):
        checkpoints.save(step, {"step": jnp.zeros(())}, {})
        best = [2] if step == 2 else best
    checkpoints.close()
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {2, 5, 6}


@pytest.mark.slow
def test_profile_writes_a_trace_of_the_steps(tmp_path):
    run(recipe(steps=6, checkpoint_every=6), tmp_path, profile=(2, 3))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_wandb_gets_the_numbers_and_goes_on_in_the_same_run(tmp_path, monkeypatch):
    calls = []
    fake = types.SimpleNamespace(
        init=lambda **settings: calls.append(settings) or fake,
        log=lambda numbers, step: calls.append((step, numbers)),
        finish=lambda: calls.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        log = RunLog(recipe(wandb="brushes"), tmp_path, 0)
        log.report(3, {"validation/loss": 0.5})
        log.close()
    first, row, end, second, *_ = calls
    assert (first["project"], first["config"]["steps"]) == ("brushes", "24")
    assert first["id"] == second["id"]
    assert row == (3, {"validation/loss": 0.5})
    assert end == "finished"


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        RunLog(recipe(wandb="brushes"), tmp_path, 0)


def test_a_signal_asks_to_stop_and_the_handler_goes_afterwards():
    import os
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        with Interruption() as interruption:
            interruption.learnt()
            assert not interruption.asked
            os.kill(os.getpid(), number)
            assert interruption.asked
            with pytest.raises(Interrupted):
                interruption.saved()
        assert signal.getsignal(number) == before


def test_a_signal_ends_at_once_what_has_nothing_to_save():
    import os
    import signal

    with Interruption() as interruption:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked
