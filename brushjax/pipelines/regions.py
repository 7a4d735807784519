"""The frozen encoders that a region predictor reads: CLIP's two towers and one for instructions."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.data.text import Tokenizer, transformers_class
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.encoders.t5 import T5Config, T5Encoder
from brushjax.models.encoders.vit import CLIPVision, ViTConfig
from brushjax.models.placement import Placement
from brushjax.models.region import Threshold
from brushjax.pipelines.published import read_config, read_tokenizer
from brushjax.weights import folders

DESCRIPTION = "encoders.json"
SHIPPED_REGION = Path(__file__).parents[1] / "assets/region"  # with its tiny CLIP
OTSU = Threshold("otsu", min_area=0.02, max_area=0.9)
PAD = 0  # T5's
PROJECTED = ("CLIPTextModelWithProjection",)
CLIPS = {
    "openai/clip-vit-large-patch14": (
        ViTConfig.clip_l14(),
        dataclasses.replace(CLIPTextConfig.sd15(), architectures=PROJECTED),
    )
}
T5S = {"google/flan-t5-base": T5Config()}
"""Configs of published encoders, which a recipe can be checked and counted with unseen."""

Reader = CLIPText | T5Encoder


@dataclasses.dataclass(frozen=True)
class RegionEncoders:
    """Where the frozen encoders of learnable regions come from, and how they see a picture.

    Attributes:
      clip: folder or hub id of a whole CLIP, or a folder with clip_vision/, text_encoder/ and
        tokenizer/.
      reader: folder or hub id of the instruction encoder; empty takes CLIP's own text encoder.
      reader_kind: what it is.
      instruction_length: tokens of an instruction; longer ones are cut.
      patch_layer: whose states F_img and F_res are, see `CLIPVision.embed`.
      fit: how pictures of other shapes lie in CLIP's square, see `Placement`.
    """

    clip: str = "openai/clip-vit-large-patch14"
    reader: str = "google/flan-t5-base"
    reader_kind: Literal["t5", "clip_text"] = "t5"
    instruction_length: int = 64
    patch_layer: int = -1
    fit: Literal["squash", "letterbox"] = "squash"

    def __post_init__(self) -> None:
        if not self.reader and self.reader_kind != "clip_text":
            raise ConfigError(
                "expected reader_kind 'clip_text' with an empty reader, which is CLIP's own text "
                f"encoder; got {self.reader_kind!r}"
            )

    @property
    def absolute(self) -> RegionEncoders:
        """The same with folders' places from the root, so that they can be named in another one."""
        clip, reader = (
            str(Path(place).resolve()) if place and Path(place).is_dir() else place
            for place in (self.clip, self.reader)
        )
        return dataclasses.replace(self, clip=clip, reader=reader)

    @property
    def vision(self) -> ViTConfig:
        """Config of CLIP's image tower."""
        if _is_known(self.clip, CLIPS):
            return CLIPS[self.clip][0]
        return read_config(ViTConfig, _local(self.clip), "clip_vision")

    @property
    def text(self) -> CLIPTextConfig:
        """Config of CLIP's text tower."""
        if _is_known(self.clip, CLIPS):
            return CLIPS[self.clip][1]
        return read_config(CLIPTextConfig, _local(self.clip), "text_encoder")

    @property
    def instruction(self) -> T5Config | CLIPTextConfig:
        """Config of the instruction encoder."""
        if not self.reader:
            return self.text
        if self.reader_kind == "clip_text":
            return read_config(CLIPTextConfig, _local(self.reader), "text_encoder")
        if _is_known(self.reader, T5S):
            return T5S[self.reader]
        return read_config(T5Config, _local(self.reader), "t5")

    @property
    def instruction_width(self) -> int:
        """Width of F_ins."""
        config = self.instruction
        return config.d_model if isinstance(config, T5Config) else config.hidden_size

    @property
    def placement(self) -> Placement:
        """How a picture lies in CLIP's square input."""
        vision = self.vision
        return Placement(vision.image_size, vision.patch_size, self.fit)

    def models(self) -> dict[str, tuple[str, str, type[nnx.Module], Any]]:
        """Returns (kind, folder, class, config) of each encoder by the name of its parameters."""
        models: dict[str, tuple[str, str, type[nnx.Module], Any]] = {
            "clip_vision": ("clip_vision", self.clip, CLIPVision, self.vision),
            "clip_text": ("clip_text", self.clip, CLIPText, self.text),
        }
        if self.reader:
            kind = T5Encoder if self.reader_kind == "t5" else CLIPText
            models["reader"] = (self.reader_kind, self.reader, kind, self.instruction)
        return models

    def captions(self, texts: Sequence[str]) -> Int[np.ndarray, "n L"]:
        """Returns the ids of captions, for CLIP."""
        return _clip_ids(self.clip, self.text, texts, self.text.max_position_embeddings)

    def instructions(self, texts: Sequence[str]) -> Int[np.ndarray, "n M"]:
        """Returns the ids of instructions, for their encoder."""
        if self.reader_kind == "t5":
            tokenize = _t5_tokenizer(_local(self.reader))
            rows = tokenize(list(texts), truncation=True, max_length=self.instruction_length)
            ids = np.full((len(texts), self.instruction_length), PAD, np.int32)
            for row, found in zip(ids, rows["input_ids"], strict=True):
                row[: len(found)] = found
            return ids
        config = self.instruction
        assert isinstance(config, CLIPTextConfig)
        length = min(self.instruction_length, config.max_position_embeddings)
        return _clip_ids(self.reader or self.clip, config, texts, length)

    def read(
        self, reader: Reader, ids: Int[Array | np.ndarray, "B M"]
    ) -> tuple[Float[Array, "B M E"], Bool[Array, "B M"]]:
        """Returns F_ins and which of its rows are tokens."""
        ids = jnp.asarray(ids)
        if isinstance(reader, T5Encoder):
            there = ids != PAD
            return reader(ids, there), there
        ended = jnp.cumsum(ids == reader.config.eos_token_id, axis=1)
        there = ended - (ids == reader.config.eos_token_id) == 0  # up to the first end token
        return reader(ids).last_hidden_state, there


@dataclasses.dataclass(frozen=True)
class Found:
    """A region of a picture.

    Attributes:
      region: true within it.
      probability: of each of CLIP's patches; with a letterboxed picture the outer ones show none
        of it.
    """

    region: Bool[np.ndarray, "H W"]
    probability: Float[np.ndarray, "G G"]


@dataclasses.dataclass(frozen=True)
class RegionFinder:
    """A predictor with the encoders that it was trained with.

    Attributes:
      models: by the names of `RegionEncoders.models`, and the predictor as "region".
    """

    encoders: RegionEncoders
    models: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str | Path = SHIPPED_REGION, dtype: Any = jnp.float32) -> RegionFinder:
        """Reads a folder as training exports it: region/, and encoders.json, which says where the
        encoders are; relative places are meant from the folder. Without one, what ships.

        Raises: FileNotFoundError without encoders.json; WeightsError as `brushjax.load`.
        """
        folder = Path(folder)
        if not (folder / DESCRIPTION).is_file():
            raise FileNotFoundError(
                f"expected {folder / DESCRIPTION} beside region/, as training exports them; give "
                "the export folder of a RegionObjective's run"
            )
        described = RegionEncoders(**json.loads((folder / DESCRIPTION).read_text()))
        encoders = dataclasses.replace(
            described,
            clip=_beside(folder, described.clip),
            reader=described.reader and _beside(folder, described.reader),
        )
        models = {
            name: weights.load(kind, place, dtype)
            for name, (kind, place, *_) in encoders.models().items()
        }
        return cls(encoders, {**models, "region": weights.load("region", folder, dtype)})

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], instruction: str
    ) -> Float[np.ndarray, " N"]:
        """Returns the probability of each patch that the instruction is about it, row by row."""
        state = {name: nnx.split(model) for name, model in self.models.items()}
        graphs = {name: graph for name, (graph, _) in state.items()}
        params = {name: part for name, (_, part) in state.items()}
        ids = self.encoders.instructions([instruction])
        pixels = jnp.asarray(image, jnp.float32)[None] / 127.5 - 1
        view = self.encoders.placement.view(pixels)
        found = _probability(self.encoders, _Graphs(graphs), params, view, jnp.asarray(ids))
        return np.asarray(found[0], np.float32)

    def find(
        self, image: UInt8[np.ndarray, "H W 3"], instruction: str, threshold: Threshold = OTSU
    ) -> Found:
        """Returns the region that an instruction is about: a cut of the map that the patches'
        probabilities make between their centres, see `Placement.pixels`.

        Raises: ValueError where no pixel is in it.
        """
        probability = self(image, instruction)
        place = self.encoders.placement
        pixels = np.asarray(place.pixels(jnp.asarray(probability)[None], *image.shape[:2]))[0]
        region = threshold(pixels)
        if not region.any():
            raise ValueError(
                f"expected a region for {instruction!r}, but no pixel passes the threshold; the "
                f"highest probability is {pixels.max():.2f}. Lower tau, or set min_area"
            )
        return Found(region, probability.reshape(place.grid, place.grid))


class _Graphs(dict):
    """Graph definitions by name, which a compiled program is kept by."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(tuple(sorted(self)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _probability(
    encoders: RegionEncoders, graphs: _Graphs, params: Any, view: Array, ids: Array
) -> Array:
    models: dict[str, Any] = {name: nnx.merge(graphs[name], part) for name, part in params.items()}
    patches = models["clip_vision"].embed(view, encoders.patch_layer).patch_embeds
    words, there = encoders.read(models.get("reader", models["clip_text"]), ids)
    return models["region"](patches, words, there).probability


def _beside(folder: Path, place: str) -> str:
    return str(folder / place) if (folder / place).is_dir() else place


def _is_known(place: str, known: Mapping[str, Any]) -> bool:
    return place in known and not Path(place).exists()


def _local(place: str) -> str:
    if Path(place).exists() or not folders.HUB_ID.fullmatch(place):
        return place  # read_config says which file is missing
    return str(folders.local_path(place, ()))


def _clip_ids(folder: str, config: CLIPTextConfig, texts: Sequence[str], length: int) -> np.ndarray:
    tokenizer = read_tokenizer(_local(folder))
    if tokenizer.vocabulary_size > config.vocab_size:
        raise ConfigError(
            f"expected a tokenizer of at most {config.vocab_size} ids in {folder}, got "
            f"{tokenizer.vocabulary_size}"
        )
    return Tokenizer(tokenizer.backend, length, tokenizer.padding)(texts)


@functools.cache
def _t5_tokenizer(folder: str) -> Any:
    return transformers_class("AutoTokenizer").from_pretrained(folder)
