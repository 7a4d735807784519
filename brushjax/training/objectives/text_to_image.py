"""Training a text-to-image model on the latents of a frozen autoencoder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.data.schema import Captioned
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.pipelines.published import read_config, read_tokenizer
from brushjax.training.objectives.contract import (
    Batch,
    Losses,
    Objective,
    blueprint,
    build,
    dtype_of,
    fresh,
    read,
    to_unit_range,
    with_autoencoder,
)
from brushjax.training.objectives.denoising import (
    NoiseConfig,
    draw,
    draw_timesteps,
    drop_captions,
    encode,
    gaussian,
    weighted_error,
)
from brushjax.training.state import named_keys
from brushjax.typing import Params


@dataclasses.dataclass(frozen=True)
class TextToImageObjective(Objective):
    """UNet and text encoder, learnt together from noise prediction."""

    unet: UNetConfig
    text_encoder: CLIPTextConfig
    """The size of the vocabulary and its special ids are replaced by the tokenizer's."""
    vae: str
    """Folder of the frozen autoencoder, or a pipeline folder that holds it."""
    tokenizer_folder: str
    base: str = ""
    """Pipeline folder of a UNet and a text encoder to go on from; empty starts afresh."""
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    caption_dropout: float = 0.1
    """Share of captions that are replaced by the empty one, for classifier-free guidance."""
    min_snr_gamma: float = 0.0
    """Of the min-SNR loss weighting; 0 weighs all timesteps equally."""

    def __post_init__(self) -> None:
        width = self.text_encoder.hidden_size
        if self.unet.cross_attention_dim != width:
            raise ConfigError(
                f"expected unet.cross_attention_dim {width}, the text encoder's hidden_size; "
                f"got {self.unet.cross_attention_dim}"
            )

    @property
    def trains(self) -> tuple[str, ...]:
        return r"unet\..*", r"text_encoder\..*"

    def shapes(self) -> Params:
        return {
            "unet": blueprint(UNet, self.unet)[1],
            "text_encoder": blueprint(CLIPText, self._text_config())[1],
            "vae": blueprint(AutoencoderKL, self._vae_config())[1],
        }

    def load(self, key: jax.Array, wanted: Params) -> Params:
        params = {"vae": read("vae", self.vae, wanted["vae"])}
        keys = named_keys(key, "unet", "text_encoder")
        models = {
            "unet": ("unet", UNet, self.unet),
            "text_encoder": ("clip_text", CLIPText, self._text_config()),
        }
        for name, (kind, model, config) in models.items():
            if name in wanted and self.base:
                params[name] = read(kind, self.base, wanted[name])
            elif name in wanted:
                params[name] = fresh(model, config, keys[name], wanted[name])
        return params

    def working(self, frozen: Params, dtype: Any) -> Params:
        return with_autoencoder(super().working(frozen, dtype), self._vae_config())

    def encode(self, record: Any) -> Mapping[str, np.ndarray]:
        return Captioned(read_tokenizer(self.tokenizer_folder))(record)

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        vae = build(AutoencoderKL, self._vae_config(), frozen["vae"])
        mean, deviation = encode(vae, to_unit_range(batch["image"], dtype_of(frozen["vae"])))
        return {"mean": mean, "deviation": deviation, "token_ids": batch["token_ids"]}

    def loss(self, params: Params, batch: Batch, keys: jax.Array) -> Losses:
        named = named_keys(keys, "latents", "noise", "timestep", "captions")
        unet = build(UNet, self.unet, params["unet"])
        text = build(CLIPText, self._text_config(), params["text_encoder"])
        schedule = self.noise.schedule()

        empty = read_tokenizer(self.tokenizer_folder)([""])[0]
        ids = drop_captions(batch["token_ids"], empty, self.caption_dropout, named["captions"])
        context = text(ids).last_hidden_state  # [B, L, D]

        # The noising is in float32; what the network sees is cast.
        mean, deviation = (batch[name].astype(jnp.float32) for name in ("mean", "deviation"))
        latents = draw(mean, deviation, named["latents"])  # [B, h, w, 4]
        noise = gaussian(named["noise"], latents)
        timestep = draw_timesteps(named["timestep"], schedule)
        noisy = schedule.add_noise(latents, noise, timestep).astype(dtype_of(params["unet"]))
        prediction = unet(noisy, timestep, context)
        target = schedule.target(latents, noise, timestep)
        return weighted_error(prediction, target, timestep, schedule, self.min_snr_gamma)

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        del batch
        weights.save(build(UNet, self.unet, trainable["unet"]), folder / "unet")
        text = build(CLIPText, self._text_config(), trainable["text_encoder"])
        weights.save(text, folder / "text_encoder")
        weights.save(weights.load("vae", self.vae), folder / "vae")
        read_tokenizer(self.tokenizer_folder).save(folder / "tokenizer")
        (folder / "scheduler").mkdir()
        write_json(folder / "scheduler" / "scheduler_config.json", self.noise.to_dict())
        write_json(folder / "model_index.json", PIPELINE)

    def _vae_config(self) -> VAEConfig:
        return read_config(VAEConfig, self.vae, "vae")

    def _text_config(self) -> CLIPTextConfig:
        tokenizer = read_tokenizer(self.tokenizer_folder)
        return dataclasses.replace(
            self.text_encoder,
            vocab_size=tokenizer.vocabulary_size,
            bos_token_id=tokenizer.start_id,
            eos_token_id=tokenizer.end_id,
            pad_token_id=tokenizer.end_id,
        )


PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
"""The model_index.json of a pipeline without a safety checker."""


def write_json(path: Path, content: object) -> None:
    """Writes JSON as published pipelines do."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
