"""Prompts of any length, and the two text encoders of SDXL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from brushjax.data.text import Tokenizer
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.pipelines.text import Encoder, TextEncoders
from tests.inference.conftest import filled

SMALL = {
    "vocab_size": 600,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": 598,
    "eos_token_id": 599,
}
LONG = "a red cat on a chair " * 40


@pytest.fixture(scope="module")
def pair(tokenizer_folder):
    second = SMALL | {"architectures": ("CLIPTextModelWithProjection",), "projection_dim": 6}
    models = [filled(CLIPText, CLIPTextConfig(**config), i) for i, config in
              enumerate((SMALL, second))]  # fmt: skip
    tokenizers = [Tokenizer.load(tokenizer_folder), Tokenizer.load(tokenizer_folder, padding="!")]
    return models, tokenizers


@jax.jit
def run(model, ids):
    return model(ids)


def test_one_encoder_gives_the_normed_last_state(pair):
    (model, _), (tokenizer, _) = pair
    features = TextEncoders(Encoder.of(model, tokenizer))(["a red cat", ""])
    output = run(model, jnp.asarray(tokenizer(["a red cat", ""])))
    np.testing.assert_allclose(features.context, output.last_hidden_state, atol=3e-6)
    assert features.pooled is None


def test_two_encoders_give_the_last_but_one_states_and_the_pooled_text(pair):
    models, tokenizers = pair
    features = TextEncoders(*map(Encoder.of, models, tokenizers))(["a red cat", LONG], rows=1)
    texts = tokenizers[0].chunks(["a red cat", LONG]), tokenizers[1].chunks(["a red cat", LONG])
    rows = texts[0].shape[1]
    assert rows > 2
    assert features.context.shape == (2, rows * 77, 16)
    for row in range(rows):
        outputs = [run(m, jnp.asarray(ids[:, row])) for m, ids in zip(models, texts)]
        states = np.concatenate([output.hidden_states[-2] for output in outputs], axis=-1)
        part = features.context[:, 77 * row : 77 * (row + 1)]
        np.testing.assert_allclose(part, states, atol=1e-5)  # float32 rounding, values near 1
        if row == 0:
            np.testing.assert_allclose(features.pooled, outputs[1].text_embeds, atol=1e-5)


@pytest.mark.slow
def test_long_prompts_act_beyond_their_first_row_and_keep_the_others_result(painter):
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    mask = np.zeros((24, 32), np.uint8)
    mask[8:20, 8:20] = 255
    settings = {"steps": 3, "seed": 1}
    one, other = (
        painter(image, mask, LONG + end, "chair", **settings).latents for end in ("a cup", "blue")
    )
    assert np.abs(one - other).max() > 1e-3 * one.std()
    both = painter(image, mask, [LONG + "a cup", "blue"], "chair", steps=3, seed=[1, 1]).latents
    assert np.abs(both[0] - one[0]).max() <= 1e-5 * one.std()


def test_tokenizers_may_be_functions(pair):
    (model, _), (tokenizer, _) = pair
    graph, state = nnx.split(model)
    encoder = Encoder(graph, nnx.to_pure_dict(state), lambda prompts: tokenizer(prompts)[:, :9])
    assert TextEncoders(encoder)(["a", "b"]).context.shape == (2, 9, 8)
