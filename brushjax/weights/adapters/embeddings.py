"""Learnt words (textual inversion) in every form of file in which they are published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.weights.formats import is_pickle, read_file
from brushjax.weights.formats.pickles import Foreign, read_content
from brushjax.weights.rules import WeightsError
from brushjax.weights.store import Tensor

# How files for two encoders name them: ComfyUI's and kohya's names, and diffusers' trainers'.
FIRST = ("clip_l", "text_encoders_0")
SECOND = ("clip_g", "text_encoders_1")
ONE = ("emb_params", "string_to_param.*")


def read_embedding(path: str | Path) -> dict[str, np.ndarray]:
    """Reads an embedding's file.

    Args:
        path: .pt or .bin of AUTOMATIC1111's program or of the first code (string_to_param), of
            diffusers ({"<word>": vector}), or .safetensors (emb_params, clip_l and clip_g).

    Returns:
        {"clip_text": [n, D], "clip_text_2": [n, E]} where the file names its encoders, {"": [n, D]}
        where it is for the one that has its width. n vectors stand for one word.

    Raises:
        WeightsError: no such file, or none of these forms.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise WeightsError(f"there is no embedding {place}: expected a file for each word.")
    with open(place, "rb") as file:
        pickled = is_pickle(file.read(9))
    return embedding_of(read_content(place) if pickled else read_file(place)[0], str(place))


def embedding_of(content: Any, source: str) -> dict[str, np.ndarray]:
    """As `read_embedding`, from what a file holds or a LoRA file brings along."""
    named = _mapping(content)
    inner = _mapping(named.get("string_to_param"))
    tensors = {name: value for name, value in (inner or named).items() if isinstance(value, Tensor)}
    by_encoder = {
        kind: tensors[name]
        for kind, names in (("clip_text", FIRST), ("clip_text_2", SECOND))
        for name in names
        if name in tensors
    }
    if by_encoder and len(by_encoder) == len(tensors):
        return {kind: _vectors(tensor, source) for kind, tensor in by_encoder.items()}
    if len(tensors) == 1 or any(name in tensors for name in ONE):
        name = next((name for name in ONE if name in tensors), next(iter(tensors)))
        return {"": _vectors(tensors[name], source)}
    got = ", ".join(map(str, named)) or "nothing"
    raise WeightsError(
        f"{source} is no embedding that is known here: expected string_to_param, emb_params, "
        f"clip_l and clip_g, or one vector under its word; got {got}."
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    """A dict, or what an old file's ParameterDict holds; empty for all else."""
    if isinstance(value, Foreign) and isinstance(value.state, Mapping):
        value = value.state.get("_parameters", value.state)
    return value if isinstance(value, Mapping) else {}


def _vectors(tensor: Tensor, source: str) -> np.ndarray:
    values = tensor.array(np.dtype(np.float32))
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or not len(values):
        raise WeightsError(f"{source}: expected vectors [n, D], got {list(values.shape)}.")
    return values
