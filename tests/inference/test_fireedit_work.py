"""What an edit by FireEdit computes at full size, traced only.

What comes before the text is computed for each of the three conditions, though the two with a
picture share it: 1.8 % of a step, which one batch for all three is worth.
"""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from brushjax.inference.engine.fireedit import Predictor
from brushjax.models.fireedit.editor import Seen
from brushjax.nn import Shapes, Streams
from brushjax.pipelines.fireedit import Sizes, join
from brushjax.training.scale.program import flops, trace
from brushjax.weights.fireedit import JOINED

STEPS = 100
CELLS = 64  # 512 pixels
SIZES = Sizes()


def shape(*axes):
    return jax.ShapeDtypeStruct(axes, jnp.float32)


@pytest.fixture(scope="module")
def graphs():
    made = {kind: SIZES.of(kind) for kind in JOINED if kind != "llama"}
    return {
        kind: nnx.split(
            nnx.eval_shape(lambda make=make, config=config: make(config, rngs=Shapes()))
        )
        for kind, (make, config) in made.items()
    }


@pytest.fixture(scope="module")
def count(graphs):
    """FLOPs of what a function of the joined parts and the inputs returns."""
    params = {kind: nnx.to_pure_dict(state) for kind, (_, state) in graphs.items()}
    features, picture = shape(1, 77, 768), shape(1, CELLS, CELLS, 4)
    seen = shape(1, 257, 1024), shape(1, 1024, 1024)

    def counted(function):
        def run(params, features, seen, picture):
            models = {kind: nnx.merge(graphs[kind][0], params[kind]) for kind in graphs}
            null = jnp.zeros((1, 77, 768))
            model = join(SIZES.edit, SIZES.sequence, {**models, "llama": None}, null)
            return function(model, features, Seen(*seen), picture)

        return flops(trace(run, params, features, seen, picture))

    return counted


@pytest.mark.heavy
def test_step_computes_three_predictions_and_little_more(count):
    def ahead(predict):
        return predict._views, predict._nulls

    def started(model, *inputs):
        return ahead(Predictor(model, *inputs))

    def stepped(model, *inputs):
        predict = Predictor(model, *inputs)
        x = jnp.zeros((1, CELLS, CELLS, 4))
        return predict(x, jnp.float32(7), jnp.array([1.5, 7.5])), ahead(predict)

    def prediction(model, features, seen, picture):
        unet = model.unet
        keys = unet.text_keys(features), unet.visual_keys(features[:, :16])
        time = unet.embed_time(jnp.ones(1), None, jnp.dtype("float32"))
        x = jnp.concatenate([picture, picture], axis=-1)
        return unet.denoise(x, time, Streams(*keys))[0], keys

    def keys_of(model, features, *_):
        unet = model.unet
        return unet.text_keys(features), unet.visual_keys(features[:, :16])

    def context(model, features, *_):
        return model.unet.text_keys(model.tati(features, jnp.ones(1)))

    def shared(model, features, seen, picture):
        """Up to where the text comes in, the two conditions with a picture are one."""
        block = model.unet.down_blocks[0]
        time = model.unet.embed_time(jnp.ones(1), None, jnp.dtype("float32"))
        x = model.unet.conv_in(jnp.concatenate([picture, picture], axis=-1))
        x = block.resnets[0](x, block.resnets[0].time_shift(time))
        transformer = block.attentions[0]
        tokens = transformer.proj_in(transformer.norm(x)).reshape(1, -1, x.shape[-1])
        inner = transformer.transformer_blocks[0]
        return inner.attn2.to_q(inner.norm2(tokens + inner.attn1(inner.norm1(tokens))))

    once = count(started)
    step = count(stepped) - once
    least = 3 * (count(prediction) - count(keys_of)) + count(context) - count(shared)
    assert STEPS * step + once <= 1.02 * (STEPS * least + once)
