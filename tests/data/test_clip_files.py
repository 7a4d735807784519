"""CLIP's tokenizer files read without transformers: the same ids, whatever they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

import brushjax
from brushjax.config import ConfigError
from brushjax.data.clip_files import END, START, ClipFiles
from brushjax.data.text import Tokenizer

SHIPPED = Path(brushjax.__file__).parent / "assets/base/tokenizer"
KNOWN = json.loads((SHIPPED / "vocab.json").read_text(encoding="utf-8"))
NEW = len(KNOWN)

TEXTS = [
    *("", " ", "a night sky", "a cat " * 100, "CAT's  CAFÉ, isn't 12345!! (it:1.2)"),
    *(f"{START}a{END} b", f"a{END}b", "x!y ! z!!", "<cat> <dog>s", "a<new>b  <new> c", "<NEW>"),
    *("ünïcödé e\u0301 ǅ İ ß ﬁ", "猫と犬 שלום Привет", "🚀👩‍👩‍👧 ok🙂", "½ ² ٣ Ⅳ", "a_b-c/d\\e"),
    "tab\tline\nnbsp\u00a0em\u2003ideographic\u3000zero\u200bnarrow\u202fmark\u180eend",
    "".join(map(chr, [*range(9, 14), 28, 29, 30, 31, 32, 133, 160, 5760, 8192, 8232, 8233, 8287])),
    "\x00\x01\ufeff\ud7ff\ufffd",
]


def fields(content, **flags):
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, **plain, **flags}


def typed(content):
    return {"__type": "AddedToken", **fields(content, normalized=True)}


OLD = {"bos_token": typed(START), "eos_token": typed(END), "unk_token": typed(END)}
OLD |= {"pad_token": END, "add_prefix_space": False, "do_lower_case": True, "errors": "replace"}
OLD |= {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
OLD |= {"special_tokens_map_file": "./special_tokens_map.json", "name_or_path": "clip"}
MAP = {"bos_token": fields(START, normalized=True)}
MAP |= dict.fromkeys(("eos_token", "unk_token"), fields(END, normalized=True))
DECODER = {str(NEW - 2): fields(START, special=True), str(NEW - 1): fields(END, special=True)}
FIRST = {"0": fields("!", special=True)}
WORDS = {str(NEW): fields("<new>", lstrip=True), str(NEW + 1): fields("<cat>", single_word=True)}

FOLDERS = {  # what lies beside vocab.json and merges.txt
    "vocabulary alone": {},
    "SD1.5": {"tokenizer_config": OLD, "special_tokens_map": MAP | {"pad_token": END}},
    "SD2": {"tokenizer_config": OLD, "special_tokens_map": MAP | {"pad_token": "!"}},
    "SDXL's second": {
        "tokenizer_config": OLD | {"added_tokens_decoder": FIRST | DECODER, "pad_token": "!"},
        "special_tokens_map": MAP | {"pad_token": "!"},
    },
    "added words": {"tokenizer_config": OLD | {"added_tokens_decoder": DECODER | WORDS}},
    "letters missing": {  # those that accents begin with, in the byte alphabet
        "vocab": {token: i for token, i in KNOWN.items() if "Ã" not in token},
        "tokenizer_config": {"unk_token": "c</w>"},
    },
    "another end": {"tokenizer_config": {"eos_token": "a</w>", "unk_token": "<unknown>"}},
    "no start of its own": {"special_tokens_map": {"bos_token": "<begin>", "pad_token": "<pad>"}},
}
ONLY_TRANSFORMERS = {
    "textual inversion": {"added_tokens": {"<new>": NEW, "<cat>": NEW + 1}},
    "further special": {"special_tokens_map": {"additional_special_tokens": ["<new>", "<cat>"]}},
    "split special": {"tokenizer_config": OLD | {"split_special_tokens": True}},
    "a mask": {"tokenizer_config": OLD | {"mask_token": "<new>"}},
}


def made(folder, beside):
    """Writes a folder like the shipped one's without tokenizer.json."""
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((SHIPPED / name).read_bytes())
    for name, content in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def agrees(ours, folder):
    theirs = CLIPTokenizer.from_pretrained(str(folder))
    read = [one(TEXTS, add_special_tokens=False)["input_ids"] for one in (ours, theirs)]
    assert read[0] == read[1]
    assert len(ours) == len(theirs)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(theirs, name)
    for token in ("!", "a</w>", "<new>", END):
        assert ours.convert_tokens_to_ids(token) == theirs.convert_tokens_to_ids(token)
    ids = list(range(len(theirs)))
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


@pytest.mark.parametrize("beside", FOLDERS.values(), ids=FOLDERS)
def test_older_files_give_the_ids_of_transformers(tmp_path, beside):
    ours = ClipFiles.read(made(tmp_path, beside))
    assert ours is not None
    agrees(ours, tmp_path)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("words", [[], [{"id": NEW, **fields("<new>", rstrip=True)}]])
def test_tokenizer_json_gives_the_ids_of_transformers(tmp_path, pairs, words):
    whole = json.loads((SHIPPED / "tokenizer.json").read_text(encoding="utf-8"))
    whole["added_tokens"] += [{**word, "special": False} for word in words]
    if pairs:
        whole["model"]["merges"] = [merge.split(" ") for merge in whole["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    config = SHIPPED / "tokenizer_config.json"
    (tmp_path / config.name).write_bytes(config.read_bytes())
    ours = ClipFiles.read(tmp_path)
    assert ours is not None
    agrees(ours, tmp_path)


@pytest.mark.parametrize("beside", ONLY_TRANSFORMERS.values(), ids=ONLY_TRANSFORMERS)
def test_what_only_transformers_reads_is_left_to_it(tmp_path, beside):
    assert ClipFiles.read(made(tmp_path, beside)) is None
    tokenizer = Tokenizer.load(tmp_path)
    assert isinstance(tokenizer.backend, CLIPTokenizer)
    assert tokenizer.vocabulary_size >= NEW


DAMAGED = {
    "cut off": {"tokenizer.json": '{"model": {"vo'},
    "without a model": {"tokenizer.json": '{"version": "1.0"}'},
    "other vocabulary": {"vocab.json": "{}"},
    "byte order mark": {"vocab.json": "\ufeff" + json.dumps(KNOWN)},
    "a comment in the merges": {"merges.txt": "# of a model\na b\n"},
    "cut-off config": {"tokenizer_config.json": '{"bos_token'},
    "a list": {"tokenizer_config.json": "[]"},
    "no start token": {"tokenizer_config.json": '{"bos_token": 3}'},
}


@pytest.mark.parametrize("files", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_an_error_of_one_line_that_names_the_folder(tmp_path, files):
    for name, content in files.items():
        (made(tmp_path, {}) / name).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="expected CLIP's tokenizer files in") as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [lambda m: m.replace(b"\n", b"\r\n"), lambda m: m[m.index(b"\n") :]]
)
def test_merges_with_other_line_ends_or_no_version_line_give_the_same_ids(tmp_path, change):
    merges = made(tmp_path, {}) / "merges.txt"
    merges.write_bytes(change(merges.read_bytes()).lstrip())
    ours = ClipFiles.read(tmp_path)
    assert ours is not None
    agrees(ours, tmp_path)


def test_rows_are_those_of_transformers(tmp_path):
    ours, theirs = Tokenizer.load(SHIPPED), CLIPTokenizer.from_pretrained(str(SHIPPED))
    texts = ["", "a night sky", "cat wall " * 100, f"red {END} wall"]
    expected = theirs(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert ours(texts).tolist() == expected
    ours.save(tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == (SHIPPED / "merges.txt").read_bytes()
    assert Tokenizer.load(tmp_path)(texts).tolist() == expected


def test_inpaint_with_the_shipped_base_imports_neither_transformers_nor_rare_formats():
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from brushjax.data.text import Tokenizer\n"
        "from brushjax.inference import command, inpaint, jobs, result\n"
        f"assets = Path({str(SHIPPED.parents[1])!r})\n"
        "for folder in ('base', 'region/clip'):\n"
        "    Tokenizer.load(assets / folder)('a night sky')\n"
        "result.picture_format(Path('edit.png'))\n"
        "assert not {'transformers', 'PIL.PdfImagePlugin'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
