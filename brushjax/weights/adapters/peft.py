"""Low-rank updates in peft's layout, read onto a model and written from one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax.files import merged_folder
from brushjax.nn import Keys, Projection, lora
from brushjax.nn.projection import linear_layers
from brushjax.typing import Params
from brushjax.weights.checkpoints import flat, nested
from brushjax.weights.folders import read_config
from brushjax.weights.formats import read_file
from brushjax.weights.loading import fill_all, kind_of, places_of
from brushjax.weights.maps import map_of
from brushjax.weights.reading import joined, unjoined
from brushjax.weights.rules import Path as ParameterPath
from brushjax.weights.rules import WeightsError, checkpoint_axes, checkpoint_name
from brushjax.weights.store import ArrayTensor, Tensor, write_safetensors
from brushjax.weights.writing import unread

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
ROWS = "new_tokens.safetensors"  # of the model's own new tokens; peft does not read it
ROOT = "base_model.model."  # what peft puts before a model's names
FACTOR = re.compile(r"\.(lora_[AB])(?:\.default)?\.weight$")
REQUIRED = {
    "bias": "none",
    "fan_in_fan_out": False,
    "peft_type": "LORA",
    "use_dora": False,
}  # adapter_config.json's settings of a plain update
EMPTY = (
    "alpha_pattern",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)  # settings that would make it another


def load_adapter(
    model: Any, folder: str | Path, dtype: Any = jnp.float32, shardings: Any = None
) -> lora.LoRA:
    """Adds the low-rank updates of a peft folder to a model, unmerged; `nn.lora.merge` merges them.

    Args:
        model: changed in place; as it was if the folder does not fit.
        folder: with adapter_config.json and adapter_model.safetensors, and rows for new tokens if
            `save_adapter` wrote some.
        dtype: of the factors and rows.
        shardings: as for `load`, of the factors and rows.

    Returns:
        What was added.

    Raises:
        WeightsError: the folder holds anything but one plain update of layers of this model.
    """
    place, table = Path(folder).expanduser(), map_of(kind_of(model))
    notes = _plain_settings(place)
    tensors = joined(_factors(place), table.stacks)
    layers = {_module_name(path): (path, layer) for path, layer in linear_layers(model, ".*")}
    problems = _problems(tensors, layers, notes["r"])
    if problems or not tensors:
        raise WeightsError(
            f"{place} does not fit this model; nothing was changed:\n  "
            + "\n  ".join(problems[:8] or ["it holds no updates"])
        )
    named = {layers[name.rpartition(".lora_")[0]][0] for name in tensors}
    targets = "|".join(sorted(re.escape(".".join(map(str, path))) for path in named))
    alpha = notes["lora_alpha"] * (notes["r"] ** 0.5 if notes.get("use_rslora") else 1)
    settings = lora.LoRA(notes["r"], alpha, targets)
    lora.add(model, settings, rngs=Keys(0))
    if (place / ROWS).is_file():
        rows, _ = read_file(place / ROWS)
        if not model.config.new_tokens:
            model.add_tokens(rows["new_embed"].shape[0])
        tensors |= rows
    _fill(model, tensors, dtype, shardings)
    return settings


def fill_adapter(folder: str | Path, kind: str, wanted: Params) -> Params:
    """Reads low-rank factors and new tokens' rows, each straight into its dtype and place.

    Args:
        folder: as for `load_adapter`; may hold the rows alone.
        kind: of the model.
        wanted: jax.ShapeDtypeStruct by path, with dtype and sharding.

    Returns:
        Those of them that the folder holds.

    Raises:
        WeightsError: for one of another shape.
    """
    place = Path(folder).expanduser()
    tensors: dict[str, Tensor] = {}
    if (place / WEIGHTS).is_file():
        _plain_settings(place)
        tensors |= joined(_factors(place), map_of(kind).stacks)
    if (place / ROWS).is_file():
        tensors |= read_file(place / ROWS)[0]
    targets = {path: x for path, x in flat(wanted).items() if checkpoint_name(path) in tensors}
    for path, target in targets.items():
        name = checkpoint_name(path)
        stored = tuple(target.shape[axis] for axis in checkpoint_axes(path, len(target.shape)))
        if tensors[name].shape != stored:
            raise WeightsError(
                f"expected {name} {list(stored)} in {place}, got {list(tensors[name].shape)}."
            )
    places = {path: target.sharding for path, target in targets.items()}
    return nested(fill_all(kind, tensors, targets, places)) if targets else {}


def save_rows(rows: Params, folder: str | Path) -> None:
    """Writes new tokens' rows, "new_embed" and "new_head", alone into an adapter's folder."""
    tensors: dict[str, Tensor] = {name: ArrayTensor(np.asarray(x)) for name, x in rows.items()}
    with merged_folder(Path(folder).expanduser()) as unfinished:
        write_safetensors(unfinished / ROWS, tensors, None, {"format": "pt"})


def save_adapter(
    model: nnx.Module, folder: str | Path, *, dtype: Any = None, base: str | None = None
) -> None:
    """Writes a model's low-rank updates as a folder that peft loads, and its rows of new tokens.

    Args:
        model: with updates.
        folder: is there only when it is complete.
        dtype: of the file; None keeps the factors'.
        base: name or path of the base model, for peft's auto classes.

    Raises:
        WeightsError: there are no updates, or they differ in rank or scale.
    """
    layers = {_module_name(path): layer for path, layer in linear_layers(model, ".*")}
    updated = {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, Projection) and layer.lora_A is not None
    }
    sizes = {(layer.lora_B.kernel.shape[-2], layer.lora_scale) for layer in updated.values()}
    if len(sizes) != 1:
        raise WeightsError(
            f"expected low-rank updates of one rank and scale, got {sorted(sizes) or 'none'}."
        )
    ((rank, scale),) = sizes
    parameters = flat(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    factors = {
        checkpoint_name(path): unread(path, value)
        for path, value in parameters.items()
        if {"lora_A", "lora_B"} & set(path)
    }
    rows = {
        checkpoint_name(path): unread(path, value)
        for path, value in parameters.items()
        if path[-1] in ("new_embed", "new_head")
    }
    kept = None if dtype is None else jnp.dtype(dtype)
    settings = {
        **REQUIRED,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "inference_mode": True,
        "target_modules": _target_modules(set(layers), updated),
    }
    with merged_folder(Path(folder).expanduser()) as unfinished:
        weights = {ROOT + name: tensor for name, tensor in unjoined(factors).items()}
        write_safetensors(unfinished / WEIGHTS, weights, kept, {"format": "pt"})
        if rows:
            write_safetensors(unfinished / ROWS, rows, kept, {"format": "pt"})
        (unfinished / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _plain_settings(folder: Path) -> dict[str, Any]:
    notes = read_config(folder / SETTINGS)
    if notes is None:
        raise WeightsError(f"{folder} has no {SETTINGS}; expected a folder that peft wrote.")
    odd = {key: notes[key] for key, value in REQUIRED.items() if notes.get(key, value) != value}
    odd |= {key: notes[key] for key in EMPTY if notes.get(key)}
    if odd or not {"r", "lora_alpha"} <= notes.keys():
        raise WeightsError(
            f"{folder / SETTINGS} describes no plain low-rank update of whole layers: expected r, "
            f"lora_alpha and {REQUIRED}, got {odd or sorted(notes)}. Merge it with peft instead."
        )
    return notes


def _factors(folder: Path) -> dict[str, Tensor]:
    """Returns the factors by checkpoint name, "layer.lora_A.weight"."""
    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"{folder} has no {WEIGHTS}; save the adapter as safetensors.")
    found, _ = read_file(folder / WEIGHTS)
    factors = {}
    for name, tensor in found.items():
        match = FACTOR.search(name)
        if match is None:
            raise WeightsError(f"{folder / WEIGHTS}: {name} is no factor of a low-rank update.")
        factors[f"{name[: match.start()].removeprefix(ROOT)}.{match[1]}.weight"] = tensor
    return factors


def _module_name(path: ParameterPath) -> str:
    """Returns a layer's name in a checkpoint."""
    return checkpoint_name((*path, "kernel")).removesuffix(".weight")


def _problems(tensors: dict[str, Tensor], layers: dict[str, Any], rank: int) -> list[str]:
    """Returns a line for each factor that does not fit its layer, and each that is missing."""
    problems = []
    for name, tensor in tensors.items():
        module, _, end = name.rpartition(".lora_")
        if module not in layers:
            problems.append(f"{name}: the model has no such layer")
            continue
        _, layer = layers[module]
        *stack, width_in, width_out = layer.kernel.shape
        expected = (rank, width_in) if end.startswith("A") else (width_out, rank)
        if tensor.shape != (*stack, *expected):
            problems.append(f"{name}: expected {[*stack, *expected]}, got {list(tensor.shape)}")
        other = f"{module}.lora_{'B' if end.startswith('A') else 'A'}.weight"
        if other not in tensors:
            problems.append(f"{other} is missing")
    return problems


def _fill(model: nnx.Module, tensors: dict[str, Tensor], dtype: Any, shardings: Any) -> None:
    """Puts tensors into the parameters of their names."""
    wanted = {
        path: jax.ShapeDtypeStruct(value.shape, np.dtype(dtype))
        for path, value in flat(nnx.to_pure_dict(nnx.state(model, nnx.Param))).items()
        if checkpoint_name(path) in tensors
    }
    kind = kind_of(model)
    nnx.update(model, nested(fill_all(kind, tensors, wanted, places_of(shardings, wanted))))


def _target_modules(layers: set[str], updated: Iterable[str]) -> list[str]:
    """Returns the last names of the layers, or whole names where not all of a last name are."""
    names = set(updated)
    last = {name.rpartition(".")[2] for name in names}
    if names == {name for name in layers if name.rpartition(".")[2] in last}:
        return sorted(last)
    raise WeightsError(
        f"expected low-rank updates of all layers of a name, got some of {sorted(last)}."
    )
