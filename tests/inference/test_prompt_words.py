"""Learnt words, weights and layers of the text encoder, all the way into pictures."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

from brushjax.data.text import Tokenizer
from brushjax.inference import command
from brushjax.inference.inpaint import Inpainter
from brushjax.inference.inpaint_settings import InpaintSettings
from brushjax.inference.result import read_settings
from tests.inference.conftest import SD15_SCHEDULER
from tests.inference.test_command import arguments, files, pixels  # noqa: F401

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
MASK = np.zeros((24, 32), np.uint8)
MASK[8:20, 8:20] = 255


@pytest.fixture(scope="module")
def learnt(parts, tokenizer_folder, tmp_path_factory):
    """A file of a word that was learnt to mean "red cat"."""
    table = np.asarray(parts["text_encoder"].text_model.embeddings.token_embedding.embedding[...])
    tokenizer = Tokenizer.load(tokenizer_folder)
    file = tmp_path_factory.mktemp("learnt") / "mine.safetensors"
    save_file({"emb_params": table[[*tokenizer.ids("red"), *tokenizer.ids("cat")]]}, file)
    return file


def paint(painter, prompt, **settings):
    return painter(IMAGE, MASK, prompt, steps=3, **settings).latents


def test_learnt_word_paints_what_it_was_learnt_from(parts, painter, tokenizer_folder, learnt):
    taught = Inpainter.from_parts(
        **parts,
        tokenizer=tokenizer_folder,
        scheduler=SD15_SCHEDULER,
        embeddings={"my-cat": learnt},
    )
    expected = paint(painter, "a red cat on a chair")
    for prompt in ("a my-cat on a chair", "a embedding:my-cat on a chair"):
        latents = paint(taught, prompt)
        assert np.abs(latents - expected).max() <= 1e-5 * expected.std()
    assert np.abs(paint(painter, "a my-cat on a chair") - expected).max() > 1e-3


def test_weights_of_a_prompt_change_the_picture(painter):
    plain = paint(painter, "a red cat")
    np.testing.assert_array_equal(paint(painter, "(a red cat:1)", weights=True), plain)
    assert np.abs(paint(painter, "a (red:1.5) cat", weights=True) - plain).max() > 1e-3
    with pytest.warns(UserWarning, match=r"\(red:1\.5\) in a prompt: taken as words"):
        as_words = paint(painter, "a (red:1.5) cat")
    assert np.abs(as_words - paint(painter, "a (red:1.5) cat", weights=True)).max() > 1e-3


def test_clip_skip_is_refused_beyond_the_encoders_layers(painter):
    with pytest.raises(ValueError, match=r"expected clip_skip in 1\.\.1, the layers"):
        paint(painter, "a red cat", clip_skip=2)
    with pytest.raises(ValueError, match="expected clip_skip of at least 1"):
        paint(painter, "a red cat", clip_skip=0)


def test_inpaint_command_reads_learnt_words_and_weights(files, pipeline, learnt):  # noqa: F811
    words = arguments(files, pipeline, prompt="a red cat", out=files / "plain.png")
    command.main(words)
    taught = arguments(files, pipeline, prompt="a my-cat", out=files / "taught.png")
    command.main([*taught, "--embedding", f"my-cat={learnt}"])
    plain = pixels(files / "plain.png").astype(int)
    assert np.abs(pixels(files / "taught.png") - plain).max() <= 1
    assert read_settings(files / "taught.png")["embedding"] == ["my-cat=mine.safetensors"]
    heavy = arguments(files, pipeline, prompt="a (red:1.5) cat", out=files / "heavy.png")
    command.main([*heavy, "--weights"])
    assert np.abs(pixels(files / "heavy.png") - plain).max() > 1
    assert read_settings(files / "heavy.png")["weights"] is True


def test_settings_are_one_value_that_is_checked_once(painter):
    how = InpaintSettings(steps=3, scheduler="ddim", blend="paste")
    given = painter(IMAGE, MASK, "a red cat", settings=how)
    named = painter(IMAGE, MASK, "a red cat", **dataclasses.asdict(how))
    np.testing.assert_array_equal(given.images, named.images)
    changed = painter(IMAGE, MASK, "a red cat", settings=how, scheduler="euler")
    assert np.any(changed.latents != given.latents)
    with pytest.raises(TypeError, match="got 'guidence'; did you mean guidance"):
        painter(IMAGE, MASK, guidence=3)
    with pytest.raises(ValueError, match=r"expected mask_alpha in .*'half'"):
        InpaintSettings(mask_alpha="half")
