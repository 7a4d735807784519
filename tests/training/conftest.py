"""A base model small enough to be made and trained in seconds."""

import dataclasses

import jax
import pytest

from brushjax import weights
from brushjax.data.pipeline import PhotoData
from brushjax.data.sets.photos import all_captions
from brushjax.data.text import train_tokenizer
from brushjax.models.encoders.clip import CLIPTextConfig
from brushjax.models.unet import UNetConfig
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.nn import Keys
from brushjax.training.batches import stack
from brushjax.training.objectives.text_to_image import TextToImageObjective
from tests.support import loaded

VAE = VAEConfig(block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2)
UNET = UNetConfig(
    block_out_channels=(8, 8),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=8,
    attention_head_dim=2,
    norm_num_groups=4,
)
TEXT = CLIPTextConfig(
    hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
)
DATA = PhotoData(size=32, sides=(32, 64), pool=8)
QUICK = {"xla_backend_optimization_level": 0}  # compiled once, run once


@pytest.fixture(scope="session")
def text_to_image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    weights.save(
        AutoencoderKL(dataclasses.replace(VAE, scaling_factor=0.5), rngs=Keys(0)), folder / "vae"
    )
    train_tokenizer(all_captions(), folder / "tokenizer", size=600)
    return TextToImageObjective(UNET, TEXT, vae=str(folder), tokenizer_folder=str(folder))


@pytest.fixture(scope="session")
def base(text_to_image, tmp_path_factory):
    """The folder of an untrained pipeline."""
    folder = tmp_path_factory.mktemp("base")
    text_to_image.export(loaded(text_to_image, jax.random.key(0))[0], folder, {})
    return folder


@pytest.fixture(scope="session")
def batch(text_to_image):
    return stack(DATA.source(text_to_image.encode), range(2))
