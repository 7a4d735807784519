"""The comparison of the three papers takes what is there, and says what is not."""

import dataclasses

import jax
import pytest

from brushjax import config as configs
from brushjax.evaluation.benchmarks.miniature import Miniature
from brushjax.evaluation.comparisons.three_papers import ThreePapers
from brushjax.evaluation.methods.inpainting import Sampling
from brushjax.evaluation.results import Shown
from brushjax.evaluation.store import read_table
from brushjax.evaluation.sweep import Run
from tests.evaluation import miniatures, tiny

NOTHING = ThreePapers(
    region="nowhere/r",
    pix2pix="nowhere/p",
    fireedit="nowhere/f",
    magicbrush="nowhere/m",
    emuedit="nowhere/e",
    piebench="nowhere/b",
    networks="nowhere/w",
    miniature=Miniature(count=1, size=64, parts=("held-out",)),
    sampling=Sampling(steps=2),
    batch_size=2,
    shown=Shown(0, 2),
)


def test_comparison_of_nothing_more_is_the_shipped_one():
    sweep = NOTHING.sweep()
    assert [one.label for one in sweep.methods] == ["BrushEdit's agent", "blended latents", "copy"]
    assert [one.name for one in sweep.benchmarks] == ["miniature"]
    left_out = "\n".join(sweep.left_out)
    for option in (
        "--region",
        "--fireedit",
        "--pix2pix",
        "--magicbrush",
        "--emuedit",
        "--piebench",
    ):
        assert option in left_out
    assert "metrics of clip_b32" in left_out
    assert NOTHING.describe().count("left out: ") == 7


def test_comparison_takes_what_is_there(tmp_path):
    for name in ("region", "fireedit", "pix2pix", "weights/clip_b32"):
        (tmp_path / name).mkdir(parents=True)
    found = dataclasses.replace(
        NOTHING,
        region=str(tmp_path / "region"),
        fireedit=str(tmp_path / "fireedit"),
        pix2pix=str(tmp_path / "pix2pix"),
        networks=str(tmp_path / "weights"),
        magicbrush=str(miniatures.magicbrush(tmp_path / "magic")),
        emuedit=str(miniatures.emuedit(tmp_path / "emu")),
        piebench=str(miniatures.piebench(tmp_path / "pie")),
    ).sweep()
    labels = [one.label for one in found.methods]
    assert labels[1:4] == ["learnable regions", "FireEdit", "instruct-pix2pix"]
    names = {one.name: one for one in found.benchmarks}
    assert list(names)[1:] == ["magicbrush-single", "magicbrush-multi", "emuedit-test", "piebench"]
    emu = names["emuedit-test"]
    assert [label for label in labels if emu.wants(label, 0)] == [*labels[1:4], "copy"]
    assert dict(found.networks) == {"clip_b32": str(tmp_path / "weights/clip_b32")}
    assert any("on Emu Edit: it has no masks" in text for text in found.left_out)


def test_comparison_takes_the_small_fireedit_with_what_it_is_made_for():
    found = {one.label: one for one in dataclasses.replace(NOTHING, fireedit="").sweep().methods}
    recipe = found["FireEdit"]
    assert (recipe.steps, recipe.scheduler, recipe.folder) == (1, "ddim", "")
    assert (recipe.text_guidance, recipe.image_guidance) == (1.0, 1.0)


def test_recipe_is_the_comparison_of_what_lies_here():
    assert configs.load("configs/eval/three_papers.py") == ThreePapers()


@pytest.fixture(scope="module")
def models():
    return tiny.models()


def table(out):
    rows = read_table(out / "scores.parquet")
    return [{name: str(value) for name, value in r.items() if name != "seconds"} for r in rows]


@pytest.mark.slow
def test_numbers_of_the_comparison_depend_on_neither_devices_nor_batch_nor_order(
    models, tmp_path, monkeypatch
):
    sweep = NOTHING.sweep()
    devices = jax.local_devices()
    assert len(devices) == 8
    Run(sweep, tmp_path / "one", models, devices=devices[:1], progress=False).all()
    mine = Run.units.fget
    monkeypatch.setattr(Run, "units", property(lambda self: mine(self)[::-1]))
    larger = dataclasses.replace(sweep, batch_size=8)
    Run(larger, tmp_path / "eight", models, devices=devices, progress=False).all()
    assert table(tmp_path / "one") == table(tmp_path / "eight")
    report = (tmp_path / "one/report.html").read_text()
    assert "note: left out: the method FireEdit" in report
