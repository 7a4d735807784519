"""Training a small CLIP: pictures choose their own text among those of the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

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
SURENESS, LEAST = 4, 1e-6  # of `patch_choice`: order of the mean over patches, floor of a share


@dataclasses.dataclass(frozen=True)
class ContrastiveObjective(Objective):
    """Half of CLIP's loss: of all texts in the batch, wrong ones of each picture included, a
    picture's own is to be the likeliest. Texts that name the same things count as one.

    Attributes:
      text: the size of the vocabulary and its special ids are replaced by the tokenizer's.
      patches: weight of `patch_choice`, by which single patches tell things apart.
      patch_layer: whose patches those are, see `CLIPVision.embed`.

    Source: arXiv 2103.00020, figure 3. Differs: docs/deviations.md, region-tiny-clip.
    """

    vision: ViTConfig
    text: CLIPTextConfig
    tokenizer_folder: str
    patches: float = 0.0
    patch_layer: int = -1

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
        found = vision.embed(self.placement.view(image), self.patch_layer)
        told = text(batch["all_ids"][0]).text_embeds  # [T, E]
        assert told is not None
        scale = jnp.minimum(jnp.exp(params["logit_scale"].astype(jnp.float32)), LARGEST_SCALE)
        seen, patches, told = (
            unit(x.astype(jnp.float32)) for x in (found.image_embeds, found.patch_embeds, told)
        )
        same = batch["things"][:, :1] == batch["all_things"]  # [B, T, classes]
        true = same.all(axis=-1)  # [B, T]
        scores = scale * jnp.einsum("be,te->bt", seen, told)
        right = jax.nn.logsumexp(scores, axis=1, where=true)
        each = jax.nn.logsumexp(scores, axis=1) - right  # [B]
        best = jnp.take_along_axis(true, scores.argmax(axis=1, keepdims=True), axis=1)[:, 0]
        logged = {"found": Mean.over(best), "scale": Mean(scale, jnp.float32(1))}
        terms = {"choice": Mean.over(each)}
        if self.patches:
            shown, everything = batch["things"][:, 0], batch["all_things"][0]
            scores = scale * jnp.einsum("bne,te->bnt", patches, told)
            of_patches = patch_choice(scores, shown, everything)
            terms["patches"] = Mean.over(self.patches * of_patches)
        return Losses(terms, logged)

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


def patch_choice(
    scores: Float[Array, "B N T"], shown: UInt8[Array, "B C"], named: UInt8[Array, "T C"]
) -> Float[Array, " B"]:
    """Returns how badly patches choose among the texts that name one thing.

    Where something lies isn't said: what a patch chooses has to be a thing that its picture's
    caption names, and each of those has to be chosen by some patches surely, rather than by all of
    them a little. Pictures of many pairs of things leave one way to do both.

    Args:
      scores: of each patch with each text; their softmax is the choice.
      shown: 1 for the things that a picture's caption names.
      named: the same for each text.

    Source: ours; multiple-instance learning with the power mean of order `SURENESS` over patches.
    """
    single = named.sum(axis=-1) == 1  # [T]
    things = (named * single[:, None]).astype(scores.dtype)  # [T, C]
    chosen = jax.nn.softmax(jnp.where(single, scores, -jnp.inf)) @ things  # [B, N, C]
    there = shown * things.any(axis=0)  # [B, C]: no text of the batch may name a thing alone
    allowed = jnp.log((chosen * there[:, None]).sum(axis=-1) + LEAST)  # [B, N]
    powers = ((chosen + LEAST) ** SURENESS).mean(axis=1)  # [B, C]
    found = jnp.log(powers) / SURENESS * there
    count = there.sum(axis=-1)
    each = -allowed.mean(axis=1) - found.sum(axis=-1) / jnp.maximum(count, 1)
    return jnp.where((shown == there).all(axis=-1), each, 0)
