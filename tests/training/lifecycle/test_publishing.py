"""Exports, evaluators that fail, and the best so far."""

import dataclasses
import json
import math

import numpy as np
import pytest

from brushjax.config import ConfigError
from brushjax.training.lifecycle.publishing import EvaluationFailed, is_better
from brushjax.training.logging import read_rows
from brushjax.training.loop import run
from tests.training import tiny
from tests.training.hosts import saved
from tests.training.test_loop import recipe


def test_failing_evaluator_costs_nothing_and_is_told_at_the_end(tmp_path, caplog):
    def fails(step, export, workdir):
        raise ZeroDivisionError("no pictures")

    config = recipe(steps=12, export_every=6, evaluators=(fails, lambda *_: {"score": 1.0}))
    with pytest.raises(EvaluationFailed, match=r"failed at step 6: no pictures.*step 12"):
        run(config, tmp_path)
    assert "Traceback" in caplog.text
    assert saved(tmp_path) == [10, 12]
    assert (tmp_path / "export" / "line.safetensors").is_file()
    scores = [row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if "eval/score" in row]
    assert scores == [6, 12]


def test_numbers_of_evaluators_keep_checkpoint_and_export(tmp_path):
    scores = {4: 3.0, 8: math.nan, 12: 1.0, 16: math.inf}

    def judge(step, export, workdir):
        (export / "card.md").write_text("mine")
        return {"score": scores[step]}

    config = recipe(steps=16, export_every=4, keep=1, best="eval/score", best_is="highest")
    run(config, tmp_path, [judge])
    assert saved(tmp_path) == [4, 16]
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    assert best == {"name": "eval/score", "value": 3.0, "step": 4}
    assert (tmp_path / "export" / "card.md").read_text() == "mine"  # it is not ours to delete


@pytest.mark.slow
def test_best_step_by_validation_is_saved_and_exported_though_neither_is_due(tmp_path):
    config = recipe(
        steps=12,
        validation=tiny.Numbers(),
        validate_every=3,
        best="validation/loss",
        checkpoint_every=99,
    )
    run(config, tmp_path)
    rows = read_rows(tmp_path / "metrics.jsonl")
    validated = {row["step"]: row["validation/loss"] for row in rows if "validation/loss" in row}
    assert list(validated) == [3, 6, 9, 12]
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    assert best["step"] == min(validated, key=validated.get)
    assert best["step"] in saved(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss", "expected best to be validation/ or eval/"),
        ("validation/loss", "needs validation"),
        ("eval/psnr", "no evaluator gives the number of best = 'eval/psnr'; they give: eval/score"),
    ],
)
def test_best_by_an_unknown_number_is_refused(tmp_path, name, message):
    config = recipe(steps=2, optimizer=tiny.CONSTANT)
    with pytest.raises(ConfigError, match=message):
        run(dataclasses.replace(config, best=name), tmp_path, [lambda *_: {"score": 1.0}])


def test_best_by_a_number_that_validation_does_not_give_is_refused(tmp_path):
    config = recipe(validation=tiny.Numbers(), best="validation/lose")
    with pytest.raises(ConfigError, match=r"validation/loss, .*; got 'validation/lose'"):
        run(config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_number_that_is_not_finite_never_wins(tmp_path):
    config = recipe(best="eval/score", best_is="highest")
    assert not any(is_better(config, value, tmp_path) for value in (np.nan, np.inf))
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text('{"name": "eval/score", "value": NaN, "step": 1}')
    assert is_better(config, -1.0, tmp_path)
