"""Collages: what is planted is where it is said to be, and texts name what is seen."""

import numpy as np
import pytest

from brushjax.data.sets.collages import CaptionedCollages, PlantedRegions, bare
from brushjax.data.sets.photos import TEMPLATES, PhotoSource


def records(data, count):
    source = data.source(lambda record: record.arrays())
    return [source.record(n) for n in range(count)]


def test_two_samples_ask_for_the_two_things_of_one_picture():
    samples = records(PlantedRegions(size=32, split="held_out"), 40)
    firsts = []
    for one, other in zip(samples[::2], samples[1::2], strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.donor, other.donor)
        np.testing.assert_array_equal(one.region, 1 - other.region)
        assert one.instruction != other.instruction
        assert one.source_caption == other.source_caption
        assert len({one.source_caption, one.target_caption, other.target_caption}) == 3
        firsts.append(one.region.mean() < 0.5)
    assert 0.2 < np.mean(firsts) < 0.8  # which of the two comes first says nothing


def test_instruction_names_what_the_target_caption_lacks():
    for sample in records(PlantedRegions(size=32), 20):
        parts = sample.instruction.removeprefix("replace the ").split(" with ")
        pairs = [(" with ".join(parts[:n]), " with ".join(parts[n:])) for n in range(1, len(parts))]
        # "With" may stand in the names of the things, too.
        assert any(
            old in sample.source_caption and new in sample.target_caption for old, new in pairs
        )
        assert sample.target_caption != sample.source_caption


def test_pasted_thing_lies_within_its_region():
    data = PlantedRegions(size=32)
    one, other = records(data, 2)
    pasted = one if one.region.mean() <= 0.5 else other
    assert 0.1 < pasted.region.mean() <= 0.5
    assert pasted.image.shape == pasted.donor.shape == (32, 32, 3)
    assert pasted.image.dtype == np.uint8


def test_wrong_captions_name_other_things():
    data = CaptionedCollages(size=32, wrong=2)
    photos = PhotoSource(32)
    for sample in records(data, 30):
        assert len(sample.texts) == 3
        assert sample.things.shape == (3, len(photos.class_ids))
        true, *wrong = sample.things.astype(int)
        assert 1 <= true.sum() <= 3
        for things in wrong:
            assert np.abs(true - things).sum() in (1, 2)  # dropped or added, or swapped
        assert any(sample.texts[0].startswith(template.split("{}")[0]) for template in TEMPLATES)


@pytest.mark.parametrize("data", [CaptionedCollages(size=32), PlantedRegions(size=32)])
def test_sample_depends_on_its_number_alone(data):
    encode = lambda record: record.arrays()  # noqa: E731 - as an objective's, without words
    one, again = data.source(encode)[3], data.source(encode)[3]
    for name, array in one.items():
        np.testing.assert_array_equal(array, again[name])
    parts = [next(iter(data.batches(2, encode, shard=(k, 2))))["id"] for k in range(2)]
    assert parts[0].tolist() == [0, 2]
    assert parts[1].tolist() == [1, 3]


def test_phrases_lose_their_article_alone():
    assert [bare(x) for x in ("a cat", "an anteater", "grass")] == ["cat", "anteater", "grass"]
