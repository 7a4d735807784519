"""Regions found beforehand: shards, starts that go on, and what training reads of them."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.config import ConfigError
from brushjax.data import boxes as stored_boxes
from brushjax.data.boxes import Boxes, cut, mirrored
from brushjax.data.mixture import Mixture, Part
from brushjax.data.sets.edit_pairs import EditPairs
from brushjax.data.sets.shuffled import stretched
from brushjax.pipelines.fireedit import look
from brushjax.pipelines.fireedit import propose as in_a_step
from brushjax.training.objectives.contract import build, to_unit_range
from brushjax.training.propose import ProposeOptions, propose
from tests import tiny_fireedit
from tests.data.sets.test_edit_sets import FAULTY, good_row, write_table

ROWS, SIDE = 12, 16
OPTIONS = ProposeOptions(Path("recipe.py"), batch_size=4, dtype="float32")


@pytest.fixture(scope="module")
def objective(tmp_path_factory):
    return tiny_fireedit.write(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A set whose second picture is none; three chunks of five records."""
    monkeypatch.setattr(stored_boxes, "CHUNK", 5)
    rows = [FAULTY[n] if n == 1 else good_row(n) for n in range(ROWS)]
    write_table(tmp_path / "edits.parquet", "instruct-pix2pix", rows)
    return EditPairs(str(tmp_path / "edits.parquet"), size=SIDE, boxes=str(tmp_path / "boxes"))


def recipe(objective, data):
    return SimpleNamespace(objective=objective, data=data)


def everything(data):
    folder, stored = Boxes.complete(data.boxes, ROWS), data.stored()
    return [folder.of(number, stored.name(number)) for number in range(ROWS)]


@pytest.mark.heavy
def test_boxes_are_those_that_a_step_would_find(objective, data):
    propose(recipe(objective, data), OPTIONS)
    found, stored = everything(data), data.stored()
    assert len(found[1]) == 0  # no picture there
    params = objective.load(jax.random.key(0), shapes(objective))
    record = stored.record(3, np.random.default_rng(0), [])
    turned = not np.array_equal(record.image, as_stored(stored, 3))
    image = to_unit_range(jnp.asarray(as_stored(stored, 3))[None], jnp.float32)
    boxes, mask = seen_in_a_step(objective, params, image)
    np.testing.assert_allclose(found[3], boxes[0][mask[0]], atol=1e-6)
    np.testing.assert_array_equal(record.boxes, mirrored(found[3]) if turned else found[3])


def seen_in_a_step(objective, params, image):
    @jax.jit
    def find(params):
        dino, clip, proposer = (build(*objective.sizes.of(k), params[k]) for k in KINDS)
        return in_a_step(proposer, look(dino, clip, image, objective.sizes), objective.sizes)

    return find(params)


KINDS = ("dino", "clip_vision", "proposer")


def shapes(objective):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    give = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here)  # noqa: E731
    return jax.tree.map(give, {kind: objective.shapes()[kind] for kind in KINDS})


def as_stored(stored, number):
    return stretched(stored.picture(number).pixels, SIDE)


def test_shards_and_later_starts_give_the_same(objective, data, tmp_path):
    propose(recipe(objective, data), OPTIONS)
    other = dataclasses.replace(data, boxes=str(tmp_path / "other"))
    propose(recipe(objective, other), dataclasses.replace(OPTIONS, shard="1/2"))
    assert missing(other) == [0, 2]
    with pytest.raises(ValueError, match="2 chunks missing"):
        other.stored()
    propose(recipe(objective, other), dataclasses.replace(OPTIONS, shard="0/2"))
    written = (tmp_path / "other/000001.npy").stat().st_mtime_ns
    propose(recipe(objective, other), OPTIONS)  # nothing is left to do
    assert (tmp_path / "other/000001.npy").stat().st_mtime_ns == written
    for one, same in zip(everything(data), everything(other), strict=True):
        np.testing.assert_array_equal(one, same)


def missing(data):
    folder = Path(data.boxes)
    return Boxes(folder, **json.loads((folder / "boxes.json").read_text())).missing()


def test_boxes_of_other_data_or_weights_are_refused(objective, data, tmp_path):
    propose(recipe(objective, data), OPTIONS)
    with pytest.raises(ValueError, match="holds boxes of other data or of another detector"):
        propose(recipe(objective, dataclasses.replace(data, size=2 * SIDE)), OPTIONS)
    stored = data.stored()
    with pytest.raises(ValueError, match=re.escape("are not those of another")):
        stored.found.of(0, "another")
    write_table(tmp_path / "edits.parquet", "instruct-pix2pix", [good_row(0)] * 3)
    with pytest.raises(ValueError, match="expected boxes of 3 records"):
        data.stored()


def test_recipes_without_boxes_are_refused(objective, data):
    none = dataclasses.replace(data, boxes="")
    with pytest.raises(ConfigError, match="expected data with `boxes`"):
        propose(recipe(objective, Mixture((Part(none),))), OPTIONS)
    with pytest.raises(ConfigError, match="a folder of boxes for each set"):
        propose(recipe(objective, Mixture((Part(data), Part(data)))), OPTIONS)
    with pytest.raises(ConfigError, match="expected --shard I/N"):
        propose(recipe(objective, data), dataclasses.replace(OPTIONS, shard="2/2"))
    with pytest.raises(ValueError, match="which `python -m brushjax propose` writes"):
        data.stored()


def test_boxes_are_cut_and_mirrored_with_the_picture():
    boxes = np.array([[0.5, 0.5, 0.2, 0.2], [0.1, 0.5, 0.1, 0.1]], np.float32)
    right_half = (slice(0, 10), slice(10, 20))
    np.testing.assert_allclose(cut(boxes, right_half, (10, 20)), [[0.1, 0.5, 0.2, 0.2]], atol=1e-6)
    np.testing.assert_allclose(mirrored(boxes)[:, 0], [0.5, 0.9], atol=1e-6)
    assert cut(None, right_half, (10, 20)) is None
    assert mirrored(None) is None
