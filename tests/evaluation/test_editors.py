"""Editors by instruction as methods of the sweep."""

import dataclasses
import shutil

import numpy as np
import pytest

from brushjax.evaluation.methods.contract import Resources, Task
from brushjax.evaluation.methods.editors import FireEdit, Pix2Pix
from brushjax.evaluation.models import Models
from brushjax.evaluation.records import BenchmarkError, Pixels, Record, pixel_digest
from brushjax.models.unet import UNet
from tests import tiny_fireedit
from tests.evaluation import tiny


@pytest.fixture(scope="module")
def models():
    parts = tiny.parts()
    config = dataclasses.replace(parts["unet"].config, in_channels=8)
    return Models(parts={**parts, "unet": tiny.random_model(UNet, config, 9), "side": 64})


@pytest.fixture(scope="module")
def fireedit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editors") / "fireedit"
    tiny_fireedit.write_whole(folder)
    return str(folder)


def tasks(count=2):
    random = np.random.default_rng(0)
    for seed in range(count):
        pixels = Pixels(random.integers(0, 256, (40, 56, 3), np.uint8))
        words = f"make it {('red', 'blue')[seed % 2]}"
        record = Record("toy", str(seed), "", lambda: None, pixel_digest(pixels), instruction=words)
        yield Task(record, pixels, seed)


def test_pix2pix_edits_at_the_size_it_was_trained_at_and_returns_the_sources(models):
    recipe = Pix2Pix(steps=2)
    method = recipe.method(Resources(models, devices=[None]))
    made = method.fill(list(tasks()))
    assert made.pictures.shape == (2, 40, 56, 3)
    assert made.regions is None
    assert method.settings["text_guidance"] == 7.5
    other = dataclasses.replace(recipe, image_guidance=1.2)
    assert other.method(Resources(models, devices=[None])).settings != method.settings


@pytest.mark.heavy
def test_fireedit_is_known_by_its_weights_and_edits(fireedit):
    recipe = FireEdit(folder=fireedit, steps=2, side=64)
    method = recipe.method(Resources(Models(), devices=[None]))
    made = method.fill(list(tasks()))
    assert made.pictures.shape == (2, 40, 56, 3)
    assert "folder" in method.settings
    assert fireedit not in str(method.settings)  # the same weights elsewhere are the same


@pytest.mark.parametrize("file", ["prompt.json", "scheduler/scheduler_config.json", "tokenizer/a"])
def test_fireedit_is_known_by_what_its_folder_says_beside_the_weights(fireedit, tmp_path, file):
    folder = tmp_path / "copy"
    shutil.copytree(fireedit, folder)
    recipe = FireEdit(folder=fireedit)
    resources = Resources(Models(), devices=[None])
    before = recipe.method(resources).settings
    other = dataclasses.replace(recipe, folder=str(folder))
    assert other.method(resources).settings == before
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text('{"system": "another"}')
    assert other.method(resources).settings != before


def test_base_is_known_by_its_noise_too():
    epsilon, velocity = ({"prediction_type": kind} for kind in ("epsilon", "v_prediction"))
    known = [Models(parts={"scheduler": one}).base_digests() for one in (epsilon, velocity)]
    assert known[0] != known[1]


def test_editors_refuse_records_without_an_instruction():
    (task,) = tasks(1)
    silent = dataclasses.replace(task.record, instruction="")
    for recipe in (Pix2Pix(), FireEdit()):
        with pytest.raises(BenchmarkError, match="expected an instruction with every record"):
            recipe.check([silent])
