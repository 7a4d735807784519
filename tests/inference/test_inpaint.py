"""Whole edits against stored runs of the reference, and what an Inpainter promises beside them."""

from pathlib import Path

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import brushjax
from brushjax.inference.engine import edit as programs
from brushjax.inference.engine.options import Condition, EditInputs
from brushjax.inference.inpaint import Inpainter
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.nn import Shapes

GOLDEN = Path(__file__).parents[1] / "golden"
PIPELINE = GOLDEN / "tiny_sd15_pipeline"


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def golden():
    return np.load(PIPELINE / "io.npz")


@pytest.fixture(scope="module")
def golden_painter(golden):
    def ids(prompts):  # the stored runs had no tokenizer
        names = ["pos_input_ids" if prompt else "neg_input_ids" for prompt in prompts]
        return np.concatenate([golden[name] for name in names])

    return Inpainter.from_parts(
        unet=brushjax.load("unet", GOLDEN / "tiny_sd15/unet"),
        brushnet=brushjax.load("brushnet", GOLDEN / "tiny_sd15/brushnet"),
        vae=brushjax.load("vae", PIPELINE / "vae"),
        text_encoder=brushjax.load("clip_text", PIPELINE / "text_encoder"),
        tokenizer=ids,
        scheduler=PIPELINE / "scheduler",
    )


PARTIAL = {"scale": 0.7, "control_start": 0.2, "control_end": 0.8}


@pytest.mark.parametrize(
    ("run", "arguments"),
    [
        ("ddim_mode", {"scheduler": "ddim"}),
        ("unipc_mode", {"scheduler": "unipc-reference"}),
        ("unipc_mode_partial", {"scheduler": "unipc-reference", **PARTIAL}),
        pytest.param(
            *("ddim_mode_nocfg", {"scheduler": "ddim", "guidance": 1.0}), marks=pytest.mark.slow
        ),
    ],
)
def test_inpainter_reproduces_stored_reference_runs(golden_painter, golden, run, arguments):
    image, noise = golden["image_uint8"], nhwc(golden["initial_noise"])
    result = golden_painter(
        image,
        golden["mask_uint8"],
        "the prompt",
        steps=5,
        initial_noise=noise,
        blend="none",
        **arguments,
    )
    final = nhwc(golden[f"{run}/final_latents"])
    assert np.abs(result.latents - final).max() <= 1e-4 * final.std()
    assert result.images.shape == (1, *image.shape)
    size = (image.shape[1], image.shape[0])  # PIL's order
    decoded = Image.fromarray(golden[f"{run}/decoded_uint8"][0])
    decoded = np.asarray(decoded.resize(size, Image.Resampling.LANCZOS))
    assert np.abs(result.images[0].astype(int) - decoded).max() <= 2  # one level, before Lanczos


def photo(seed=0, size=(24, 32)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def hole(left=8, size=(24, 32)):
    mask = np.zeros(size, np.uint8)
    mask[8:20, left : left + 12] = 255
    return mask


def edit(painter, image=None, mask=None, prompt="a red cat", **settings):
    image, mask = photo() if image is None else image, hole() if mask is None else mask
    return painter(image, mask, prompt, **{"steps": 3, **settings})


def assert_same(latents, expected):
    assert np.abs(latents - expected).max() <= 1e-5 * expected.std()


@pytest.fixture
def compilations():
    """Names of what is compiled while the test runs."""
    events = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(details)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_inpainter_compiles_nothing_again_at_one_size_and_step_count(painter, compilations):
    first = edit(painter)
    edit(painter, guidance=3.0)
    compilations.clear()
    changes = [
        {"prompt": "a blue cup", "negative_prompt": "a chair"},
        {"seed": 7},
        {"guidance": 2},
        {"scale": 0.3},
        {"control_start": 0.3, "control_end": 0.9},
        {"scheduler": "ddim"},
        {"scheduler": "unipc-reference"},
        {"blend": "paste"},
        {"blend": "none"},
        {"image": photo(1)},
        {"mask": hole(16)},
    ]
    for change in changes:
        result = edit(painter, **change)
        assert np.any(result.images != first.images), change
    assert not compilations


def test_inpainter_works_at_sides_that_are_no_multiple_of_8(painter):
    image, mask = photo(size=(27, 34)), hole(size=(27, 34))
    result = edit(painter, image, mask, blend="paste")  # worked on at 24x32, as compiled above
    assert result.latents.shape == (1, 3, 4, 4)
    keep = mask == 0
    np.testing.assert_array_equal(result.images[0][keep], image[keep])
    assert np.any(result.images[0][~keep] != image[~keep])


def test_inpainter_results_do_not_depend_on_the_batch(painter):
    images, masks = [photo(0), photo(1), photo(2)], [hole(0), hole(8), hole(20)]
    prompts, seeds = ["a red cat", "a blue cup", ""], [3, 3, 11]
    batch = painter(images, masks, prompts, seed=seeds, steps=3)
    for i in range(3):
        alone = painter(images[i], masks[i], prompts[i], seed=seeds[i], steps=3)
        assert_same(batch.latents[i], alone.latents[0])
    counted = painter(photo(0), hole(0), "a red cat", seed=3, steps=3)
    row = painter(np.stack(images), np.stack(masks)[..., None], prompts, seed=3, steps=3)
    assert_same(row.latents[0], counted.latents[0])
    assert np.abs(row.latents[1] - batch.latents[1]).max() > 0.1  # seed 4, not 3


def test_inpainter_seeds_decide_the_picture(painter):
    same, again, other = (edit(painter, seed=seed).latents for seed in (5, 5, 6))
    np.testing.assert_array_equal(same, again)
    assert np.abs(same - other).max() > 0.1


def test_inpainter_takes_text_features_instead_of_prompts(painter, parts):
    result = edit(painter)
    ids = painter._prompts.encoders.encoders[0].tokenize(["a red cat", ""])
    features = np.asarray(parts["text_encoder"](jnp.asarray(ids)).last_hidden_state)
    given = edit(painter, prompt="", context=features[:1], negative_context=features[1:])
    assert_same(given.latents, result.latents)


def convolution_dtypes(jaxpr):
    """Operand dtypes of every convolution in a program, inner programs included."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            found |= {operand.aval.dtype.name for operand in equation.invars}
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found |= convolution_dtypes(inner)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_edit_computes_in_the_dtype_of_the_weights_and_samples_in_float32(painter, dtype):
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), painter._program._params)
    inputs = EditInputs(
        masked=np.zeros((1, 16, 16, 3), np.uint8),
        masks=np.zeros((1, 16, 16, 1), np.uint8),
        noise=np.zeros((1, 2, 2, 4), np.float32),
        conditions=(Condition(np.zeros((1, 5, 16), np.float32)),),
        guidance=np.float32(1),
        scales=np.ones(3, np.float32),
    )
    program = jax.make_jaxpr(programs.edit, static_argnums=0, return_shape=True)
    jaxpr, (latents, pictures, _) = program(
        painter._program._graphs, params, painter._sampler("ddim", 3), inputs
    )
    assert convolution_dtypes(jaxpr.jaxpr) == {dtype}
    assert (latents.dtype, pictures.dtype) == (np.float32, np.uint8)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"steps": 0}, ValueError, r"expected steps of at least 1"),
        ({"scheduler": "ddpm"}, ValueError, "expected scheduler in"),
        ({"blend": "poisson"}, ValueError, "expected blend in"),
        ({"control_start": 1.0}, ValueError, "expected 0 <= control_start < control_end"),
        (
            {"seed": [1, 2], "prompt": ["a", "b", "c"]},
            ValueError,
            "expected every argument once or",
        ),
        ({"context": np.ones((1, 77, 16)), "prompt": "x"}, ValueError, "prompt or its context"),
        ({"context": np.ones((77, 16)), "prompt": ""}, ValueError, r"as \[B, L, D\] with D = 16"),
        ({"initial_noise": np.ones((1, 4, 3, 4))}, ValueError, r"initial_noise \(1, 3, 4, 4\)"),
        (
            {"context": np.full((1, 77, 16), np.nan), "prompt": ""},
            FloatingPointError,
            "NaN or infinity",
        ),
        ({"context": np.ones((1, 5, 16)), "prompt": ""}, ValueError, "features of one length"),
    ],
)
def test_inpainter_refuses(painter, settings, error, message):
    with pytest.raises(error, match=message):
        edit(painter, **settings)


def test_inpainter_refuses_parts_that_do_not_belong_together(parts):
    config = VAEConfig(block_out_channels=(4, 4), norm_num_groups=2)
    vae = nnx.eval_shape(lambda: AutoencoderKL(config, rngs=Shapes()))
    with pytest.raises(ValueError, match="expected a VAE of 8 pixels a cell"):
        Inpainter.from_parts(**{**parts, "vae": vae}, scheduler={})


def test_inpainter_without_text_encoder_asks_for_text_features(parts):
    painter = Inpainter.from_parts(
        **{**parts, "text_encoder": None}, scheduler={"clip_sample": False}
    )
    with pytest.raises(ValueError, match=r"expected the context of prompt and .* no text encoder"):
        edit(painter)
