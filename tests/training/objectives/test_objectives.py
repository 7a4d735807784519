"""The objectives at tiny width: what they learn from, what they keep frozen, what they export."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brushjax import sharding, weights
from brushjax.config import ConfigError
from brushjax.data.text import Tokenizer
from brushjax.diffusion.losses import min_snr_weights
from brushjax.diffusion.samplers import step_noise
from brushjax.diffusion.schedule import Schedule
from brushjax.models.vae import Posterior
from brushjax.training.logging import means
from brushjax.training.objectives.autoencoder import (
    AutoencoderObjective,
    LocalityObjective,
    cell_maxima,
    edge_loss,
    means_of_cells,
    preceding,
)
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.objectives.contract import placed_in, split
from brushjax.training.objectives.denoising import (
    NoiseConfig,
    draw,
    drop_captions,
    edge_weights,
    gaussian,
    weighted_error,
)
from brushjax.training.state import Places, make_state, state_shardings
from brushjax.training.step import StepOptions, make_step
from tests.support import loaded
from tests.training.conftest import QUICK, UNET, VAE

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 2)  # one for each sample of the fixture `batch`


def numbers(losses):
    """The loss and what is logged, as numbers."""
    return losses.value, {name: mean.value for name, mean in losses.logged.items()}


def values(objective):
    """The jitted loss of an objective as numbers."""
    return jax.jit(lambda *args: numbers(objective.loss(*args)), compiler_options=QUICK)


def shapes(tree):
    return jax.tree.map(lambda leaf: (tuple(leaf.shape), jnp.dtype(leaf.dtype)), tree)


def test_edge_loss_sees_edges_and_not_brightness():
    image = jnp.zeros((1, 8, 8, 1))
    assert edge_loss(image + 0.5, image) == 0
    stripes = image.at[:, :, ::2].set(1.0)
    # At full size every horizontal neighbour differs by 1; halved, the stripes are an even grey.
    assert float(edge_loss(stripes, image)) == pytest.approx(1 / 3)
    assert float(edge_loss(stripes, image, scales=1)) == pytest.approx(1)


@pytest.mark.slow
def test_autoencoder_exports_latents_of_unit_variance(batch, tmp_path):
    objective = AutoencoderObjective(VAE)
    trainable, frozen = loaded(objective, KEY)
    assert frozen == {}
    objective.export(trainable, tmp_path, batch)
    vae = weights.load("vae", tmp_path)
    images = jnp.asarray(batch["image"] / 127.5 - 1, jnp.float32)
    assert float(vae.to_latents(images, KEY).std()) == pytest.approx(1, abs=0.05)
    assert vae.config.scaling_factor != VAE.scaling_factor


@pytest.mark.slow
def test_autoencoder_loss_adds_its_parts(batch):
    objective = AutoencoderObjective(VAE, edge_weight=2.0, kl_weight=0.1)
    trainable, _ = loaded(objective, KEY)
    value, parts = values(objective)(trainable, {"image": batch["image"]}, KEYS)
    expected = parts["l1"] + 2.0 * parts["edges"] + 0.1 * parts["kl"]
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(parts["psnr"]) > 0


@pytest.mark.slow
def test_autoencoder_is_taught_by_itself_to_see_every_place_alone(base, batch, tmp_path):
    objective = LocalityObjective(str(base))
    vae, frozen = loaded(objective, KEY)
    assert shapes({**vae, **frozen}) == shapes(objective.shapes())

    def loss(vae, batch):
        prepared = objective.prepare(frozen, objective.across(batch))
        return numbers(objective.loss({**vae, **frozen}, prepared, KEYS))

    program = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (_, parts), gradients = program(vae, batch)
    assert float(parts["whole_error"]) == pytest.approx(0, abs=1e-10)
    assert float(parts["holed_error"]) > 1e-6
    assert float(parts["pasted_error"]) > 1e-6
    largest = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), gradients)
    assert max(jax.tree.leaves(largest["vae"]["encoder"])) > 0
    assert max(jax.tree.leaves(largest["vae"]["decoder"])) > 0

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


@pytest.mark.slow
def test_autoencoder_is_taught_alike_on_any_number_of_devices(base, batch):
    """One sample a device, or one a part, still meets the other one in its collage."""
    objective, optimizer = LocalityObjective(str(base)), optax.sgd(1.0)
    whole, few = batch, {name: array[:1] for name, array in batch.items()}
    with pytest.raises(ConfigError, match="batch_size of at least 2"):
        objective.across(few)
    found = {}
    for name, devices, parts, order in (
        ("one", 1, 1, [0, 1]),
        ("parts", 1, 2, [0, 1]),
        ("devices", 2, 1, [1, 0]),
    ):
        vae, frozen = loaded(objective, KEY)
        frozen = jax.device_get(frozen)
        mesh = sharding.make_mesh(devices=jax.devices()[:devices])
        state = make_state(vae, optimizer)
        layout = state_shardings(state, mesh, ())
        places = Places(mesh, layout, sharding.shardings(vae, mesh, ()))
        step = make_step(
            objective, optimizer, seed=0, options=StepOptions(accumulation=parts), places=places
        )
        moved = {name: array[order] for name, array in whole.items()}
        data = jax.device_put(moved, jax.sharding.NamedSharding(mesh, sharding.BATCH))
        metrics = step(jax.device_put(state, layout), frozen, data)[1]
        found[name] = means([jax.device_get(metrics)])
    assert float(found["one"]["pasted_error"]) > 1e-6
    for name in ("parts", "devices"):
        for number, value in found["one"].items():
            ours = float(found[name][number])
            assert ours == pytest.approx(float(value), rel=1e-4, abs=1e-9), (name, number)


@pytest.mark.slow
def test_autoencoder_is_taught_by_means_over_samples(base, batch):
    """A sample with a small hole counts as much as one with a large hole."""
    objective = LocalityObjective(str(base))
    vae, frozen = loaded(objective, KEY)
    mask = np.zeros_like(batch["mask"])
    mask[0], mask[1, :, :24] = 1, 1
    prepared = objective.prepare(frozen, objective.across({**batch, "mask": mask}))
    loss, params = values(objective), {**vae, **frozen}
    both = loss(params, prepared, KEYS)
    each = [
        loss(params, {k: v[n : n + 1] for k, v in prepared.items()}, KEYS[n : n + 1])
        for n in range(2)
    ]
    assert float(both[0]) == pytest.approx(np.mean([float(one[0]) for one in each]), rel=1e-5)
    for name, value in both[1].items():
        mean = np.mean([float(one[1][name]) for one in each])
        assert float(value) == pytest.approx(mean, rel=1e-4, abs=1e-9), name


def test_neighbours_are_chosen_by_id_wherever_samples_lie():
    ids = np.array([40, 7, 23, 7, 11])
    expected = {11: 7, 23: 11, 40: 23}
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 3, 4, 1]):
        moved = ids[order]
        before = moved[np.asarray(preceding(jnp.asarray(moved)))].tolist()
        assert {n: b for n, b in zip(moved.tolist(), before) if n != 7} == expected
        # Of a sample met twice one follows the last and one its own like.
        assert sorted(b for n, b in zip(moved, before) if n == 7) == [7, 40]


def test_cells_are_averaged_within_their_sample():
    values = jnp.array([1.0, 1.0, 4.0, 8.0]).reshape(2, 1, 2, 1)
    cells = jnp.array([1.0, 1.0, 0.0, 1.0]).reshape(2, 1, 2, 1)
    np.testing.assert_allclose(means_of_cells(values, cells), [1, 8])
    np.testing.assert_allclose(means_of_cells(values, 0 * cells), [0, 0])


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
    losses = weighted_error(prediction, target, jnp.zeros(1, int), schedule, 0.0, cells)
    loss, metrics = numbers(losses)
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
    losses = weighted_error(prediction, target, timestep, schedule, 5.0)
    loss, metrics = numbers(losses)
    below = ratio if kind == "epsilon" else ratio + 1
    assert float(loss) == pytest.approx((np.minimum(ratio, 5) / below * errors).mean(), rel=1e-5)
    assert float(metrics["error"]) == pytest.approx(2.5)
    quarters = losses.logged["error_quarter"]
    np.testing.assert_allclose(quarters.weight, [1, 0, 0, 1])
    np.testing.assert_allclose(quarters.total, [1, 0, 0, 4])
    assert float(weighted_error(prediction, target, timestep, schedule, 0.0).value) == 2.5


def test_min_snr_weighs_the_clean_latents_and_ends_at_zero_snr():
    for kind, last in (("epsilon", 1), ("v_prediction", 0), ("sample", 0)):
        settings = {**NoiseConfig().to_dict(), "prediction_type": kind}
        schedule = Schedule.from_config({**settings, "rescale_betas_zero_snr": True})
        weights = min_snr_weights(schedule.alphas_cumprod, kind, 5.0)
        assert np.isfinite(weights).all()
        assert weights[-1] == pytest.approx(last)
        # In units of the clean latents' error all three are min(SNR, gamma).
        ratio = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
        unit = {"epsilon": ratio, "v_prediction": ratio + 1, "sample": 1}[kind]
        np.testing.assert_allclose(weights * unit, np.minimum(ratio, 5), rtol=1e-12)
    prediction, last = jnp.ones((1, 2, 2, 4)), jnp.array([len(weights) - 1])
    assert np.isfinite(weighted_error(prediction, 0 * prediction, last, schedule, 5.0).value)


def test_noise_is_drawn_in_float32():
    """In bfloat16 there are 128 normal values."""
    like = jnp.zeros((2, 64, 64, 4), jnp.bfloat16)
    for noise in (
        gaussian(KEYS, like),
        draw(like, like + 1, KEYS),
        Posterior(like, like).sample(KEY),
        step_noise(jnp.arange(2, dtype=jnp.uint32), 3, like),
    ):
        assert len(np.unique(np.asarray(noise, np.float32))) > 1000


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


@pytest.mark.heavy
def test_text_to_image_learns_unet_and_text_encoder(text_to_image, untrained, batch):
    wanted = text_to_image.shapes()
    assert shapes(untrained) == shapes({name: wanted[name] for name in untrained})
    wanted["unet"] = {name: wanted["unet"][name] for name in ("conv_in", "conv_out")}  # few draws
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    started = text_to_image.load(KEY, placed_in(here, wanted))
    assert shapes(started) == shapes(wanted)
    assert all(np.any(part["kernel"]) for part in started["unet"].values())
    frozen = {"vae": started["vae"]}

    def loss(trainable):
        prepared = text_to_image.prepare(frozen, jax.tree.map(jnp.asarray, batch))
        return text_to_image.loss({**trainable, **frozen}, prepared, KEYS).value

    gradients = jax.jit(jax.grad(loss), compiler_options=QUICK)(untrained)
    norms = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), gradients)
    assert max(jax.tree.leaves(norms["unet"])) > 0
    assert norms["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"] > 0


def test_text_to_image_goes_on_from_a_base(text_to_image, untrained, base):
    going_on = dataclasses.replace(text_to_image, base=str(base))
    after, _ = loaded(going_on, KEY)
    jax.tree.map(np.testing.assert_array_equal, after, untrained)


def test_text_to_image_refuses_widths_that_do_not_fit(text_to_image):
    with pytest.raises(ConfigError, match=r"cross_attention_dim 8, .*; got 16"):
        dataclasses.replace(text_to_image, unet=dataclasses.replace(UNET, cross_attention_dim=16))


def test_brushnet_names_a_missing_base(tmp_path):
    with pytest.raises(ConfigError, match="expected the unet of a pipeline"):
        BrushNetObjective(str(tmp_path)).shapes()


def test_brushnet_condition_does_not_see_into_the_hole(base, batch):
    objective = BrushNetObjective(str(base))
    frozen = loaded(objective, KEY)[1]
    other = {**batch, "image": np.where(batch["mask"] > 0, 200, batch["image"]).astype(np.uint8)}
    prepare = jax.jit(objective.prepare, compiler_options=QUICK)
    ours, theirs = prepare(frozen, batch), prepare(frozen, other)
    np.testing.assert_array_equal(ours["condition"], theirs["condition"])
    assert np.abs(ours["mean"] - theirs["mean"]).max() > 0
    keep = 1 - batch["mask"][:, ::8, ::8]
    np.testing.assert_array_equal(ours["condition"][..., 4:], keep)


@pytest.mark.heavy
def test_brushnet_starts_from_the_base_and_learns_its_taps(base, batch, tmp_path):
    objective = BrushNetObjective(str(base))
    branch, frozen = loaded(objective, KEY)
    assert shapes({**branch, **frozen}) == shapes(objective.shapes())
    prepared = jax.jit(objective.prepare, compiler_options=QUICK)(frozen, batch)

    def loss_of(branch):
        return objective.loss({**branch, **frozen}, prepared, KEYS).value

    program = jax.jit(jax.value_and_grad(loss_of), compiler_options=QUICK)
    loss, gradients = program(branch)
    # The taps are zero: only they learn at first, and other weights of the branch change nothing.
    first = jax.tree.map(jnp.ones_like, branch["brushnet"]["conv_in_condition"])
    moved = {"brushnet": {**branch["brushnet"], "conv_in_condition": first}}
    assert float(program(moved)[0]) == pytest.approx(float(loss), rel=1e-6)
    for name, part in gradients["brushnet"].items():
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(part))
        assert (largest > 0) == name.startswith("brushnet_"), name

    objective.export(branch, tmp_path, {})
    again = BrushNetObjective(str(base), branch=str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, loaded(again, KEY)[0], branch)


def test_frozen_autoencoder_works_in_float32_where_its_config_asks_for_it(base, batch, tmp_path):
    copy = shutil.copytree(base, tmp_path / "base")
    config = copy / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": True}))
    for place, expected in ((base, jnp.bfloat16), (copy, jnp.float32)):
        objective = BrushNetObjective(base=str(place))
        _, frozen = split(objective.shapes(), objective.trains)
        frozen = objective.working(frozen, jnp.bfloat16)
        assert {leaf.dtype for leaf in jax.tree.leaves(frozen["unet"])} == {jnp.dtype("bfloat16")}
        assert {leaf.dtype for leaf in jax.tree.leaves(frozen["vae"])} == {jnp.dtype(expected)}
        prepared = jax.eval_shape(objective.prepare, frozen, batch)
        assert prepared["mean"].dtype == prepared["condition"].dtype == expected
