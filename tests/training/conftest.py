"""A base model small enough to be made and trained in seconds."""

import dataclasses

import pytest

from brushjax import weights
from brushjax.data.pipeline import PhotoData
from brushjax.data.sets.photos import all_captions
from brushjax.data.text import train_tokenizer
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.training.batches import stack
from brushjax.training.objectives.contract import parameters
from brushjax.training.objectives.text_to_image import TextToImageObjective
from tests.inference.conftest import filled

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
    vae = filled(AutoencoderKL, dataclasses.replace(VAE, scaling_factor=0.5), 0)
    weights.save(vae, folder / "vae")
    train_tokenizer(all_captions(), folder / "tokenizer", size=600)
    return TextToImageObjective(UNET, TEXT, vae=str(folder), tokenizer_folder=str(folder))


@pytest.fixture(scope="session")
def untrained(text_to_image):
    """What is trained, of numpy's numbers: JAX would take ten seconds to compile as many draws."""
    text = filled(CLIPText, text_to_image._text_config(), 1)
    return {"unet": parameters(filled(UNet, UNET, 2)), "text_encoder": parameters(text)}


@pytest.fixture(scope="session")
def base(text_to_image, untrained, tmp_path_factory):
    """The folder of an untrained pipeline."""
    folder = tmp_path_factory.mktemp("base")
    text_to_image.export(untrained, folder, {})
    return folder


@pytest.fixture(scope="session")
def batch(text_to_image):
    return stack(DATA.source(text_to_image.encode), range(2))
