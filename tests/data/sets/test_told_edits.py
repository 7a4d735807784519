"""Edits told in words: the truth differs where the words say, and nowhere else."""

import numpy as np
import pytest

from brushjax.data.schema import Conversation, EditPair
from brushjax.data.sets.photos import CLASSES
from brushjax.data.sets.told_edits import COLOURS, LEAST, SIDES, ToldEdits, toned


@pytest.fixture(scope="module")
def samples():
    source = ToldEdits(size=32, split="held_out").source(lambda record: record.arrays())
    return [source.record(n) for n in range(150)]


def change(sample):
    return np.abs(sample.target.astype(float) - sample.image).max(-1)


def test_picture_changes_where_the_region_is_and_nowhere_else(samples):
    for sample in samples:
        outside = sample.region[..., 0] == 0
        assert change(sample)[outside].max(initial=0) <= 1, sample.instruction  # of 255: rounding
        assert change(sample).mean() >= 0.9 * 255 * LEAST / 3


def test_words_name_a_side_or_a_thing_that_is_there(samples):
    for sample in samples:
        said = sample.instruction
        named = any(name in said for name in (*CLASSES, *SIDES, "picture", "everything"))
        assert named or said.startswith(("add", "put")), said


def test_side_edits_change_that_half(samples):
    found = [s for s in samples if any(word in s.instruction for word in (" half", " side"))]
    assert len(found) > 5
    for sample in found:
        side = next(side for side in SIDES if f"the {side} " in sample.instruction)
        rows, columns = (slice(None), slice(None))
        half = slice(0, 16) if side in ("left", "top") else slice(16, 32)
        rows, columns = (half, columns) if side in ("top", "bottom") else (rows, half)
        inside = change(sample)[rows, columns].sum()
        assert inside > 0.9 * change(sample).sum()


def test_added_thing_has_no_box_and_the_others_have_one(samples):
    for sample in samples:
        assert sample.boxes.shape[1] == 4
        assert (sample.boxes > 0).all()
        assert (sample.boxes < 1).all()
        if not sample.instruction.startswith(("add", "put")):
            assert len(sample.boxes) in (1, 2)
    added = [s for s in samples if s.instruction.startswith(("add", "put"))]
    assert {len(s.boxes) for s in added} == {0, 1}


def test_samples_depend_on_their_number_alone_and_splits_differ(samples):
    again = ToldEdits(size=32, split="held_out").source(lambda record: record.arrays())
    np.testing.assert_array_equal(again.record(7).target, samples[7].target)
    other = ToldEdits(size=32).source(lambda record: record.arrays())
    assert (other.record(7).image != samples[7].image).any()


def test_questions_are_about_what_is_there():
    source = ToldEdits(size=32, questions=0.5).source(lambda record: record.arrays())
    kinds = [source.record(n) for n in range(60)]
    asked = [one for one in kinds if isinstance(one, Conversation)]
    assert 15 < len(asked) < 45
    assert all(isinstance(one, (Conversation, EditPair)) for one in kinds)
    for one in asked:
        side = one.answer.split()[-1] if one.question.startswith("where") else one.question[:-1]
        left = side.endswith("left")
        assert any((box[0] < 0.5) == left for box in one.boxes)


def test_tones_do_what_they_are_called():
    image = np.random.default_rng(0).uniform(60, 190, (8, 8, 3)).astype(np.float32)
    assert toned(image, "darker").mean() < image.mean() < toned(image, "brighter").mean()
    assert np.ptp(toned(image, "black and white"), axis=-1).max() < 1e-3
    for n, name in enumerate(COLOURS):
        assert toned(image, name).mean((0, 1)).argmax() == n


def test_shares_say_how_often_a_kind_of_edit_is_drawn():
    source = ToldEdits(size=32, shares=(0.0, 0.0, 0.0, 1.0, 0.0, 0.0)).source(
        lambda record: record.arrays()
    )
    for n in range(10):
        assert source.record(n).instruction.startswith(("remove", "erase", "take"))
