"""Tars in place: the index, its cache, and every way in which a tar can end."""

import io
import os
import pickle
import tarfile

import fsspec
import numpy as np
import pytest

from brushjax.data.faults import Fault
from brushjax.data.sources import tars
from brushjax.data.sources.files import find
from brushjax.data.sources.tars import MEMBERS, TarCollection, index_tar
from tests.data.tiny import members, write_tar, write_tars

ALL = {f"{n:03d}": members(n) for n in range(6)}


def opened(folder, pattern="*.tar"):
    return TarCollection(find(f"{folder}/{pattern}"), folder / "cache")


def test_members_are_read_as_they_were_written(tmp_path):
    collection = opened(write_tars(tmp_path, [3, 1, 2]))
    assert len(collection) == 6
    for n in (5, 0, 3, 2, 4, 1):
        assert collection.read(n, MEMBERS) == members(n)
    assert collection.name(3) == "00001.tar/000003"
    assert collection.faults(MEMBERS) == {}
    with pytest.raises(IndexError, match="below 6"):
        collection.name(6)


def test_the_index_is_made_once_and_anew_when_a_tar_changes(tmp_path, monkeypatch):
    write_tars(tmp_path, [3, 2])
    opened(tmp_path)
    made = []
    inner = tars.index_tar
    monkeypatch.setattr(tars, "index_tar", lambda file: made.append(file.name) or inner(file))
    opened(tmp_path)
    assert made == []
    path = write_tar(tmp_path / "00001.tar", {"a": members(7)})
    os.utime(path, (1, 1))
    collection = opened(tmp_path)
    assert made == ["00001.tar"]
    assert collection.read(3, ["caption"]) == {"caption": b"picture 7"}
    assert not list((tmp_path / "cache").glob("*.new"))


def test_collections_travel_to_other_processes_without_their_indices(tmp_path):
    collection = opened(write_tars(tmp_path, [40, 40]))
    collection.read(0, ["image"])
    data = pickle.dumps(collection)
    assert len(data) < 3000
    assert pickle.loads(data).read(41, ["caption"]) == {"caption": b"picture 41"}


def test_other_members_folders_and_long_names_are_understood(tmp_path):
    long = "x" * 150  # longer than a header's field: an extra record carries it
    samples = {
        "a/001": {**members(1), "json": b"{}"},
        "b/001": members(2),
        f"b/{long}": members(3),
    }
    collection = opened(write_tar(tmp_path / "0.tar", samples).parent)
    assert len(collection) == 3
    assert [collection.read(n, ["caption"])["caption"] for n in range(3)] == [
        b"picture 1",
        b"picture 2",
        b"picture 3",
    ]
    assert collection.name(0) == "0.tar/a/001"


def test_absent_members_are_faults_only_where_they_are_needed(tmp_path):
    write_tar(tmp_path / "0.tar", {"a": members(0), "b": members(1, segmentation=None)})
    collection = opened(tmp_path)
    assert collection.faults(("image", "caption")) == {}
    assert collection.faults(("image", "segmentation")) == {1: "missing member"}
    assert collection.read(1, ["image"], ["segmentation"]).keys() == {"image"}
    with pytest.raises(Fault, match="missing member: segmentation"):
        collection.read(1, ["segmentation"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tar(tmp_path_factory.mktemp("whole") / "0.tar", ALL).read_bytes()


def places(data):
    """Offset of every header, and where the end mark begins."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        infos = tar.getmembers()
    last = infos[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    return [info.offset for info in infos], end


def faults_at(tmp_path, data):
    (tmp_path / "0.tar").write_bytes(data)
    collection = opened(tmp_path)
    kept = set(range(len(collection))) - set(collection.faults(MEMBERS))
    for n in kept:
        assert collection.read(n, MEMBERS) == members(n)
    return len(kept), list(collection.faults(MEMBERS).values())


def test_wherever_a_tar_is_cut_its_whole_samples_are_kept_and_one_fault_counted(tmp_path, whole):
    headers, end = places(whole)
    assert faults_at(tmp_path, whole) == (6, [])
    assert faults_at(tmp_path, whole[:end]) == (6, [])  # without the end mark, but complete
    cuts = [*headers[1:-1:4], *(h + 200 for h in headers[::3]), *(h + 700 for h in headers[::5])]
    for cut in cuts:
        kept, causes = faults_at(tmp_path, whole[:cut])
        whole_samples = sum(h + 512 < cut for h in headers[5::5])
        assert kept >= whole_samples - 1
        if cut not in headers:
            assert set(causes) <= {"truncated tar", "missing member", "unreadable tar"}
            assert causes
            assert "missing member" not in causes[:-2]


def test_a_broken_header_in_the_middle_is_counted_as_the_tars_end(tmp_path, whole):
    headers, _ = places(whole)
    broken = bytearray(whole)
    broken[headers[15] : headers[15] + 512] = b"\xaa" * 512
    assert faults_at(tmp_path, bytes(broken)) == (3, ["truncated tar"])


@pytest.mark.parametrize("data", [b"", b"no tar" * 300, b"\x1f\x8b" + b"\x00" * 2000])
def test_what_is_no_tar_is_one_fault(tmp_path, data):
    assert faults_at(tmp_path, data) == (0, ["unreadable tar"])


def test_a_tar_that_vanishes_is_a_fault_of_its_samples(tmp_path):
    collection = opened(write_tars(tmp_path, [2]))
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(Fault, match="unreadable member"):
        collection.read(0, ["image"])


def test_a_sample_is_read_in_one_go_and_far_pieces_apart(tmp_path, monkeypatch):
    samples = {"a": {**members(0), "other": bytes(200_000)}, "b": members(1)}
    samples["a"]["segmentation"] = samples["a"].pop("segmentation")  # behind what is not read
    collection = opened(write_tar(tmp_path / "0.tar", samples).parent)
    calls = []
    inner = tars.storage.read
    monkeypatch.setattr(tars.storage, "read", lambda *a: calls.append(a[2]) or inner(*a))
    assert collection.read(1, MEMBERS) == members(1)
    assert len(calls) == 1
    assert collection.read(0, MEMBERS) == members(0)
    assert len(calls) == 1 + len(MEMBERS)
    assert sum(calls[1:]) < 50_000


def test_errors_of_a_file_system_are_faults(tmp_path, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/far/0.tar", write_tar(tmp_path / "0.tar", {"a": members(0)}).read_bytes())
    collection = TarCollection(find("memory://far/0.tar"), tmp_path / "cache")

    def failing(*_, **__):
        raise RuntimeError("503")

    monkeypatch.setattr(type(memory), "cat_file", failing)
    with pytest.raises(Fault, match=r"unreadable member.*RuntimeError: 503"):
        collection.read(0, ["image"])


def test_indices_hold_numbers_only(tmp_path, whole):
    (tmp_path / "0.tar").write_bytes(whole)
    rows, kinds = index_tar(find(str(tmp_path / "0.tar"))[0])
    assert rows.dtype.hasobject is False
    assert rows["size"].shape == (6, 6)
    assert (rows["size"][:, :5] > 0).all()
    assert kinds["image"] == (6, "000.image")
    np.testing.assert_array_equal(rows["key"], [f"{n:03d}".encode() for n in range(6)])


def named(path, names):
    """Writes members {name: data} as they come."""
    with tarfile.open(path, "w") as tar:
        for name, data in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return opened(path.parent)


PAIR = ("image", "caption")


def test_names_may_hold_dots(tmp_path):
    keys = ("v1.2_cat", "photo.final", "a.b/Track 2.0 (clean)", "plain")
    names = [(f"{key}.{kind}", key.encode()) for key in keys for kind in PAIR]
    collection = named(tmp_path / "0.tar", names)
    assert [collection.name(n) for n in range(4)] == [f"0.tar/{key}" for key in keys]
    assert collection.faults(PAIR) == {}
    assert collection.read(2, PAIR) == dict.fromkeys(PAIR, b"a.b/Track 2.0 (clean)")


@pytest.mark.parametrize("image", ["jpg", "JPEG", "png", "webp"])
def test_usual_names_are_read(tmp_path, image):
    words = {"txt": b"a cat", "json": b'{"caption": "a cat", "width": 3}', "both": b"a cat"}
    names = []
    for key, text in words.items():
        names.append((f"{key}.{image}", key.encode()))
        names += [(f"{key}.{key}", text)] if key != "both" else []
    names += [("both.json", b'{"caption": "another"}'), ("both.txt", words["both"])]
    collection = named(tmp_path / "0.tar", names)
    assert len(collection) == 3
    assert collection.faults(PAIR) == {}
    for n, key in enumerate(words):
        assert collection.read(n, PAIR) == {"image": key.encode(), "caption": b"a cat"}


@pytest.mark.parametrize("data", [b"{", b"{}", b"3", b'{"caption": 3}'])
def test_json_without_a_caption_is_a_fault(tmp_path, data):
    collection = named(tmp_path / "0.tar", [("a.jpg", b"x"), ("a.json", data)])
    with pytest.raises(Fault, match="bad caption"):
        collection.read(0, PAIR)


def test_parts_that_stand_apart_are_put_together(tmp_path):
    names = [(f"{n}.{kind}", f"{kind} {n}".encode()) for kind in ("jpg", "txt") for n in range(12)]
    collection = named(tmp_path / "0.tar", names)
    assert len(collection) == 12
    assert collection.read(7, PAIR) == {"image": b"jpg 7", "caption": b"txt 7"}


def test_two_samples_of_one_name_stay_two(tmp_path):
    names = [(f"a.{kind}", bytes([n])) for n in range(2) for kind in PAIR]
    collection = named(tmp_path / "0.tar", names)
    assert [collection.read(n, PAIR)["image"] for n in range(2)] == [b"\0", b"\1"]


def test_members_of_unknown_kinds_are_listed(tmp_path):
    names = [("a.jpg", b""), ("a.txt", b""), ("a.mask.png", b""), ("._a.jpg", b""), ("b.xmp", b"")]
    collection = named(tmp_path / "0.tar", names)
    assert len(collection) == 1
    kinds = collection.members()
    assert kinds["txt"] == (1, "a.txt")
    assert kinds["mask.png"] == (1, "a.mask.png")
    assert kinds["xmp"] == (1, "b.xmp")
    assert kinds["(hidden)"] == (1, "._a.jpg")


def test_an_unreadable_tar_weighs_as_much_as_its_bytes(tmp_path):
    write_tars(tmp_path, [20, 20])
    whole = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00002.tar").write_bytes(b"\xaa" * len(whole))
    collection = opened(tmp_path)
    faults = collection.faults(MEMBERS)
    assert list(faults.values()) == ["unreadable tar"]
    assert collection.lost(0) == 1
    assert collection.lost(next(iter(faults))) >= 20
