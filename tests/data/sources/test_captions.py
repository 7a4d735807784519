"""Captions as people keep them are read whatever the form and the encoding."""

import json

import pytest

from brushjax.config import ConfigError
from brushjax.data.sets.brushdata import BrushData
from brushjax.data.sources import captions, decoding
from brushjax.data.sources.collection import open_collection
from tests.data import tiny

WORDS = "a café by the “sea”"


def folder_of(folder, **files):
    for n in range(2):
        (folder / f"{n}.jpg").write_bytes(tiny.jpeg(tiny.picture(n)))
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


def caption_of(folder, n):
    text, _ = decoding.caption(open_collection(str(folder)).read(n, ("caption",))["caption"])
    return text


def lines(*rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("captions.jsonl", lines({"image": "1.jpg", "caption": WORDS})),
        ("metadata.jsonl", lines({"file_name": "1.jpg", "text": WORDS, "width": 3})),
        ("metadata.csv", f'file_name,text\r\n1.jpg,"{WORDS}"\r\n'.encode()),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_lists_of_captions_are_read_in_any_encoding(tmp_path, name, data, encoding):
    folder_of(tmp_path)
    (tmp_path / name).write_bytes(data.decode().encode(encoding))
    collection = open_collection(str(tmp_path))
    assert (len(collection), collection.name(0), caption_of(tmp_path, 0)) == (1, "1.jpg", WORDS)
    assert open_collection(str(tmp_path / name)).name(0) == "1.jpg"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_beside_a_picture_is_its_caption(tmp_path, encoding):
    below = tmp_path / "10_cafe"
    below.mkdir()
    folder_of(below, **{"0_txt": WORDS.encode(encoding), "1_caption": b"a wall\n"})
    (below / "._0.jpg").write_bytes(b"macOS")
    collection = open_collection(str(tmp_path))
    assert [collection.name(n) for n in range(2)] == ["10_cafe/0.jpg", "10_cafe/1.jpg"]
    assert [caption_of(tmp_path, n) for n in range(2)] == [WORDS, "a wall"]


def test_picture_without_text_beside_it_is_a_missing_member(tmp_path):
    folder_of(tmp_path, **{"0_txt": b"a wall"})
    assert open_collection(str(tmp_path)).faults(("image", "caption")) == {1: "missing member"}
    data = BrushData(str(tmp_path), 32, faulty_share=0.5)
    assert data.source(tiny.encode).numbers.tolist() == [0]


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "sub/../../a.jpg", "..\\a.jpg"])
@pytest.mark.parametrize("key", ["image", "mask"])
def test_paths_in_captions_stay_in_the_folder(tmp_path, name, key):
    row = {"image": "0.jpg", "caption": "a wall", key: name}
    folder_of(tmp_path, captions_jsonl=lines(row))
    with pytest.raises(ConfigError, match=r"captions\.jsonl, line 1: .* leads out of it"):
        open_collection(str(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_captions_in_tars_are_read_in_any_encoding(tmp_path, encoding):
    stored = {
        "a": {"jpg": tiny.jpeg(tiny.picture(0)), "txt": WORDS.encode(encoding)},
        "b": {"jpg": tiny.jpeg(tiny.picture(1)), "json": lines({"text": WORDS})},
    }
    stored["b"]["json"] = stored["b"]["json"].decode().encode(encoding)
    tiny.write_tar(tmp_path / "0.tar", stored)
    collection = open_collection(str(tmp_path), str(tmp_path / "index"))
    for n in range(2):
        found, _ = decoding.caption(collection.read(n, ("caption",))["caption"])
        assert found == WORDS


def test_what_is_no_text_is_refused():
    for data in (b"\xff\xfe\xfa", b"\x89PNG\x01\x02", bytes(range(1, 256))):
        with pytest.raises(ValueError, match=r"expected text|decode"):
            captions.decoded(data)
    assert decoding.caption(b"caf\xe9") == ("café", ["caption not in UTF-8"])
    assert captions.decoded(b"") == ("", False)


@pytest.mark.parametrize("missing", ["image", "caption"])
def test_wrong_lists_are_named_with_their_line(tmp_path, missing):
    row = {"image": "0.jpg", "caption": "a wall"}
    folder_of(tmp_path, captions_jsonl=lines(row, {**row, missing: 3}))
    with pytest.raises(ConfigError, match=r"captions\.jsonl, line 2: expected .* got \{"):
        open_collection(str(tmp_path))
