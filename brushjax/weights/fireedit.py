"""A FireEdit folder: every part in a folder of its own, and one file that says how they are joined.

model_index.json            the parts, how they are joined, how the sequence is laid out
null_context.safetensors    the text encoder's features of an empty prompt
llm/ dino/ clip_vision/ proposer/ region_encoder/ bridge/ qformer/ tati/ hvca/ unet/ vae/
                            config.json and weights, in their published names

A part that another folder has need not be stored twice: the first file says where it is.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from brushjax.files import write_bytes
from brushjax.models.fireedit.editor import FireEditConfig
from brushjax.models.fireedit.vlm import VLMConfig
from brushjax.nn.projection import Projection
from brushjax.weights.adapters.peft import load_adapter, save_adapter
from brushjax.weights.folders import read_config
from brushjax.weights.loading import load
from brushjax.weights.maps import map_of
from brushjax.weights.reading import kinds_in
from brushjax.weights.rules import WeightsError
from brushjax.weights.store import ArrayTensor, read_safetensors, write_safetensors
from brushjax.weights.writing import weights_of, write

INDEX = "model_index.json"
NULL_CONTEXT = "null_context.safetensors"
ADAPTER = "llm_adapter"
NULL_NAME = "null_context"
CLASS_NAME = "FireEdit"
SEEING = ("dino", "clip_vision", "proposer", "vae")  # frozen; what they see may be stored
JOINED = ("llama", "region_encoder", "bridge", "qformer", "tati", "hvca", "unet")
PARTS = (*SEEING, *JOINED)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a FireEdit folder holds.

    Attributes:
      models: by kind.
      edit: how they are joined.
      sequence: how the language model's sequence is laid out.
      null_context: [1, Q, D]
    """

    models: Mapping[str, nnx.Module]
    edit: FireEditConfig
    sequence: VLMConfig
    null_context: Float[Array, "1 Q D"]


def save_fireedit(
    parts: Parts,
    folder: str | Path,
    *,
    dtype: Any = None,
    elsewhere: Mapping[str, str] | None = None,
) -> None:
    """Saves parts into a folder, all or, with an error, nothing.

    Args:
      dtype: of the files; None keeps the parameters'.
      elsewhere: folders, as seen from this one, that have a part by its kind: not stored again.

    Raises:
      WeightsError: for a model that is no part of FireEdit.
    """
    place = Path(folder).expanduser()
    odd = sorted(parts.models.keys() - set(PARTS))
    if odd:
        raise WeightsError(f"expected parts of FireEdit, {', '.join(PARTS)}; got {', '.join(odd)}.")
    index: dict[str, Any] = {"_class_name": CLASS_NAME}
    index |= {map_of(kind).folder: ["brushjax", map_of(kind).model[1]] for kind in parts.models}
    index |= {"edit": parts.edit.to_dict(), "sequence": parts.sequence.to_dict()}
    null = {NULL_NAME: ArrayTensor(np.asarray(parts.null_context))}
    if elsewhere:
        index["elsewhere"] = dict(elsewhere)
    own = {kind: m for kind, m in parts.models.items() if kind not in (elsewhere or {})}
    models = [weights_of(_without_updates(m), kind) for kind, m in own.items()]
    with tempfile.TemporaryDirectory() as beside:  # what goes along with the models
        companions = Path(beside)
        write_safetensors(companions / NULL_CONTEXT, null, None, {"format": "pt"})
        write_bytes(companions / INDEX, json.dumps(index, indent=2, sort_keys=True).encode())
        llama = parts.models.get("llama")
        if llama is not None and _updated(llama):
            save_adapter(llama, companions / ADAPTER, dtype=dtype)
        write(models, place, "diffusers", dtype, pipeline=companions)


def _updated(model: nnx.Module) -> list[Projection]:
    """Returns the layers that have a low-rank update."""
    layers = (layer for _, layer in nnx.iter_modules(model) if isinstance(layer, Projection))
    return [layer for layer in layers if layer.lora_A is not None]


def _without_updates(model: nnx.Module) -> nnx.Module:
    """Returns a model on the same arrays, without its low-rank updates."""
    if not _updated(model):
        return model
    plain = nnx.merge(*nnx.split(model))
    for layer in _updated(plain):
        layer.lora_A = layer.lora_B = None
    return plain


def load_fireedit(
    folder: str | Path, kinds: tuple[str, ...] | None = None, dtype: Any = jnp.float32
) -> Parts:
    """Loads parts of a FireEdit folder.

    Args:
      kinds: the parts that are wanted; None is all.
      dtype: of the parameters; None keeps the files'.

    Raises:
      WeightsError: the folder is none, or lacks a part.
    """
    place = Path(folder).expanduser()
    index = read_index(place)
    null, _ = read_safetensors(place / NULL_CONTEXT)
    models = {kind: load(kind, there, dtype) for kind, there in places(place, kinds).items()}
    if "llama" in models and (place / ADAPTER).is_dir():
        load_adapter(models["llama"], place / ADAPTER, dtype)
    return Parts(
        models,
        FireEditConfig.from_dict(index["edit"]),
        VLMConfig.from_dict(index["sequence"]),
        jnp.asarray(null[NULL_NAME].array()),
    )


def read_index(folder: Path) -> dict[str, Any]:
    """Reads how the parts are joined.

    Raises:
      WeightsError: for a folder that is not FireEdit's.
    """
    index = read_config(folder / INDEX) or {}
    if index.get("_class_name") != CLASS_NAME or not (folder / NULL_CONTEXT).is_file():
        raise WeightsError(
            f"{folder} is no FireEdit folder: expected {INDEX} with _class_name {CLASS_NAME!r} and "
            f"{NULL_CONTEXT} beside it."
        )
    return index


def places(folder: Path, kinds: tuple[str, ...] | None = None) -> dict[str, Path]:
    """Returns the folder that has each part, all parts if no kinds are given.

    Raises:
      WeightsError: naming the parts that are in none.
    """
    elsewhere = read_index(folder).get("elsewhere", {})
    own = kinds_in(folder)
    kinds = PARTS if kinds is None else kinds
    found = {}
    for kind in kinds:
        if kind in own:
            found[kind] = folder
        elif kind in elsewhere and (folder / elsewhere[kind]).is_dir():
            found[kind] = folder / elsewhere[kind]
    missing = [kind for kind in kinds if kind not in found]
    if missing:
        folders = ", ".join(
            f"{map_of(kind).folder}/" + (f" (nor {elsewhere[kind]})" if kind in elsewhere else "")
            for kind in missing
        )
        raise WeightsError(f"{folder} lacks parts of FireEdit: {folders}")
    return found
