"""The smallest networks of the right kind, with random weights, and a sweep over them."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax.data.pipeline import PhotoData
from brushjax.evaluation.benchmarks.held_out import HeldOut, Steering
from brushjax.evaluation.branch import BranchEvaluation
from brushjax.evaluation.methods.inpainting import Sampling
from brushjax.evaluation.models import Models
from brushjax.models.brushnet import BrushNet
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.nn import Shapes
from tests.support import GOLDEN

CONFIG = BranchEvaluation(
    held_out=HeldOut(count=3, data=PhotoData(size=64, split="held_out", seed=1)),
    steering=Steering(count=3, classes=("galaxies", "flower"), hole=32, size=64, examples=10),
    sampling=Sampling(steps=2),
    batch_size=2,
    strips=2,
)


def words_to_ids(captions):
    """Stands in for a tokenizer: one id a letter."""
    ids = np.full((len(captions), 77), 199, np.int32)
    for row, caption in zip(ids, captions, strict=True):
        letters = [1 + ord(letter) % 190 for letter in caption[:70]]
        row[: len(letters)] = letters
    return ids


def random_model(kind, config, seed):
    """A model of random weights, drawn by numpy: no program is compiled for it."""
    model = nnx.eval_shape(lambda: kind(config, rngs=Shapes()))
    random, state = np.random.default_rng(seed), nnx.state(model)
    for path, leaf in nnx.to_flat_state(state):
        values = 0.1 * random.normal(size=leaf.shape) + (path[-1] == "scale")
        leaf.set_value(jnp.asarray(values, jnp.float32))
    nnx.update(model, state)
    return model


def parts():
    """Two levels, a few channels."""
    unet = UNetConfig(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    text = CLIPTextConfig(
        vocab_size=200,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=199,
    )
    return {
        "unet": random_model(UNet, unet, 0),
        "vae": random_model(AutoencoderKL, vae, 1),
        "text_encoder": random_model(CLIPText, text, 2),
        "tokenizer": words_to_ids,
        "scheduler": GOLDEN / "tiny_sd15_pipeline/scheduler",
    }


def models():
    """The base and a branch that does something: the zero convolutions of a new one would not."""
    base = parts()
    config = nnx.eval_shape(lambda: BrushNet.from_unet(base["unet"])).config
    return Models("random", parts=base, branch=random_model(BrushNet, config, 3))
