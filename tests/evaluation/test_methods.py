"""A toy method that finds the region of an edit itself, swept as the papers' methods are."""

import ast
import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest

import brushjax.evaluation
from brushjax.evaluation.benchmarks.folder import Folder
from brushjax.evaluation.benchmarks.tables import EmuEdit
from brushjax.evaluation.methods.baselines import Copy, Telea
from brushjax.evaluation.methods.contract import Filling, Made, Recipe, Resources
from brushjax.evaluation.models import Models
from brushjax.evaluation.records import BenchmarkError
from brushjax.evaluation.results import Shown
from brushjax.evaluation.store import read_table
from brushjax.evaluation.sweep import Run, Sweep
from brushjax.metrics import region
from tests.evaluation import miniatures


@dataclasses.dataclass(frozen=True)
class Finder(Recipe):
    """Paints a box that it decides on without seeing the mask."""

    label: str = "finder"
    box: tuple[int, int, int, int] = (8, 8, 30, 30)
    kind: type = bool
    reads = ("instruction",)

    def method(self, resources):
        def fill(tasks):
            top, left, bottom, right = self.box
            pictures = np.stack([task.pixels.source.copy() for task in tasks])
            regions = np.zeros(pictures.shape[:3], self.kind)
            regions[:, top:bottom, left:right] = True
            pictures[regions > 0] = 255
            # Checked while tests run, and by the sweep itself where nothing checks annotations.
            made = Made if self.kind is bool else types.SimpleNamespace
            return made(pictures=pictures, regions=regions, plans=None)

        return Filling({"kind": "finder", "box": self.box}, fill)


def run(benchmark, out, *methods):
    sweep = Sweep((benchmark,), methods, batch_size=2, shown=Shown(2, 1))
    return Run(sweep, out, devices=[None], progress=False)


@pytest.fixture
def folder(tmp_path):
    return Folder(str(miniatures.folder_of_pictures(tmp_path / "data")))


def test_regions_of_a_method_are_kept_and_scored_against_the_masks(folder, tmp_path):
    out = tmp_path / "out"
    report = run(folder, out, Finder(), Telea(), Copy()).all()
    rows = {(row["method"], row["sample"]): row for row in read_table(out / "scores.parquet")}
    for record in folder.records():
        hole = record.read().hole > 0
        found = np.zeros_like(hole)
        found[8:30, 8:30] = True
        row = rows["finder", record.id]
        for name in ("iou", "precision", "recall"):
            expected = getattr(region, name)(found, hole)
            assert 0 < expected < 1
            assert row[f"clean/region_{name}@1"] == expected
        assert row["clean/region_area@1"] == region.area(found)
        other = rows["telea", record.id]
        assert np.isnan(other["clean/region_iou@1"])
        assert other["region"] == ""
    assert report.flat()["finder/region_iou"] == pytest.approx(
        np.mean([row["clean/region_iou@1"] for key, row in rows.items() if key[0] == "finder"])
    )
    assert "region_iou" in (out / "table.md").read_text()


def test_method_that_finds_regions_runs_where_there_are_no_masks(tmp_path):
    benchmark = EmuEdit(str(miniatures.emuedit(tmp_path / "data")))
    report = run(benchmark, tmp_path / "out", Finder()).all()
    for row in report.scored.rows:
        assert row["clean/region_area@1"] == 22 * 22 / (64 * 48)
        assert np.isnan(row["clean/region_iou@1"])


def test_region_that_is_lost_is_made_again_and_one_that_changed_is_refused(folder, tmp_path):
    out = tmp_path / "out"
    before = run(folder, out, Finder()).all()
    path = out / before.scored.rows[0]["region"]
    data = path.read_bytes()
    path.unlink()
    assert run(folder, out, Finder()).all().flat() == before.flat()
    assert path.read_bytes() == data
    path.write_bytes(data[:-1])
    for part in (out / "scores").glob("*.parquet"):
        part.unlink()
    with pytest.raises(BenchmarkError, match="has changed since it was made"):
        run(folder, out, Finder()).all()


def test_regions_of_another_kind_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"expected boolean regions \(2, 64, 64\), got uint8"):
        run(folder, tmp_path / "out", Finder(kind=np.uint8)).all()


def test_settings_of_a_method_hold_the_version_of_the_code():
    settings = Finder().method(Resources(Models())).settings
    assert {"kind", "box", "code", "own code", "jax"} == set(settings)
    assert "own code" not in Telea().method(Resources(Models())).settings


def test_recipe_without_a_method_and_weights_it_does_not_take_are_refused():
    with pytest.raises(NotImplementedError, match="Recipe makes no pictures"):
        Recipe().method(Resources(Models()))
    with pytest.raises(NotImplementedError, match=r"Finder .a. takes no weights, got path"):
        Finder().with_weights("a", "path")


def test_sweep_asks_no_method_for_its_class():
    """A new method is one file, because nothing else in the evaluation knows any by name."""
    folder = Path(brushjax.evaluation.__file__).parent
    kinds = {
        node.name
        for path in (folder / "methods").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "hasattr"):
                assert not kinds & set(ast.unparse(node).replace("(", " ").split()), path


def test_words_of_the_evaluation_name_one_class_each():
    folder = Path(brushjax.evaluation.__file__).parent
    names = [
        node.name
        for path in folder.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    assert len(set(names)) == len(names), sorted({one for one in names if names.count(one) > 1})
