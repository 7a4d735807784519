"""The commands: what they refuse, what they print, what they hand on."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from brushjax import cli

LINE = str(Path(__file__).parent / "training" / "tiny.py")


def test_no_command_names_the_known_ones():
    with pytest.raises(SystemExit, match=r"expected a command \(train, precompute, inpaint"):
        cli.main([])


@pytest.mark.parametrize(
    ("typed", "hint"), [("inpant", " (did you mean inpaint?)"), ("xyz", ""), ("--hlep", "")]
)
def test_unknown_command_is_one_line_with_the_nearest_name(typed, hint, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([typed, "--image", "a.png"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m brushjax: error: expected one of train, precompute, inpaint,")
    assert said.endswith(f"; got '{typed}'{hint}; python -m brushjax --help tells more\n")
    assert said.count("\n") == 1


def test_train_asks_for_a_workdir(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", LINE])
    assert stop.value.code == 2
    assert "expected --workdir DIR" in capsys.readouterr().err


def test_dry_run_prints_config_shardings_and_sizes_and_writes_nothing(tmp_path, capsys):
    cli.train([LINE, "--dry-run", "--workdir", str(tmp_path / "run"), "--steps", "30"])
    text = capsys.readouterr().out
    for line in ("steps = 30", "objective = Line", "trained parameters", "MiB/device"):
        assert line in text
    assert not (tmp_path / "run").exists()


def test_help_of_a_config_lists_its_fields(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.train([LINE, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--objective.factor" in text
    assert "Samples a step, over all devices." in text


def test_help_ends_quietly_where_nobody_reads_on():
    command = [sys.executable, "-u", "-m", "brushjax", "edit", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_config_errors_are_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"error: expected a config file at .*missing\.py"):
        cli.train([str(tmp_path / "missing.py"), "--workdir", str(tmp_path)])
    with pytest.raises(SystemExit, match="error: expected a batch_size that 8 devices"):
        cli.train([LINE, "--dry-run", "--batch_size", "9"])


def test_tokenizer_is_made_from_a_file_of_captions(tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("a red cat\n" * 4)
    out = str(tmp_path / "out")
    cli.main(["tokenizer", "--out", out, "--captions", str(tmp_path / "captions.txt")])
    assert f"ids in {out}" in capsys.readouterr().out
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_log_is_plain_and_stands_above_bars(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    cli._plain_log()
    logging.basicConfig()  # as libraries do when they are imported
    with tqdm(total=1, desc="bar"):
        logging.getLogger("brushjax").warning("said %d", 1)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert "said 1" in lines
    assert lines[-1].startswith("bar")


def test_tokenizer_says_at_once_that_its_place_is_taken(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"error: can't write .*; a file is in the way"):
        cli.main(["tokenizer", "--out", str(tmp_path / "file")])


@pytest.mark.parametrize(
    "command",
    [
        *("inpaint", "edit", "app", "instruct", "donors", "judge", "prepare", "tokenizer", "train"),
        *("precompute", "propose", "evaluate"),
        *("convert to-jax", "convert to-torch", "convert check"),
    ],
)
def test_help_shows_types_as_users_know_them(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert "usage: " in text
    assert "{None}" not in text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"error: expected at .* pictures with captions .*found none of them"),
        ({"a.jpg": b""}, r"found 1 pictures, but no captions"),
        ({"captions.jsonl": b"{"}, r"error: .*captions\.jsonl, line 1: expected \"image\""),
        ({"captions.jsonl": b"\x00\x01\x02"}, r"error: .*captions\.jsonl: .*Save it as UTF-8 text"),
        (
            {"a.jpg": b"", "a.txt": b"a wall"},
            "error: expected two samples or more, to hold one out",
        ),
    ],
)
def test_wrong_data_are_one_line(tmp_path, files, message):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    options = ["--objective.base", "", "--data.size", "32", "--data.path", str(folder)]
    workdir = ["--workdir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=message) as stop:
        cli.train(["configs/own_photos.py", *options, *workdir])
    assert "\n" not in str(stop.value)
