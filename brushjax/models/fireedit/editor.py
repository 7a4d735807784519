"""FireEdit as a whole: from features, boxes and a sequence to the prediction of the UNet."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Num

from brushjax.diffusion.guidance import guided
from brushjax.models.backbone import ByBlock
from brushjax.models.fireedit import vlm
from brushjax.models.fireedit.bridge import Bridge
from brushjax.models.fireedit.hvca import HVCA
from brushjax.models.fireedit.part import PartConfig
from brushjax.models.fireedit.qformer import QFormer
from brushjax.models.fireedit.regions import RegionEncoder
from brushjax.models.fireedit.tati import TATI
from brushjax.models.fireedit.vlm import VLMConfig
from brushjax.models.unet import UNet
from brushjax.nn import Streams, broadcast_batch, plus

HVCA_TEXTS = ("qformer", "tati")


@dataclasses.dataclass(frozen=True)
class FireEditConfig(PartConfig):
    """How the parts are put together, where the paper leaves it open.

    Attributes:
      detector_layers, region_layers: of the vision transformer, counted from the last.
      adapter_layer: whose states the adapter reads.
      visual_layer: of CLIP, whose states HVCA reads.
      clip_class_token: whether HVCA also reads CLIP's class token.
      hvca_text: the text-related features: "qformer" (once an edit) or "tati" (anew each step).
      shows_regions: whether the language model reads regions; the paper's table 3 goes without.
      visual_scale: lambda of eq. 6.
      drop_probability: of the instruction alone, of picture and instruction, of the picture alone.
      null_after_tati: whether a dropped instruction replaces the UNet's context rather than the
        resampler's input.
      picture_scale: of the picture's latents. None: the UNet reads them as they are and predicts
        everything, as instruct-pix2pix's. A number: it reads them times this, and what it gives is
        added to them, so that a small UNet learns the change alone; for prediction type "sample".
      least_change: mean difference of colours around a pixel, in 0..1, up to which the result keeps
        the picture's own; beyond three times this it is the decoder's, and fades in between. 0: all
        is the decoder's, as in instruct-pix2pix.
    """

    detector_layers: int = 4
    region_layers: int = 3
    adapter_layer: int = -1
    visual_layer: int = -2
    clip_class_token: bool = True
    hvca_text: str = "qformer"
    shows_regions: bool = True
    visual_scale: float = 1.0
    drop_probability: float = 0.05
    null_after_tati: bool = True
    picture_scale: float | None = None
    least_change: float = 0.0

    CLASS_NAME: ClassVar[str] = "FireEdit"

    def __post_init__(self) -> None:
        if self.hvca_text not in HVCA_TEXTS:
            raise ValueError(f"expected hvca_text in {HVCA_TEXTS}, got {self.hvca_text!r}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Understood:
    """What the language model makes of picture and instruction.

    Attributes:
      states: of the whole sequence, after the final norm. [B, S, E]
      tokens, tokens_mask: the states at the [IMG] tokens, and whether there are any.
      features: of the edit, from the Q-Former. [B, Q, D]
    """

    states: Float[Array, "B S E"]
    tokens: Float[Array, "B r E"]
    tokens_mask: Bool[Array, "B r"]
    features: Float[Array, "B Q D"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropped:
    """Which samples lose which condition in a training step. [B] each."""

    text: Bool[Array, " B"]
    image: Bool[Array, " B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seen:
    """What the two encoders make of the picture.

    Attributes:
      clip: tokens of the layer that the config names, class token first. [B, N1, C1]
      dino: tokens after the final norm, without the class token. [B, N2, C2]
    """

    clip: Float[Array, "_B N1 C1"]
    dino: Float[Array, "_B N2 C2"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditions:
    """What the UNet reads beside the noisy latents.

    Attributes:
      context: text features, of one timestep [B, Q, D], or the UNet's `text_keys` of them.
      visual: tokens of the second stream [B, P, M], or the UNet's `visual_keys` of them.
      image_latents: mode of the picture's encoding, not scaled. [B, h, w, 4]
    """

    context: Float[Array, "B Q D"] | ByBlock
    visual: Float[Array, "B P M"] | ByBlock
    image_latents: Float[Array, "B h w 4"]


class FireEdit(nnx.Module):
    """The parts that are trained or that depend on what is, joined as in the paper's figure 2.

    Source: FireEdit (arXiv 2503.19839), section 4.
    """

    def __init__(
        self,
        config: FireEditConfig,
        sequence: VLMConfig,
        *,
        llama: Any,
        bridge: Bridge,
        region_encoder: RegionEncoder,
        qformer: QFormer,
        tati: TATI,
        hvca: HVCA,
        unet: UNet,
        null_context: Float[Array, "1 Q D"],
    ):
        """Args:
        llama: (embeddings, mask) -> states, with `embed(ids)` and `logits(states)`.
        null_context: the text encoder's features of an empty prompt.
        """
        self.config, self.sequence = config, sequence
        self.llama, self.bridge, self.region_encoder = llama, bridge, region_encoder
        self.qformer, self.tati, self.hvca, self.unet = qformer, tati, hvca, unet
        self.null_context = nnx.Param(jnp.asarray(null_context))

    def see(
        self,
        hidden: tuple[Float[Array, "B N C"], ...],
        boxes: Float[Array, "B R 4"],
        mask: Bool[Array, "B R"],
    ) -> tuple[Float[Array, "B M E"], Float[Array, "B R E"]]:
        """Returns the picture's and its regions' tokens.

        Args:
          hidden: states of the vision transformer's layers, the last of them last, class token
            first.
        """
        image = self.bridge(hidden[self.config.adapter_layer][:, 1:])
        levels = tuple(as_map(x) for x in hidden[-self.config.region_layers :])
        return image, self.region_encoder(levels, boxes, mask)

    def understand(
        self,
        sequence: vlm.Sequence,
        image_tokens: Float[Array, "B M E"],
        region_tokens: Float[Array, "B R E"],
        region_mask: Bool[Array, "B R"],
    ) -> Understood:
        """Runs the language model and the Q-Former: the paper's eq. 4."""
        mask = vlm.visible(sequence, region_mask & self.config.shows_regions)
        text = self.llama.embed(jnp.asarray(sequence.ids))
        x = vlm.embedded(sequence, text, image_tokens, region_tokens, mask)
        return self.digest(sequence, self.llama(x, mask))

    def digest(self, sequence: vlm.Sequence, states: Float[Array, "B S E"]) -> Understood:
        """Turns the language model's states into the edit's features."""
        tokens, mask = vlm.read_out(self.sequence, sequence, states)
        return Understood(states, tokens, mask, self.qformer(tokens, mask))

    def conditions(
        self,
        features: Float[Array, "B Q D"],
        timestep: Num[Array, " B"],
        seen: Seen,
        image_latents: Float[Array, "B h w 4"],
        lost: Dropped,
    ) -> Conditions:
        """Returns what the UNet reads in a training step, with some of it dropped.

        Differs: docs/deviations.md#fireedit-dropped-conditions.
        """
        null = self.null(features)
        given = jnp.where(_column(lost.text), null, features)
        if self.config.null_after_tati:
            context = jnp.where(_column(lost.text), null, self.tati(features, timestep))
        else:
            context = self.tati(given, timestep)
        visual = self.visual(seen, given if self.config.hvca_text == "qformer" else context)
        return Conditions(
            context,
            jnp.where(_column(lost.image), 0, visual),
            jnp.where(_column(lost.image)[..., None], 0, image_latents),
        )

    def branches(
        self,
        features: Float[Array, "B Q D"],
        timestep: Num[Array, " _B"],
        seen: Seen,
        image_latents: Float[Array, "B h w 4"],
    ) -> Conditions:
        """Returns dual guidance's conditions: nothing, the picture, picture and instruction.

        Each sample's three follow one another. With HVCA reading the Q-Former, `visual` and
        `image_latents` are the same for all timesteps.
        """
        null, context = self.contexts(features, timestep)
        early = self.config.hvca_text == "qformer"
        text = (self.null(features), features) if early else (null, context)
        return Conditions(
            threes(null, null, context),
            self.views(seen, *text),
            threes(jnp.zeros_like(image_latents), image_latents, image_latents),
        )

    def contexts(
        self, features: Float[Array, "B Q D"], timestep: Num[Array, " _B"]
    ) -> tuple[Float[Array, "B Q D"], Float[Array, "B Q D"]]:
        """Returns the UNet's contexts without and with the instruction, at a timestep."""
        null = self.null(features)
        if not self.config.null_after_tati:
            null = self.tati(null, timestep)
        return null, self.tati(features, timestep)

    def views(
        self, seen: Seen, null: Float[Array, "B L D"], text: Float[Array, "B L D"]
    ) -> Float[Array, "B3 P M"]:
        """Returns the second stream's tokens of dual guidance's three conditions.

        Args:
          null, text: text-related features without and with the instruction.
        """
        without, full = self.visual(seen, null), self.visual(seen, text)
        return threes(jnp.zeros_like(full), without, full)

    def null(self, features: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        """Returns the features of an empty prompt, in the place of an instruction's."""
        null = jnp.broadcast_to(self.null_context[...], features.shape)
        return null.astype(features.dtype)

    def visual(self, seen: Seen, text: Float[Array, "B L D"]) -> Float[Array, "B P M"]:
        """Returns the tokens of the UNet's second stream."""
        clip = seen.clip if self.config.clip_class_token else seen.clip[:, 1:]
        return self.hvca(clip, seen.dino, text)

    def predict(
        self,
        noisy: Float[Array, "_B h w 4"],
        timestep: Num[Array, " _B"],
        conditions: Conditions,
    ) -> Float[Array, "B h w 4"]:
        """Predicts the noise: the paper's epsilon of eq. 7.

        Args:
          noisy: one for each of the conditions, or one for several that follow one another.

        Differs: docs/deviations.md#fireedit-small.
        """
        scale = self.config.picture_scale
        time = self.unet.embed_time(timestep, None, noisy.dtype)
        streams = Streams(conditions.context, conditions.visual, self.config.visual_scale)
        picture = conditions.image_latents.astype(noisy.dtype)
        if scale is not None:
            picture = scale * picture
        x = jnp.concatenate(broadcast_batch(noisy, picture), axis=-1)  # [B, h, w, 8]
        output = self.unet.denoise(x, time, streams)[0]
        return output if scale is None else plus(picture, output)

    def guided(
        self,
        noisy: Float[Array, "B h w 4"],
        timestep: Num[Array, " _B"],
        conditions: Conditions,
        scales: Float[Array, "2"],
    ) -> Float[Array, "B h w 4"]:
        """Predicts the noise under dual guidance: the paper's eq. 2.

        Args:
          conditions: from `branches`.
          scales: s_I and s_T.

        Differs: docs/deviations.md#fireedit-guidance.
        """
        parts = self.predict(noisy, timestep, conditions)
        parts = parts.astype(jnp.promote_types(parts.dtype, jnp.float32))
        parts = parts.reshape(len(noisy), 3, *noisy.shape[1:])
        return guided([parts[:, i] for i in range(3)], scales)


def _column(flags: Bool[Array, " B"]) -> Bool[Array, "B 1 1"]:
    return flags[:, None, None]


def threes(*parts: Array) -> Array:
    """Puts the three conditions of every sample next to each other."""
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def dropped(u: Float[Array, " B"], probability: float) -> Dropped:
    """Drops the instruction alone, both, or the picture alone, each as often, from one draw.

    Args:
      u: uniform in 0..1.

    Source: instruct-pix2pix's training script; FireEdit, eq. 2 needs all three.
    """
    both_or_text = u < 2 * probability
    both_or_image = (u >= probability) & (u < 3 * probability)
    return Dropped(both_or_text, both_or_image)


def as_map(states: Float[Array, "B N C"]) -> Float[Array, "B h w C"]:
    """Lays a square of patches out, without the class token.

    Raises:
      ValueError: where they make no square.
    """
    patches = states.shape[1] - 1
    side = round(patches**0.5)
    if side**2 != patches:
        raise ValueError(f"expected a class token and a square of patches, got {patches} patches")
    return states[:, 1:].reshape(len(states), side, side, -1)


def detector_features(
    hidden: tuple[Float[Array, "B N C"], ...], layers: int
) -> Float[Array, "B h w C"]:
    """Returns what the proposer reads: the mean of the last layers' states."""
    chosen = hidden[-layers:]
    return as_map(sum(chosen[1:], chosen[0]) / len(chosen))
