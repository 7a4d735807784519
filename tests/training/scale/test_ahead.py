"""Compiling ahead of time, with this machine's eight stand-in devices in the place of a slice."""

import dataclasses
import re
from collections import Counter

import jax
import pytest

from brushjax import cli
from brushjax.config import ConfigError
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig
from brushjax.training.scale import ahead
from brushjax.training.scale.ahead import GIB, compile_for, slice_devices
from brushjax.training.scale.ahead_report import advice, describe
from tests.toy_paper.objective import ToyObjective
from tests.training.conftest import DATA

SHARDED = ((".*", "cut:data"),)


@pytest.fixture
def config(base, monkeypatch):
    monkeypatch.setattr(ahead, "slice_devices", lambda name: jax.devices())
    return TrainConfig(
        name="ahead",
        objective=BrushNetObjective(base=str(base)),
        data=DATA,
        optimizer=OptimizerConfig(),
        steps=1,
        batch_size=8,
        encode_once=True,
    )


def shapes_of(program, kind):
    return Counter(
        shape
        for one in program.exchanges
        if one.kind == kind
        for dtype, shape in one.arrays
        if shape not in ((), (4,))  # the metrics
        if dtype != "s32"  # the samples' ids, all of which decide how each draws its noise
    )


def trained(program):
    return Counter(leaf.shape for leaf in jax.tree.leaves(program.plan.state["params"]))


@pytest.mark.slow
def test_replicated_step_adds_up_the_branch_and_nothing_else(config):
    program = compile_for(dataclasses.replace(config, optimizer_rules=()), "v5e-8")
    assert {one.kind for one in program.exchanges} <= {"all-reduce", "all-gather"}
    assert not shapes_of(program, "all-gather")  # the ids alone
    added = shapes_of(program, "all-reduce")
    assert added
    assert not added - trained(program)  # the same gradient in two places is added up once
    assert 0.9 <= program.sent / program.ideal <= 1.1


@pytest.mark.parametrize("network", ["toy", pytest.param("brushnet", marks=pytest.mark.heavy)])
def test_zero_1_step_scatters_gradients_gathers_the_branch_and_fits_the_least(config, network):
    if network == "toy":
        config = dataclasses.replace(config, objective=ToyObjective(), encode_once=False)
    program = compile_for(config, "v5e-8")
    gathered = shapes_of(program, "all-gather")
    assert gathered
    assert not gathered - trained(program)
    assert program.sent / program.ideal <= 1.1
    text = describe(program)
    for line in (
        r"v5e-8: 8 chips",
        r"trained parameters +\d",
        r"at the fullest +\d+\.\d+ of 15.75: fits",
        r"in the program +\d+\.\d+   1\.\d+ of the useful",
        r"all-gather +\d+ of",
        r"Time of a step, about: \d+\.\d ms",
        r"Not known without the chips",
    ):
        assert re.search(line, text), (line, text)
    assert ("frozen parameters " in text) == (network == "brushnet")


@pytest.mark.slow
def test_cut_frozen_weights_show_up_as_gathers(config):
    """What the test above would see if frozen weights were exchanged."""
    program = compile_for(dataclasses.replace(config, frozen_rules=SHARDED), "v5e-8")
    assert shapes_of(program, "all-gather") - trained(program)
    assert program.sent / program.ideal > 1.1


def test_advice_names_what_frees_most_first(config):
    config = dataclasses.replace(config, optimizer_rules=(), batch_size=32)
    plan = ahead.make_plan(config, jax.devices())
    program = ahead.Program(
        name="v5e-8",
        plan=plan,
        config=config,
        held={**dict.fromkeys(HELD, 8 * GIB), "moving average": 0},
        temporary=None,
        total=40 * GIB,
        flops=1.0,
        useful=1.0,
        exchanges=[],
        branch=1,
        whole=[],
        seconds=(0.0, 0.0),
    )
    lines = advice(program)
    assert "24.25 GiB" in lines[0]
    assert "ZeRO-1" in lines[1]
    assert "14.0 GiB less" in lines[1]
    assert "elementwise" in lines[2]
    assert any("--accumulation 2" in line for line in lines)
    assert "DOES NOT FIT" in describe(program)


HELD = ("trained parameters", "optimizer", "frozen parameters")


def test_slices_are_named_as_they_are_rented():
    with pytest.raises(ConfigError, match=r"expected a TPU slice of .*v5p-128.*; got 'v5e-7'"):
        slice_devices("v5e-7")
    with pytest.raises(SystemExit, match="expected a TPU slice of"):
        cli.train(["configs/quickstart.py", "--compile-for", "v6p-8"])


def test_compiler_that_runs_out_of_memory_says_how_much_it_wanted():
    message = "Ran out of memory in memory space hbm. Used 18.21G of 15.75G hbm."
    assert ahead._asked_for(message, 3 * GIB) == pytest.approx(18.21 * GIB)
    message = "total memory required for HLO temporaries (19.92G) exceeds available HBM (15.75G)."
    assert ahead._asked_for(message, 3 * GIB) == pytest.approx(22.92 * GIB)
    with pytest.raises(RuntimeError, match="it said something else"):
        ahead._asked_for("something else", 0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "chips"), [("v5e-8", 8), ("v5p-8", 4), ("v6e-8", 8)])
def test_step_compiles_for_tpus_that_are_not_there(config, monkeypatch, name, chips):
    """Needs the extra `tpu`."""
    monkeypatch.setattr(ahead, "slice_devices", slice_devices)
    program = compile_for(dataclasses.replace(config, compute_dtype="bfloat16"), name)
    assert program.plan.mesh.size == chips
    assert program.fits
    assert program.sent / program.ideal <= 1.2
