"""benchmarks/gpu on a CPU: its table, its parts' processes, and what of it is quick."""

import argparse
import json
import queue
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import checks, edits
from benchmarks.gpu.child import MODULES
from benchmarks.gpu.report import table
from benchmarks.gpu.weights import filled

TINY = SimpleNamespace(tiny=True)


def options(tmp_path, **changes):
    """What the command line gives."""
    known = {"seconds": 60, "patience": 1, "rounds": 1, "tiny": True, "train_batches": [2]}
    known |= {"torch_graphs": False, "profile": [], "folder": None, "out": tmp_path / "out.json"}
    return argparse.Namespace(**known | changes)


def test_the_table_sets_figures_beside_floor_and_pytorch():
    edit = {"part": "edit", "case": "edit b1", "unit": "ms"}
    rows = [
        {"case": "bf16 product", "side": "ceiling", "unit": "TFLOP/s", "value": 800.0},
        edit | {"side": "brushjax", "value": 400.0, "first": 90.0, "peak": 2**33},
        edit | {"side": "torch.compile", "value": 1000.0},
        {
            "case": "vae",
            "side": "brushjax",
            "unit": "error",
            "value": 1.0,
            "bound": 0.2,
            "passed": 0,
        },
    ]
    results = {
        "card": "card",
        "jax": "1",
        "torch": "2",
        "rows": rows,
        "parts": {"sdxl": {"cut": 1}},
    }
    lines = table(results).splitlines()
    floor = (50 * 2000.2 + 3631.2) / 800  # GFLOP by TFLOP/s: milliseconds
    assert lines[5] == f"| edit b1 | brushjax | 400 ms | {floor:.4g} | 32 % |  | 90.0 | 8.0 |"
    assert lines[6].split(" | ")[4:6] == ["13 %", "2.50"]
    assert "BEYOND 0.2" in lines[7]
    assert lines[-1] == "sdxl: cut off by its time"


class Fake:
    """A part that is ready, gives one figure, and then is slow; or that ends early."""

    ready = done = 5.0

    def __init__(self, name, *_):
        self.name, self.begun, self.ended = name, 0.0, False
        self.lines = {"check": [{"ready": 1}, {"case": "a", "value": 1}], "edit": [None]}[name]

    def next(self, until):
        if not self.lines:
            raise queue.Empty
        return self.lines.pop(0)

    def go(self):
        pass

    def end(self):
        self.ended = True


def test_a_part_that_is_cut_or_fails_leaves_the_figures_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "Child", Fake)
    run = gpu.Run(options(tmp_path), {})
    run.wave(["check", "edit"], tmp_path)
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["rows"] == [{"part": "check", "case": "a", "value": 1}]
    assert kept["parts"]["check"]["cut"]
    assert kept["parts"]["edit"] == {"failed": "ended early"}


def test_every_part_has_its_process(tmp_path):
    assert set(MODULES) == set(gpu.PARTS)
    told = gpu.settings_of(options(tmp_path))
    assert json.loads(json.dumps(told))["train_batches"] == [2]


def test_ceilings_noise_and_attention_are_measured():
    rows = [*checks.ceilings(TINY), *checks.noise_errors()]
    rows += checks.attention_errors("1024 x 77 x 64", TINY)
    assert [one["side"] for one in rows] == ["ceiling"] * 2 + ["brushjax"] * 3
    assert all(one["value"] > 0 for one in rows[:2])
    assert all(one["passed"] for one in rows[2:])


def test_weights_are_spread_by_what_they_are_for():
    struct = jax.ShapeDtypeStruct
    shapes = {
        "a": {"kernel": struct((3, 3, 64, 8), jnp.bfloat16), "scale": struct((999,), "float32")}
    }
    drawn = filled(shapes | {"id": struct((2,), jnp.int32)})
    assert drawn["a"]["kernel"].dtype == jnp.bfloat16
    assert np.std(drawn["a"]["kernel"].astype(np.float32)) == pytest.approx(576**-0.5, rel=0.1)
    assert np.mean(drawn["a"]["scale"]) == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(drawn["id"], 0)


def test_both_sides_of_an_edit_are_of_one_size():
    how = SimpleNamespace(tiny=False)
    for xl in (False, True):
        unet, branch = edits.settings_of(how, xl)
        assert len(branch["down_block_types"]) == len(unet["block_out_channels"])
    inputs = edits.make_inputs(TINY, 2, 3, xl=True)
    assert inputs.masked.shape == (2, 128, 128, 3)
    assert inputs.conditions[0].added.time_ids.shape == (2, 6)


@pytest.mark.slow
def test_edits_and_training_run_at_tiny_size(tmp_path):
    told = gpu.settings_of(options(tmp_path)) | {"profile": ["edit", "train"]}
    for part in ("edit", "train"):
        module = __import__(f"benchmarks.gpu.{MODULES[part]}", fromlist=[part])
        rows = [one for one in getattr(module, part)(SimpleNamespace(**told)) if "value" in one]
        assert all(one["value"] > 0 for one in rows), rows
