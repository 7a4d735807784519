"""The miniature: known answers, the same everywhere, and honest about pictures that are missing."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from brushjax.agents import instructor
from brushjax.data.sets.photos import PhotoSource
from brushjax.evaluation.benchmarks import packaged
from brushjax.evaluation.benchmarks.miniature import KINDS, Miniature, Thing, described
from tests.evaluation.miniatures import picture

CATEGORIES = dict(zip(KINDS, ("removal", "local", "local", "local", "background"), strict=True))


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Packages that carry pictures, but for those that a test names."""
    for one in packaged.PICTURES:
        file = tmp_path / one.module / one.file
        file.parent.mkdir(parents=True, exist_ok=True)
        number = packaged.PICTURES.index(one)
        Image.fromarray(picture(number, one.box[3], one.box[2])).save(file)
        (tmp_path / one.module / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def without(monkeypatch, *modules):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in modules else real(name)
    )


MODULES = tuple(dict.fromkeys(one.module for one in packaged.PICTURES))


def test_miniature_asks_every_kind_of_every_scene(installed):
    records = Miniature(count=2).records()
    assert len(records) == 2 * 2 * len(KINDS) == len({one.id for one in records})
    assert {one.group for one in records} == {*KINDS, *(f"{kind} (unseen)" for kind in KINDS)}
    assert len({one.session for one in records}) == 4  # the edits of a scene are alike


def test_miniature_keeps_what_is_outside_the_mask_and_changes_what_is_inside(installed):
    for record in Miniature(count=3).records():
        pixels = record.read()
        keep = pixels.hole == 0
        assert 0.05 < 1 - keep.mean() < 0.98, record.id
        np.testing.assert_array_equal(pixels.source[keep], pixels.truth[keep])
        changed = np.abs(pixels.source.astype(int) - pixels.truth)[~keep].mean()
        assert changed > 2, record.id


def test_miniature_removals_show_the_held_out_photograph_itself():
    (scene,) = Miniature(count=1).scenes("held-out")
    truth = scene.edit("removal").pixels.truth
    np.testing.assert_array_equal(truth, scene.around.image)
    photos = PhotoSource(128, 3, "held_out")
    assert {region.split for places in photos._places.values() for _, region in places} == {
        "held_out"
    }


def test_miniature_depends_on_its_settings_and_number_alone(installed):
    few, many = (Miniature(count=n).records() for n in (1, 3))
    ahead = {one.id: one.fingerprint for one in many}
    assert all(ahead[one.id] == one.fingerprint for one in few)
    other = Miniature(count=1, seed=4).records()
    assert all(ahead[one.id] != one.fingerprint for one in other)


def test_miniature_instructions_are_understood_as_what_they_ask():
    ask = instructor("patterns")
    for record in Miniature(count=6, parts=("held-out",)).records():
        plan = ask(record.instruction, None, record.source_caption)
        assert plan.category == CATEGORIES[record.group], record.instruction


def test_words_are_put_behind_an_article():
    for phrase, expected in (
        ("a tabby cat", "a blue tabby cat"),
        ("an iron tower", "a blue iron tower"),
        ("bricks", "blue bricks"),
        ("the moon", "the blue moon"),
    ):
        assert described("blue", phrase) == expected


def test_missing_packages_are_named_and_leave_the_part_out(installed, monkeypatch):
    assert "not installed" not in Miniature().note()
    without(monkeypatch, "gradio")
    assert Miniature().note().endswith("not installed: gradio")
    assert any("unseen" in one.id for one in Miniature(count=1).records())
    without(monkeypatch, *MODULES)
    note = Miniature().note()
    assert "left out: expected 3 pictures of installed packages, found 0" in note
    assert "pip install gradio matplotlib scikit-image ultralytics" in note
    assert {one.group for one in Miniature(count=1).records()} == set(KINDS)


def test_pictures_of_packages_are_cut_within_their_boxes(installed):
    for one in packaged.PICTURES:
        crop = one.crop(32, np.random.default_rng(0))
        assert crop.shape == (32, 32, 3)
        Thing(crop, one.phrase)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match=r"expected kinds of removal, .*; got paint"):
        Miniature(kinds=("paint",))
