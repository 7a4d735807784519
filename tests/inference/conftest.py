"""Networks small enough to compile in seconds."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import brushjax
from brushjax.data.text import train_tokenizer
from brushjax.inference.inpaint import Inpainter
from brushjax.models.brushnet import BrushNet, BrushNetConfig
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.nn import Shapes

SD15_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}


def filled(module, config, seed):
    """A network with random weights drawn by numpy: JAX would compile a draw for every shape."""
    graph, state = nnx.split(nnx.eval_shape(lambda: module(config, rngs=Shapes())))
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        values = random.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key in ("kernel", "embedding"):
            return jnp.asarray(values / np.sqrt(np.prod(leaf.shape[:-1])))
        return jnp.asarray(0.1 * values + (path[-1].key == "scale"))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state)))


def abstract(name, config):
    """A UNet or branch without memory, which has a config and nothing else to look at."""
    kind = {"unet": UNet, "brushnet": BrushNet}[name]
    return nnx.eval_shape(lambda: kind(config, rngs=Shapes()))


def make_parts():
    """A UNet, a branch whose taps are not zero, a VAE and a text encoder."""
    body = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
    }
    cross = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    text = CLIPTextConfig(
        vocab_size=600,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=598,
        eos_token_id=599,
    )
    vae = VAEConfig(block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2)
    return {
        "unet": filled(UNet, UNetConfig(**body, **cross), 0),
        "brushnet": filled(BrushNet, BrushNetConfig(**body, **plain), 1),
        "vae": filled(AutoencoderKL, vae, 2),
        "text_encoder": filled(CLIPText, text, 3),
    }


@pytest.fixture(scope="session")
def parts():
    return make_parts()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a red cat on a chair", "a blue cup"], folder, 600)
    return folder


@pytest.fixture(scope="session")
def painter(parts, tokenizer_folder):
    return Inpainter.from_parts(**parts, tokenizer=tokenizer_folder, scheduler=SD15_SCHEDULER)


@pytest.fixture(scope="session")
def pipeline(parts, tokenizer_folder, tmp_path_factory):
    """The same networks as a folder in diffusers layout."""
    folder = tmp_path_factory.mktemp("pipeline")
    for name, part in parts.items():
        brushjax.save(part, folder / name)
    shutil.copytree(tokenizer_folder, folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SD15_SCHEDULER))
    return folder
