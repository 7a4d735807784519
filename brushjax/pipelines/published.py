"""The frozen base of a run: its parts' configs, noise schedule and tokenizer.

A base is a pipeline folder in diffusers layout or a hub id. Of the published bases in `PUBLISHED`
everything but the weights is known here, so that a recipe can be checked, counted and compiled on a
machine that holds neither weights nor network.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from brushjax.config import ConfigError
from brushjax.data.text import LENGTH, Tokenizer
from brushjax.diffusion.schedule import STABLE_DIFFUSION, read_scheduler_config
from brushjax.models.encoders.clip import CLIPTextConfig
from brushjax.models.unet import UNetConfig
from brushjax.models.vae import VAEConfig
from brushjax.weights import folders

C = TypeVar("C")

START, END = 49406, 49407  # CLIP's vocabulary
SECOND_PAD = 0  # "!": what SDXL's second tokenizer fills up with, where the first repeats the end
NOISE = {**STABLE_DIFFUSION, "prediction_type": "epsilon"}  # of Stable Diffusion 1 and XL


@dataclasses.dataclass(frozen=True)
class Base:
    """What a base is, apart from its weights.

    Attributes:
      text: configs of its one text encoder, or of SDXL's two.
      noise: its scheduler config.
      local: folder on this machine, or None of a published one that is not here.
    """

    unet: UNetConfig
    vae: VAEConfig
    text: tuple[CLIPTextConfig, ...]
    noise: dict[str, Any] = dataclasses.field(hash=False)
    local: str | None

    @property
    def empty_ids(self) -> np.ndarray:
        """The token ids of an empty caption, int32 [L]."""
        if self.local is None:
            return np.array([START] + [END] * (LENGTH - 1), np.int32)
        return read_tokenizer(self.local)([""])[0]

    @property
    def end_id(self) -> int:
        """The token id that ends a caption."""
        return END if self.local is None else read_tokenizer(self.local).end_id


PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Base(
        UNetConfig.sd15(), VAEConfig(), (CLIPTextConfig.sd15(),), NOISE, None
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": Base(
        UNetConfig.sdxl(),
        VAEConfig.sdxl(),
        (CLIPTextConfig.sd15(), CLIPTextConfig.sdxl_2()),
        NOISE,
        None,
    ),
}


def read_base(base: str) -> Base:
    """Returns what a folder or hub id holds; reads no weights.

    Raises: ConfigError if the folder lacks a part.
    """
    if base in PUBLISHED and not Path(base).exists():
        return PUBLISHED[base]
    return _read_local(base)


def read_tokenizer(base: str) -> Tokenizer:
    """Returns the tokenizer of a folder or hub id; read once."""
    return _read_tokenizer(str(folders.local_path(base, ())))


def read_config(kind: type[C], folder: str, part: str) -> C:
    """Returns a model's published config from its folder, or from a pipeline folder that has it as
    `part`.

    Raises: ConfigError if there is none.
    """
    places = [Path(folder) / part / "config.json", Path(folder) / "config.json"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConfigError(
            f"expected the {part} of a pipeline in diffusers layout at {folder}: neither of "
            f"{[str(place) for place in places]} is there. Known without files are "
            f"{', '.join(PUBLISHED)}"
        )
    return _read_config(kind, str(path))


@functools.cache
def _read_local(base: str) -> Base:
    local = base if Path(base).exists() else _downloaded(base)
    unet = read_config(UNetConfig, local, "unet")
    text = [read_config(CLIPTextConfig, local, "text_encoder")]
    if (Path(local) / "text_encoder_2").is_dir():
        text.append(read_config(CLIPTextConfig, local, "text_encoder_2"))
    return Base(
        unet=unet,
        vae=read_config(VAEConfig, local, "vae"),
        text=tuple(text),
        noise=read_scheduler_config(local),
        local=local,
    )


def _downloaded(base: str) -> str:
    if not folders.HUB_ID.fullmatch(base):
        return base  # read_config says which file is missing
    return str(folders.local_path(base, ()))


@functools.cache
def _read_config(kind: type[C], path: str) -> C:
    return kind.from_dict(json.loads(Path(path).read_text()))  # type: ignore[attr-defined]


@functools.cache
def _read_tokenizer(folder: str) -> Tokenizer:
    return Tokenizer.load(folder)


def sizes(height: int, width: int) -> np.ndarray:
    """Returns SDXL's time ids of a picture that was not cut, float32 [6]: (height, width) of the
    source, (top, left) of the crop, and the target's (height, width)."""
    return np.array([height, width, 0, 0, height, width], np.float32)


def second_ids(token_ids: Int[Array, "B L"], end: int) -> Int[Array, "B L"]:
    """Returns SDXL's second tokenizer's ids: the first's with another padding.

    Args:
      token_ids: of the first tokenizer.
      end: id of its end token.
    """
    seen = jnp.cumsum(token_ids == end, axis=1)  # [B, L]: 1 at the end token, more behind it
    return jnp.where(seen > 1, SECOND_PAD, token_ids)
