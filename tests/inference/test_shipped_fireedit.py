"""The small FireEdit in the package: whole, small, and nearer to the truth than doing nothing."""

import numpy as np
import pytest

import brushjax
from brushjax import weights
from brushjax.agents.command import SMALL_FIREEDIT
from brushjax.data.sets.told_edits import ToldEdits
from brushjax.inference.images import read_image
from brushjax.pipelines.fireedit import SHIPPED_FIREEDIT
from brushjax.weights import WeightsError

STEPS, SCHEDULER, TEXT, IMAGE = SMALL_FIREEDIT  # the command's
COUNT = 32


@pytest.fixture(scope="module")
def editor():
    return brushjax.FireEditor.load()


def edited(editor, images, instructions):
    settings = {"steps": STEPS, "scheduler": SCHEDULER, "seed": 0}
    guidance = {"text_guidance": TEXT, "image_guidance": IMAGE}
    return editor(images, instructions, **settings, **guidance).images.astype(np.float32)


# Measured: 0.726 on 128, 0.901 on the first 32 of them.
@pytest.mark.parametrize(
    ("count", "most"),
    [
        pytest.param(COUNT, 0.92, marks=pytest.mark.heavy),
        pytest.param(128, 0.75, marks=pytest.mark.slow),
    ],
)
def test_shipped_editor_comes_nearer_to_the_truth_of_held_out_edits(editor, count, most):
    source = ToldEdits(split="held_out", seed=1).source(lambda record: record.arrays())
    made, copied = [], []
    for start in range(0, count, COUNT):
        records = [source.record(start + n) for n in range(COUNT)]
        before, truth = (np.stack([getattr(r, k) for r in records]) for k in ("image", "target"))
        images = edited(editor, before, [record.instruction for record in records])
        made.append(np.abs(images - truth).mean())
        copied.append(np.abs(before.astype(np.float32) - truth).mean())
    assert np.mean(made) < most * np.mean(copied)


def test_shipped_editor_reads_the_instruction(editor):
    photo = read_image(SHIPPED_FIREEDIT.parent / "photos/coffee.jpg")
    asked = ["make the picture darker", "make the picture blue"]
    made = edited(editor, photo, asked)
    assert made.shape[1:] == photo.shape
    darker, blue = made[0], made[1]
    assert darker.mean() < 0.7 * photo.mean()
    assert blue[..., 2].mean() > 1.5 * blue[..., 0].mean()


def test_shipped_editor_is_small_and_shares_the_bases_autoencoder(tmp_path):
    files = [path for path in SHIPPED_FIREEDIT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 7.5e6
    assert not (SHIPPED_FIREEDIT / "vae").exists()
    weights.convert("fireedit", SHIPPED_FIREEDIT, tmp_path / "whole")
    rows = list(weights.check("fireedit", SHIPPED_FIREEDIT, tmp_path / "whole"))
    assert {row.bit_equal for row in rows} == {True}
    assert (tmp_path / "whole/vae").is_dir()
    (tmp_path / "whole/dino/config.json").unlink()
    with pytest.raises(WeightsError):
        brushjax.FireEditor.load(tmp_path / "whole")
