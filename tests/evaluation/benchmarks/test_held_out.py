import numpy as np
import pytest

from brushjax.evaluation.benchmarks.held_out import (
    HeldOut,
    Steered,
    Steering,
    check_accuracy,
    nearest_class,
)
from brushjax.metrics.views import Views


def test_held_out_samples_are_the_same_every_time_and_their_own_holes():
    first, second = HeldOut(count=6).samples(), HeldOut(count=4).samples()
    for one, other in zip(first, second, strict=False):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.prompt == other.prompt
    assert all(0 < one.mask.mean() < 1 for one in first)
    record = HeldOut(count=1).records()[0]
    np.testing.assert_array_equal(record.read().truth, first[0].image)
    assert (record.id, record.prompt, record.group) == ("0", first[0].prompt, first[0].label)


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
    assert check_accuracy(steering) >= 0.95
    assert nearest_class(steering).chance == 1 / 8


def test_steering_metrics_of_an_obedient_and_of_a_deaf_model():
    steering = Steering(count=6, classes=("galaxies", "flower", "sky"), examples=12)
    swapped, own = Steered(steering, "swapped"), Steered(steering, "own")
    assert swapped.wants("trained", 0)
    assert not swapped.wants("trained", 1)
    assert not swapped.wants("zero", 0)
    assert "chance is 33.3 %" in swapped.note()
    real, names = steering.real_crops("held_out")
    named, true = swapped.metrics()
    for record, twin in zip(swapped.records(), own.records(), strict=True):
        assert record.id == twin.id  # the same noise
        assert record.prompt != twin.prompt
        assert record.group == record.local_caption != record.source_caption
        picture = record.read().source
        texts = {"source_caption": record.source_caption, "local_caption": record.local_caption}
        deaf = Views(result=picture, **texts)
        assert named(deaf, {})[named.id] == 0
        assert true(deaf, {})[true.id] == 1
        obedient = picture.copy()
        obedient[40:88, 40:88] = real[names.index(record.local_caption)]  # the hole, no rim
        assert named(Views(result=obedient, **texts), {})[named.id] == 1


def test_a_hole_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match="hole < size"):
        Steering(hole=128)
    with pytest.raises(ValueError, match="two classes"):
        Steering(classes=("sky",))
