"""Training a small CLIP: pictures choose their own text among those of the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.encoders.vit import CLIPVision, ViTConfig
from brushjax.models.placement import Placement
from brushjax.pipelines.published import read_tokenizer
from brushjax.training.objectives.contract import (
    Batch,
    Losses,
    Mean,
    Objective,
    blueprint,
    build,
    dtype_of,
    fresh,
    placed,
    to_unit_range,
)
from brushjax.training.objectives.region import unit
from brushjax.training.state import named_keys
from brushjax.typing import Params

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0


@dataclasses.dataclass(frozen=True)
class ContrastiveObjective(Objective):
    """Half of CLIP's loss: of all texts in the batch, wrong ones of each picture included, a
    picture's own is to be the likeliest. Texts that name the same things count as one.

    Source: arXiv 2103.00020, figure 3. Differs: docs/deviations.md, region-tiny-clip.
    """

    vision: ViTConfig
    text: CLIPTextConfig
    """The size of the vocabulary and its special ids are replaced by the tokenizer's."""
    tokenizer_folder: str

    def __post_init__(self) -> None:
        if self.vision.projection_dim != self.text.projection_dim or not self.text.with_projection:
            raise ConfigError(
                "expected both towers to be projected to one width, got projection_dim "
                f"{self.vision.projection_dim} and {self.text.projection_dim} of "
                f"{self.text.architectures}"
            )

    @property
    def trains(self) -> tuple[str, ...]:
        return (".*",)

    def shapes(self) -> Params:
        return {
            "clip_vision": blueprint(CLIPVision, self.vision)[1],
            "clip_text": blueprint(CLIPText, self.text_config)[1],
            "logit_scale": jax.ShapeDtypeStruct((), jnp.float32),
        }

    def load(self, key: jax.Array, wanted: Params) -> Params:
        keys = named_keys(key, "vision", "text")
        made = {}
        if "clip_vision" in wanted:
            made["clip_vision"] = fresh(
                CLIPVision, self.vision, keys["vision"], wanted["clip_vision"]
            )
        if "clip_text" in wanted:
            made["clip_text"] = fresh(CLIPText, self.text_config, keys["text"], wanted["clip_text"])
        if "logit_scale" in wanted:
            scale = {"logit_scale": np.float32(np.log(FIRST_SCALE))}
            made |= placed(scale, {"logit_scale": wanted["logit_scale"]})
        return made

    def encode(self, record: Any) -> Mapping[str, np.ndarray]:
        """A `TextChoice` -> its arrays, with "text_ids" int32 [texts, L]."""
        return {**record.arrays(), "text_ids": self._tokenize(record.texts)}

    def across(self, batch: Batch) -> Batch:
        """Gives every sample all texts of the batch."""
        count = len(batch["id"])

        def everyones(array: Any) -> jax.Array:
            joined = jnp.asarray(array).reshape(-1, array.shape[-1])
            return jnp.broadcast_to(joined, (count, *joined.shape))

        return {
            **batch,
            "all_ids": everyones(batch["text_ids"]),
            "all_things": everyones(batch["things"]),
        }

    def loss(self, params: Params, batch: Batch, keys: jax.Array) -> Losses:
        vision = build(CLIPVision, self.vision, params["clip_vision"])
        text = build(CLIPText, self.text_config, params["clip_text"])
        image = to_unit_range(batch["image"], dtype_of(params["clip_vision"]))
        seen = vision(self.placement.view(image)).embeds  # [B, E]
        read = text(batch["all_ids"][0]).text_embeds  # [T, E]
        assert seen is not None
        assert read is not None
        scale = jnp.minimum(jnp.exp(params["logit_scale"].astype(jnp.float32)), LARGEST_SCALE)
        cosines = jnp.einsum("be,te->bt", *(unit(x.astype(jnp.float32)) for x in (seen, read)))
        same = batch["things"][:, :1] == batch["all_things"]  # [B, T, classes]
        true = same.all(axis=-1)  # [B, T]
        scores = scale * cosines
        right = jax.nn.logsumexp(scores, axis=1, where=true)
        each = jax.nn.logsumexp(scores, axis=1) - right  # [B]
        best = jnp.take_along_axis(true, scores.argmax(axis=1, keepdims=True), axis=1)[:, 0]
        logged = {"found": Mean.over(best), "scale": Mean(scale, jnp.float32(1))}
        return Losses({"choice": Mean.over(each)}, logged)

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        del batch
        vision = build(CLIPVision, self.vision, trainable["clip_vision"])
        weights.save(vision, folder / "clip_vision")
        weights.save(
            build(CLIPText, self.text_config, trainable["clip_text"]), folder / "text_encoder"
        )
        read_tokenizer(self.tokenizer_folder).save(folder / "tokenizer")

    @property
    def placement(self) -> Placement:
        """Of pictures in the encoder's input."""
        return Placement(self.vision.image_size, self.vision.patch_size)

    def _tokenize(self, texts: tuple[str, ...]) -> np.ndarray:
        length = self.text.max_position_embeddings
        tokenizer = dataclasses.replace(read_tokenizer(self.tokenizer_folder), length=length)
        return tokenizer(texts)

    @property
    def text_config(self) -> CLIPTextConfig:
        """Config of the text tower, with the tokenizer's vocabulary."""
        tokenizer = read_tokenizer(self.tokenizer_folder)
        return dataclasses.replace(
            self.text,
            vocab_size=tokenizer.vocabulary_size,
            bos_token_id=tokenizer.start_id,
            eos_token_id=tokenizer.end_id,
            pad_token_id=tokenizer.end_id,
        )
