"""What is held out of training, and what a run says of its data."""

import json

import numpy as np
import pytest

from brushjax.config import ConfigError
from brushjax.data.sets.brushdata import BrushData
from brushjax.data.sets.held_out import HeldOutPart
from brushjax.data.split import part
from tests.data import tiny
from tests.data.tiny import encode


def named(n):
    return f"{n}.jpg"


@pytest.mark.parametrize(("count", "share", "held"), [(2, 0.05, 1), (40, 0.1, 4), (3, 1.0, 2)])
def test_parts_are_disjoint_and_whole(count, share, held):
    numbers = np.arange(count)
    train, out = (part(numbers, named, split, share) for split in ("train", "held_out"))
    assert len(out) == held
    np.testing.assert_array_equal(np.sort([*train, *out]), numbers)
    np.testing.assert_array_equal(part(numbers, named, "all", share), numbers)


def test_what_is_held_out_goes_by_the_name_and_not_by_the_place():
    numbers = np.arange(40)
    out = {named(n) for n in part(numbers, named, "held_out", 0.2)}
    turned = part(numbers, lambda n: named(39 - n), "held_out", 0.2)
    assert {named(39 - n) for n in turned} == out


def test_one_sample_is_not_enough():
    with pytest.raises(ConfigError, match="expected two samples or more, to hold one out; got 1"):
        part(np.arange(1), named, "train", 0.1)


@pytest.fixture
def folder(tmp_path):
    for n in range(6):
        (tmp_path / f"{n}.jpg").write_bytes(tiny.jpeg(tiny.picture(n)))
        (tmp_path / f"{n}.txt").write_text(f"picture {n}" if n else "")
    (tmp_path / "6.jpg").write_bytes(tiny.jpeg(tiny.picture(6)))
    return tmp_path


def test_validation_reads_what_training_holds_out(folder):
    data = BrushData(str(folder), 32, split="train", held_out_share=0.3, faulty_share=0.5)
    held_out = HeldOutPart(pool=5).of(data)
    numbers = {d.split: set(d.source(encode).numbers.tolist()) for d in (data, held_out)}
    assert numbers["train"] | numbers["held_out"] == set(range(6))
    assert not numbers["train"] & numbers["held_out"]
    feed = iter(held_out.batches(5, encode, shard=(0, 1)))
    assert set(next(feed)["id"].tolist()) == numbers["held_out"]
    feed.close()
    for other in (BrushData(str(folder), 32), None):
        with pytest.raises(ConfigError, match='BrushData with split "train"'):
            HeldOutPart().of(other)


def test_preflight_says_what_was_found(folder):
    text = BrushData(str(folder), 64, faulty_share=0.5).source(encode).found()
    for part_of in (
        "7 pictures with captions from the text beside each picture: 6 to train on;",
        "missing member 1",
        "5 have a caption and 0 masks of objects",
        "shorter side is 40 to 40 pixels",
        "6 are smaller than 64 pixels",
    ):
        assert part_of in text


def test_preflight_counts_pictures_that_a_list_leaves_out(folder):
    rows = [{"file_name": f"{n}.jpg", "text": "a picture"} for n in range(4)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = BrushData(str(folder), 32).source(encode).found()
    assert "4 pictures with captions from metadata.jsonl (3 more in the folder without" in found


def test_preflight_says_what_is_held_out(folder):
    data = BrushData(str(folder), 32, split="train", held_out_share=0.3, faulty_share=0.5)
    use = "4 to train on, 2 held out for validation and samples;"
    assert f"beside each picture: {use}" in data.source(encode).found()
    held_out = HeldOutPart(pool=0).of(data).source(encode).found()
    assert "2 held out, which no step trains on;" in held_out
