"""The objectives at tiny width: what they learn from, what they keep frozen, what they export."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.data.text import Tokenizer
from brushjax.diffusion.schedule import Schedule
from brushjax.training.objectives.autoencoder import (
    AutoencoderObjective,
    LocalityObjective,
    cell_maxima,
    edge_loss,
)
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.objectives.denoising import (
    NoiseConfig,
    draw,
    drop_captions,
    edge_weights,
    weighted_error,
)
from tests.training.conftest import QUICK, UNET, VAE

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 2)  # one for each sample of the fixture `batch`


def shapes(tree):
    return jax.tree.map(lambda leaf: (tuple(leaf.shape), jnp.dtype(leaf.dtype)), tree)


def test_edge_loss_sees_edges_and_not_brightness():
    image = jnp.zeros((1, 8, 8, 1))
    assert edge_loss(image + 0.5, image) == 0
    stripes = image.at[:, :, ::2].set(1.0)
    # At full size every horizontal neighbour differs by 1; halved, the stripes are an even grey.
    assert float(edge_loss(stripes, image)) == pytest.approx(1 / 3)
    assert float(edge_loss(stripes, image, scales=1)) == pytest.approx(1)


def test_autoencoder_exports_latents_of_unit_variance(batch, tmp_path):
    objective = AutoencoderObjective(VAE)
    trainable, frozen = objective.init(KEY)
    assert frozen == {}
    objective.export(trainable, tmp_path, batch)
    vae = weights.load("vae", tmp_path)
    images = jnp.asarray(batch["image"] / 127.5 - 1, jnp.float32)
    assert float(vae.to_latents(images, KEY).std()) == pytest.approx(1, abs=0.05)
    assert vae.config.scaling_factor != VAE.scaling_factor


def test_autoencoder_loss_adds_its_parts(batch):
    objective = AutoencoderObjective(VAE, edge_weight=2.0, kl_weight=0.1)
    trainable, frozen = objective.init(KEY)
    loss = jax.jit(objective.loss, compiler_options=QUICK)
    value, parts = loss(trainable, frozen, {"image": batch["image"]}, KEYS)
    expected = parts["l1"] + 2.0 * parts["edges"] + 0.1 * parts["kl"]
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(parts["psnr"]) > 0


def test_autoencoder_is_taught_by_itself_to_see_every_place_alone(base, batch, tmp_path):
    objective = LocalityObjective(str(base))
    vae, frozen = objective.init(KEY)
    assert shapes((vae, frozen)) == shapes(objective.shapes())
    program = jax.jit(
        lambda vae, batch: jax.value_and_grad(objective.loss, has_aux=True)(
            vae, frozen, objective.prepare(frozen, batch), KEYS
        ),
        compiler_options=QUICK,
    )
    (_, parts), gradients = program(vae, batch)
    assert float(parts["whole_error"]) == pytest.approx(0, abs=1e-10)
    assert float(parts["holed_error"]) > 1e-6
    assert float(parts["pasted_error"]) > 1e-6
    largest = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), gradients)
    assert max(jax.tree.leaves(largest["encoder"])) > 0
    assert max(jax.tree.leaves(largest["decoder"])) > 0

    # Nothing is missing without a hole; where all is hole, the collage is the next picture.
    for masked, errors in ((0, ("holed_error", "pasted_error")), (1, ("pasted_error",))):
        uniform = {**batch, "mask": np.full_like(batch["mask"], masked)}
        parts = program(vae, uniform)[0][1]
        for name in errors:
            assert float(parts[name]) == pytest.approx(0, abs=1e-10)

    objective.export(jax.tree.map(lambda leaf: leaf + 1, vae), tmp_path, {})
    before, after = weights.load("vae", base), weights.load("vae", tmp_path)
    assert after.config == before.config
    np.testing.assert_array_equal(
        after.encoder.conv_out.kernel[...], before.encoder.conv_out.kernel[...] + 1
    )


def test_cell_maxima_see_a_single_pixel():
    mask = np.zeros((1, 16, 24, 1), np.float32)
    mask[0, 15, 8] = 1
    np.testing.assert_array_equal(
        cell_maxima(jnp.asarray(mask), 8)[0, :, :, 0], [[0, 0, 0], [0, 1, 0]]
    )


def test_captions_are_dropped_as_often_as_asked():
    ids, empty = jnp.ones((1000, 3), jnp.int32), np.zeros(3, np.int32)
    keys = jax.random.split(KEY, 1000)
    assert jnp.all(drop_captions(ids, empty, 0.0, keys) == 1)
    assert jnp.all(drop_captions(ids, empty, 1.0, keys) == 0)
    kept = drop_captions(ids, empty, 0.25, keys)
    assert jnp.all(kept == kept[:, :1])  # a caption is dropped as a whole
    assert float(kept.mean()) == pytest.approx(0.75, abs=0.05)


def test_edge_weights_raise_cells_on_both_sides_of_the_edge():
    keep = np.ones((2, 1, 8, 1), np.float32)
    keep[0, :, 4:] = 0  # the second sample has no hole, so no edge
    weights = np.asarray(edge_weights(jnp.asarray(keep), 3.0))
    np.testing.assert_allclose(weights[0, 0, :, 0] * 14 / 8, [1, 1, 1, 4, 4, 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(weights[1], 1.0)


def test_cell_weights_enter_the_loss_and_not_the_plain_error():
    schedule = NoiseConfig().schedule()
    prediction, target = jnp.zeros((1, 1, 2, 1)), jnp.float32([[[[1.0], [2.0]]]])
    cells = jnp.float32([[[[0.5], [1.5]]]])
    loss, metrics = weighted_error(prediction, target, jnp.zeros(1, int), schedule, 0.0, cells)
    np.testing.assert_allclose(loss, (0.5 * 1 + 1.5 * 4) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["error"], 2.5, rtol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_weighs_as_the_paper_says(kind):
    schedule = NoiseConfig(prediction_type=kind).schedule()
    timestep = jnp.asarray([10, 900])
    ratio = schedule.alphas_cumprod[timestep] / (1 - schedule.alphas_cumprod[timestep])
    assert ratio[0] > 5 > ratio[1]  # one on either side of gamma
    errors = np.asarray([1.0, 4.0])
    prediction = jnp.asarray([1.0, 2.0])[:, None, None, None] * jnp.ones((2, 2, 2, 4))
    target = jnp.zeros_like(prediction)
    loss, metrics = weighted_error(prediction, target, timestep, schedule, 5.0)
    below = ratio if kind == "epsilon" else ratio + 1
    assert float(loss) == pytest.approx((np.minimum(ratio, 5) / below * errors).mean(), rel=1e-5)
    assert float(metrics["error"]) == pytest.approx(2.5)
    quarters = metrics["error_quarter"]
    np.testing.assert_allclose(quarters.weight, [0.5, 0, 0, 0.5])
    np.testing.assert_allclose(quarters.total, [0.5, 0, 0, 2])
    assert float(weighted_error(prediction, target, timestep, schedule, 0.0)[0]) == 2.5


def test_latents_are_drawn_with_the_posterior_deviation():
    mean, deviation = jnp.full((1, 64, 64, 4), 3.0), jnp.full((1, 64, 64, 4), 0.5)
    latents = draw(mean, deviation, KEYS[:1])
    assert float(latents.mean()) == pytest.approx(3, abs=0.02)
    assert float(latents.std()) == pytest.approx(0.5, abs=0.02)


def test_text_to_image_exports_a_pipeline(text_to_image, base):
    index = json.loads((base / "model_index.json").read_text())
    assert {name for name in index if (base / name).is_dir()} == {
        "unet", "vae", "text_encoder", "tokenizer", "scheduler",
    }  # fmt: skip
    tokenizer = Tokenizer.load(base)
    text = weights.load("clip_text", base)
    assert text.config.vocab_size == tokenizer.vocabulary_size
    assert text.config.eos_token_id == tokenizer.end_id
    assert weights.load("unet", base).config.block_out_channels == UNET.block_out_channels
    assert weights.load("vae", base).config.scaling_factor == 0.5
    np.testing.assert_array_equal(
        Schedule.from_config(base).alphas_cumprod, text_to_image.noise.schedule().alphas_cumprod
    )


def test_text_to_image_learns_unet_and_text_encoder(text_to_image, batch):
    trainable, frozen = text_to_image.init(KEY)
    assert shapes((trainable, frozen)) == shapes(text_to_image.shapes())

    def loss(trainable):
        prepared = text_to_image.prepare(frozen, jax.tree.map(jnp.asarray, batch))
        return text_to_image.loss(trainable, frozen, prepared, KEYS)[0]

    gradients = jax.jit(jax.grad(loss), compiler_options=QUICK)(trainable)
    norms = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), gradients)
    assert max(jax.tree.leaves(norms["unet"])) > 0
    assert norms["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"] > 0


def test_text_to_image_goes_on_from_a_base(text_to_image, base):
    going_on = dataclasses.replace(text_to_image, base=str(base))
    before, _ = text_to_image.init(KEY)  # the base was made with this key
    after, _ = going_on.init(jax.random.key(1))
    assert shapes(after) == shapes(going_on.shapes()[0])
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_text_to_image_refuses_widths_that_do_not_fit(text_to_image):
    with pytest.raises(ConfigError, match=r"cross_attention_dim 8, .*; got 16"):
        dataclasses.replace(text_to_image, unet=dataclasses.replace(UNET, cross_attention_dim=16))


def test_brushnet_names_a_missing_base(tmp_path):
    with pytest.raises(ConfigError, match="expected the unet of a pipeline"):
        BrushNetObjective(str(tmp_path)).shapes()


def test_brushnet_condition_does_not_see_into_the_hole(base, batch):
    objective = BrushNetObjective(str(base))
    frozen = objective.init(KEY)[1]
    other = {**batch, "image": np.where(batch["mask"] > 0, 200, batch["image"]).astype(np.uint8)}
    prepare = jax.jit(objective.prepare, compiler_options=QUICK)
    ours, theirs = prepare(frozen, batch), prepare(frozen, other)
    np.testing.assert_array_equal(ours["condition"], theirs["condition"])
    assert np.abs(ours["mean"] - theirs["mean"]).max() > 0
    keep = 1 - batch["mask"][:, ::8, ::8]
    np.testing.assert_array_equal(ours["condition"][..., 4:], keep)


def test_brushnet_starts_from_the_base_and_learns_its_taps(base, batch, tmp_path):
    objective = BrushNetObjective(str(base))
    branch, frozen = objective.init(KEY)
    assert shapes((branch, frozen)) == shapes(objective.shapes())
    prepared = jax.jit(objective.prepare, compiler_options=QUICK)(frozen, batch)
    program = jax.jit(
        lambda branch: jax.value_and_grad(objective.loss, has_aux=True)(
            branch, frozen, prepared, KEYS
        ),
        compiler_options=QUICK,
    )
    (loss, _), gradients = program(branch)
    # The taps are zero: only they learn at first, and other weights of the branch change nothing.
    first = jax.tree.map(jnp.ones_like, branch["brushnet"]["conv_in_condition"])
    moved = {"brushnet": {**branch["brushnet"], "conv_in_condition": first}}
    assert float(program(moved)[0][0]) == pytest.approx(float(loss), rel=1e-6)
    for name, part in gradients["brushnet"].items():
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(part))
        assert (largest > 0) == name.startswith("brushnet_"), name

    objective.export(branch, tmp_path, {})
    again = BrushNetObjective(str(base), branch=str(tmp_path))
    assert shapes(again.shapes()) == shapes(objective.shapes())
    jax.tree.map(np.testing.assert_array_equal, again.init(KEY)[0], branch)
