"""A training run's own held-out pictures as a benchmark."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from brushjax.config import ConfigError
from brushjax.data.sets.brushdata import BrushData
from brushjax.evaluation.benchmarks.own import OwnHeldOut
from brushjax.evaluation.branch import BranchEvaluation
from brushjax.evaluation.records import BenchmarkError
from tests.data import tiny


@pytest.fixture
def data(tmp_path):
    for n in range(10):
        (tmp_path / f"{n}.jpg").write_bytes(tiny.jpeg(tiny.picture(n)))
        (tmp_path / f"{n}.txt").write_text(f"picture {n}")
    return BrushData(str(tmp_path), 48, split="train", held_out_share=0.3)


def run_on(data):
    return SimpleNamespace(data=data, objective=SimpleNamespace(base=""))


def test_records_are_what_training_holds_out_at_its_size(data):
    sweep = BranchEvaluation(held_out=OwnHeldOut(5), steering=None).for_run(run_on(data))
    records = sweep.benchmarks[0].records()
    trained = {f"{n}.jpg" for n in data.source(tiny.encode).numbers}
    assert len(records) == 3  # each picture once
    assert {one.id for one in records} == {f"{n}.jpg" for n in range(10)} - trained
    for one in records:
        pixels = one.read()
        assert one.prompt == f"picture {one.id[0]}"
        assert pixels.source.shape == (48, 48, 3)
        assert 0 < pixels.hole.mean() < 1
        np.testing.assert_array_equal(pixels.source, pixels.truth)


def test_records_are_the_same_at_every_export(data):
    first, second = (
        [(one.id, one.fingerprint) for one in OwnHeldOut(2).for_run(run_on(data)).records()]
        for _ in range(2)
    )
    assert first == second
    assert len(first) == 2


def test_data_that_hold_nothing_out_are_refused_before_the_run(data):
    with pytest.raises(ConfigError, match='BrushData with split "train"'):
        OwnHeldOut().for_run(run_on(dataclasses.replace(data, split="all")))
    with pytest.raises(BenchmarkError, match="a training run whose data"):
        OwnHeldOut().records()
