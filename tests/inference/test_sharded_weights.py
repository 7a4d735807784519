"""Weights that are cut over a mesh paint what whole ones paint."""

import jax
import numpy as np
import pytest

from brushjax.inference.inpaint import Inpainter
from brushjax.sharding import MeshShape, make_mesh
from tests.inference.conftest import SD15_SCHEDULER

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
MASK = np.zeros((24, 32), np.uint8)
MASK[8:20, 8:20] = 255


def paint(painter, **settings):
    how = {"steps": 2, "guidance": 1, **settings}
    return painter(IMAGE, MASK, ["a red cat", "a cup"], seed=[1, 2], **how)


def cut(parts, tokenizer_folder, shape, tactic):
    return Inpainter.from_parts(
        **parts,
        tokenizer=tokenizer_folder,
        scheduler=SD15_SCHEDULER,
        mesh=make_mesh(shape, jax.devices()[:4]),
        rules=((r"(unet|brushnet)\..*kernel", tactic),),
    )


@pytest.mark.parametrize(
    ("shape", "tactic"),
    [
        pytest.param(MeshShape(2, 1, 2), "cut:tensor", marks=pytest.mark.heavy),
        pytest.param(MeshShape(2, 2, 1), "cut:fsdp", marks=pytest.mark.slow),
    ],
)
def test_together_paints_the_same_with_weights_cut(parts, painter, tokenizer_folder, shape, tactic):
    many = cut(parts, tokenizer_folder, shape, tactic)
    kernel = many._program._params["unet"]["conv_in"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 2 == kernel.size
    with_one = paint(painter, together=1)
    with_many = paint(many, together=1)
    np.testing.assert_array_equal(with_many.latents, with_one.latents)
    np.testing.assert_array_equal(with_many.images, with_one.images)


@pytest.mark.slow
def test_weights_cut_paint_the_same_at_once(parts, painter, tokenizer_folder):
    many = cut(parts, tokenizer_folder, MeshShape(2, 1, 2), "cut:tensor")
    expected = paint(painter).latents
    assert np.abs(paint(many).latents - expected).max() <= 1e-5 * expected.std()
