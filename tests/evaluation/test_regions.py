"""Regions as methods of the sweep, on miniatures of the benchmarks that have masks."""

import dataclasses

import numpy as np
import pytest

from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.benchmarks.piebench import PieBench
from brushjax.evaluation.methods.contract import Resources, Task
from brushjax.evaluation.methods.regions import Fixed, Predicted, Proposed, random_box
from brushjax.evaluation.records import BenchmarkError
from brushjax.evaluation.results import Shown
from brushjax.evaluation.store import read_table
from brushjax.evaluation.sweep import Run, Sweep
from brushjax.inference import Inpainter
from brushjax.metrics import region
from tests import tiny_region
from tests.agents.noise import Noise
from tests.evaluation import miniatures
from tests.evaluation.test_instructed import Unused

METRICS = tuple(f"region_{name}" for name in ("iou", "precision", "recall", "area"))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return str(tiny_region.export(tmp_path_factory.mktemp("region")))


@pytest.mark.heavy
def test_regions_are_scored_against_the_masks_of_both_benchmarks(export, tmp_path):
    methods = (
        Predicted(predictor=export),
        Fixed("oracle", by="oracle"),
        Fixed("everything"),
        Fixed("random", by="random"),
    )
    pie = PieBench(str(miniatures.piebench(tmp_path / "pie")))
    magic = MagicBrush(str(miniatures.magicbrush(tmp_path / "magic")))
    sweep = Sweep((pie, magic), methods, profiles=("clean",), metrics=METRICS, shown=Shown(1, 1))
    out = tmp_path / "out"
    Run(sweep, out, devices=[None], progress=False).all()
    rows = {(row["method"], row["benchmark"], row["sample"]): row for row in scored(out)}
    assert len({bench for _, bench, _ in rows}) == 2
    for (method, bench, sample), row in rows.items():
        holes = {r.id: r.read().hole > 0 for b in (pie, magic) for r in b.records()}
        hole = holes[sample]
        found, precision, area = (
            row[f"clean/region_{name}@1"] for name in ("iou", "precision", "area")
        )
        if method == "oracle":
            assert (found, precision) == (1, 1)
        elif method == "everything":
            assert (found, area) == (region.area(hole), 1)
        else:
            assert 0 < area < 1, (method, bench)
            assert 0 <= found <= 1
    report = (out / "table.md").read_text()
    assert "region_precision" in report


def scored(out):
    return list(read_table(out / "scores.parquet"))


def task(height=24, width=32, instruction="replace the cat", seed=1):
    image = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    from brushjax.evaluation.records import Pixels, Record, pixel_digest

    hole = np.zeros((height, width), np.uint8)
    hole[:8, :8] = 1
    pixels = Pixels(image, hole)
    record = Record(
        "toy", "1", "a flower", lambda: pixels, pixel_digest(pixels), instruction=instruction
    )
    return Task(record, pixels, seed)


@pytest.fixture
def noise(monkeypatch):
    painter = Noise()
    monkeypatch.setattr(Inpainter, "from_parts", lambda **_: painter)
    return painter


def made(recipe, *tasks):
    return recipe.method(Resources(Unused(), devices=[None])).fill(tasks)


def test_region_is_painted_where_it_is_asked_for_and_nothing_else(noise):
    one = task()
    painted = made(Fixed("oracle", by="oracle", paints=True), one)
    inside = one.pixels.hole > 0
    np.testing.assert_array_equal(painted.regions[0], inside)
    np.testing.assert_array_equal(painted.pictures[0][~inside], one.pixels.source[~inside])
    assert (painted.pictures[0][inside] != one.pixels.source[inside]).any()
    left = made(Fixed("oracle", by="oracle"), one)
    np.testing.assert_array_equal(left.pictures[0], one.pixels.source)


def test_boxes_take_their_donor_from_a_painting_of_the_whole_picture(monkeypatch, export):
    asked = []

    class Painted:
        def __init__(self, *_):
            pass

        def __call__(self, images, holes, prompts, seeds, settings):
            asked.append((np.mean(holes), prompts, seeds))
            return np.stack(images)[:, ::-1]

    monkeypatch.setattr("brushjax.inference.blended.BlendedLatents", Painted)
    found = made(Proposed(predictor=export), task())
    assert asked == [(1, ["a flower"], [1])]
    assert 0 < found.regions.mean() < 1
    np.testing.assert_array_equal(found.pictures[0], task().pixels.source)
    assert not Proposed(predictor=export).takes_weights
    assert not Predicted(predictor=export).takes_weights
    assert Predicted(predictor=export, paints=True).takes_weights


def test_settings_hold_the_predictors_values_and_no_place(export, tmp_path):
    import shutil

    from brushjax.files import write_json
    from brushjax.pipelines.regions import RegionFinder

    moved = tmp_path / "moved"
    shutil.copytree(export, moved)
    encoders = dataclasses.asdict(RegionFinder.load(export).encoders)
    write_json(moved / "encoders.json", encoders | {"clip": "."})
    kept = [
        Predicted(predictor=str(folder)).method(Resources(Unused(), devices=[None])).settings
        for folder in (export, moved)
    ]
    assert kept[0]["models"] == kept[1]["models"]
    assert kept[0]["encoders"] == kept[1]["encoders"]


def test_random_boxes_cover_the_share_that_is_asked_for():
    rng = np.random.default_rng(0)
    drawn = [random_box(60, 40, 0.25, rng) for _ in range(200)]
    assert np.mean(drawn) == pytest.approx(0.25, abs=0.01)
    quarters = np.mean(drawn, axis=0).reshape(2, 30, 2, 20).mean(axis=(1, 3))
    assert quarters.min() > 0.15  # anywhere
    np.testing.assert_array_equal(*(random_box(9, 9, 0.3, np.random.default_rng(4)) for _ in "ab"))
    with pytest.raises(ValueError, match="expected an area above 0"):
        Fixed(area=0.0)


def test_methods_that_miss_something_say_what(export):
    silent = dataclasses.replace(task().record, instruction="")
    with pytest.raises(BenchmarkError, match="expected an instruction with every record"):
        Predicted(predictor=export).check([silent])
