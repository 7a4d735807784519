"""The UNet of instruct-pix2pix with and without the second stream, and its sampling loop."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import brushjax
from brushjax.diffusion.guidance import guided
from brushjax.diffusion.samplers import make_sampler
from brushjax.models import UNet, UNetConfig
from brushjax.nn import Keys, Shapes, Streams
from tests.inference.conftest import filled
from tests.models.fireedit.golden import (
    TOLERANCE,
    Golden,
    count,
    deviation,
    full_size,
    published_names,
    same_gradients,
)


@pytest.fixture(scope="module")
def golden():
    return Golden("unet8")


@pytest.fixture(scope="module")
def unet(golden):
    config = json.loads((golden.folder / "unet_config.json").read_text())
    return brushjax.load("unet", golden.folder / "model.safetensors", config=config)


def nhwc(x):
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def nchw(x):
    return x.transpose(0, 3, 1, 2)


def sample(golden, prefix=""):
    parts = (golden[f"{prefix}{name}_latents"] for name in ("noisy", "image"))
    return jnp.concatenate([nhwc(x) for x in parts], axis=-1)


run = jax.jit(lambda unet, *inputs: unet(*inputs))


def test_unet_of_eight_channels_equals_diffusers(golden, unet):
    x, context = sample(golden), golden["context"]
    for time, expected in (("timesteps", "output"), ("timesteps_float", "output_float_timesteps")):
        ours = run(unet, x, golden[time], context)
        assert deviation(nchw(ours), golden.io[expected]) <= TOLERANCE
    odd = run(unet, sample(golden, "odd/"), jnp.asarray([500.0]), context[:1])
    assert deviation(nchw(odd), golden.io["odd/output"]) <= TOLERANCE


@pytest.mark.slow
def test_unet_of_eight_channels_has_the_gradients_of_diffusers(golden, unet):
    x, time, context = sample(golden), golden["timesteps"], golden["context"]
    target = nhwc(golden["target"])
    loss = lambda unet: jnp.mean((unet(x, time, context) - target) ** 2)  # noqa: E731
    same_gradients(unet, loss, np.load(golden.folder / "grads.npz"))


def test_sampling_loop_of_instruct_pix2pix_equals_diffusers(golden, unet):
    """Euler ancestral under dual guidance; the image's latents are neither scaled nor divided."""
    io, config = golden.io, golden.config
    schedule = json.loads((golden.folder / "scheduler_config.json").read_text())
    sampler = make_sampler("euler-a", schedule, config["steps"])
    np.testing.assert_allclose(sampler.rows.timestep, io["loop/timesteps"], rtol=1e-6)
    image = nhwc(io["loop/image_latents_mode_unscaled"])
    images = jnp.concatenate([0 * image, image, image])
    null, full = golden["loop/context_null"], golden["loop/context_full"]
    contexts = jnp.concatenate([null, null, full])
    text, picture = config["guidance_text"], config["guidance_image"]
    scales = jnp.asarray([picture, text])

    @jax.jit
    def step(state, row, noise):
        x = jnp.concatenate([jnp.repeat(state.sample, 3, 0), images], axis=-1)
        parts = unet(x, jnp.broadcast_to(row.timestep, 3), contexts)
        mixed = guided([part[None] for part in parts], scales)
        return sampler.step(state, row, mixed, noise), state.sample, parts, mixed

    state = sampler.start(nhwc(io["loop/initial_noise"]))
    for i in range(config["steps"]):
        row = jax.tree.map(lambda table, i=i: jnp.asarray(table[i]), sampler.rows)
        state, seen, parts, mixed = step(state, row, nhwc(io["loop/step_noise"][i]))
        assert deviation(nchw(seen), io["loop/model_input"][i]) <= 1e-4
        for part, name in zip(parts, ("uncond", "image", "full"), strict=True):
            assert deviation(nchw(part[None]), io[f"loop/eps_{name}"][i]) <= 1e-4
        assert deviation(nchw(mixed), io["loop/eps_guided"][i]) <= 1e-4
    assert deviation(nchw(state.sample), io["loop/final_latents"]) <= 1e-4


@pytest.mark.parametrize(
    "scales", [(7.5, 1.5), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0), (1.0, 0.0), (3.0, 3.0)]
)
def test_dual_guidance_equals_the_formula(golden, scales):
    text, picture = scales
    full, image, nothing = golden["guidance/eps_full_image_uncond"]
    ours = guided([nothing, image, full], jnp.asarray([picture, text]))
    expected = golden.io[f"guidance/sT{text}_sI{picture}"]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_vae_of_instruct_pix2pix_gives_the_mode_unscaled_and_the_picture_back(golden):
    config = json.loads((golden.folder / "vae_config.json").read_text())
    vae = brushjax.load("vae", golden.folder / "vae.safetensors", config=config)
    io = golden.io
    encode = jax.jit(lambda vae, x: vae.encode(x).mean)
    ours = encode(vae, nhwc(2 * io["loop/image_01"] - 1))
    assert deviation(nchw(ours), io["loop/image_latents_mode_unscaled"]) <= TOLERANCE
    decode = jax.jit(lambda vae, z: vae.to_images(z))
    assert deviation(nchw(decode(vae, nhwc(io["loop/final_latents"]))), io["loop/decoded"]) <= 1e-4


TINY = UNetConfig(
    in_channels=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    cross_attention_dim=6,
    attention_head_dim=2,
    norm_num_groups=4,
    visual_cross_attention_dim=5,
)


@pytest.mark.slow
def test_unet_projects_both_streams_once_or_each_time_alike():
    unet = UNet(TINY, rngs=Keys(0))
    draw = lambda *shape: jax.random.normal(Keys(len(shape)).params(), shape)  # noqa: E731
    x, time, text, visual = (
        draw(2, 8, 8, 8),
        jnp.asarray([3.0, 700.5]),
        draw(2, 4, 6),
        draw(2, 3, 5),
    )
    plain = run(unet, x, time, text, None, None, visual, 0.5)

    @jax.jit
    def ahead(unet, x):
        streams = Streams(unet.text_keys(text), unet.visual_keys(visual), 0.5)
        return unet.denoise(x, unet.embed_time(time, None, x.dtype), streams)[0]

    np.testing.assert_allclose(ahead(unet, x), plain, atol=1e-6)
    without = run(unet, x, time, text)
    np.testing.assert_array_equal(run(unet, x, time, text, None, None, visual, 0.0), without)
    assert np.abs(plain - without).max() > 1e-3


@pytest.mark.slow
def test_unet_with_zeros_for_the_image_is_the_unet_of_four_channels():
    unet = UNet(TINY, rngs=Keys(0))
    unet.conv_in.kernel[...] = unet.conv_in.kernel.at[:, :, 4:].set(0)
    x, time, text = jnp.ones((1, 8, 8, 8)), jnp.ones(1), jnp.ones((1, 4, 6))
    plain = run(unet, x, time, text)
    np.testing.assert_array_equal(plain, run(unet, x.at[..., 4:].set(9.0), time, text))
    config = dataclasses.replace(TINY, in_channels=4, visual_cross_attention_dim=None)
    narrow = nnx.eval_shape(lambda: UNet(config, rngs=Shapes()))
    weights = nnx.to_pure_dict(nnx.state(unet))
    weights["conv_in"]["kernel"] = weights["conv_in"]["kernel"][:, :, :4]
    nnx.update(narrow, _without_second_stream(weights))
    np.testing.assert_allclose(run(narrow, x[..., :4], time, text), plain, atol=1e-6)


def _without_second_stream(tree):
    if not isinstance(tree, dict):
        return tree
    kept = {name: value for name, value in tree.items() if name not in ("to_k_ip", "to_v_ip")}
    return {name: _without_second_stream(value) for name, value in kept.items()}


def test_second_stream_starts_as_a_copy_of_the_first():
    plain = filled(UNet, dataclasses.replace(TINY, visual_cross_attention_dim=None), 0)
    both = UNet.with_second_stream(plain)
    first, second = plain.mid_block.attentions[0], both.mid_block.attentions[0]
    ours = second.transformer_blocks[0].attn2
    np.testing.assert_array_equal(ours.to_k_ip.kernel[...], ours.to_k.kernel[...])
    theirs = first.transformer_blocks[0].attn2
    np.testing.assert_array_equal(ours.to_v_ip.kernel[...], theirs.to_v.kernel[...])
    assert ours.to_v_ip.kernel[...] is not ours.to_v.kernel[...]  # both may be donated
    assert both.config.visual_cross_attention_dim == TINY.cross_attention_dim


def test_second_stream_left_unused_changes_no_program():
    """Lowered, a UNet with a second stream is the UNet without one to the last letter."""
    shapes = [(2, 8, 8, 8), (2,), (2, 4, 6)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def program(width):
        config = dataclasses.replace(TINY, visual_cross_attention_dim=width)
        unet = nnx.eval_shape(lambda: UNet(config, rngs=Shapes()))
        return run.lower(unet, *inputs).as_text()

    assert program(None) == program(5)


def test_full_size_second_stream_adds_the_published_tensors():
    plain = full_size("unet", {"in_channels": 8})
    both = full_size("unet", {"in_channels": 8, "visual_cross_attention_dim": 768})
    added = {name: both[name] for name in both.keys() - plain.keys()}
    assert count(plain) == 859_532_484
    assert count(added) == 19_169_280
    published = published_names("ip_attention")
    shapes = [shape for name, shape in published.items() if name.startswith("ip_adapter.")]
    assert sorted(added.values()) == sorted(shapes)


def test_unet_config_names_the_second_stream_only_where_there_is_one():
    assert "visual_cross_attention_dim" not in UNetConfig.sd15().to_dict()
    assert UNetConfig.from_dict(TINY.to_dict()) == TINY
