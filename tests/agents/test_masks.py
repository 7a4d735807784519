"""Which pixels each category edits."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from brushjax.agents import EditPlan
from brushjax.agents.masks import (
    BACKGROUND,
    MaskRules,
    NothingFound,
    dilated,
    place_box,
    prompts,
    subject,
)
from brushjax.agents.segmenters import of_masks

PICTURE = np.zeros((64, 96, 3), np.uint8)


def boxes_of(*boxes):
    masks = np.zeros((len(boxes), *PICTURE.shape[:2]), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = 255
    return of_masks(masks, [0.9] * len(boxes))


class Recorded:
    """Finds given boxes and remembers what was asked."""

    def __init__(self, *boxes):
        self.boxes, self.asked = boxes, []

    def __call__(self, image, phrase):
        self.asked.append(phrase)
        return boxes_of(*self.boxes)


def plan(category, thing="", **more):
    return EditPlan(PICTURE, more.pop("instruction", "x"), category, thing, **more)


def test_masks_of_a_global_edit_are_all_white():
    seen = Recorded()
    assert (MaskRules()(plan("global"), seen).mask == 255).all()
    assert seen.asked == []


def test_masks_of_a_background_are_all_but_the_subject():
    seen = Recorded((30, 20, 50, 60))
    made = MaskRules()(plan("background", source_caption="a brown dog sitting on the grass"), seen)
    assert seen.asked == ["brown dog"]
    assert np.array_equal(made.mask, 255 - boxes_of((30, 20, 50, 60)).mask())


def test_masks_of_a_local_edit_cover_all_instances_or_those_chosen():
    seen = Recorded((0, 0, 10, 10), (40, 40, 60, 50))
    asked = plan("local", "dog")
    assert np.array_equal(MaskRules()(asked, seen).mask, seen(PICTURE, "").mask())
    one = MaskRules(instances=(1,))(asked, seen)
    assert one.boxes == ((40, 40, 60, 50),)
    assert np.array_equal(one.mask, boxes_of((40, 40, 60, 50)).mask())
    with pytest.raises(NothingFound, match="found 2"):
        MaskRules(instances=(2,))(asked, seen)


@pytest.mark.parametrize("side", [1, 2, 3, 20])
def test_masks_of_a_removal_are_widened_as_the_reference_does(side):
    mask = (np.random.default_rng(0).random((64, 96)) > 0.997).astype(np.uint8) * 255
    expected = binary_dilation(mask > 0, structure=np.ones((side, side)))
    assert np.array_equal(dilated(mask, side) > 0, expected)


def test_masks_of_a_removal_are_widened_by_twenty_pixels():
    made = MaskRules()(plan("removal", "dog"), Recorded((30, 30, 40, 40)))
    expected = binary_dilation(boxes_of((30, 30, 40, 40)).mask() > 0, structure=np.ones((20, 20)))
    assert np.array_equal(made.mask > 0, expected)
    assert made.boxes == ((30, 30, 40, 40),)


@pytest.mark.parametrize(
    ("relation", "where"),
    [
        ("on top of", lambda box: box[3] <= 32),
        ("under", lambda box: box[1] >= 42),
        ("next to", lambda box: box[0] >= 50),
        ("to the left of", lambda box: box[2] <= 30),
        ("in", lambda box: box[0] > 30 and box[2] < 50 and box[1] > 20 and box[3] < 44),
    ],
)
def test_masks_of_an_addition_lie_where_it_is_said(relation, where):
    seen = Recorded((30, 20, 50, 44))
    made = MaskRules()(plan("addition", "ball", instruction=f"add a ball {relation} the dog"), seen)
    assert seen.asked == ["dog"]
    assert where(made.boxes[0]), made.boxes
    assert made.mask.any()


def test_masks_of_an_addition_keep_a_given_box_and_stay_in_the_picture():
    made = MaskRules()(plan("addition", "ball", boxes=[(1, 2, 9, 10)]), Recorded())
    assert made.mask.sum() == 64 * 255
    for relation in ("on top of", "under", "next to", "in"):
        left, top, right, bottom = place_box((0, 0, 96, 64), relation, 96, 64)
        assert 0 <= left <= right - 12, relation
        assert right <= 96, relation
        assert 0 <= top <= bottom - 8, relation
        assert bottom <= 64, relation


def test_masks_that_are_given_stay():
    given = np.full(PICTURE.shape[:2], 255, np.uint8)
    asked = plan("removal", "dog", mask=given)
    assert MaskRules()(asked, Recorded()) is asked


def test_masks_say_what_was_not_found():
    with pytest.raises(NothingFound, match="'dog' in the picture; none was found"):
        MaskRules()(plan("removal", "dog"), Recorded())
    with pytest.raises(ValueError, match="with a picture"):
        MaskRules()(EditPlan(None, "x", "global"), Recorded())


def test_prompts_of_a_removal_never_name_the_thing():
    asked = plan("removal", "dog", target_caption="a lawn")
    assert prompts(asked, "ugly") == ("a lawn", "dog, ugly")
    for caption in ("", "a dog on a lawn"):
        told = prompts(dataclasses.replace(asked, target_caption=caption))
        assert told == (BACKGROUND, "dog")
    assert prompts(plan("local", "dog", target_caption="a cat"), "ugly") == ("a cat", "ugly")


def test_subject_is_the_first_thing_of_a_caption():
    assert subject("A woman in a red coat walking her dog") == "woman"
    assert subject("") == "main subject"
