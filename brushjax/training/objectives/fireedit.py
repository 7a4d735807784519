"""Training FireEdit: the language model's answer and the picture, one loss each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.data.schema import Conversation, EditPair
from brushjax.diffusion.losses import prediction_errors, timestep_quarters
from brushjax.diffusion.schedule import Schedule
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig
from brushjax.models.fireedit import vlm
from brushjax.models.fireedit.editor import Dropped, FireEdit, Seen, detector_features, dropped
from brushjax.nn import Keys, lora
from brushjax.pipelines import instructions
from brushjax.pipelines.fireedit import Sight, Sizes, join, look, propose
from brushjax.pipelines.instructions import Prompt, Writer, read_words, read_writer
from brushjax.pipelines.published import read_config, read_tokenizer
from brushjax.training.objectives.contract import (
    Batch,
    Losses,
    Mean,
    Objective,
    blueprint,
    build,
    dtype_of,
    placed,
    placed_in,
    read,
    split,
    to_unit_range,
    with_autoencoder,
)
from brushjax.training.objectives.contract import join as join_trees
from brushjax.training.objectives.denoising import (
    NoiseConfig,
    draw,
    draw_timesteps,
    encode,
    gaussian,
)
from brushjax.training.objectives.fireedit_parts import (
    NULL,
    Sources,
    load_parts,
    null_context,
    part_shapes,
)
from brushjax.training.objectives.proposals import proposal_error
from brushjax.training.objectives.text_to_image import write_json
from brushjax.training.state import named_keys
from brushjax.typing import Params
from brushjax.weights.fireedit import JOINED, PARTS, SEEING, Parts, save_fireedit

TRAINED = {
    "llama": (r"llama\..*\.lora_[AB]\.kernel", r"llama\.new_(embed|head)"),
    "bridge": (r"bridge\..*",),
    "region_encoder": (r"region_encoder\..*\.updims\..*",),
    "qformer": (r"qformer\..*",),
    "tati": (r"tati\..*",),
    "hvca": (r"hvca\..*",),
    "unet": (r"unet\..*",),
}
"""What learns, by part; all else is frozen."""
TEXT = "clip_text"
PARTLY = ("llama", "region_encoder")
"""Parts of which some learns; the rest is read."""
WATCHING = ("dino", "clip_vision", "proposer")
"""Parts that see: all of them frozen, or all learnt."""
PROMPT = "prompt.json"
"""File of the words around an instruction, in a folder that was exported."""
ATTENTION = r"unet\..*\.attn2\..*"


@dataclasses.dataclass(frozen=True)
class FireEditObjective(Objective):
    """Stage 2: the answer's cross-entropy plus the noise's squared error.

    Source: FireEdit (arXiv 2503.19839), eq. 5, 7 and 8. What it leaves open is SmartEdit's.
    Differs: docs/deviations.md#fireedit-training.
    """

    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    sources: Sources = dataclasses.field(default_factory=Sources)
    prompt: Prompt = dataclasses.field(default_factory=Prompt)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    boxes: Literal["proposed", "given"] = "proposed"
    """Where regions come from: found in each step, or the records', found beforehand."""
    train_unet: Literal["all", "attention"] = "all"
    """All of the UNet, or its cross-attentions with the second stream's keys and values alone."""
    answer_weight: float = 1.0
    diffusion_weight: float = 1.0
    afresh: tuple[str, ...] = ()
    """Parts that start from nothing and are learnt whole, beside those that always learn: of a
    small model, which has no published ones. `WATCHING` go together."""
    proposal_weight: float = 1.0
    """Of the error of a proposer that is learnt, from the records' boxes."""
    alignment_weight: float = 0.0
    """Of the Q-Former's distance to the text encoder's states of the instruction, which is stage
    1's: where no first stage was run, the UNet otherwise learns to do without the instruction."""
    mean_over_edits: bool = False
    """Take the noise's error as a mean over edits. By default questions are counted with an error
    of 0, as in SmartEdit's code: the more of them, the smaller it is."""
    spacing: Literal["leading", "trailing"] = "leading"
    """Which timesteps samplers of the export take. "trailing" begins at the noisiest, "leading"
    the more below it the fewer steps there are: one alone at the cleanest."""

    def __post_init__(self) -> None:
        odd = sorted(set(self.afresh) - {*WATCHING, *PARTLY})
        seen = [kind for kind in WATCHING if kind in self.afresh]
        if odd or len(seen) not in (0, len(WATCHING)):
            raise ConfigError(
                f"expected afresh of {', '.join((*WATCHING, *PARTLY))}, with all of the first "
                f"{len(WATCHING)} or none; got {', '.join(self.afresh)}"
            )
        if seen and self.boxes == "given":
            raise ConfigError('expected boxes "proposed" with a proposer that is learnt')

    @property
    def trains(self) -> tuple[str, ...]:
        chosen = {**TRAINED}
        if self.sizes.update is None:
            chosen["llama"] = chosen["llama"][1:]
        if self.train_unet == "attention":
            chosen["unet"] = (ATTENTION,)
        chosen |= {kind: (rf"{kind}\..*",) for kind in self.afresh}
        return tuple(regex for regexes in chosen.values() for regex in regexes)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The parts that a step needs."""
        return tuple(kind for kind in PARTS if kind != "proposer" or self.boxes == "proposed")

    def shapes(self) -> Params:
        tati = self.sizes.tati
        null = jax.ShapeDtypeStruct((1, tati.num_latents, tati.width), jnp.float32)
        text = {TEXT: blueprint(CLIPText, self._text)[1]} if self.alignment_weight else {}
        return {**part_shapes(self.sizes, self.kinds), NULL: null, **text}

    def load(self, key: jax.Array, wanted: Params) -> Params:
        frozen = (kind for kind in (*SEEING, *PARTLY) if kind not in self.afresh)
        homeless = [kind for kind in frozen if not self.sources.of(kind)]
        if homeless:
            raise ConfigError(
                f"expected a folder or hub id in sources for {', '.join(homeless)}: what is not "
                "trained can't start afresh"
            )
        parts = {k: structs for k, structs in wanted.items() if k not in (NULL, TEXT)}
        params = load_parts(self.sizes, self.sources, key, parts, self.afresh)
        if TEXT in wanted:
            params = {**params, TEXT: read("clip_text", self.sources.clip, wanted[TEXT])}
        if NULL not in wanted:
            return params
        null = {NULL: null_context(self.sizes, self.sources)}
        return {**params, **placed(null, {NULL: wanted[NULL]})}

    def working(self, frozen: Params, dtype: Any) -> Params:
        return with_autoencoder(super().working(frozen, dtype), self.sizes.vae)

    def encode(self, record: Any) -> Mapping[str, np.ndarray]:
        writer, arrays = self._writer, record.arrays()
        if isinstance(record, EditPair):
            sequence, words = writer.edit(record.instruction), record.instruction
        elif isinstance(record, Conversation):
            sequence, words = writer.question(record.question, record.answer), ""
            arrays["target"] = record.image
        else:
            raise ConfigError(
                f"expected records EditPair or Conversation, got {type(record).__name__}"
            )
        boxes = arrays.pop("boxes", None)
        arrays.pop("region", None)
        if self.boxes == "given" or self._watches:
            arrays |= _slots(boxes, self.sizes.sequence.region_slots)
        if self.alignment_weight:
            arrays["token_ids"] = read_tokenizer(self.sources.clip)([words])[0]
        edit = np.asarray(isinstance(record, EditPair), np.float32)
        return {**arrays, **instructions.columns(sequence), "edit": edit}

    @property
    def _text(self) -> CLIPTextConfig:
        """The text encoder's config.

        Raises:
          ConfigError: if its states are not as wide as the Q-Former's, which are held to them.
        """
        config = read_config(CLIPTextConfig, self.sources.clip, "text_encoder")
        if config.hidden_size != self.sizes.qformer.hidden:
            raise ConfigError(
                f"expected sources.clip with states of qformer.hidden {self.sizes.qformer.hidden} "
                f"for alignment_weight, got {config.hidden_size} of {self.sources.clip}"
            )
        return config

    @property
    def _writer(self) -> Writer:
        return read_writer(self.sizes.sequence, self.sources.tokenizer, self.prompt)

    @property
    def _watches(self) -> bool:
        """Whether what is seen is learnt, and so part of the loss."""
        return "dino" in self.afresh

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        dtype = dtype_of(frozen["vae"])
        image, target = (to_unit_range(batch[name], dtype) for name in ("image", "target"))
        vae = self._build("vae", frozen)
        mean, deviation = encode(vae, target)  # [B, h, w, 4]
        kept = ("ids", "kind", "index", "labels", "edit")
        known = {
            **{name: batch[name] for name in kept},
            "mean": mean,
            "deviation": deviation,
            "image_latents": vae.encode(image).mode(),  # not scaled, as instruct-pix2pix's
        }
        if self.alignment_weight:
            text = build(CLIPText, self._text, frozen[TEXT])(batch["token_ids"])
            known["text"] = text.last_hidden_state[:, : self.sizes.qformer.num_queries]
        if self._watches:
            return known | {name: batch[name] for name in ("image", "boxes", "boxes_mask")}
        return {**known, **self._seen(frozen, batch)[0]}

    def _seen(self, params: Params, batch: Batch) -> tuple[Batch, Mapping[str, Mean]]:
        """What encoders and proposer make of the pictures, and the error of a proposer that is
        learnt."""
        dtype = dtype_of(params["dino"])
        image = to_unit_range(batch["image"], dtype)
        dino, clip = (self._build(kind, params) for kind in ("dino", "clip_vision"))
        sight = look(dino, clip, image, self.sizes)
        errors = {}
        if self.boxes == "given":
            boxes, mask = batch["boxes"].astype(dtype), batch["boxes_mask"]
        else:
            proposer = self._build("proposer", params)
            boxes, mask = jax.lax.stop_gradient(propose(proposer, sight, self.sizes))
        if self._watches:
            features = detector_features(sight.levels, self.sizes.edit.detector_layers)
            truth = batch["boxes"].astype(jnp.float32), batch["boxes_mask"]
            errors = {"proposals": proposal_error(proposer, features, *truth)}
        seen = {"hidden": sight.hidden, "clip": sight.seen.clip, "dino": sight.seen.dino}
        return {**seen, "boxes": boxes, "boxes_mask": mask}, errors

    def loss(self, params: Params, batch: Batch, keys: jax.Array) -> Losses:
        named = named_keys(keys, "latents", "noise", "timestep", "dropped")
        stored = {name: batch[name].astype(jnp.float32) for name in ("mean", "deviation")}
        latents = draw(stored["mean"], stored["deviation"], named["latents"])
        u = jax.vmap(jax.random.uniform)(named["dropped"])
        return self.losses(
            params,
            batch,
            Draws(
                latents,
                gaussian(named["noise"], latents),
                draw_timesteps(named["timestep"], self._schedule),
                dropped(u, self.sizes.edit.drop_probability),
            ),
        )

    def losses(self, params: Params, batch: Batch, draws: Draws) -> Losses:
        """Returns the loss of what was drawn: eq. 8."""
        watched: Mapping[str, Mean] = {}
        if self._watches:
            seen, watched = self._seen(params, batch)
            batch = {**batch, **seen}
        model, sequence = self._joined(params), instructions.of_columns(batch)
        dtype = dtype_of(params["unet"])
        sight = Sight(batch["hidden"], Seen(batch["clip"], batch["dino"]))
        boxes, mask = batch["boxes"], batch["boxes_mask"]
        image_tokens, region_tokens = model.see(sight.levels, boxes, mask)
        known = model.understand(sequence, image_tokens, region_tokens, mask)
        answer, right = answered(model.llama, self.sizes.sequence, sequence, known.states)

        # The noising is in float32; what the networks see is cast.
        noisy = self._schedule.add_noise(draws.latents, draws.noise, draws.timestep).astype(dtype)
        conditions = model.conditions(
            known.features.astype(dtype),
            draws.timestep,
            sight.seen,
            batch["image_latents"],
            draws.lost,
        )
        prediction = model.predict(noisy, draws.timestep, conditions)
        target = self._schedule.target(draws.latents, draws.noise, draws.timestep)
        edit = batch["edit"].astype(jnp.float32)
        errors = prediction_errors(prediction, target) * edit  # [B]
        counted = edit if self.mean_over_edits else jnp.ones_like(edit)
        quarters = timestep_quarters(errors, draws.timestep, self._schedule.num_timesteps)
        terms = {
            "answer": answer.scaled(self.answer_weight),
            "diffusion": Mean(errors.sum(), counted.sum()).scaled(self.diffusion_weight),
            **{name: error.scaled(self.proposal_weight) for name, error in watched.items()},
        }
        if self.alignment_weight:
            apart = prediction_errors(known.features, batch["text"]) * edit
            terms["distance"] = Mean(apart.sum(), edit.sum()).scaled(self.alignment_weight)
        return Losses(terms, {"error_quarter": Mean(*quarters), "answer_right": right})

    def blank(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        image, sequence = sample["image"], self.sizes.sequence
        added = {"target": image, "edit": np.float32(0)} | _blank(sequence.max_length)
        if self.boxes == "given" or self._watches:
            added |= _slots(None, sequence.region_slots)
        if self.alignment_weight:
            added["token_ids"] = np.zeros(self._text.max_position_embeddings, np.int32)
        return {**added, **sample}

    @property
    def scheduler(self) -> dict[str, Any]:
        """A published scheduler_config.json, of what is exported."""
        trailing = {"timestep_spacing": "trailing", "steps_offset": 0}
        return self.noise.to_dict() | (trailing if self.spacing == "trailing" else {})

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        """Writes the whole FireEdit folder, with what was frozen as it was read."""
        del batch
        _, frozen = split(part_shapes(self.sizes, PARTS), self.trains)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            learnt = jax.tree.map(jnp.asarray, trainable)
        models = {k: self._trained(k, learnt.get(k, {}), frozen.get(k, {})) for k in PARTS}
        null = jnp.asarray(null_context(self.sizes, self.sources))
        save_fireedit(Parts(models, self.sizes.edit, self.sizes.sequence, null), folder)
        read_words(self.sources.tokenizer).save(folder / "tokenizer")
        (folder / "scheduler").mkdir()
        write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler)
        write_json(folder / PROMPT, dataclasses.asdict(self.prompt))

    def _trained(self, kind: str, own: Params, frozen: Params) -> nnx.Module:
        """A part as it is after training. The language model's matrices keep the dtype of their
        files, as they are the most there is to write."""
        if kind == "llama" and kind not in self.afresh:
            model: Any = weights.load(kind, self.sources.of(kind), dtype=None)
            model.add_tokens(self.sizes.sequence.new_tokens)
            if self.sizes.update is not None:
                lora.add(model, self.sizes.update, rngs=Keys(0))
            nnx.update(model, own)
            return model
        host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        wanted = {kind: placed_in(host, frozen)} if frozen else {}
        rest = load_parts(self.sizes, self.sources, jax.random.key(0), wanted)
        return build(*self.sizes.of(kind), join_trees(own, rest.get(kind, {})))

    def _build(self, kind: str, params: Params) -> Any:
        return build(*self.sizes.of(kind), params[kind])

    def _joined(self, params: Params) -> FireEdit:
        models = {kind: self._build(kind, params) for kind in JOINED}
        return join(self.sizes.edit, self.sizes.sequence, models, params[NULL])

    @property
    def _schedule(self) -> Schedule:
        return _schedule(self.noise)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """What chance decides in a step of stage 2.

    Attributes:
      latents: of the target, scaled. [B, h, w, 4]
      noise: [B, h, w, 4]
      timestep: [B]
      lost: which samples lose which condition.
    """

    latents: Float[Array, "B h w 4"]
    noise: Float[Array, "B h w 4"]
    timestep: Int[Array, " B"]
    lost: Dropped


def answered(
    llama: Any, config: vlm.VLMConfig, sequence: vlm.Sequence, states: Float[Array, "B S E"]
) -> tuple[Mean, Mean]:
    """Returns the answers' cross-entropy, and how many of their tokens would be guessed right; both
    over the tokens that are learnt, of all samples together.

    Logits are computed at these alone.
    """
    chosen, labels, there = vlm.answers(config, sequence, states)
    logits = llama.logits(chosen)
    right = jnp.where(there, logits.argmax(-1) == labels, False)
    return Mean(*vlm.answer_loss(logits, labels, there)), Mean.over(right, there)


def _slots(boxes: np.ndarray | None, count: int) -> dict[str, np.ndarray]:
    """Boxes in so many places, with a mask."""
    found = np.zeros((0, 4), np.float32) if boxes is None else boxes[:count]
    filled = np.zeros((count, 4), np.float32)
    filled[: len(found)] = found
    return {"boxes": filled, "boxes_mask": np.arange(count) < len(found)}


def _blank(length: int) -> dict[str, np.ndarray]:
    names = (field.name for field in dataclasses.fields(vlm.Sequence))
    return {name: np.zeros(length, np.int32) for name in names}


@functools.cache
def _schedule(noise: NoiseConfig) -> Schedule:
    return noise.schedule()
