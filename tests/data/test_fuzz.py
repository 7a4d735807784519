"""Mutated files through the training source and the Inpainter's reader: nothing escapes, all is
counted."""

import collections
import io
import json
import logging
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from brushjax.data.faults import CAUSES, SKIPPED
from brushjax.data.masks.holes import HoleConfig
from brushjax.data.sets.brushdata import BrushData
from brushjax.inference.images import read_image, read_mask
from tests.data import tiny
from tests.data.tiny import encode, members, write_tar

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF")
KINDS = (*FORMATS, "RLE")
TOKENS = [
    b"-1",
    b"0",
    b"9" * 30,
    b"null",
    b"{",
    b"]",
    b"1e999",
    b"true",
    b'"',
    b"\xff",
    b"[[[[",
    b"",
]


def seeds():
    """A few files of each format: plain, turned, with transparency or a palette, with a profile."""
    plain = Image.fromarray(tiny.picture(3, 24, 32))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    clear = plain.convert("RGBA")
    clear.putalpha(90)
    found = {}
    for kind in FORMATS:
        variants = [(plain, {}), (plain.convert("L"), {}), (plain.quantize(8).convert("RGB"), {})]
        if kind not in ("GIF",):
            variants.append((plain, {"exif": exif, "icc_profile": profile}))
        if kind != "JPEG":
            variants.append((clear, {}))
        if kind == "TIFF":
            variants += [(plain, {"compression": c}) for c in ("tiff_lzw", "jpeg", "packbits")]
        found[kind] = []
        for image, settings in variants:
            out = io.BytesIO()
            image.save(out, kind, **settings)
            found[kind].append(out.getvalue())
    found["RLE"] = [
        members(0)["segmentation"],
        json.dumps({"mask": [[1, 3], [7, 2, 40, 9]]}).encode(),
    ]
    return found


def mutated(data, rng):
    """Flips, overwrites, cuts, repeats or swaps bytes, most often near the start."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        if not out:
            break
        near = rng.random() < 0.5
        at = int(rng.integers(min(len(out), 200) if near else len(out)))
        length = int(rng.integers(1, 9))
        action = rng.integers(7)
        if action == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif action == 1:
            out[at : at + length] = rng.bytes(length)
        elif action == 2:
            out[at : at + 4] = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"][int(rng.integers(3))]
        elif action == 3:
            del out[at:]
        elif action == 4:
            out[at:at] = out[at : at + int(rng.integers(1, 64))]
        elif action == 5:
            del out[at : at + length]
        else:
            out[at : at + length] = TOKENS[int(rng.integers(len(TOKENS)))]
    return bytes(out)


@pytest.fixture
def samples(tmp_path):
    write_tar(tmp_path / "0.tar", {"a": members(0)})
    holes = HoleConfig.of_objects()
    data = BrushData(str(tmp_path), 16, holes=holes, index_cache=str(tmp_path / "cache"))
    return data.source(encode)


def run(samples, count, monkeypatch):
    """Counts what `count` mutations became: {kind: {outcome: number}}; raises what escapes."""
    found, originals = collections.defaultdict(collections.Counter), seeds()
    rng = np.random.default_rng(11)
    current = {}

    def read(n, needed, optional=()):
        return {name: current[name] for name in (*needed, *optional) if name in current}

    monkeypatch.setattr(samples._collection, "read", read)
    for n in range(count):
        kind = KINDS[n % len(KINDS)]
        choices = originals[kind]
        data = mutated(choices[int(rng.integers(len(choices)))], rng)
        current = dict(members(0))
        current["segmentation" if kind == "RLE" else "image"] = data
        if kind != "RLE":  # the size is the picture's own
            del current["height"], current["width"]
            current["segmentation"] = b'{"mask": [[1, 3]]}'
        met = []
        made = samples.tried(0, n, met)
        assert set(met) <= set(CAUSES)
        assert bool(made) != bool(set(met) & set(SKIPPED))  # used, or counted as left out
        found[kind]["used" if made else next(c for c in met if c in SKIPPED)] += 1
        assert len(samples._donated(np.random.default_rng(n))) <= 1
        if kind == "RLE":
            continue
        path = samples.scratch / f"{n % 2}.img"
        path.write_bytes(data)
        for reader in (read_image, read_mask):
            found[kind][_outcome(reader, path)] += 1
    return found


def _outcome(reader, path):
    """What a reader of the Inpainter makes of a file: pixels, or one line that names it."""
    try:
        reader(path)
    except ValueError as error:
        text = str(error)
    else:
        return reader.__name__
    assert path.name in text
    assert "\n" not in text
    return f"{reader.__name__} refused"


@pytest.fixture
def fuzzed(samples, tmp_path, monkeypatch):
    """Runs so many mutations as a program would see them: Pillow's warnings stay warnings."""
    samples.scratch = tmp_path

    def fuzz(count):
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return run(samples, count, monkeypatch)
        finally:
            logging.disable(logging.NOTSET)

    return fuzz


def checked(found, count):
    outcomes = {"read_image", "read_image refused", "read_mask", "read_mask refused"}
    counted = sum(n for by in found.values() for name, n in by.items() if name not in outcomes)
    assert counted == count
    for kind in KINDS:
        assert found[kind]["used"] > 0, kind
        assert sum(found[kind][cause] for cause in SKIPPED) > 0, kind
    assert not any(by["failed sample"] for by in found.values())  # each has a cause of its own


def test_mutated_files_are_read_or_counted(fuzzed):
    checked(fuzzed(420), 420)


@pytest.mark.slow
def test_20000_mutated_files_are_read_or_counted(fuzzed):
    found = fuzzed(20_000)
    print({kind: dict(by) for kind, by in found.items()})
    checked(found, 20_000)
