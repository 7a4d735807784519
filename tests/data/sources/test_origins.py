"""Files that samples were made from are known again after a copy, and told apart after a change."""

import json
import os
import shutil

import pytest

from brushjax.data.sources.collection import open_collection
from brushjax.data.sources.origins import changes, with_content
from brushjax.data.sources.records import pack, writing
from tests.data import tiny


def write_folder(folder):
    rows = []
    for n in range(3):
        (folder / f"{n}.png").write_bytes(tiny.png(tiny.picture(n)))
        rows.append({"image": f"{n}.png", "caption": f"picture {n}"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_records(folder):
    with writing(folder / "0.array_record") as add:
        for n in range(3):
            add(pack(tiny.members(n)))


WRITE = {
    "tars": lambda folder: tiny.write_tars(folder, [3, 3]),
    "records": write_records,
    "folder": write_folder,
}


@pytest.fixture(params=WRITE)
def made(request, tmp_path):
    """A way to open the collection, its folder, and its files as they were."""
    folder = tmp_path / "data"
    folder.mkdir()
    WRITE[request.param](folder)

    def opened(folder=folder):
        return open_collection(str(folder), str(tmp_path / "index"))

    return opened, folder, with_content(opened())


def test_copies_are_the_same_files(made, tmp_path):
    opened, folder, kept = made
    assert changes(kept, opened()) == []
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert changes(kept, opened(tmp_path / "copy")) == []


def test_edited_captions_of_the_same_length_are_found(made):
    opened, folder, kept = made
    edited = [path for path in folder.iterdir() if b"picture 1" in path.read_bytes()]
    for path in edited:
        path.write_bytes(path.read_bytes().replace(b"picture 1", b"picture X"))
    assert len(edited) == 1
    assert changes(kept, opened()) == [f"{edited[0].name}: other content"]


def test_swapped_files_are_found_by_name_even_with_their_times(made):
    """Two files that trade places, each with the other's time and, if need be, size."""
    opened, folder, kept = made
    files = sorted(path for path in folder.iterdir() if path.suffix != ".jsonl")
    one, other = files[0], files[-1]
    if one == other:
        assert changes([], opened()) == [f"{one.name}: is new"]
        return
    states = [os.stat(path) for path in (one, other)]
    data = [path.read_bytes() for path in (one, other)]
    for path, content, state in zip((one, other), data[::-1], states):
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = changes(kept, opened())
    assert [line.partition(":")[0] for line in found] == [one.name, other.name]


def test_files_that_come_and_go_are_named(tmp_path):
    folder = tiny.write_tars(tmp_path, [2, 2])
    kept = with_content(open_collection(str(folder), str(tmp_path / "index")))
    (folder / "00001.tar").rename(folder / "00002.tar")
    found = changes(kept, open_collection(str(folder), str(tmp_path / "index")))
    assert found == ["00001.tar: is gone", "00002.tar: is new"]


def test_index_of_a_tar_is_not_that_of_another_in_its_place(tmp_path):
    """Same path, size and time: only the content tells."""
    path, index = tmp_path / "0.tar", str(tmp_path / "index")
    tiny.write_tar(path, {"a": {"image": b"1" * 400, "caption": b"22"}})
    state = os.stat(path)
    assert open_collection(str(path), index).read(0, ("caption",)) == {"caption": b"22"}
    tiny.write_tar(path, {"b": {"caption": b"3" * 400, "image": b"44"}})
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert os.stat(path).st_size == state.st_size
    assert open_collection(str(path), index).read(0, ("image",)) == {"image": b"44"}
