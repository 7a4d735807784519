"""The small tokenizer: what it writes is what is read, and no text is unknown to it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

import brushjax
from brushjax.data.text import Tokenizer, clean, train_tokenizer

ASSETS = Path(brushjax.__file__).parent / "assets/base"

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
    words = CLIPTokenizer.from_pretrained(str(folder)).decode(ids, skip_special_tokens=True)
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


def test_long_captions_go_on_in_further_rows(folder):
    tokenizer = Tokenizer.load(folder)
    words = [f"{word} " * 75 for word in ("cat", "red")]
    chunks = tokenizer.chunks(["".join(words) + "wall", "brick"])
    assert chunks.shape == (2, 3, 77)
    for row, text in enumerate([*words, "wall"]):
        np.testing.assert_array_equal(chunks[0, row], tokenizer(text)[0])
    np.testing.assert_array_equal(chunks[1, 0], tokenizer("brick")[0])
    np.testing.assert_array_equal(chunks[1, 1:], tokenizer(["", ""]))
    assert tokenizer.chunks("cat", least=2).shape == (1, 2, 77)


def test_padding_token_can_differ_from_the_folders(folder):
    tokenizer = Tokenizer.load(folder, padding="!")
    exclamation = tokenizer.backend.convert_tokens_to_ids("!")
    ids = tokenizer("")[0]
    np.testing.assert_array_equal(ids, [tokenizer.start_id, tokenizer.end_id, *[exclamation] * 75])


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("it’s a “red” cat", 'it\'s a "red" cat'),
        ("the ﬁrst ﬂower", "the first flower"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("schÃ¶n", "schön"),
        ("cat &amp; dog", "cat & dog"),
        ("cat &amp;amp; dog &lt;3", "cat & dog <3"),
        ("a cat\x07", "a cat"),
        ("  a cat ", "a cat"),
        ("a cat, a dog - 50% (red)", "a cat, a dog - 50% (red)"),
        ("猫 ü … —", "猫 ü … —"),
    ],
)
def test_typographic_text_is_read_as_openais_tokenizer_reads_it(folder, typed, plain):
    tokenizer = Tokenizer.load(folder)
    assert clean(typed).strip() == plain
    np.testing.assert_array_equal(tokenizer(typed), tokenizer(plain))
    np.testing.assert_array_equal(tokenizer.chunks(typed), tokenizer.chunks(plain))


@pytest.mark.parametrize("shipped", [True, False])
def test_merges_are_strings_which_older_tokenizers_read_too(folder, shipped):
    """Releases before 0.20, which older transformers and trainers pin, know no pairs."""
    place = ASSETS / "tokenizer" if shipped else folder
    content = json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))
    merges = content["model"]["merges"]
    assert merges
    assert all(isinstance(merge, str) and len(merge.split(" ")) == 2 for merge in merges)
    old = (place / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert merges == [line for line in old if not line.startswith("#version")]


def test_absent_pytorch_is_no_news():
    """In a process of its own, in which transformers finds no PyTorch."""
    code = (
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "{}"
    )
    said = {}
    for line in (
        "from transformers import CLIPTokenizer",
        "from brushjax.data.text import transformers_class; transformers_class('CLIPTokenizer')",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(line)], capture_output=True, text=True, check=True
        )
        said[line.split(" ")[1]] = done.stdout + done.stderr
    assert "PyTorch was not found" in said["transformers"]  # what is silenced is still said there
    assert said["brushjax.data.text"] == ""


def test_threads_may_ask_for_a_tokenizer_at_once():
    code = (
        "import threading\n"
        "from brushjax.data.text import transformers_class\n"
        "at_once, found = threading.Barrier(8), []\n"
        "def ask():\n"
        "    at_once.wait()\n"
        "    found.append(transformers_class('CLIPTokenizer').__name__)\n"
        "threads = [threading.Thread(target=ask) for _ in range(8)]\n"
        "[thread.start() for thread in threads], [thread.join() for thread in threads]\n"
        "assert found == ['CLIPTokenizer'] * 8, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
