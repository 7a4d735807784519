"""Preparation as a pipeline: the same records on any number of workers, nothing made twice."""

import dataclasses
import functools
import json
import threading

import numpy as np
import pytest
from PIL import Image

from brushjax.agents import instruct as asking
from brushjax.agents.prepare import (
    Donors,
    Instructions,
    Objects,
    PrepareArguments,
    Shards,
    Step,
    main,
    prepare,
    steps_of,
)
from brushjax.agents.segmenters import of_masks
from brushjax.config import ConfigError
from brushjax.data.sets.region_edits import RegionEdits
from brushjax.data.sources import decoding
from brushjax.data.sources.collection import open_collection
from brushjax.pipelines.generators import Callback

COUNT = 6


class Model:
    """Answers in the place of a language model, and counts."""

    def __init__(self):
        self.asked, self._lock = [], threading.Lock()

    def __call__(self, row, options, endpoint):
        with self._lock:
            self.asked.append(row["image"])
        if row["caption"].endswith("4"):
            return {"rejected": "no"}
        return {
            "category": "local",
            "instruction": f"change {row['caption']}",
            "target_caption": f"not {row['caption']}",
        }


def painter(base):
    """Paints what the number in the caption says."""

    def paint(images, mask, prompts, keys, settings):
        values = np.array([40 * int(prompt.split()[-1]) for prompt in prompts], np.uint8)
        return np.broadcast_to(values[:, None, None, None], images.shape)

    return Callback(paint)


def left_half():
    """Finds the left half of every picture."""

    def segment(image, phrase):
        mask = np.zeros((1, *image.shape[:2]), np.uint8)
        mask[:, :, : image.shape[1] // 2] = 255
        return of_masks(mask, [0.5])

    return segment


@pytest.fixture
def model(monkeypatch):
    made = Model()
    monkeypatch.setattr(asking, "answered", made)
    return made


@pytest.fixture
def options(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for n in range(COUNT):
        Image.new("RGB", (24, 20), (n, n, n)).save(images / f"{n}.png")
        rows.append({"image": f"{n}.png", "caption": f"thing {n}"})
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PrepareArguments(
        captions, images, tmp_path / "out", url="http://127.0.0.1:1/v1", shards=2, size=16
    )


def steps(options):
    ask, paint = steps_of(options)
    return [ask, dataclasses.replace(paint, generator=painter)]


def by_hand(options, steps):
    """What the pipeline does, without Beam."""
    items = list(enumerate(asking.captioned(options.captions)))
    for step in steps:
        items = [made for item in items for made in Step(step)(item)]
    shards, groups = Shards(options), {}
    for item in items:
        number, kept = shards.of(item)
        groups.setdefault(number, []).append(kept)
    return [shards.write((number, group[::-1])) for number, group in groups.items()]


def test_records_are_what_training_on_regions_reads(model, options):
    assert sorted(by_hand(options, steps(options))) == [2, 3]  # the fifth picture's is rejected
    source = RegionEdits(str(options.out), size=16).source(dict)
    records = [source.record(n) for n in range(len(source))]
    assert [record.source_caption[-1] for record in records] == ["0", "2", "1", "3", "5"]
    for record in records:
        number = int(record.source_caption[-1])
        assert record.instruction == f"change thing {number}"
        assert record.target_caption == f"not thing {number}"
        assert (record.image == number).all()
        assert (record.donor == 40 * number).all()


def test_nothing_is_asked_or_painted_twice(model, options):
    by_hand(options, steps(options))
    before = {path: path.stat().st_mtime_ns for path in options.out.rglob("*.png")}
    by_hand(options, steps(options))
    assert sorted(model.asked) == [f"{n}.png" for n in range(COUNT)]
    assert {path: path.stat().st_mtime_ns for path in options.out.rglob("*.png")} == before


def test_objects_are_records_of_brushdata(options):
    step = Objects(options.images, left_half)
    by_hand(options, [step])
    collection = open_collection(str(options.out))
    assert len(collection) == COUNT
    members = collection.read(1, ("image", "caption", "segmentation", "height", "width"))
    assert decoding.caption(members["caption"])[0] == "thing 2"
    assert (int(members["height"]), int(members["width"])) == (20, 24)
    told = json.loads(members["segmentation"])
    assert told["boxes"] == [[0.0, 0.0, 12.0, 20.0]]
    (mask,) = (decoding.rle.decode(runs, 20, 24, first=1, order="column") for runs in told["mask"])
    assert mask[:, :12].all()
    assert not mask[:, 12:].any()
    with pytest.raises(ConfigError, match="expected edit, image and donor, got missing member"):
        RegionEdits(str(options.out)).source(dict).record(0)


def test_wrong_arguments_are_one_line(options, capsys):
    with pytest.raises(ValueError, match="expected the step instructions before donors"):
        dataclasses.replace(options, steps=("donors",))
    with pytest.raises(ValueError, match="expected steps of instructions, donors, objects"):
        dataclasses.replace(options, steps=("captions",))
    places = [f"--{name}={getattr(options, name)}" for name in ("captions", "images", "out")]
    with pytest.raises(SystemExit):
        main([*places, "--steps", "donors"])
    assert "expected the step instructions before" in " ".join(capsys.readouterr().err.split())


def test_steps_can_be_sent_to_other_machines(options):
    import pickle

    for step in steps_of(options):
        assert pickle.loads(pickle.dumps(step)) == step
    kinds = [type(step) for step in steps_of(dataclasses.replace(options, steps=("objects",)))]
    assert kinds == [Objects]
    assert [type(step) for step in steps_of(options)] == [Instructions, Donors]


def test_pipeline_needs_beam_or_runs_the_same_on_one_and_four_workers(model, options):
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"expected Apache Beam .* pip install -e '.\[prep"):
            prepare(options, steps(options))
        return
    found = []
    for workers in (1, 4):
        own = dataclasses.replace(options, workers=workers, out=options.out / str(workers))
        assert sorted(prepare(own, steps(own))) == [2, 3]
        collection = open_collection(str(own.out))
        members = functools.partial(collection.read, needed=("image", "donor", "edit"))
        found.append([members(n) for n in range(len(collection))])
    assert found[0] == found[1]
