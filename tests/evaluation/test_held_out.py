import numpy as np
import pytest

from brushjax.evaluation.held_out import HeldOut, Steering
from brushjax.evaluation.score import score_steering
from brushjax.metrics.bootstrap import Bootstrap
from brushjax.metrics.nearest_class import NearestClass


def test_held_out_samples_are_the_same_every_time_and_their_own_holes():
    first, second = HeldOut(count=6).samples(), HeldOut(count=4).samples()
    for one, other in zip(first, second, strict=False):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.prompt == other.prompt
    assert all(0 < one.mask.mean() < 1 for one in first)


def test_swaps_name_another_class_and_leave_the_picture():
    steering = Steering(count=24)
    plan = steering.plan()
    for own, swapped, target in zip(plan.own, plan.swapped, plan.targets, strict=True):
        assert target != own.label
        assert swapped.image is own.image
        assert swapped.prompt != own.prompt
        assert swapped.mask.sum() == steering.hole**2
    assert len(set(plan.targets)) > 4


def test_classes_of_the_steering_test_are_easy_to_tell_apart():
    steering = Steering(examples=24)
    classifier = NearestClass.fit(*steering.real_crops("train"))
    crops, names = steering.real_crops("held_out")
    hits = [found == name for found, name in zip(classifier.predict(crops), names, strict=True)]
    assert np.mean(hits) >= 0.95
    assert classifier.chance == 1 / 8


def test_steering_score_of_an_obedient_and_of_a_deaf_model():
    steering = Steering(count=12, classes=("galaxies", "flower", "sky"), examples=12)
    plan = steering.plan()
    real = {name: Steering(classes=(name, "brick"), examples=12) for name in steering.classes}
    crops = {name: one.real_crops("held_out")[0][:12] for name, one in real.items()}
    own = np.stack([one.image for one in plan.own])
    obedient = own.copy()
    for picture, target, index in zip(obedient, plan.targets, range(12), strict=True):
        picture[40:88, 40:88] = crops[target][index]  # the hole of 64 without its rim of 8
    score = score_steering(
        steering, plan, swapped=obedient, own=own, decoded=own, bootstrap=Bootstrap()
    )
    assert score.named.value == 1
    assert score.own_named.value == 1
    assert score.own_swapped.value == 0
    assert score.decoded_accuracy == 1
    deaf = score_steering(
        steering, plan, swapped=own, own=own, decoded=obedient, bootstrap=Bootstrap()
    )
    assert deaf.named.value == 0
    assert deaf.decoded_accuracy == 0  # the pictures handed in are of the other class


def test_a_hole_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match="hole < size"):
        Steering(hole=128)
    with pytest.raises(ValueError, match="two classes"):
        Steering(classes=("sky",))
