"""An edit's program: compiled once, the same on any devices, kept on disk."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from brushjax.diffusion.samplers import SAMPLERS, make_sampler
from brushjax.inference.engine import cache
from brushjax.inference.engine.approximations import Approximations
from brushjax.inference.engine.batch import control_scales
from brushjax.inference.engine.edit import Graphs, seeded_noise
from brushjax.inference.engine.options import Condition, EditInputs, EditOptions
from brushjax.inference.engine.program import EditProgram
from brushjax.inference.engine.tiling import tiled
from brushjax.sharding import MeshShape, make_mesh
from tests.inference.conftest import SD15_SCHEDULER

HEIGHT, WIDTH = 24, 32


@pytest.fixture(scope="module")
def networks(parts):
    split = {name: nnx.split(parts[name]) for name in ("unet", "brushnet", "vae")}
    graphs = Graphs(**{name: graph for name, (graph, _) in split.items()})
    return graphs, {name: nnx.to_pure_dict(state) for name, (_, state) in split.items()}


@pytest.fixture(scope="module")
def program(networks):
    return EditProgram(*networks)


def make_inputs(batch=1, steps=3, seed=0, **changes):
    """Random pictures, masks, prompts; sample b is the same in every batch that has it."""
    random = [np.random.default_rng((seed, b)) for b in range(batch)]
    masks = np.zeros((batch, HEIGHT, WIDTH, 1), np.uint8)
    masks[:, 8:16, 8 : 24 - seed % 2] = 1
    masked = np.stack([r.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for r in random])
    seeds = np.arange(batch, dtype=np.uint32) + seed
    context, negative = (
        np.stack([r.standard_normal((5, 16), np.float32) for r in random]) for _ in range(2)
    )
    control = {"scale": 1.0, "start": 0.0, "end": 1.0}
    values = {
        "masked": masked * (1 - masks),
        "masks": masks,
        "noise": np.asarray(seeded_noise(seeds, (HEIGHT // 8, WIDTH // 8, 4))),
        "conditions": (Condition(negative), Condition(context)),
        "guidance": np.float32(3),
        "scales": control_scales(steps, **control),
        "seeds": seeds,
    }
    return EditInputs(**{**values, **changes})


def sampler(name="unipc", steps=3):
    return make_sampler(name, SD15_SCHEDULER, steps)


def assert_same(latents, expected, bound=1e-5):
    assert np.abs(latents - expected).max() <= bound * expected.std()


@pytest.fixture
def compilations():
    events = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(details)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.heavy
def test_fifty_different_edits_compile_nothing_after_the_first(program, compilations):
    first, _ = program(sampler(), make_inputs())
    compilations.clear()
    for i in range(50):
        chosen = sampler(list(SAMPLERS)[i % len(SAMPLERS)], 2 + i % 7)
        scales = control_scales(
            chosen.steps, scale=0.5 + i / 50, start=0.2 * (i % 2), end=1 - 0.1 * (i % 3)
        )
        guidance = np.float32(1.5 + i % 5)
        inputs = make_inputs(steps=chosen.steps, seed=i, scales=scales, guidance=guidance)
        latents, pictures = program(chosen, inputs)
        assert np.isfinite(latents).all()
        assert np.abs(latents - first).max() > 1e-3
        assert pictures.shape == (1, HEIGHT, WIDTH, 3)
    assert not compilations


@pytest.mark.heavy
def test_devices_and_batch_do_not_change_a_sample(networks, program):
    chosen, eight = sampler("euler-a"), make_inputs(8)  # noise at every step, from each seed
    one_device, _ = program(chosen, eight)
    mesh = make_mesh(MeshShape(data=2, fsdp=4))
    many = EditProgram(*networks, mesh=mesh, rules=((".*kernel", "cut:fsdp"),))
    for name, params in many._params.items():
        assert not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(params)), name
    eight_devices, pictures = many(chosen, eight)
    assert_same(eight_devices, one_device)
    alone, picture = program(chosen, make_inputs(1))
    assert_same(alone, one_device[:1])
    three, _ = many(chosen, make_inputs(3))  # filled up to eight
    assert_same(three, one_device[:3])
    assert np.abs(pictures[:1].astype(int) - picture).max() <= 1


def test_program_refuses_what_does_not_fit(program):
    with pytest.raises(ValueError, match="expected seeds: this sampler draws noise"):
        program(sampler("euler-a"), make_inputs(seeds=None))
    with pytest.raises(ValueError, match=r"expected 3 scales, one a network call, got \(4,\)"):
        program(sampler(), make_inputs(steps=4))
    with pytest.raises(ValueError, match="expected tile a multiple of 8"):
        EditOptions(tile=100)
    with pytest.raises(ValueError, match="expected together of at least 1"):
        EditOptions(together=0)


def test_saved_programs_are_read_instead_of_traced(networks, program, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "use_compilation_cache", lambda folder=None: None)
    inputs = make_inputs()
    expected, _ = program(sampler(), inputs)
    first, _ = EditProgram(*networks, saved=tmp_path)(sampler(), inputs)
    np.testing.assert_array_equal(first, expected)
    assert [path.suffix for path in tmp_path.iterdir()] == [".program"]

    def refuse(*_, **__):
        raise AssertionError("traced again")

    monkeypatch.setattr(jax.export, "export", refuse)
    second = EditProgram(*networks, saved=tmp_path)
    again, _ = second(sampler(steps=9), make_inputs(steps=9))
    assert np.abs(again - expected).max() > 1e-3
    np.testing.assert_array_equal(second(sampler(), inputs)[0], expected)
    with pytest.raises(AssertionError, match="traced again"):
        second(sampler(), dataclasses.replace(inputs, conditions=inputs.conditions[1:]))


def test_compilation_cache_goes_where_it_is_told(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(cache.MINIMUM.upper(), raising=False)
    least = getattr(jax.config, cache.MINIMUM)
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        assert cache.use_compilation_cache() is None
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", None)
        folder = cache.use_compilation_cache()
        assert folder.parent == tmp_path / "home/brushjax/xla"
        assert folder.is_dir()
        assert jax.config.jax_compilation_cache_dir == str(folder)
        assert getattr(jax.config, cache.MINIMUM) < 0.1
        assert cache.use_compilation_cache(tmp_path / "mine") == tmp_path / "mine"
        assert cache.use_compilation_cache() == tmp_path / "mine"  # what was set stays
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update(cache.MINIMUM, least)
        jax.config.update("jax_enable_compilation_cache", before[1])


@pytest.mark.slow
def test_approximations_leave_out_what_they_say(program):
    inputs, chosen = make_inputs(steps=6), sampler("ddim", 6)
    exact, _ = program(chosen, inputs)
    nothing, _ = program(chosen, inputs, approximations=Approximations())
    np.testing.assert_array_equal(nothing, exact)

    half = Approximations(guidance_start=1 / 6, guidance_end=0.5)
    limited, _ = program(chosen, inputs, approximations=half)
    by_hand = dataclasses.replace(inputs, guidance=np.float32([1, 3, 3, 1, 1, 1]))
    assert_same(limited, program(chosen, by_hand)[0])

    early, _ = program(chosen, inputs, approximations=Approximations(branch_end=0.5))
    by_hand = dataclasses.replace(inputs, scales=np.float32([1, 1, 1, 0, 0, 0]))
    np.testing.assert_array_equal(early, program(chosen, by_hand)[0])

    reused, _ = program(chosen, inputs, approximations=Approximations(reuse_every=2))
    assert 1e-4 < np.abs(reused - exact).max() / exact.std() < 1.0
    every = dataclasses.replace(inputs, full=np.ones(6, bool))
    full, _ = program(chosen, every, EditOptions(fresh_layers=1))
    assert_same(full, exact)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_start": 0.5, "guidance_end": 0.5}, "guidance_start < guidance_end"),
        ({"branch_end": 1.5}, "branch_end in 0..1"),
        ({"reuse_every": 0}, "reuse_every and fresh_layers of at least 1"),
        ({"reuse_every": 2, "guidance_end": 0.5}, "a guidance interval or reuse_every"),
    ],
)
def test_approximations_refuse(settings, message):
    with pytest.raises(ValueError, match=message):
        Approximations(**settings)


@pytest.mark.parametrize("ratio", [(8, 1), (1, 8), (1, 1)])
def test_tiles_of_a_local_function_make_up_the_whole(ratio):
    up, down = ratio
    shape = (2, 72, 40, 3)

    def function(x):
        x = x[:, ::down, ::down] * 2.0 + 1.0
        return jnp.repeat(jnp.repeat(x, up, 1), up, 2)

    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    whole = function(x)
    np.testing.assert_allclose(tiled(function, x, 16, ratio), whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(tiled(function, x, 72, ratio), whole)


def test_vae_in_tiles_is_near_the_whole(parts):
    vae = parts["vae"]
    latents = np.random.default_rng(0).standard_normal((1, 16, 12, 4)).astype(np.float32)
    whole, near = (
        jax.jit(lambda x, side=side: tiled(vae.to_images, x, side, (8, 1)))(latents)
        for side in (16, 8)
    )
    assert near.shape == whole.shape == (1, 128, 96, 3)
    assert 0 < np.abs(near - whole).mean() < 0.5 * np.std(whole)


@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize(
    ("part", "named"),
    [("encoder", "encoder"), ("decoder", "decoder"), ("unet", "UNet and branch")],
)
def test_what_a_network_gives_is_checked_before_it_becomes_bytes(networks, part, named, tile):
    graphs, params = networks
    broken = dict(params)
    if part == "unet":
        broken["unet"] = jax.tree.map(lambda x: x * np.nan, params["unet"])
    else:  # the last layer, so that what went before is finite
        inner = {**params["vae"][part], "conv_out": params["vae"][part]["conv_out"]}
        inner["conv_out"] = jax.tree.map(lambda x: x * np.inf, inner["conv_out"])
        broken["vae"] = {**params["vae"], part: inner}
    sampler, inputs = make_sampler("ddim", SD15_SCHEDULER, 2), make_inputs(2, steps=2)
    with pytest.raises(FloatingPointError, match=rf"first .*{named}, in sample 0, 1"):
        EditProgram(graphs, broken)(sampler, inputs, EditOptions(tile=tile))
