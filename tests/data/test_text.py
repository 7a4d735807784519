"""The small tokenizer: what it writes is what is read, and no text is unknown to it."""

import numpy as np
import pytest

from brushjax.data.text import END, START, Tokenizer, train_tokenizer

CAPTIONS = ["a photo of a cat", "an orange cat on the grass", "brick wall, red"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS, folder, size=540)
    return folder


def test_captions_are_opened_closed_and_padded(folder):
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer(["a cat", ""])
    assert ids.shape == (2, 77)
    assert ids.dtype == np.int32
    assert ids[0, 0] == ids[1, 0] == tokenizer.start_id
    assert (ids[0, 3:] == tokenizer.end_id).all()  # start, a, cat
    assert (ids[1, 1:] == tokenizer.end_id).all()
    assert tokenizer([]).shape == (0, 77)


def test_long_captions_are_cut_and_still_closed(folder):
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer("cat " * 200)
    assert ids.shape == (1, 77)
    assert ids[0, -1] == tokenizer.end_id != ids[0, -2]


def test_any_text_survives(folder):
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer("ünknown 猫 rocket!")[0]
    words = tokenizer.backend.decode(ids).replace(START, "").replace(END, "")
    assert words.replace(" ", "") == "ünknown猫rocket!"


def test_vocabulary_has_the_size_asked_for_and_ends_with_the_end_token(folder):
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.vocabulary_size == 540
    assert tokenizer.end_id == 539


def test_older_and_newer_files_read_alike(folder, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    old, new = Tokenizer.load(tmp_path), Tokenizer.load(folder)
    np.testing.assert_array_equal(old(CAPTIONS), new(CAPTIONS))


def test_training_twice_writes_the_same(folder, tmp_path):
    train_tokenizer(CAPTIONS, tmp_path, size=540)
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected tokenizer\.json.* found none"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match=r"expected size >= 514 .*; got 100"):
        train_tokenizer(CAPTIONS, tmp_path, size=100)
