"""FireEdit's parts together: their sizes, what they see of a picture, and how they are joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from brushjax.metrics.preprocess import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from brushjax.models.encoders.llama import Llama, LlamaConfig
from brushjax.models.encoders.vit import DINO, CLIPVision, PlainViTConfig, ViTConfig
from brushjax.models.fireedit.bridge import Bridge, BridgeConfig
from brushjax.models.fireedit.detector import ProposerConfig
from brushjax.models.fireedit.editor import FireEdit, FireEditConfig, Seen, detector_features
from brushjax.models.fireedit.hvca import HVCA, HVCAConfig
from brushjax.models.fireedit.proposals import Proposer, select
from brushjax.models.fireedit.qformer import QFormer, QFormerConfig
from brushjax.models.fireedit.regions import RegionEncoder, RegionEncoderConfig
from brushjax.models.fireedit.tati import TATI, TATIConfig
from brushjax.models.fireedit.vlm import VLMConfig
from brushjax.models.placement import resized
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.nn import Rngs, lora
from brushjax.weights.fireedit import Parts

SHIPPED_FIREEDIT = Path(__file__).parents[1] / "assets/fireedit"  # small, with the base's decoder
LLAVA = 32064  # rows of LLaVA-1.5's table as transformers publishes it, 64 of them unused


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """A language model with what is learnt beside its matrices.

    Attributes:
      llama: with the number of new tokens.
      update: of its matrices; None leaves them as they are.
    """

    llama: LlamaConfig
    update: lora.LoRA | None = None


def language(config: LanguageConfig, *, rngs: Rngs) -> Llama:
    """Builds the language model."""
    model = Llama(config.llama, rngs=rngs)
    if config.update is not None:
        lora.add(model, config.update, rngs=rngs)
    return model


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Configs of all parts; the defaults are those of the published weights that FireEdit uses.

    Attributes:
      update: of the language model, rank 8 and alpha 16 as the paper says, of the queries' and the
        values' matrices as SmartEdit's code.
      edit, sequence: how the parts are joined.
    """

    llama: LlamaConfig = dataclasses.field(
        default_factory=lambda: LlamaConfig(vocab_size=LLAVA, rms_norm_eps=1e-5)
    )
    update: lora.LoRA | None = dataclasses.field(default_factory=lora.LoRA)
    dino: PlainViTConfig = dataclasses.field(default_factory=PlainViTConfig.dinov2_l14)
    clip_vision: ViTConfig = dataclasses.field(default_factory=ViTConfig.clip_l14)
    proposer: ProposerConfig = dataclasses.field(default_factory=ProposerConfig)
    region_encoder: RegionEncoderConfig = dataclasses.field(default_factory=RegionEncoderConfig)
    bridge: BridgeConfig = dataclasses.field(default_factory=BridgeConfig)
    qformer: QFormerConfig = dataclasses.field(default_factory=QFormerConfig)
    tati: TATIConfig = dataclasses.field(default_factory=TATIConfig)
    hvca: HVCAConfig = dataclasses.field(default_factory=HVCAConfig)
    unet: UNetConfig = dataclasses.field(
        default_factory=lambda: UNetConfig(in_channels=8, visual_cross_attention_dim=768)
    )
    vae: VAEConfig = dataclasses.field(default_factory=VAEConfig)
    edit: FireEditConfig = dataclasses.field(default_factory=FireEditConfig)
    sequence: VLMConfig = dataclasses.field(default_factory=lambda: VLMConfig(base_vocab=LLAVA))

    def __post_init__(self) -> None:
        if self.llama.vocab_size != self.sequence.base_vocab:
            raise ValueError(
                f"expected sequence.base_vocab {self.llama.vocab_size}, the language model's "
                f"vocab_size; got {self.sequence.base_vocab}"
            )

    @property
    def language(self) -> LanguageConfig:
        """The language model with the new tokens' rows."""
        new = self.sequence.new_tokens
        return LanguageConfig(dataclasses.replace(self.llama, new_tokens=new), self.update)

    @property
    def layers(self) -> int:
        """How many of the vision transformer's last layers are read."""
        edit = self.edit
        return max(edit.detector_layers, edit.region_layers, -edit.adapter_layer)

    def of(self, kind: str) -> tuple[Callable[..., nnx.Module], Any]:
        """Returns (class or function that builds it, config) of a part."""
        if kind == "llama":
            return language, self.language
        return CLASSES[kind], getattr(self, kind)


CLASSES: dict[str, Callable[..., nnx.Module]] = {
    "dino": DINO,
    "clip_vision": CLIPVision,
    "proposer": Proposer,
    "region_encoder": RegionEncoder,
    "bridge": Bridge,
    "qformer": QFormer,
    "tati": TATI,
    "hvca": HVCA,
    "unet": UNet,
    "vae": AutoencoderKL,
}


def sizes_of(parts: Parts) -> Sizes:
    """Returns the sizes of loaded parts; an update of the language model is in its own graph."""
    models: Mapping[str, Any] = parts.models
    configs = {kind: model.config for kind, model in models.items()}
    llama = dataclasses.replace(configs.pop("llama"), new_tokens=0)
    return Sizes(llama, None, edit=parts.edit, sequence=parts.sequence, **configs)


def join(
    edit: FireEditConfig, sequence: VLMConfig, models: Mapping[str, Any], null_context: Any
) -> FireEdit:
    """Returns the parts as one.

    Args:
      models: by kind; more than these are not looked at.
    """
    kinds = ("llama", "region_encoder", "bridge", "qformer", "tati", "hvca", "unet")
    parts = {kind: models[kind] for kind in kinds}
    return FireEdit(edit, sequence, **parts, null_context=null_context)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sight:
    """What the frozen networks make of a picture.

    Attributes:
      hidden: states of the vision transformer's last layers. [B, layers, 1 + N, C]
      seen: what HVCA reads.
    """

    hidden: Float[Array, "B layers M C"]
    seen: Seen

    @property
    def levels(self) -> tuple[Float[Array, "B M C"], ...]:
        """The states layer by layer, as `FireEdit.see` takes them."""
        return tuple(self.hidden[:, n] for n in range(self.hidden.shape[1]))


def look(dino: DINO, clip: CLIPVision, images: Float[Array, "B H W 3"], sizes: Sizes) -> Sight:
    """Runs the two encoders on pictures in [-1, 1], stretched to the encoders' squares.

    Source: Groma's image processor, which keeps no shape either.
    Differs: docs/deviations.md#fireedit-views.
    """
    ours = dino(_watched(images, sizes))
    theirs = clip(_view(images, sizes.clip_vision.image_size, CLIP_MEAN, CLIP_STD))
    hidden = jnp.stack(ours.hidden_states[-sizes.layers :], axis=1)
    tokens = theirs.hidden_states[sizes.edit.visual_layer]
    return Sight(hidden, Seen(tokens, ours.tokens[:, 1:]))


def states(
    dino: DINO, images: Float[Array, "B H W 3"], sizes: Sizes
) -> tuple[Float[Array, "B M C"], ...]:
    """What proposals need of `look`: the states of the vision transformer's last layers."""
    return dino(_watched(images, sizes)).hidden_states[-sizes.layers :]


def _watched(images: Array, sizes: Sizes) -> Float[Array, "B S S 3"]:
    return _view(images, sizes.region_encoder.image_size, IMAGENET_MEAN, IMAGENET_STD)


def _view(images: Array, side: int, mean: Any, deviation: Any) -> Float[Array, "B S S 3"]:
    values = (resized(images, side, side) + 1) / 2 - jnp.asarray(mean, images.dtype)
    return values / jnp.asarray(deviation, images.dtype)


def propose(
    proposer: Proposer, sight: Sight, sizes: Sizes
) -> tuple[Float[Array, "B R 4"], Bool[Array, "B R"]]:
    """Finds as many regions as the sequence has places for, at most."""
    features = detector_features(sight.levels, sizes.edit.detector_layers)
    return select(proposer(features), sizes.sequence.region_slots)
