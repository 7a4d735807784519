"""The other places that samples come from: folders, records, remote tars, tensorflow-datasets."""

import json
import subprocess
import sys

import cv2
import fsspec
import numpy as np
import pytest

from brushjax.data.masks.holes import HoleConfig
from brushjax.data.sets.brushdata import BrushData
from brushjax.data.sources import records
from brushjax.data.sources.collection import open_collection
from tests.data import tiny
from tests.data.tiny import encode, members, write_tars

NAMES = ("image", "caption", "height", "width", "segmentation")


def folder_of_pictures(folder, count=4, masks=True):
    lines = []
    for n in range(count):
        cv2.imwrite(str(folder / f"{n}.jpg"), tiny.picture(n)[..., ::-1])
        line = {"image": f"{n}.jpg", "caption": f"picture {n}"}
        if masks:
            for k, mask in enumerate(tiny.object_masks()):
                cv2.imwrite(str(folder / f"{n}-{k}.png"), mask.astype(np.uint8) * 255)
            line["mask"] = [f"{n}-0.png", f"{n}-1.png"] if n else "0-0.png"
        lines.append(json.dumps(line))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n\n")
    return folder


def test_a_folder_of_pictures_gives_the_same_members_as_a_tar(tmp_path):
    collection = open_collection(str(folder_of_pictures(tmp_path)))
    assert len(collection) == 4
    found, expected = collection.read(2, NAMES), members(2)
    assert {k: v for k, v in found.items() if k != "image"} == {
        k: v for k, v in expected.items() if k != "image"
    }
    assert collection.name(2) == "2.jpg"
    assert json.loads(collection.read(0, ["segmentation"])["segmentation"]) == {
        "mask": json.loads(expected["segmentation"])["mask"][:1]
    }


def test_a_folder_without_masks_trains_with_random_ones(tmp_path):
    folder_of_pictures(tmp_path, masks=False)
    (tmp_path / "3.jpg").unlink()
    data = BrushData(str(tmp_path), 32, faulty_share=0.5)
    feed = iter(data.batches(6, encode, shard=(0, 1)))
    batch = next(feed)
    feed.close()
    assert set(batch["id"]) == {0, 1, 2}
    assert all(0 < mask.mean() < 1 for mask in batch["mask"])
    faults = data.source(encode).faults
    assert faults["missing member"] == 1
    assert faults["no segmentation"] == 6
    only = BrushData(str(tmp_path), 32, holes=HoleConfig.of_objects(), faulty_share=1.0)
    with pytest.raises(RuntimeError, match="none of 4"):
        only.source(encode)


@pytest.mark.parametrize("line", ["{", "[]", '{"image": 3, "caption": ""}', '{"image": "a"}'])
def test_wrong_lines_are_named(tmp_path, line):
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"captions\.jsonl, line 2"):
        open_collection(str(tmp_path))


def test_records_give_back_what_was_packed(tmp_path):
    for shard in range(2):
        path = tmp_path / f"{shard}.array_record"
        with records.writing(path) as add:
            for n in range(3):
                add(records.pack(members(shard * 3 + n)))
    collection = open_collection(str(tmp_path))
    assert len(collection) == 6
    assert collection.read(4, NAMES) == members(4)
    data = BrushData(str(tmp_path), 16)
    feed = iter(data.batches(6, encode, shard=(0, 1)))
    assert set(next(feed)["id"].tolist()) == set(range(6))
    feed.close()


def test_records_appear_whole_or_not_at_all(tmp_path):
    def stopped():
        with records.writing(tmp_path / "0.array_record") as add:
            add(b"one")
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_none_is_a_fault(tmp_path):
    with records.writing(tmp_path / "0.array_record") as add:
        add(b"nonsense")
        add(records.pack(members(1)))
    data = BrushData(str(tmp_path), 16)
    met = []
    assert data.source(encode).tried(0, 0, met) == []
    assert met == ["unreadable member"]
    assert data.source(encode).tried(1, 0, met)


def test_tars_are_read_through_fsspec(tmp_path):
    memory = fsspec.filesystem("memory")
    write_tars(tmp_path, [3, 2])
    for path in sorted(tmp_path.glob("*.tar")):
        memory.pipe_file(f"/collection/{path.name}", path.read_bytes())
    settings = {"size": 16, "index_cache": str(tmp_path / "index")}
    local = BrushData(str(tmp_path), **settings)
    for pattern in ("memory://collection", "memory://collection/*.tar"):
        feeds = [
            iter(d.batches(5, encode, shard=(0, 1)))
            for d in (BrushData(pattern, **settings), local)
        ]
        remote, here = (next(feed) for feed in feeds)
        for name in here:
            np.testing.assert_array_equal(remote[name], here[name])
    one = open_collection("memory://collection/00001.tar", settings["index_cache"])
    assert one.read(1, ["caption"]) == {"caption": b"picture 4"}


def test_remote_records_are_refused(tmp_path):
    fsspec.filesystem("memory").pipe_file("/records/0.array_record", b"")
    with pytest.raises(ValueError, match="on this machine or mounted"):
        open_collection("memory://records/0.array_record")


def test_places_without_a_collection_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected at .* \*\.tar.*found none"):
        open_collection(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="found none"):
        open_collection(str(tmp_path / "nothing" / "*.tar"))
    with pytest.raises(FileNotFoundError, match="found no such place"):
        open_collection(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"give --data\.path DIR"):
        open_collection("")
    (tmp_path / "a.jpg").write_bytes(tiny.jpeg(tiny.picture(0)))
    with pytest.raises(FileNotFoundError, match="found 1 pictures, but no captions"):
        open_collection(str(tmp_path))


def test_tensorflow_datasets_feed_the_same_pipeline_without_tensorflow(tmp_path):
    tars = tmp_path / "tars"
    tars.mkdir()
    write_tars(tars, [3, 2])
    code = f"""
import sys
import numpy as np
from brushjax.data.sets.brushdata import BrushData
from brushjax.data.sources.tfds import BrushDataset
from tests.data.tiny import encode

builder = BrushDataset(source={str(tars)!r}, data_dir={str(tmp_path / "tfds")!r})
builder.download_and_prepare(file_format="array_record")
batches = []
for path in (str(builder.data_path), {str(tars)!r}):
    samples = BrushData(path, 16, index_cache={str(tmp_path / "index")!r}).source(encode)
    batches.append({{n: samples.sample(n, 0)[0][0] for n in range(5)}})
by_caption = [{{s["caption"]: s for s in batch.values()}} for batch in batches]
assert by_caption[0].keys() == by_caption[1].keys()
for caption, sample in by_caption[0].items():
    assert sample["image"].shape == by_caption[1][caption]["image"].shape
    assert (sample["time_ids"][:2] == (40, 56)).all()
    assert sample["mask"].any()
samples = BrushData(str(builder.data_path), 16).source(encode)
members = [samples._collection.read(n, ("image", "caption", "segmentation")) for n in range(5)]
from tests.data.tiny import members as made
expected = {{made(n)["caption"]: made(n) for n in range(5)}}
for found in members:
    assert all(expected[found["caption"]][name] == data for name, data in found.items())
found = {{"tensorflow", "torch"}} & set(sys.modules)
sys.exit(f"imported {{found}}" if found else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
