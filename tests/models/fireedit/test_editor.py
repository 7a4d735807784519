"""FireEdit as a whole against stored numbers, from the language model's states on."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import brushjax
from brushjax.diffusion.guidance import guided
from brushjax.diffusion.schedule import Schedule
from brushjax.models.fireedit import vlm
from brushjax.models.fireedit.editor import (
    Conditions,
    FireEdit,
    FireEditConfig,
    Seen,
    Understood,
    as_map,
    detector_features,
    dropped,
)
from brushjax.models.fireedit.proposals import select
from brushjax.models.placement import Placement
from brushjax.weights.adapters.ip_adapter import with_ip_adapter
from tests.models.fireedit.golden import FOLDER, TOLERANCE, Golden, deviation, named
from tests.models.fireedit.test_unet import nchw, nhwc
from tests.models.fireedit.test_vlm import settings

WHOLE = 1e-4  # of the std; PyTorch's own float32 is 1.3e-5 off inside the whole


class NoLanguageModel(nnx.Module):
    """Stands where the language model does; the tests start from its stored states."""


@pytest.fixture(scope="module")
def golden():
    return Golden("whole")


def part(golden, kind, file, **config):
    return brushjax.load(kind, FOLDER / "whole" / f"{file}.safetensors", config=config)


def unet(golden):
    config = json.loads((golden.folder / "unet_config.json").read_text())
    model = part(golden, "unet", "unet", **config)
    return with_ip_adapter(model, golden.folder / "ip_adapter.safetensors")


@pytest.fixture(scope="module")
def editor(golden):
    c = golden.config
    wide, llm = c["cross_dim"], c["llm_dim"]
    regions = {"channels": c["vision_dim"], "groups": c["region_groups"], "out_dim": llm}
    regions |= {"pos_hidden": c["region_pos_hidden"], "feature_dim": c["region_feature"]}
    queries = {"hidden": wide, "heads": c["qformer_heads"], "layers": c["qformer_layers"]}
    queries |= {"ffn": c["qformer_ffn"], "encoder_width": llm, "num_queries": c["num_queries"]}
    mixed = {"width": wide, "heads": c["hvca_heads"], "dim_head": c["hvca_dim_head"]}
    mixed |= {"depth": c["hvca_depth"], "num_queries": c["hvca_queries"]}
    mixed |= {"clip_dim": c["clip_dim"], "dino_dim": c["vision_dim"]}
    return FireEdit(
        FireEditConfig(visual_scale=c["ip_scale"]),
        settings(golden),
        llama=NoLanguageModel(),
        bridge=part(golden, "bridge", "groma", vision_dim=c["vision_dim"], llm_dim=llm),
        region_encoder=part(
            golden, "region_encoder", "groma", image_size=c["image_size"], **regions
        ),
        qformer=part(golden, "qformer", "smartedit_qformer", **queries),
        tati=part(golden, "tati", "ella", **c["tati"]),
        hvca=part(golden, "hvca", "hvca", **mixed),
        unet=unet(golden),
        null_context=jnp.asarray(tokens(golden)["null_context"]),
    )


def tokens(golden):
    return load_file(golden.folder / "tokens.safetensors")


def sequence(golden, prefix=""):
    names = ("input_ids", "slot_type", "slot_index", "labels")
    return vlm.Sequence(*(np.asarray(golden.io[prefix + name], np.int32) for name in names))


def region_mask(golden):
    return jnp.arange(golden.config["region_slots"]) < golden["num_boxes"][:, None]


def hidden(golden):
    return tuple(golden["dino_hidden_last4"])


def dino_tokens(golden):
    """The last layer after its norm, without the class token."""
    weights, x = tokens(golden), golden["dino_hidden_last4"][-1]
    x = x - x.mean(-1, keepdims=True)
    x = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + golden.config["dino_final_norm_eps"])
    return (x * weights["dinov2_layernorm.weight"] + weights["dinov2_layernorm.bias"])[:, 1:]


def test_boxes_equal_the_stored_ones(golden):
    settings = golden.config["proposer"]
    model = part(golden, "proposer", "groma", **settings)
    run = jax.jit(lambda model, hidden: model(detector_features(hidden, 4)))
    found = run(model, hidden(golden))
    assert deviation(found.boxes, golden.io["proposer/pred_boxes"]) <= TOLERANCE
    count, threshold = golden.config["region_slots"], settings["score_threshold"]
    boxes, mask = select(found, count, iou=settings["nms_iou"], threshold=threshold)
    np.testing.assert_array_equal(mask, region_mask(golden))
    assert deviation(boxes, golden.io["boxes"]) <= TOLERANCE


def test_picture_and_regions_equal_the_stored_ones(golden, editor):
    see = jax.jit(lambda editor, *inputs: editor.see(*inputs))
    image, regions = see(editor, hidden(golden), golden["boxes"], region_mask(golden))
    assert deviation(image, golden.io["edit/image_tokens"]) <= WHOLE
    stored = golden.io["edit/region_tokens"]
    assert deviation(np.asarray(regions)[np.asarray(region_mask(golden))], stored) <= WHOLE
    assert not np.asarray(regions)[~np.asarray(region_mask(golden))].any()
    plan = sequence(golden)
    mask = vlm.visible(plan, region_mask(golden))
    np.testing.assert_array_equal(mask, golden.io["attention_mask"])
    table = np.concatenate(
        [
            load_file(golden.folder / "llm.safetensors")["model.embed_tokens.weight"],
            tokens(golden)["new_embed"],
        ]
    )
    x = vlm.embedded(plan, jnp.asarray(table[plan.ids]), image, regions, mask)
    assert deviation(x, golden.io["edit/inputs_embeds"]) <= WHOLE


def edit(golden, editor, states, u=None):
    """From the language model's states to the prediction, with conditions dropped."""
    understood = editor.digest(sequence(golden), states)
    f, time = understood.features, golden["timesteps"]
    lost = dropped(jnp.ones(len(f)) if u is None else u, editor.config.drop_probability)
    conditions = editor.conditions(
        f,
        time,
        Seen(golden["clip_tokens"], dino_tokens(golden)),
        nhwc(golden["image_latents"]),
        lost,
    )
    noisy = nhwc(golden["edit/noisy_latents"])
    return understood, conditions, editor.predict(noisy, time, conditions)


@pytest.fixture(scope="module")
def run(golden):
    return jax.jit(lambda editor, states, u: edit(golden, editor, states, u))


def test_edit_equals_the_stored_one_from_the_language_models_states_on(golden, editor, run):
    understood, conditions, out = run(editor, golden["edit/hidden"], jnp.ones(3))
    assert deviation(understood.tokens, golden.io["edit/e_llm"]) <= WHOLE
    assert deviation(understood.features, golden.io["edit/f"]) <= WHOLE
    assert deviation(conditions.context, golden.io["edit/e_t"]) <= WHOLE
    assert deviation(conditions.visual, golden.io["edit/v"]) <= WHOLE
    assert deviation(nchw(out), golden.io["edit/unet_out"]) <= WHOLE
    loss = jnp.mean((out - nhwc(golden["noise"])) ** 2)
    np.testing.assert_allclose(loss, golden.io["edit/L_diff"], rtol=1e-5)


def test_edit_without_some_conditions_equals_the_stored_one(golden, editor, run):
    _, conditions, out = run(editor, golden["edit/hidden"], golden["drop/u"])
    assert deviation(conditions.context, golden.io["drop/context"]) <= WHOLE
    assert deviation(conditions.visual, golden.io["drop/v"]) <= WHOLE
    assert deviation(nchw(conditions.image_latents), golden.io["drop/image_latents_used"]) <= WHOLE
    assert deviation(nchw(out), golden.io["drop/unet_out"]) <= WHOLE
    loss = jnp.mean((out - nhwc(golden["noise"])) ** 2)
    np.testing.assert_allclose(loss, golden.io["drop/L_diff"], rtol=1e-5)


FILES = {
    "qformer": "smartedit_qformer.safetensors:",
    "tati": "ella.safetensors:",
    "hvca": "hvca.safetensors:",
}


@pytest.mark.slow  # half a minute of compiling; every part's own gradients are compared always
def test_edit_gradients_equal_the_stored_ones(golden, editor):
    """Of the parts behind the language model, of the UNet's inputs, and of the second stream."""
    stored = np.load(golden.folder / "grads.npz")
    norms = dict(zip(stored["edit/all_names"], stored["edit/all_grad_norms"], strict=True))
    graph, state = nnx.split(editor)
    noise, states = nhwc(golden["noise"]), golden["edit/hidden"]

    @jax.jit
    def gradient(params):
        def loss(params):
            out = edit(golden, nnx.merge(graph, params), states)[-1]
            return jnp.mean((out - noise) ** 2)

        return jax.grad(loss)(params)

    tree = gradient(nnx.to_pure_dict(state))
    total, compared = stored["edit/total_grad_norm"], 0
    for kind, file in FILES.items():
        for name, ours in named(tree[kind]).items():
            norm = norms[file + name]
            assert abs(np.linalg.norm(ours) - norm) <= 1e-4 * norm + 1e-6 * total, name
            compared += 1
            full = f"edit/grad/{file}{name}"
            if full in stored.files:
                assert deviation(ours, stored[full]) <= WHOLE, name
    for name, ours in named(tree["unet"]).items():
        if "_ip." in name:
            continue
        norm = norms[f"unet.safetensors:{name}"]
        assert abs(np.linalg.norm(ours) - norm) <= 1e-4 * norm + 1e-6 * total, name
        compared += 1
    first = named(tree["unet"])[
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k_ip.weight"
    ]
    assert (
        deviation(first, stored["edit/grad/ip_adapter.safetensors:ip_adapter.1.to_k_ip.weight"])
        <= WHOLE
    )
    assert compared > 200


def test_answer_loss_equals_the_stored_one(golden):
    plan, config = sequence(golden), settings(golden)
    states, labels, there = vlm.answers(config, plan, golden["edit/hidden"])
    head = np.concatenate(
        [
            load_file(golden.folder / "llm.safetensors")["lm_head.weight"],
            tokens(golden)["new_head"],
        ]
    )
    logits = states @ head.T
    assert (
        deviation(np.asarray(logits)[np.asarray(there)], golden.io["edit/supervised_logits"])
        <= WHOLE
    )
    total, count = vlm.answer_loss(logits, labels, there)
    assert count == len(golden.io["edit/supervised_logits"])
    np.testing.assert_allclose(total / count, golden.io["edit/L_vlm"], rtol=1e-5)


def test_guided_prediction_equals_the_stored_one(golden, editor):
    """Of one sample under nothing, the picture, and picture and instruction."""
    io, scales = golden.io, jnp.asarray(golden.config["guidance"][::-1])

    @jax.jit
    def run(editor, f, moment):
        seen = Seen(golden["clip_tokens"][:1], dino_tokens(golden)[:1])
        noisy = nhwc(io["guided/latents_scaled_input"])
        branches = editor.branches(f, moment, seen, nhwc(golden["image_latents"][:1]))
        parts = editor.predict(noisy, moment, branches)
        return branches, parts, editor.guided(noisy, moment, branches, scales)

    for time in ("981.0", "499.5"):
        branches, parts, mixed = run(editor, golden["edit/f"][:1], jnp.asarray([float(time)]))
        assert deviation(branches.context[2:], io[f"guided/{time}/e_t"]) <= WHOLE
        assert deviation(branches.visual[2:], io["guided/v_full"]) <= WHOLE
        assert deviation(branches.visual[1:2], io["guided/v_null_text"]) <= WHOLE
        stored = io[f"guided/{time}/eps_full_image_uncond"][::-1]
        assert deviation(nchw(parts), stored) <= WHOLE
        assert deviation(nchw(mixed), io[f"guided/{time}/eps_guided"]) <= WHOLE


def test_conditions_are_dropped_in_a_twentieth_of_the_samples_each():
    u = (jnp.arange(2000) + 0.5) / 2000
    lost = dropped(u, 0.05)
    both = lost.text & lost.image
    assert both.sum() == (lost.text & ~lost.image).sum() == (lost.image & ~lost.text).sum() == 100
    assert (~lost.text & ~lost.image).sum() == 1700
    assert u[both].min() >= 0.05
    assert u[both].max() < 0.10


def test_dual_guidance_has_the_numbers_computed_by_hand():
    nothing, picture, full = (jnp.asarray(e, jnp.float32) for e in ([1, 2], [2, 1], [4, 5]))
    expected = {(7.5, 1.5): [17.5, 30.5], (1, 1): full, (0, 1): picture, (0, 0): nothing}
    expected |= {(1, 0): [3, 6], (3, 3): nothing + 3 * (full - nothing)}
    for (text, image), value in expected.items():
        scales = jnp.asarray([image, text], jnp.float32)
        ours = guided([nothing, picture, full], scales)
        np.testing.assert_allclose(ours, value, rtol=1e-6)
        shifted = guided([nothing + 2, picture + 2, full + 2], scales)
        np.testing.assert_allclose(shifted, ours + 2, rtol=1e-6)


def test_guiding_the_noise_equals_guiding_the_clean_latents():
    """The weights add up to 1, so what is affine in the prediction may be guided as well."""
    rng = np.random.default_rng(0)
    noisy, *parts = jnp.asarray(rng.standard_normal((4, 2, 3, 3, 4)), jnp.float32)
    schedule = Schedule.from_config({"beta_schedule": "scaled_linear"})
    alpha, sigma = float(schedule.alphas[500]), float(schedule.sigmas[500])
    to_clean = lambda noise: (noisy - sigma * noise) / alpha  # noqa: E731
    scales = jnp.asarray([1.5, 7.5])
    ours = guided([to_clean(part) for part in parts], scales)
    np.testing.assert_allclose(ours, to_clean(guided(parts, scales)), rtol=1e-4, atol=1e-4)


def test_editor_reads_the_text_that_its_config_says(golden):
    with pytest.raises(ValueError, match=r"hvca_text in.*got 'bert'"):
        dataclasses.replace(FireEditConfig(), hvca_text="bert")


@pytest.mark.parametrize("shown", [True, False])
def test_language_model_reads_regions_where_they_are_to_be_shown(golden, editor, shown):
    masks = []

    class Model:
        def embed(self, ids):
            return jnp.zeros((*ids.shape, golden.config["llm_dim"]))

        def __call__(self, x, mask):
            masks.append(np.asarray(mask))
            return x

    def digest(sequence, states):
        return Understood(states, states[:, :1], jnp.ones((len(states), 1), bool), states)

    config = dataclasses.replace(editor.config, shows_regions=shown)
    parts = types.SimpleNamespace(config=config, llama=Model(), digest=digest)
    plan, there = sequence(golden), region_mask(golden)
    image = jnp.asarray(golden.io["edit/image_tokens"])
    regions = jnp.ones((*there.shape, image.shape[-1]))
    FireEdit.understand(parts, plan, image, regions, there)
    assert masks[0][plan.kind == vlm.REGION].any() == shown
    np.testing.assert_array_equal(masks[0], vlm.visible(plan, there & shown))


def test_small_model_adds_what_its_unet_gives_to_the_scaled_picture():
    read = {}

    def denoise(x, time, streams):
        read["x"] = x
        return (jnp.full((*x.shape[:3], 4), 0.25),)

    unet = types.SimpleNamespace(embed_time=lambda *_: None, denoise=denoise)
    picture = jnp.arange(2 * 2 * 2 * 4, dtype=jnp.float32).reshape(2, 2, 2, 4)
    conditions = Conditions(jnp.zeros((2, 1, 3)), jnp.zeros((2, 1, 3)), picture)
    scaled = types.SimpleNamespace(unet=unet, config=FireEditConfig(picture_scale=0.5))
    output = FireEdit.predict(scaled, jnp.zeros((1, 2, 2, 4)), jnp.zeros(1), conditions)
    np.testing.assert_array_equal(output, 0.5 * picture + 0.25)
    np.testing.assert_array_equal(read["x"][..., 4:], 0.5 * picture)


def test_map_of_patches_refuses_what_is_no_square():
    """A picture of 1 x 4000 pixels is brought to the encoder's square before."""
    with pytest.raises(ValueError, match="class token and a square of patches, got 285 patches"):
        as_map(jnp.zeros((1, 286, 4)))
    narrow = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 1, 4000, 3)), jnp.float32)
    view = Placement(112, 14).view(narrow)
    assert view.shape == (1, 112, 112, 3)
    assert np.isfinite(view).all()
