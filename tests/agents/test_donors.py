"""Donors: one for each edit, the same in any batch and process, and none made twice."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from brushjax.agents.donors import DonorArguments, donors, main
from brushjax.data.sets.region_edits import RegionEdits
from brushjax.pipelines.generators import Callback


@pytest.fixture
def options(tmp_path):
    rows = []
    for n in range(5):
        Image.new("RGB", (24, 20), (n, n, n)).save(tmp_path / f"{n}.png")
        words = {"source_caption": "a", "instruction": "do", "target_caption": f"b {n}"}
        rows.append({"image": f"{n}.png", **words, "model": "m"})
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DonorArguments(tmp_path, size=16, batch_size=2)


class Painter:
    """Paints what the caption's number says, and counts; stops after some calls."""

    def __init__(self, calls=100):
        self.made, self.calls = [], calls

    def __call__(self, images, mask, prompts, keys, settings):
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        assert mask.all()
        self.made += prompts
        values = [40 * int(prompt.split()[1]) for prompt in prompts]
        return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], images.shape)


def test_donors_are_made_once_and_named_in_the_list(options):
    with pytest.raises(KeyboardInterrupt):
        donors(options, lambda: Callback(Painter(2)))
    painter = Painter()
    assert donors(options, lambda: Callback(painter)) == 0
    assert painter.made == ["b 4"]  # two batches were there
    data = RegionEdits(str(options.edits), size=16)
    source = data.source(dict)
    assert [int(source.record(n).donor[0, 0, 0]) for n in range(5)] == [0, 40, 80, 120, 160]
    rows = [json.loads(x) for x in (options.edits / "edits.jsonl").read_text().splitlines()]
    assert all(row["model"] == "m" for row in rows)
    again = Painter()
    assert donors(options, lambda: Callback(again)) == 0
    assert not again.made


def test_donors_are_shared_between_processes(options):
    first, second = Painter(), Painter()
    half = dataclasses.replace(options, shard="0/2")
    assert donors(half, lambda: Callback(first)) == 2
    assert donors(dataclasses.replace(options, shard="1/2"), lambda: Callback(second)) == 0
    assert first.made == ["b 0", "b 2", "b 4"]
    assert second.made == ["b 1", "b 3"]


def test_donors_of_wrong_lists_and_parts_are_one_line(options):
    with pytest.raises(ValueError, match="expected --shard I/N"):
        donors(dataclasses.replace(options, shard="2/2"), lambda: Callback(Painter()))
    (options.edits / "edits.jsonl").write_text('{"image": "a.png"}\n')
    with pytest.raises(ValueError, match=r"edits\.jsonl:1: expected .*; no source_caption"):
        donors(options, lambda: Callback(Painter()))
    (options.edits / "edits.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="brushjax instruct` writes it"):
        donors(options, lambda: Callback(Painter()))


def test_donors_are_refused_before_a_base_is_loaded(options, monkeypatch):
    def load(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr("brushjax.agents.donors.donor_generator", load)
    (options.edits / "donors").write_text("")
    with pytest.raises(SystemExit, match=r"error: can't write .*; a file is in the way"):
        main([f"--edits={options.edits}"])
    (options.edits / "edits.jsonl").unlink()
    with pytest.raises(SystemExit, match="brushjax instruct` writes it"):
        main([f"--edits={options.edits}"])
