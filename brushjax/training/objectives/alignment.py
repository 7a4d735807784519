"""FireEdit's first stage: the language model's [IMG] tokens learn to say what a caption says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.diffusion.losses import prediction_errors
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.fireedit import vlm
from brushjax.pipelines import instructions
from brushjax.pipelines.fireedit import Sizes
from brushjax.pipelines.instructions import Prompt, read_writer
from brushjax.pipelines.published import read_tokenizer
from brushjax.training.objectives.contract import (
    Batch,
    Losses,
    Mean,
    Objective,
    blueprint,
    build,
    dtype_of,
    read,
)
from brushjax.training.objectives.denoising import NoiseConfig, draw_timesteps
from brushjax.training.objectives.fireedit import answered
from brushjax.training.objectives.fireedit_parts import Sources, load_parts, part_shapes
from brushjax.typing import Params
from brushjax.weights.adapters.peft import save_rows
from brushjax.weights.fireedit import ADAPTER

TEXT = "text_encoder"
TRAINED = (r"llama\.new_(embed|head)", r"qformer\..*")


@dataclasses.dataclass(frozen=True)
class AlignmentObjective(Objective):
    """Stage 1: the answer's cross-entropy, and the distance of the Q-Former's output to CLIP's
    states of the caption. There are no pictures.

    Source: SmartEdit (arXiv 2312.06739), section 3.3, stage one; FireEdit says nothing of it.
    Differs: docs/deviations.md#fireedit-alignment.
    """

    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    sources: Sources = dataclasses.field(default_factory=Sources)
    prompt: Prompt = dataclasses.field(default_factory=Prompt)
    text: CLIPTextConfig = dataclasses.field(default_factory=CLIPTextConfig.sd15)
    """The text encoder whose states are to be met."""
    max_length: int = 192
    """Of the sequence; captions that are too long are cut."""
    resampler: bool = False
    """Train TATI too, on the same distance at random timesteps, so that the UNet meets no noise
    when stage 2 begins."""
    steps: int = 1000
    """Timesteps that are drawn from."""

    @property
    def trains(self) -> tuple[str, ...]:
        return (*TRAINED, *((r"tati\..*",) if self.resampler else ()))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The parts that a step needs."""
        return ("llama", "qformer", *(("tati",) if self.resampler else ()))

    @property
    def small(self) -> Sizes:
        """The sizes of this stage: no update of the language model, no places for a picture."""
        sequence = dataclasses.replace(
            self.sizes.sequence, image_tokens=0, region_slots=0, max_length=self.max_length
        )
        return dataclasses.replace(self.sizes, update=None, sequence=sequence)

    def shapes(self) -> Params:
        return {**part_shapes(self.small, self.kinds), TEXT: blueprint(CLIPText, self.text)[1]}

    def load(self, key: jax.Array, wanted: Params) -> Params:
        if not self.sources.of("llama"):
            raise ConfigError("expected a folder or hub id in sources.llama: it is not trained")
        parts = {kind: structs for kind, structs in wanted.items() if kind != TEXT}
        params = load_parts(self.small, self.sources, key, parts)
        if TEXT not in wanted:
            return params
        return {**params, TEXT: read("clip_text", self.sources.clip, wanted[TEXT])}

    def encode(self, record: Any) -> Mapping[str, np.ndarray]:
        sequence = read_writer(self.small.sequence, self.sources.tokenizer, self.prompt)
        ids = read_tokenizer(self.sources.clip)([record.caption])[0]
        own = instructions.columns(sequence.edit(record.caption))
        return {**own, "token_ids": ids, "id": np.asarray(record.id, np.int64)}

    def blank(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        ids = np.zeros(self.max_length, np.int32)
        own = {field.name: ids for field in dataclasses.fields(vlm.Sequence)}
        captions = np.zeros(self.text.max_position_embeddings, np.int32)
        return {**own, "token_ids": captions, "id": sample["id"]}

    def loss(self, params: Params, batch: Batch, keys: jax.Array) -> Losses:
        sizes, sequence = self.small, instructions.of_columns(batch)
        llama, qformer = (build(*sizes.of(k), params[k]) for k in ("llama", "qformer"))
        target = build(CLIPText, self.text, params[TEXT])(batch["token_ids"]).last_hidden_state
        embedded = llama.embed(jnp.asarray(sequence.ids)).astype(dtype_of(params["qformer"]))
        states = llama(embedded, jnp.asarray(sequence.kind) != vlm.PADDING)
        answer, right = answered(llama, sizes.sequence, sequence, states)
        features = qformer(*vlm.read_out(sizes.sequence, sequence, states))  # [B, Q, D]
        terms = {"answer": answer, "distance": Mean.over(prediction_errors(features, target))}
        if self.resampler:
            timestep = draw_timesteps(keys, _schedule(self.steps))
            tati = build(*sizes.of("tati"), params["tati"])
            errors = prediction_errors(tati(features, timestep), target)
            terms["resampled"] = Mean.over(errors)
        return Losses(terms, {"answer_right": right})

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        """Writes what stage 2 starts from: its `sources.start`."""
        del batch
        for kind in self.kinds[1:]:
            weights.save(build(*self.small.of(kind), trainable[kind]), folder / kind)
        save_rows(trainable["llama"], folder / ADAPTER)


@functools.cache
def _schedule(steps: int) -> Any:
    return NoiseConfig(steps).schedule()
