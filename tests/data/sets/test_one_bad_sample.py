"""One bad sample never ends a run: it is counted under its cause, and its first message is kept."""

import json
import logging

import numpy as np
import pytest

from brushjax.data.faults import TooManyFaults
from brushjax.data.masks.holes import HoleConfig
from brushjax.data.sets.brushdata import BrushData
from brushjax.data.sources import decoding
from tests.data.tiny import encode, members, write_tar


def opened(folder, samples, **settings):
    write_tar(folder / "0.tar", samples)
    data = BrushData(str(folder), 32, index_cache=str(folder / "cache"), **settings)
    return data.source(encode)


@pytest.mark.parametrize("stated", ["1000000", "11000"])
def test_a_donors_stated_size_is_not_believed(tmp_path, monkeypatch, stated):
    runs = json.dumps({"mask": [[1, 5]]}).encode()
    lying = members(1, height=stated.encode(), width=stated.encode(), segmentation=runs)
    samples = opened(tmp_path, {"a": members(0), "b": lying}, holes=HoleConfig.of_objects())
    largest = []
    inner = decoding.object_mask
    monkeypatch.setattr(
        decoding, "object_mask", lambda runs, h, w: largest.append(h * w) or inner(runs, h, w)
    )
    for seed in range(20):
        samples._donated(np.random.default_rng(seed))
    assert largest
    assert max(largest) == 40 * 56
    met = []
    assert samples.tried(1, 0, met) == []
    assert met in (["bad size"], ["wrong size"])


@pytest.mark.parametrize("error", [MemoryError(), KeyError("Exif"), ZeroDivisionError("a")])
def test_whatever_is_raised_is_counted_with_its_first_message(tmp_path, monkeypatch, caplog, error):
    samples = opened(tmp_path, {"a": members(0), "b": members(1)})

    def raising(data, **_):
        raise error

    monkeypatch.setattr(decoding, "picture", raising)
    met = []
    with caplog.at_level(logging.WARNING):
        assert samples.tried(0, 0, met) == []
    assert met == ["failed sample"]
    assert type(error).__name__ in caplog.text
    with pytest.raises(TooManyFaults, match=rf"in turn can't be used.*{type(error).__name__}"):
        samples.batch([0])


def test_no_whole_sample_names_what_was_found_and_wanted(tmp_path):
    samples = {f"{n}": {"bmp": b"x", "text": b"y"} for n in range(3)}
    with pytest.raises(TooManyFaults, match=r"found members bmp \(3\), text \(3\); wanted image"):
        opened(tmp_path, samples)


def test_unknown_members_are_counted_and_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        samples = opened(tmp_path, {"a": {**members(0), "xmp": b"x"}, "b": members(1)})
    assert samples.faults == {"unknown member": 1}
    assert "a.xmp: 1 members of kind 'xmp' are not read" in caplog.text


def test_loss_is_weighed_by_samples_not_by_tars(tmp_path):
    whole = write_tar(tmp_path / "1.tar", {f"{n}": members(n) for n in range(30)}).read_bytes()
    (tmp_path / "2.tar").write_bytes(b"\xaa" * len(whole))
    with pytest.raises(TooManyFaults, match=r"can't be used, more than the allowed share"):
        opened(tmp_path, {f"{n}": members(n) for n in range(30)})
