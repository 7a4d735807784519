"""Stored edits are read as they were written, and wrong lists are one line."""

import json

import cv2
import numpy as np
import pytest

from brushjax.config import ConfigError
from brushjax.data.sets.region_edits import RegionEdits

ROW = {
    "image": "a.png",
    "donor": "b.png",
    "source_caption": "a cat",
    "instruction": "make it a dog",
    "target_caption": "a dog",
    "model": "further entries are not read",
}


def write(folder, *rows):
    (folder / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    for name, value in (("a.png", 10), ("b.png", 200)):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), value, np.uint8))
    write(tmp_path, ROW, {**ROW, "instruction": "second"})
    return tmp_path


def test_edits_are_read_by_number(folder):
    data = RegionEdits(str(folder), size=16)
    source = data.source(lambda record: record.arrays())
    assert len(source) == 2
    record = source.record(1)
    assert (record.instruction, record.target_caption) == ("second", "a dog")
    assert record.image.shape == (16, 16, 3)
    assert (record.image == 10).all()
    assert (record.donor == 200).all()
    batch = next(iter(data.batches(2, lambda record: record.arrays())))
    assert sorted(batch["id"].tolist()) == [0, 1]
    shapes = data.shapes()
    assert shapes["image"].shape == record.image.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"donor": None}, "edits.jsonl:1: .* got no donor"),
        ({"target_caption": "a cat"}, "edits.jsonl:1: .* got one caption twice"),
    ],
)
def test_wrong_line_is_named(folder, change, message):
    write(folder, {**ROW, **change})
    with pytest.raises(ConfigError, match=message):
        RegionEdits(str(folder)).source(dict)


def test_missing_list_says_what_is_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected .*edits\.jsonl, a line for each edit"):
        RegionEdits(str(tmp_path)).source(dict)


def test_picture_outside_the_folder_is_refused(folder):
    write(folder, {**ROW, "image": "../a.png"})
    with pytest.raises((ConfigError, ValueError)):
        RegionEdits(str(folder)).source(dict)[0]
