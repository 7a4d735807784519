"""The inpaint command: files in, files out, without torch or TensorFlow."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brushjax.inference import command, jobs
from brushjax.inference.result import read_settings, write_picture

LISTED = """
import json, sys
from brushjax.cli import main
main(json.loads(sys.argv[1]))
heavy = sorted({"torch", "tensorflow", "diffusers", "transformers"} & set(sys.modules))
sys.exit(f"imported {heavy}" if heavy else 0)
"""


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).save(tmp_path / "a.png")
    mask = np.zeros((24, 32), np.uint8)
    mask[8:20, 8:20] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    return tmp_path


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image)


def arguments(files, base, **changes):
    values = {"image": files / "a.png", "mask": files / "m.png", "prompt": "a red cat"}
    values |= {"out": files / "out/o.png", "base": base, "steps": 2, "blend": "paste"}
    return [f"--{name}={value}" for name, value in (values | changes).items()]


@pytest.mark.heavy
def test_inpaint_command_writes_the_picture_without_torch_or_tensorflow(files, pipeline):
    words = ["inpaint", *arguments(files, pipeline, strip=files / "strip.png")]
    done = subprocess.run(
        [sys.executable, "-c", LISTED, json.dumps(words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before, after, mask, strip = (
        pixels(files / name) for name in ("a.png", "out/o.png", "m.png", "strip.png")
    )
    np.testing.assert_array_equal(after[mask == 0], before[mask == 0])
    assert np.any(after[mask > 0] != before[mask > 0])
    assert strip.shape[1] > 3 * 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "nowhere.png"}, r"error: .*nowhere\.png"),
        ({"brushnet": "nowhere"}, "error: .*nowhere"),
        ({"steps": 0}, "error: expected steps"),
        ({"out": "o.xyz"}, r"error: expected a picture's name such as o\.png, got 'o\.xyz'"),
        ({"settings_from": "a.png"}, r"error: expected a PNG with settings at a\.png"),
        ({"lora_weight": 0.5}, "error: expected a --lora-weight for each of 0 files"),
        ({"batch_size": 0}, "error: expected a batch size"),
    ],
)
def test_inpaint_command_ends_with_a_message_instead_of_a_traceback(
    files, pipeline, changes, message
):
    with pytest.raises(SystemExit, match=message):
        command.main(arguments(files, pipeline, **changes))


def test_inpaint_command_says_where_a_branch_is_missing(files, tmp_path):
    with pytest.raises(SystemExit, match=r"expected brushnet= \(--brushnet\), since there is no"):
        command.main(arguments(files, tmp_path))


def test_inpaint_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    words = capsys.readouterr().out
    for flag in ("--image", "--mask", "--prompt", "--out", "--seed", "white = edit"):
        assert flag in words


@pytest.mark.heavy
def test_inpaint_command_makes_a_picture_again_from_its_settings(files, pipeline, capsys):
    out, again, other = (files / f"{name}.png" for name in ("o", "again", "other"))
    words = arguments(files, pipeline, out=out, seed=5, guidance=3, scheduler="ddim")
    command.main([*words, "--guess-mode"])
    settings = read_settings(out)
    assert settings["prompt"] == "a red cat"
    assert (settings["seed"], settings["steps"], settings["guess_mode"]) == (5, 2, True)
    with pytest.raises(SystemExit, match=r"of its files only; give --image \(a\.png\), --mask"):
        command.main([f"--settings-from={out}", f"--out={again}"])
    assert (settings["image"], settings["base"]) == ("a.png", pipeline.name)  # no folder
    given = [word for word in words if word.startswith(("--image", "--mask", "--base", "--brush"))]
    command.main([f"--settings-from={out}", f"--out={again}", *given])
    np.testing.assert_array_equal(pixels(again), pixels(out))
    assert read_settings(again) == settings
    command.main([f"--settings-from={out}", f"--out={other}", "--seed=6", *given])
    assert np.any(pixels(other) != pixels(out))
    with pytest.raises(SystemExit, match=r"a\.png holds no settings"):
        command.main([f"--settings-from={files / 'a.png'}", f"--out={again}"])
    assert not list(files.glob(".*"))  # nothing half-written


def test_inpaint_command_paints_a_folder_and_names_what_it_could_not(files, pipeline, capsys):
    folder, masks = files / "in", files / "masks"
    folder.mkdir()
    masks.mkdir()
    picture, mask = Image.open(files / "a.png"), Image.open(files / "m.png")
    for name in ("one", "two", "bad"):
        picture.save(folder / f"{name}.jpg", quality=100)
        mask.save(masks / f"{name}.png")
    mask.resize((8, 8)).save(masks / "bad.png")
    (files / "prompts.json").write_text(json.dumps({"two": "a blue cup"}))
    changes = {"image": folder, "mask": masks, "out": files / "out", "strip": files / "strips"}
    words = arguments(files, pipeline, **changes, prompts=files / "prompts.json", batch_size=2)
    with pytest.raises(SystemExit, match=r"(?s)error: not painted:.*bad\.jpg: .*one size"):
        command.main(words)
    assert sorted(path.name for path in (files / "out").iterdir()) == ["one.png", "two.png"]
    assert sorted(path.name for path in (files / "strips").iterdir()) == ["one.png", "two.png"]
    assert read_settings(files / "out/two.png")["prompt"] == "a blue cup"
    alone = [f"--settings-from={files / 'out/two.png'}", f"--out={files / 'alone.png'}"]
    own = (f"--image={folder / 'two.jpg'}", f"--mask={masks / 'two.png'}", f"--base={pipeline}")
    command.main([*alone, *own])
    one, of_two = (
        pixels(file).astype(int) for file in (files / "alone.png", files / "out/two.png")
    )
    assert np.abs(one - of_two).max() <= 1
    (masks / "one.png").unlink()
    with pytest.raises(SystemExit, match=r"has no mask named as one\.jpg"):
        command.main(words)


@pytest.mark.parametrize("name", ["out", "strip"])
def test_inpaint_command_refuses_to_write_over_its_input(files, pipeline, name):
    before = (files / "a.png").read_bytes()
    with pytest.raises(SystemExit, match=r"a\.png would be written over the input"):
        command.main(arguments(files, pipeline, **{name: files / "a.png"}))
    assert (files / "a.png").read_bytes() == before


def test_settings_of_a_picture_choose_no_place(tmp_path):
    write_picture(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8), {"out": "/etc/passwd"})
    with pytest.raises(
        SystemExit, match=r"a\.png has settings that this version doesn't know: out"
    ):
        command.main([f"--settings-from={tmp_path / 'a.png'}"])


def test_formats_without_a_place_for_settings_say_so(tmp_path):
    picture = np.zeros((8, 8, 3), np.uint8)
    assert write_picture(tmp_path / "a.png", picture, {"prompt": "\N{CAT FACE}"})
    assert read_settings(tmp_path / "a.png") == {"prompt": "\N{CAT FACE}"}
    assert not write_picture(tmp_path / "a.jpg", picture, {"prompt": "x"})
    with pytest.raises(ValueError, match="holds no settings"):
        read_settings(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "ddpm"}, "error: expected scheduler in"),
        ({"blend": "poisson"}, "error: expected blend in"),
        ({"steps": 0}, "error: expected steps of at least 1"),
        ({"steps": 2000}, r"error: expected steps in 1\.\.1000"),
        ({"scheduler": "lcm", "steps": 999}, "error: expected steps"),
        ({"control_start": 0.9, "control_end": 0.1}, "error: expected 0 <= control_start"),
        ({"crop": 0}, "error: expected crop of at least 1"),
        ({"num_images": 0}, "error: expected --num-images of at least 1"),
        ({"prompt": None}, r"error: expected --prompt, or --prompts .*without one: a\.png"),
    ],
)
def test_inpaint_command_checks_settings_before_it_loads(
    files, pipeline, changes, message, monkeypatch
):
    def refuse(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(command, "load_painter", refuse)
    words = arguments(files, pipeline, **changes)
    with pytest.raises(SystemExit, match=message):
        command.main([word for word in words if word != "--prompt=None"])


@pytest.mark.parametrize("name", ["out", "strip"])
def test_inpaint_command_says_before_it_loads_that_it_cant_write(files, name, monkeypatch):
    monkeypatch.setattr(command, "load_painter", None)
    before = sorted(files.iterdir())
    with pytest.raises(SystemExit, match=r"error: can't write .*o\.png: .*a file is in the way"):
        command.main(arguments(files, "nobase", **{name: files / "a.png" / "o.png"}))
    assert sorted(files.iterdir()) == before


def test_inpaint_command_says_what_it_does_before_it_loads(files, pipeline, monkeypatch, capsys):
    def refuse(*_):
        raise ValueError("loaded")

    monkeypatch.setattr(command, "load_painter", refuse)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(SystemExit, match="loaded"):
        command.main(arguments(files, pipeline, num_images=2))
    said = capsys.readouterr()
    line = "2 pictures at 24x32 (height x width): loading and compiling, then painting ..."
    assert said.out == f"{line}\n"
    assert "loading and compiling:   0%" in said.err
    assert "0/4" in said.err


def test_summary_names_a_few_sizes_and_counts_many():
    def batches(*sizes):
        job = jobs.Job(Path("a"), Path("m"), "a cat", Path("o"))
        return [jobs.Batch([job] * 2, size) for size in sizes]

    assert jobs.summary(batches((16, 8), (8, 8))) == "4 pictures at 8x8, 16x8 (height x width)"
    many = batches((8, 8), (8, 16), (16, 8), (32, 16))
    assert jobs.summary(many) == "8 pictures at 4 sizes from 8x8 to 32x16 (height x width)"


def test_inpaint_command_paints_several_images_of_a_picture(files, pipeline):
    out = files / "o.png"
    command.main(arguments(files, pipeline, out=out, seed=5, num_images=2, batch_size=2))
    assert not out.exists()
    first, second = (pixels(files / f"o_{seed}.png").astype(int) for seed in (5, 6))
    assert np.any(first != second)
    assert read_settings(files / "o_6.png")["seed"] == 6
    command.main(arguments(files, pipeline, out=out, seed=6))
    assert np.abs(pixels(out) - second).max() <= 1


def test_inpaint_command_leaves_out_what_is_there(files, pipeline, capsys, monkeypatch):
    folder, prompts = files / "in", files / "prompts.json"
    folder.mkdir()
    for name in ("one", "two"):
        Image.open(files / "a.png").save(folder / f"{name}.png")
    prompts.write_text(json.dumps({"one": "a cup", "two": "a cat"}))
    words = arguments(files, pipeline, image=folder, out=files / "out", prompts=prompts)
    words = [word for word in words if not word.startswith("--prompt=")] + ["--skip-existing"]
    (files / "out").mkdir()
    (files / "out/one.png").write_bytes(b"mine")
    command.main(words)
    assert "skipped 1" in capsys.readouterr().out
    assert (files / "out/one.png").read_bytes() == b"mine"
    assert read_settings(files / "out/two.png")["prompt"] == "a cat"
    monkeypatch.setattr(command, "load_painter", None)  # nothing is left to load for
    command.main(words)
    assert "skipped 2" in capsys.readouterr().out
    prompts.write_text(json.dumps({"one": "a cup"}))
    with pytest.raises(SystemExit, match=r"expected --prompt, .*without one: two\.png"):
        command.main(words)


@pytest.mark.slow
def test_inpaint_command_shows_steps_on_a_terminal(files, pipeline, monkeypatch, capsys):
    command.main(arguments(files, pipeline, out=files / "quiet.png"))
    assert "batch 1 of 1" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    command.main(arguments(files, pipeline, out=files / "shown.png"))
    said = capsys.readouterr().err
    assert "compiling" in said
    assert "batch 1 of 1" in said
    assert "2/2" in said
    np.testing.assert_array_equal(pixels(files / "shown.png"), pixels(files / "quiet.png"))


@pytest.mark.slow
def test_inpaint_command_crops_around_the_mask(files, pipeline):
    big = np.random.default_rng(1).integers(0, 256, (600, 700, 3), np.uint8)
    mask = np.zeros((600, 700), np.uint8)
    mask[300:340, 200:260] = 255
    Image.fromarray(big).save(files / "a.png")
    Image.fromarray(mask).save(files / "m.png")
    with open(pipeline / "unet/config.json") as file:
        config = json.load(file)
    base = files / "base"
    shutil.copytree(pipeline, base)
    (base / "unet/config.json").write_text(json.dumps(config | {"sample_size": 4}))
    command.main(arguments(files, base, out=files / "o.png", crop=2, brushnet=base / "brushnet"))
    after = pixels(files / "o.png")
    np.testing.assert_array_equal(after[mask == 0], big[mask == 0])
    assert np.any(after[mask > 0] != big[mask > 0])
    assert read_settings(files / "o.png")["crop"] == 2
