"""The losses of the region predictor, alone and through the whole step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import brushjax
from brushjax.models import Placement
from brushjax.training.objectives.region import RegionLosses, RegionTerms, length, similarities
from brushjax.training.objectives.region_masks import Composition, MaskPath, through_mask
from brushjax.weights.rules import checkpoint_name
from tests.support import GOLDEN, doubled, error, to_torch

NAMES = {
    "sem_edited": "l_sem_edited",
    "sem_original": "l_sem_original",
    "clip_g": "l_g",
    "clip_d": "l_d",
    "clip_s": "l_s_mean",
}
VARIANTS = ("plain", "normalized")


def losses_of(variant, **settings):
    return RegionLosses(normalize_before_difference=variant == "normalized", **settings)


# --- eq. 4 to 10 alone


@pytest.fixture(scope="module")
def stored():
    return np.load(GOLDEN / "region" / "losses.npz")


def arguments(stored, dtype):
    keys = {
        "semantic_edited": "sem_e",
        "semantic_original": "sem_img",
        "source_text": "t_o",
        "target_text": "t_e",
        "source_image": "i_ori",
        "result_image": "i_res",
        "source_patches": "f_img",
        "result_patches": "f_res",
    }
    return {name: jnp.asarray(stored[key], dtype) for name, key in keys.items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 5e-5), (jnp.float64, 1e-9)])
def test_losses_equal_stored_values(stored, variant, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        inputs = arguments(stored, dtype)
        out = jax.jit(lambda inputs: losses_of(variant)(**inputs))(inputs)
        summed = losses_of(variant, structure_reduction="sum")(**inputs)["clip_s"]
    for name, key in NAMES.items():
        assert out[name].dtype == dtype
        # The last sample's pictures differ by 1e-9, which float32 embeddings can't hold.
        rows = slice(6 if name == "clip_d" and dtype == jnp.float32 else 7)
        expected = stored[f"{variant}/{key}"][rows]
        np.testing.assert_allclose(
            out[name][rows], expected, rtol=tolerance, atol=tolerance, err_msg=name
        )
    np.testing.assert_allclose(summed, stored[f"{variant}/l_s_sum"], rtol=tolerance, atol=1e-12)
    total = sum(np.asarray(out[name], np.float64) for name in NAMES)
    np.testing.assert_allclose(out["total"], total, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_losses_equal_stored_ones_also_where_a_direction_is_undefined(stored, variant):
    with jax.enable_x64(True):
        inputs = arguments(stored, jnp.float64)

        def total(moved):
            out = losses_of(variant)(**inputs | moved)
            return sum(out[name].sum() for name in ("clip_g", "clip_d", "clip_s"))

        moved = {name: inputs[name] for name in ("result_image", "result_patches")}
        grads = jax.tree.map(np.asarray, jax.jit(jax.grad(total))(moved))
    for name, key in (("result_image", "grad_i_res"), ("result_patches", "grad_f_res")):
        expected = stored[f"{variant}/{key}"]
        assert np.isfinite(grads[name]).all()
        scale = np.abs(expected).reshape(len(expected), -1).max(axis=1)
        scale = scale.reshape(-1, *[1] * (expected.ndim - 1))
        assert (np.abs(grads[name] - expected) <= 1e-9 * scale + 1e-15).all()


def test_losses_keep_their_bounds_and_weights():
    draw = np.random.default_rng(0).standard_normal
    vectors = ("semantic_edited", "semantic_original", "source_text", "target_text")
    vectors += ("source_image", "result_image")
    inputs = {name: jnp.asarray(draw((50, 4)), jnp.float32) for name in vectors}
    inputs |= {
        name: jnp.asarray(draw((50, 6, 2)), jnp.float32)
        for name in ("source_patches", "result_patches")
    }
    weights = {"alpha": 0.3, "beta": 2.0, "guidance": 0.5, "direction": 0.7, "structure": 5.0}
    out = jax.jit(lambda inputs: RegionLosses(**weights)(**inputs))(inputs)
    for name in ("sem_edited", "sem_original", "clip_g", "clip_d"):
        assert float(out[name].min()) >= 0
        assert float(out[name].max()) <= 2 + 1e-6
    assert float(out["clip_s"].min()) >= 0
    assert float(out["clip_s"].max()) <= 4
    clip = 0.5 * out["clip_g"] + 0.7 * out["clip_d"] + 5.0 * out["clip_s"]
    expected = 0.3 * (out["sem_edited"] + out["sem_original"]) + 2.0 * clip
    np.testing.assert_allclose(out["total"], expected, rtol=1e-6)


def test_similarities_have_a_unit_diagonal_are_symmetric_and_do_not_see_lengths():
    patches = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 5)), jnp.float32)
    sim = jax.jit(similarities)(patches)
    np.testing.assert_allclose(np.diagonal(sim, axis1=1, axis2=2), 1, atol=1e-6)
    np.testing.assert_allclose(sim, sim.transpose(0, 2, 1), atol=1e-6)
    scaled = jax.jit(similarities)(patches * jnp.arange(1.0, 10)[:, None])
    np.testing.assert_allclose(scaled, sim, atol=1e-6)
    assert float(jnp.abs(similarities(patches + 1) - sim).max()) > 0.1


def test_length_has_no_gradient_at_zero():
    grad = jax.grad(lambda x: length(x).sum())(jnp.asarray([[0.0, 0.0], [3.0, 4.0]]))
    np.testing.assert_allclose(grad, [[0, 0], [0.6, 0.8]], atol=1e-6)


def test_losses_of_half_precision_are_float32(stored):
    inputs = arguments(stored, jnp.bfloat16)
    out = jax.jit(lambda inputs: RegionLosses()(**inputs))(inputs)
    assert {value.dtype for value in out.values()} == {jnp.dtype(jnp.float32)}


# --- the terms that the paper lacks


def terms(logits, **settings):
    embeds = jnp.asarray(np.random.default_rng(0).standard_normal((len(logits), 5)), jnp.float32)
    return jax.jit(lambda logits: RegionTerms(**settings)(logits, embeds, 2 * embeds))(logits)


def test_terms_are_off_by_default_and_logged_always():
    out = terms(jnp.asarray(np.random.default_rng(1).standard_normal((3, 16)), jnp.float32))
    assert np.array_equal(out["total"], np.zeros(3))
    logged = ("area", "outside", "variation", "entropy", "contrast")
    assert {f"region_{name}" for name in logged} | {"total"} == out.keys()


def test_terms_measure_what_they_say():
    half = jnp.where(jnp.arange(16) % 4 < 2, 30.0, -30.0)  # the left half of a 4 x 4 grid
    logits = jnp.stack([jnp.full(16, 30.0), half, jnp.zeros(16), jnp.full(16, -30.0)])
    out = terms(logits, least_area=0.1, most_area=0.6)
    np.testing.assert_allclose(out["region_area"], [1, 0.5, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(out["region_outside"], [0.4, 0, 0, 0.1], atol=1e-6)
    np.testing.assert_allclose(out["region_variation"], [0, 1 / 3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(out["region_entropy"], [0, 0, np.log(2), 0], atol=1e-5)
    assert float(out["region_contrast"].max()) < np.log(4)  # each finds its own text
    weighted = terms(logits, area=2.0, most_area=0.6, least_area=0.1, entropy=3.0)
    expected = 2 * out["region_outside"] + 3 * out["region_entropy"]
    np.testing.assert_allclose(weighted["total"], expected, atol=1e-6)


# --- the whole step


class Step:
    """Stored inputs, the frozen CLIP and the loss of one form, in one precision."""

    def __init__(self, form, dtype):
        folder = GOLDEN / "region"
        self.stored, self.dtype = np.load(folder / "end_to_end.npz"), dtype
        self.form = form
        kinds = {"clip_vision": "clip", "clip_text": "clip", "t5": "t5", "region": f"region_{form}"}
        models = [brushjax.load(kind, folder / name) for kind, name in kinds.items()]
        if dtype == jnp.float64:
            models = [doubled(model) for model in models]
        self.models = dict(zip(kinds, models, strict=True))
        self.graph, state = nnx.split(models[-1])
        self.params = nnx.to_pure_dict(state)
        self.frozen = jax.jit(self.encode)()
        self.gradients = jax.jit(
            jax.value_and_grad(functools.partial(self.total, beta=1.0), (0, 1), has_aux=True),
            # It runs 22 times, which takes a minute in float64 without optimisation.
            compiler_options={"xla_backend_optimization_level": 3 if dtype == "float64" else 0},
        )
        self.nothing = jnp.zeros((3, 64), dtype)

    def __getitem__(self, name):
        return self.stored[f"{self.form}/{name}"]

    def pictures(self, name):
        return jnp.asarray(self.stored[name] / 127.5 - 1, self.dtype)

    def see(self, pictures):
        return self.models["clip_vision"].embed(Placement(64, 8).view(pictures))

    def encode(self):
        """Returns all that depends on frozen parameters alone."""
        ids = {name: jnp.asarray(self.stored[name]) for name in ("ids_o", "ids_e", "ids_ins")}
        texts = [self.models["clip_text"](ids[name]).text_embeds for name in ("ids_o", "ids_e")]
        instruction = self.models["t5"](ids["ids_ins"], jnp.asarray(self.stored["mask_ins"]))
        return texts, instruction, self.see(self.pictures("image_uint8"))

    def total(self, params, shift, beta):
        """Returns the loss, and what it was made of; `shift` is added to the logits."""
        (source_text, target_text), instruction, original = self.frozen
        predictor, patches = nnx.merge(self.graph, params), original.patch_embeds
        regions = predictor(patches, instruction, jnp.asarray(self.stored["mask_ins"], bool))
        compose, path = Composition(Placement(64, 8)), MaskPath()
        inputs = {
            "semantic_edited": predictor.semantics(regions.edited),
            "semantic_original": predictor.semantics(patches),
            "source_text": source_text,
            "target_text": target_text,
            "source_image": original.image_embeds,
            "source_patches": patches,
        }

        def losses_of_mask(mask):
            sources = (self.pictures("image_uint8"), self.pictures("donor_uint8"))
            result = self.see(compose(mask, *sources, path))
            made = {
                "result_image": result.image_embeds,
                "result_patches": result.patch_embeds,
            }
            plain = losses_of("plain")(**inputs, **made)
            return losses_of("normalized", beta=beta)(**inputs, **made) | {"plain": plain["clip_d"]}

        keys = jax.random.split(jax.random.key(0), 3)
        losses = through_mask(losses_of_mask, regions.logits + shift, keys, path)
        return losses["total"].mean(), (losses, regions)

    def named(self, tree):
        leaves = nnx.traversals.flatten_mapping(tree)
        return {
            checkpoint_name(path): to_torch(path[-1], np.asarray(leaf))
            for path, leaf in leaves.items()
        }


DOUBLE = ("literal", "float64", 1e-9)
CASES = [DOUBLE, pytest.param(("residual", "float32", 1e-3), marks=pytest.mark.heavy)]
SLOW = [
    pytest.param(case, marks=pytest.mark.slow)
    for case in (("residual", "float64", 1e-9), ("literal", "float32", 1e-3))
]


@pytest.fixture(scope="module", params=[*CASES, *SLOW], ids=lambda case: "-".join(case[:2]))
def step(request):
    form, dtype, _ = request.param
    with jax.enable_x64(dtype == "float64"):
        made = Step(form, jnp.dtype(dtype))
        made.tolerance = request.param[2]
        yield made


def test_step_losses_and_gradients_equal_stored_ones(step):
    (_, (losses, regions)), (grads, by_logits) = step.gradients(step.params, step.nothing)
    for key, name in NAMES.items():
        expected = step[f"normalized/{name}"]
        np.testing.assert_allclose(losses[key], expected, rtol=step.tolerance / 20, err_msg=key)
    np.testing.assert_allclose(losses["plain"], step["plain/l_d"], rtol=step.tolerance / 20)
    assert error(regions.logits, step["logits"]) <= step.tolerance / 20
    for name, grad in step.named(grads).items():
        expected = step[f"normalized/grad/{name}"]
        scale = np.abs(expected).max()  # one bias has a single number, without a deviation
        assert np.abs(grad - expected).max() <= step.tolerance * scale, name
    assert error(by_logits, step["normalized/grad_logits"]) <= step.tolerance
    slope = regions.probability * (1 - regions.probability)
    assert error(by_logits / slope, step["normalized/grad_p"]) <= step.tolerance


def test_twenty_steps_of_adamw_equal_stored_ones(step):
    optimizer = optax.adamw(1e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)

    @jax.jit
    def update(grads, state, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, losses = step.params, []
    state = optimizer.init(params)
    for _ in range(21):
        final = params
        (loss, _), (grads, _) = step.gradients(params, step.nothing)
        params, state = update(grads, state, params)
        losses.append(loss)
    double = step.dtype == jnp.float64
    expected = step["adamw/loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-8 if double else 1e-3)
    assert expected[-1] < expected[0]
    for name, value in step.named(final).items():
        wanted = step[f"adamw/final/{name}"]
        apart = np.linalg.norm(value - wanted) / np.linalg.norm(wanted)
        assert apart <= (1e-6 if double else 1e-4), name


@pytest.mark.parametrize("form", [pytest.param("literal", marks=pytest.mark.slow), "residual"])
def test_without_clip_the_mask_head_gets_exactly_no_gradient(form):
    with jax.enable_x64(True):
        step = Step(form, jnp.dtype("float64"))
        without = functools.partial(step.total, beta=0.0)
        grads, _ = jax.jit(jax.grad(without, has_aux=True))(step.params, step.nothing)
        grads = step.named(grads)
    heads = ("self_attention", "mlp", "norm_self", "norm_mlp")
    for name, grad in grads.items():
        if name.startswith(heads):
            assert not grad.any(), name
        else:
            assert grad.any(), name
            assert error(grad, step[f"beta0/grad/{name}"]) <= 1e-9, name
