"""The command line: convert_weights.py."""

import json

import pytest

from brushjax.weights import command as convert_weights
from tests.weights import tiny


@pytest.fixture(scope="module")
def branch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("branch")
    tensors = tiny.state_dict("brushnet", tiny.BRUSHNET)
    return tiny.write_folder(folder / "brushnet", "brushnet", tiny.BRUSHNET, tensors)


def run(capsys, *arguments):
    """Returns the exit code, what was printed, and the errors."""
    code = convert_weights.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        convert_weights.main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for part in ("to-jax", "comfyui", "examples:", "hub id", "check brushnet"):
        assert part in text


def test_there_and_back_and_check(branch, tmp_path, capsys):
    code, out, _ = run(capsys, "to-jax", "brushnet", branch, tmp_path / "jax")
    assert (code, json.loads((tmp_path / "jax/config.json").read_text())) == (0, tiny.BRUSHNET)
    assert "322 tensors" in out
    file = tmp_path / "b.safetensors"
    assert run(capsys, "to-torch", "brushnet", tmp_path / "jax", file)[0] == 0
    code, out, _ = run(capsys, "check", "brushnet", branch, file)
    assert (code, out) == (0, "322 tensors: 322 bit-equal, 0 differ by more than 0\n")


def test_check_shows_what_differs_and_fails(branch, tmp_path, capsys):
    half = tmp_path / "half.safetensors"
    run(capsys, "to-torch", "brushnet", branch, half, "--dtype", "float16")
    code, out, _ = run(capsys, "check", "brushnet", branch, half)
    assert code == 1
    assert "322 tensors: 0 bit-equal, 322 differ by more than 0, by 0.00" in out
    assert "--tolerance" in out
    row = next(line for line in out.splitlines() if line.startswith("conv_in_condition.weight"))
    assert row.split()[1:3] == ["float32", "float16"]
    assert 0 < float(row.split()[3]) < 2e-3
    assert run(capsys, "check", "brushnet", branch, half, "--tolerance", "2e-3")[0] == 0


def test_dry_run_checks_but_writes_nothing(branch, tmp_path, capsys):
    file = tmp_path / "b.safetensors"
    code, out, _ = run(capsys, "to-torch", "brushnet", branch, file, "--dry-run")
    assert (code, list(tmp_path.iterdir())) == (0, [])
    assert f"would write {file}" in out
    arguments = ("to-torch", "brushnet", branch, file, "--dry-run", "--layout", "ldm")
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "no names for a brushnet" in err


def test_list_needs_no_config_and_no_model(branch, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("brushjax.weights.loading.abstract_model", None)
    (branch / "config.json").rename(tmp_path / "config.json")
    code, out, _ = run(capsys, "list", "brushnet", branch)
    (tmp_path / "config.json").rename(branch / "config.json")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("conv_in_condition.weight"))
    assert row.split() == ["conv_in_condition.weight", "8x9x3x3", "float32", "2592"]
    assert "322 tensors" in out


def test_pipeline_in_one_file_is_listed_and_taken_apart(tmp_path, capsys):
    tiny.write_pipeline(tmp_path / "source")
    file = tmp_path / "all.safetensors"
    assert run(capsys, "to-torch", "pipeline", tmp_path / "source", file)[0] == 0
    code, out, _ = run(capsys, "list", "pipeline", file)
    assert code == 0
    assert "model.diffusion_model.input_blocks.0.0.weight" in out
    code, out, _ = run(capsys, "to-torch", "pipeline", file, tmp_path / "parts")
    assert code == 0
    assert "the tokenizer, if wanted, comes from the base" in out
    assert (tmp_path / "parts/scheduler/scheduler_config.json").is_file()  # that of the family
    assert run(capsys, "check", "pipeline", tmp_path / "source", tmp_path / "parts")[0] == 0


def test_error_is_one_line_on_stderr_without_a_traceback(tmp_path, capsys):
    code, out, err = run(capsys, "to-jax", "vae", tmp_path / "absent", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith("error: there is no file or folder")


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_place_is_tried_before_anything_is_read(tmp_path, capsys, name):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / name
    code, out, err = run(capsys, "to-torch", "vae", tmp_path / "absent", target)
    assert (code, out) == (2, "")
    assert err.startswith("error: can't write")
    assert "a file is in the way" in err


def test_help_of_a_command_speaks_of_what_the_command_does(capsys):
    with pytest.raises(SystemExit):
        convert_weights.main(["to-jax", "--help"], "brushjax convert")
    text = capsys.readouterr().out
    assert text.startswith("usage: brushjax convert to-jax")
    for part in ("--layout", "comfyui / ldm", "ldm  ", ".safetensors file to write"):
        assert part not in text
    for part in ("orbax", "folder to write", "hub id", "Flax"):
        assert part in text


def test_parts_of_a_pipeline_can_be_left_out(tmp_path, capsys):
    tiny.write_pipeline(tmp_path / "base")
    tensors = tiny.state_dict("brushnet", tiny.BRUSHNET)
    tiny.write_folder(tmp_path / "base/brushnet", "brushnet", tiny.BRUSHNET, tensors)
    (tmp_path / "base/model_index.json").write_text("{}")
    whole, base = tmp_path / "whole.safetensors", tmp_path / "base"
    code, _, told = run(capsys, "to-torch", "pipeline", base, whole)
    assert code == 2
    assert "leave it out (--without brushnet)" in told
    assert run(capsys, "to-torch", "pipeline", base, whole, "--without", "brushnet")[0] == 0
    code, _, told = run(capsys, "check", "pipeline", base, whole)
    assert code == 2
    assert "Leave out (--without) what only one of them has" in told
    assert run(capsys, "check", "pipeline", base, whole, "--without", "brushnet")[0] == 0
    code, _, told = run(capsys, "to-torch", "pipeline", base, whole, "--without", "vea")
    assert code == 2
    assert "among unet, vae, clip_text, brushnet, and not all of them, got vea" in told


def test_folder_of_something_else_is_not_written_into(branch, tmp_path, capsys):
    tiny.write_pipeline(tmp_path / "base")
    (tmp_path / "base/model_index.json").write_text("{}")
    code, _, told = run(capsys, "to-torch", "brushnet", branch, tmp_path / "base")
    assert code == 2
    assert "holds a pipeline, whose config.json would be lost" in told
    assert f"such as {tmp_path / 'base/brushnet'}" in told
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    for command in ("to-torch", "to-jax"):
        code, _, told = run(capsys, command, "brushnet", branch, other)
        assert code == 2
        assert "holds a AutoencoderKL" in told
    assert [path.name for path in other.iterdir()] == ["config.json"]
    for _ in range(2):  # its own folder may be written again
        assert run(capsys, "to-torch", "brushnet", branch, tmp_path / "mine")[0] == 0


def test_command_takes_every_kind_that_there_is():
    from brushjax.weights.command import KINDS
    from brushjax.weights.maps import MAPS
    from brushjax.weights.reading import TOGETHER, WHOLES

    ours = [kind for kind, table in MAPS.items() if table.model[0].startswith("brushjax.")]
    assert sorted(KINDS) == sorted([*ours, *TOGETHER, *WHOLES])
