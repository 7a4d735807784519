"""How trainers and programs name what is in a LoRA file: one table of three independent parts.

A tensor's name is a prefix that tells the network, a layer in the spelling of some code, and an
ending that tells what the tensor is to the layer. Every prefix goes with every spelling and every
ending.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from flax import nnx

from brushjax.weights.maps import map_of
from brushjax.weights.maps.clip import open_clip_modules
from brushjax.weights.rules import Module, checkpoint_axes, checkpoint_name, pairs_of
from brushjax.weights.rules import Path as ParameterPath

# --- endings
Role = Literal["down", "up", "mid", "alpha", "diff", "diff_b"]
ADAPTER = r"(?:\.(?!bias$)[^.]+)?"  # peft puts the adapter's name in: lora_A.my-style.weight
ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("down", re.compile(rf"(?:\.lora_(?:down|A{ADAPTER})|[._]lora(?:_linear_layer)?\.down)"
                        r"(?:\.weight)?$")),
    ("up", re.compile(rf"(?:\.lora_(?:up|B{ADAPTER})|[._]lora(?:_linear_layer)?\.up)"
                      r"(?:\.weight)?$")),
    ("mid", re.compile(r"\.lora_mid(?:\.weight)?$")),
    ("alpha", re.compile(r"\.alpha$")),
    ("diff", re.compile(r"\.(?:diff|w_norm)$")),
    ("diff_b", re.compile(r"\.(?:diff_b|b_norm)$")),
)  # fmt: skip
FORMS = (
    (re.compile(r"\.(dora_scale|lora_magnitude_vector)\b"), "a DoRA's magnitude"),
    (re.compile(r"(\.|^)hada_[wt]"), "a LoHa's factor"),
    (re.compile(r"(\.|^)lokr_[wt]"), "a LoKr's factor"),
    (re.compile(r"\.(b?oft_|oft_)"), "an OFT's rotation"),
    (re.compile(r"\.[ab][12]\.weight$"), "a GLoRA's factor"),
    (re.compile(r"lora_[AB].*\.bias$"), "a bias of peft's LoRA layers"),
    (re.compile(r"\.set_weight$"), "a weight that is replaced, not added to"),
)
BUNDLE = "bundle_emb."  # embeddings that came along: bundle_emb.WORD.REST

# --- prefixes
WRAPPERS = ("base_model.model.", "module.")
PREFIXES: Mapping[str, tuple[str, ...]] = {
    "unet": ("lora_unet_", "lora_unet.", "unet.", "diffusion_model.", "model.diffusion_model.", ""),
    "clip_text": (
        *("lora_te_", "lora_te1_", "lora_te.", "text_encoder.", "clip_l.", "clip_h."),
        *("text_encoders.clip_l.", "cond_stage_model.", "conditioner.embedders.0."),
    ),
    "clip_text_2": (
        *("lora_te2_", "text_encoder_2.", "clip_g.", "text_encoders.clip_g."),
        "conditioner.embedders.1.",
    ),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A parameter that a file may change.

    Attributes:
        kind: of its model.
        path: in the model.
        shape: as in checkpoints: (out, in, ...), or that of a vector.
    """

    kind: str
    path: ParameterPath
    shape: tuple[int, ...]


@dataclasses.dataclass
class Layer:
    """A layer's parameters; a norm has a weight too."""

    weight: Target | None = None
    bias: Target | None = None


def role_of(name: str) -> tuple[str, Role | None]:
    """Splits a tensor's name into the layer's, prefix included, and what the tensor is to it."""
    for role, pattern in ROLES:
        found = pattern.search(name)
        if found:
            # Diffusers' first files: attn1.processor.to_out_lora.down beside attn1.to_out.0.alpha.
            layer = name[: found.start()].replace(".processor.", ".")
            return (f"{layer}.0" if layer.endswith(".to_out") else layer), role
    return name, None


def form_of(name: str) -> str:
    """What a tensor is that no LoRA read here has, for messages."""
    return next(
        (what for pattern, what in FORMS if pattern.search(name)), "no part of a LoRA known here"
    )


def layers_of(models: Mapping[str, nnx.Module]) -> dict[tuple[str, str], Layer]:
    """Every layer of the models, by kind and by each spelling with _ for the points."""
    found: dict[tuple[str, str], Layer] = {}
    for kind, model in models.items():
        layers: dict[str, Layer] = {}
        parameters: Any = nnx.to_flat_state(nnx.state(model, nnx.Param))
        for path, leaf in parameters:
            axes = checkpoint_axes(path, len(leaf.shape))
            target = Target(kind, path, tuple(leaf.shape[axis] for axis in axes))
            name, _, what = checkpoint_name(path).rpartition(".")
            if what in ("weight", "bias"):
                setattr(layers.setdefault(name, Layer()), what, target)
        for name, layer in layers.items():
            for spelled in _spellings(kind, name, model):
                found[kind, spelled.replace(".", "_")] = layer
    return found


def layer_named(layers: Mapping[tuple[str, str], Layer], name: str) -> Layer | None:
    """Finds a layer by a file's name for it: any prefix before any spelling."""
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    for kind, prefixes in PREFIXES.items():
        for prefix in prefixes:
            key = (kind, name.removeprefix(prefix).replace(".", "_"))
            if name.startswith(prefix) and key in layers:
                return layers[key]
    return None


def _spellings(kind: str, layer: str, model: nnx.Module) -> Iterator[str]:
    """A layer's name today, in older files, and in the original code."""
    config: Any = getattr(model, "config")  # noqa: B009 - nnx.Module does not declare it
    yield layer
    if kind == "unet":
        original = map_of(kind).ldm_dialect(config.to_dict(), frozenset())
        assert original is not None  # every UNet has original names
        yield from _original(layer, original.modules(config.to_dict()))
        return
    inner = layer.removeprefix("text_model.")  # as transformers 5 has it
    yield from (inner, f"transformer.text_model.{inner}", f"transformer.{inner}")
    for one in _original(layer, open_clip_modules(config.to_dict())):
        yield from (one, f"model.{one}")


def _original(layer: str, table: tuple[Module, ...]) -> Iterator[str]:
    (pairs,) = pairs_of([f"{layer}.weight"], table, "", theirs=False).values()
    for pair in pairs:
        if pair.part is None:  # a share of a stacked tensor has no name of its own
            yield pair.other.removesuffix(".weight")
