"""The inpaint command: files in, files out, without torch or TensorFlow."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from brushjax.inference import command

LISTED = """
import json, sys
from brushjax.cli import main
main(json.loads(sys.argv[1]))
heavy = sorted({"torch", "tensorflow", "diffusers"} & set(sys.modules))
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
    ],
)
def test_inpaint_command_ends_with_a_message_instead_of_a_traceback(
    files, pipeline, changes, message
):
    with pytest.raises(SystemExit, match=message):
        command.main(arguments(files, pipeline, **changes))


def test_inpaint_command_says_where_a_branch_is_missing(files, tmp_path):
    with pytest.raises(SystemExit, match="expected brushnet=, since there is no folder"):
        command.main(arguments(files, tmp_path))


def test_inpaint_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    words = capsys.readouterr().out
    for flag in ("--image", "--mask", "--prompt", "--out", "--seed", "white = edit"):
        assert flag in words
