"""The records that a report shows: every picture a file beside it, written once, no larger."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from brushjax.evaluation.benchmarks.folder import Folder
from brushjax.evaluation.methods.baselines import Copy, Telea
from brushjax.evaluation.methods.contract import Filling, Made, Recipe
from brushjax.evaluation.report.samples import EXACT, FOLDER, SIDE, Album
from brushjax.evaluation.results import Shown
from brushjax.evaluation.sweep import Run, Sweep
from tests.evaluation import miniatures


class Finding(Recipe):
    """Edits the upper half, and says so."""

    label = "finding"

    def method(self, resources):
        def fill(tasks):
            pictures = np.stack([task.pixels.source for task in tasks])
            regions = np.zeros(pictures.shape[:3], bool)
            regions[:, : pictures.shape[1] // 2] = True
            pictures[regions] = 255 - pictures[regions]
            return Made(pictures, regions)

        return Filling({"kind": "finding"}, fill)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    data = str(miniatures.folder_of_pictures(folder / "data", sizes=((64, 64),) * 5, truths=True))
    benchmark = Folder(data, truth="folder")
    sweep = Sweep((benchmark,), (Finding(), Telea(), Copy()), shown=Shown(2, 2))
    Run(sweep, folder / "out", devices=[None], progress=False).all()
    return folder / "out"


def known(out):
    (text,) = re.findall(r'id="data">(.*?)</script>', (out / "report.html").read_text())
    return json.loads(text)


def test_report_names_files_that_lie_beside_it(out):
    data = known(out)
    assert len(data["rows"]) == 5  # two best, two worst, one other
    assert len({row["set"] for row in data["rows"]}) == 3
    files = set()
    for row in data["rows"]:
        files |= {row["source"], row["mask"], row["truth"]}
        assert [one["method"] for one in row["results"]] == ["finding", "telea", "copy"]
        files |= {one["picture"] for one in row["results"]}
        files.add(row["results"][0]["region"])
        assert "region" not in row["results"][1]
    assert {f"{FOLDER}/{file.name}" for file in (out / FOLDER).iterdir()} == files
    assert "base64" not in (out / "report.html").read_text()


def test_overlays_tint_what_is_marked_and_nothing_else(out):
    row = known(out)["rows"][0]
    for file, area in ((row["mask"], 20 * 30), (row["results"][0]["region"], 32 * 64)):
        with Image.open(out / file) as picture:
            alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        assert (alpha > 0).sum() == area
        assert set(np.unique(alpha)) == {0, 120}


def test_values_stand_in_the_order_of_their_metrics(out):
    data = known(out)
    titles = data["benchmarks"]["folder"]["metrics"]
    psnr = titles.index("psnr_keep ↑")
    for row in data["rows"]:
        copy = row["results"][2]
        assert len(copy["values"]) == len(titles)
        assert copy["values"][psnr] == 100
    assert data["settings"] == ["finding", "telea", "copy"]


def test_pictures_are_written_once(tmp_path):
    album = Album(tmp_path)
    first = album.picture("a", lambda: np.zeros((8, 8, 3), np.uint8))
    assert album.picture("a", lambda: pytest.fail("it is there")) == first


def test_small_pictures_are_exact_and_large_ones_are_shrunk(tmp_path):
    album, random = Album(tmp_path), np.random.default_rng(0)
    small = random.integers(0, 256, (EXACT, 40, 3), np.uint8)
    with Image.open(tmp_path / album.picture("small", lambda: small)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), small)
    large = np.zeros((2 * SIDE, SIDE, 3), np.uint8)
    path = tmp_path / album.picture("large", lambda: large)
    assert path.suffix == ".jpg"
    with Image.open(path) as picture:
        assert picture.size == (SIDE // 2, SIDE)
