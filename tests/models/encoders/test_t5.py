"""T5's encoder against stored outputs, and in float64 against transformers through its files."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file
from transformers.models.t5 import modeling_t5

import brushjax
from brushjax.models.encoders.t5 import T5Config, buckets
from brushjax.weights.loading import abstract_model
from tests.support import GOLDEN, doubled, error
from tests.torch_reference import randomize

FOLDER = GOLDEN / "region" / "t5"
TINY = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 20,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 20,
}


@pytest.fixture(scope="module")
def stored():
    return np.load(GOLDEN / "region" / "t5_io.npz")


@pytest.fixture
def precise_norm(monkeypatch):
    """transformers takes the mean square in float32 whatever the dtype."""

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, True) + self.variance_epsilon)

    monkeypatch.setattr(modeling_t5.T5LayerNorm, "forward", forward)


@jax.jit
def run(model, ids, mask):
    return model(ids, mask)


@pytest.mark.parametrize("length", ["short", "long"])
def test_t5_equals_stored_outputs_in_both_precisions(stored, length):
    ids, mask, expected = (
        stored[f"{length}/{name}"]
        for name in ("input_ids", "attention_mask", "last_hidden_state_f64")
    )
    model = brushjax.load("t5", FOLDER)
    out = run(model, jnp.asarray(ids), jnp.asarray(mask))
    assert out.dtype == jnp.float32
    assert error(out, expected) <= 5e-5
    with jax.enable_x64(True):
        out = run(doubled(model), jnp.asarray(ids), jnp.asarray(mask))
        assert error(out, expected) <= 1e-9


def test_buckets_equal_stored_ones(stored):
    places = stored["buckets/relative_position"]
    assert np.array_equal(buckets(places, 32, 128), stored["buckets/bucket"])
    assert not np.array_equal(buckets(-places, 32, 128), stored["buckets/bucket"])


@pytest.mark.torch
@pytest.mark.usefixtures("float64", "precise_norm")
@pytest.mark.parametrize("form", ["relu", "gated-gelu"])
@pytest.mark.parametrize("whole", [False, True])
def test_t5_equals_transformers_from_its_own_and_a_whole_file(form, whole, tmp_path):
    config = transformers.T5Config(**TINY, feed_forward_proj=form)
    kind = transformers.T5ForConditionalGeneration if whole else transformers.T5EncoderModel
    reference = randomize(kind(config))
    reference.save_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(2, 40, (3, 50))
    mask = np.arange(50) < np.array([[50], [17], [1]])
    encoder = reference.encoder if whole else reference
    expected = encoder(torch.tensor(ids), attention_mask=torch.tensor(mask).long())
    model = doubled(brushjax.load("t5", tmp_path))
    out = run(model, jnp.asarray(ids), jnp.asarray(mask))
    assert error(out, expected.last_hidden_state) <= 1e-9

    brushjax.save(model, tmp_path / "again")
    kept = load_file(tmp_path / "again" / "model.safetensors")
    original = load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(value, original[name]) for name, value in kept.items())
    back = transformers.T5EncoderModel.from_pretrained(tmp_path / "again").double().eval()
    again = back(torch.tensor(ids), attention_mask=torch.tensor(mask).long())
    assert torch.equal(again.last_hidden_state, expected.last_hidden_state)


def test_t5_config_is_told_from_the_tensors(tmp_path):
    given = brushjax.load("t5", FOLDER).config
    bare = tmp_path / "weights.safetensors"
    bare.write_bytes((FOLDER / "model.safetensors").read_bytes())
    assert brushjax.load("t5", bare).config == given


def test_padding_changes_nothing(stored):
    model = brushjax.load("t5", FOLDER)
    ids, mask = stored["short/input_ids"], stored["short/attention_mask"]
    plain = run(model, jnp.asarray(ids), jnp.asarray(mask))
    longer = [np.pad(x, ((0, 0), (0, 7))) for x in (ids, mask)]
    longer[0][:, -7:] = 33  # whatever stands there
    padded = run(model, *map(jnp.asarray, longer))
    np.testing.assert_allclose(padded[:, :12], plain, atol=1e-5)
    unmasked = run(model, jnp.asarray(longer[0]), None)
    assert np.abs(unmasked[:, :12] - plain).max() > 1e-2


@pytest.mark.torch
def test_flan_t5_base_has_transformers_names_and_shapes():
    config = T5Config()
    given = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("architectures", "extra")
    }
    with torch.device("meta"):
        reference = transformers.T5EncoderModel(transformers.T5Config(**given))
    _, shapes = abstract_model("t5", config.to_dict())
    ours = sum(int(np.prod(shape.shape)) for shape in shapes.values())
    assert ours == sum(value.numel() for value in reference.parameters()) == 109_628_544


def test_t5_config_refuses_what_it_would_not_honour():
    with pytest.raises(ValueError, match="gated-silu"):
        T5Config.from_dict({"feed_forward_proj": "gated-silu"})
    with pytest.raises(ValueError, match="expected dense_act_fn 'gelu_new'"):
        T5Config.from_dict({"dense_act_fn": "gelu"})
    with pytest.raises(ValueError, match="model_type"):
        T5Config.from_dict({"model_type": "umt5"})
    with pytest.raises(ValueError, match="unknown setting"):
        T5Config.from_dict({"scale_embeddings": True})


def test_t5_computes_in_its_parameters_dtype(stored):
    model = brushjax.load("t5", FOLDER, dtype=jnp.bfloat16)
    ids, mask = (jnp.asarray(stored[f"short/{name}"]) for name in ("input_ids", "attention_mask"))
    out = run(model, ids, mask)
    assert out.dtype == jnp.bfloat16
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    assert error(np.asarray(out, np.float32), stored["short/last_hidden_state_f64"]) <= 0.2
