"""Training a region predictor from pictures, instructions and captions, without edited pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.files import write_json
from brushjax.models.encoders.clip import CLIPText
from brushjax.models.encoders.t5 import T5Encoder
from brushjax.models.encoders.vit import CLIPVision
from brushjax.models.region import RegionConfig, RegionPredictor, Regions
from brushjax.pipelines.regions import DESCRIPTION, RegionEncoders
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
    read,
    to_unit_range,
)
from brushjax.training.objectives.region import RegionLosses, RegionTerms, length
from brushjax.training.objectives.region_masks import Composition, MaskPath, through_mask
from brushjax.typing import Params


@dataclasses.dataclass(frozen=True)
class RegionObjective(Objective):
    """Eq. 11 over a frozen CLIP and instruction encoder; the predictor alone is learnt.

    A batch holds the pictures, an edit of each whole picture (the donor), two captions and the
    instruction. The predictor's mask takes a part of the donor, and CLIP judges the result.

    Attributes:
      starts_as_clip: eq. 1 begins with a patch attending to words as CLIP compares pictures with
        texts, see `_in_clips_space`; for CLIP's own text encoder as reader alone.

    Source: "Beyond Editing Pairs", section 3.3.
    Differs: docs/deviations.md, region-gradient and region-start.
    """

    encoders: RegionEncoders = dataclasses.field(default_factory=RegionEncoders)
    predictor: RegionConfig = dataclasses.field(default_factory=RegionConfig)
    """Its widths are checked against the encoders'."""
    losses: RegionLosses = dataclasses.field(default_factory=RegionLosses)
    terms: RegionTerms = dataclasses.field(default_factory=RegionTerms)
    path: MaskPath = dataclasses.field(default_factory=MaskPath)
    starts_as_clip: bool = False

    def __post_init__(self) -> None:
        if (self.path.space, self.path.donor) != ("pixel", "cached"):
            raise ConfigError(
                "expected path.space 'pixel' and path.donor 'cached': an objective with a sampler "
                "or a decoder in its step has its own `editor`; got "
                f"{self.path.space!r} and {self.path.donor!r}"
            )
        if self.starts_as_clip and self.encoders.reader:
            raise ConfigError(
                "expected an empty encoders.reader with starts_as_clip, which takes the projection "
                f"of CLIP's own text encoder; got {self.encoders.reader!r}"
            )

    @property
    def trains(self) -> tuple[str, ...]:
        return (r"region\..*",)

    def shapes(self) -> Params:
        models = self.encoders.models()
        frozen = {name: blueprint(model, config)[1] for name, (*_, model, config) in models.items()}
        return {"region": blueprint(RegionPredictor, self._checked())[1], **frozen}

    def load(self, key: jax.Array, wanted: Params) -> Params:
        params = {
            name: read(kind, folder, wanted[name])
            for name, (kind, folder, *_) in self.encoders.models().items()
            if name in wanted
        }
        if "region" in wanted:
            fills = fresh(RegionPredictor, self._checked(), key, wanted["region"])
            if self.starts_as_clip:
                cross = {**fills["cross_attention"], **self._in_clips_space(wanted["region"])}
                fills = {**fills, "cross_attention": cross}
            params["region"] = fills
        return params

    def _in_clips_space(self, wanted: Params) -> Params:
        """Returns W_q and W_k of eq. 1 by which a patch's score with a word is their inner product
        in CLIP's space: the identity, and CLIP's text projection, of unit columns on average."""
        cross = wanted["cross_attention"]
        kernel = read("clip_text", self.encoders.clip, {"text_projection": cross["to_k"]})
        scaled = jax.jit(_of_unit_columns, out_shardings=cross["to_k"]["kernel"].sharding)
        eye = {"to_q": {"kernel": np.eye(self.predictor.width, dtype=np.float32)}}
        return {
            **placed(eye, {"to_q": cross["to_q"]}),
            "to_k": {"kernel": scaled(kernel["text_projection"]["kernel"])},
        }

    def encode(self, record: Any) -> Mapping[str, np.ndarray]:
        """A `RegionEdit` -> its arrays, with "caption_ids" int32 [2, L] of the captions before and
        after, and "instruction_ids" int32 [M]."""
        captions = [record.source_caption, record.target_caption]
        return {
            **record.arrays(),
            "caption_ids": self.encoders.captions(captions),
            "instruction_ids": self.encoders.instructions([record.instruction])[0],
        }

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        """Adds what CLIP sees of the source, and what both encoders read."""
        text, reader = self._readers(frozen)
        image = to_unit_range(batch["image"], jnp.float32)
        source = self._see(frozen, image)
        pairs = jnp.asarray(batch["caption_ids"])  # [B, 2, L]
        embeds = text(pairs.reshape(-1, pairs.shape[-1])).text_embeds
        assert embeds is not None
        before, after = embeds.reshape(*pairs.shape[:2], -1).swapaxes(0, 1)
        instruction, there = self.encoders.read(reader, batch["instruction_ids"])
        return {
            **{name: batch[name] for name in ("image", "donor", "region") if name in batch},
            "source_image": source["image"],
            "source_patches": source["patches"],
            "source_text": before,
            "target_text": after,
            "instruction": instruction,
            "instruction_mask": there,
        }

    def loss(self, params: Params, batch: Batch, keys: jax.Array) -> Losses:
        predictor = build(RegionPredictor, self._checked(), params["region"])
        patches = batch["source_patches"]  # [B, N, D]
        regions = predictor(patches, batch["instruction"], batch["instruction_mask"])
        edited = predictor.semantics(regions.edited)  # [B, D]
        known = {
            "semantic_edited": edited,
            "semantic_original": predictor.semantics(patches),
            **{name: batch[name] for name in ("source_text", "target_text", "source_image")},
            "source_patches": patches,
        }
        edit = self.editor(params, batch, keys)

        def losses_of(mask: jax.Array) -> dict[str, jax.Array]:
            result = self._see(params, edit(mask))
            return self.losses(
                **known, result_image=result["image"], result_patches=result["patches"]
            )

        logits = regions.logits.astype(jnp.float32)
        losses = through_mask(losses_of, logits, keys, self.path)
        terms = self.terms(logits, edited, batch["target_text"])
        total = losses.pop("total") + terms.pop("total")
        if not self.terms.contrastive:
            del terms["region_contrast"]  # its value depends on the samples beside it
        logged = {name: Mean.over(values) for name, values in {**losses, **terms}.items()}
        if "region" in batch:
            logged["region_iou"] = Mean.over(self._overlap(regions, batch["region"]))
        return Losses({"region": Mean.over(total)}, logged)

    def editor(
        self, params: Params, batch: Batch, keys: jax.Array
    ) -> Callable[[jax.Array], jax.Array]:
        """Returns what makes the edited pictures X_res of masks [B, N]; objectives with a decoder
        or a sampler in their step have their own."""
        del params, keys
        image, donor = (to_unit_range(batch[name], jnp.float32) for name in ("image", "donor"))
        compose = Composition(self.encoders.placement)
        return lambda mask: compose(mask, image, donor, self.path)

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        del batch
        predictor = build(RegionPredictor, self._checked(), trainable["region"])
        weights.save(predictor, folder / "region")
        write_json(folder / DESCRIPTION, dataclasses.asdict(self.encoders.absolute))

    def _see(self, params: Params, images: jax.Array) -> dict[str, jax.Array]:
        """Returns CLIP's embedding of pictures in [-1, 1] and those of their patches."""
        vision = build(CLIPVision, self.encoders.vision, params["clip_vision"])
        view = self.encoders.placement.view(images).astype(dtype_of(params["clip_vision"]))
        seen = vision.embed(view, self.encoders.patch_layer)
        return {"image": seen.image_embeds, "patches": seen.patch_embeds}

    def _readers(self, frozen: Params) -> tuple[CLIPText, CLIPText | T5Encoder]:
        text = build(CLIPText, self.encoders.text, frozen["clip_text"])
        if "reader" not in frozen:
            return text, text
        _, _, model, config = self.encoders.models()["reader"]
        return text, build(model, config, frozen["reader"])

    def _overlap(self, regions: Regions, truth: jax.Array) -> jax.Array:
        """Returns the intersection over union of each region p > tau with the one it is to be."""
        true = truth[..., 0] > 0  # [B, H, W]
        pixels = self.encoders.placement.pixels(regions.probability, *true.shape[1:])
        found = pixels > self.path.tau
        either, both = (one.sum(axis=(1, 2)) for one in (found | true, found & true))
        return both / jnp.maximum(either, 1)

    def _checked(self) -> RegionConfig:
        config, width = self.predictor, self.encoders.vision.projection_dim
        instruction = config.instruction_width or config.width
        if (config.width, instruction) != (width, self.encoders.instruction_width):
            raise ConfigError(
                f"expected predictor.width {width} and instruction_width "
                f"{self.encoders.instruction_width}, those of the encoders; got {config.width} and "
                f"{instruction}"
            )
        return config


def _of_unit_columns(kernel: jax.Array) -> jax.Array:
    return kernel / length(kernel.T).mean()
