"""Writes weights in every layout. Nothing is seen under its name before it is complete."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax.files import merged_folder, write_json
from brushjax.weights import folders
from brushjax.weights.checkpoints import flat, write_orbax
from brushjax.weights.loading import abstract_model, check_fit, kind_of
from brushjax.weights.maps import map_of
from brushjax.weights.maps.brushnet import check_comfyui
from brushjax.weights.noise import marks_of, pipeline_scheduler
from brushjax.weights.reading import Weights, unjoined
from brushjax.weights.rules import (
    LEADING,
    STACK,
    WeightMap,
    WeightsError,
    checkpoint_axes,
    checkpoint_name,
    pairs_of,
)
from brushjax.weights.rules import Path as ParameterPath
from brushjax.weights.store import (
    Joined,
    Stacked,
    Tensor,
    as_conv1x1,
    copy_cast,
    naming,
    transposed,
    with_leading,
    write_safetensors,
    written_dtype,
)

LAYOUTS = ("diffusers", "comfyui", "ldm", "orbax")
COMPANIONS = ("model_index.json", "tokenizer", "tokenizer_2", "scheduler", "feature_extractor")
COMPANIONS += ("null_context.safetensors", "llm_adapter")  # FireEdit's
FOLDERS = ("diffusers", "orbax")  # the layouts that are folders; the others are one file


@dataclasses.dataclass(frozen=True)
class ModelTensor(Tensor):
    """A parameter of a model, or one layer of a stack, fetched from its devices when it is read."""

    parameter: jax.Array | np.ndarray
    layer: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.parameter.shape if self.layer is None else self.parameter.shape[1:]

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return np.dtype(self.parameter.dtype)

    def fill(self, out: np.ndarray) -> None:
        copy_cast(out, self._fetched())

    def _fetched(self) -> np.ndarray:
        if self.layer is None:
            return np.asarray(self.parameter)
        if isinstance(self.parameter, np.ndarray) or self.dtype.itemsize != 2:
            return np.asarray(self.parameter[self.layer])
        return np.asarray(_bits(self.parameter, self.layer)).view(self.dtype)


@jax.jit
def _bits(stack: jax.Array, layer: jax.Array | int) -> jax.Array:
    """Returns a layer of 16-bit numbers as integers: where a CPU computes with them in 32 bits on
    the way, it may not keep the bits of what is no number."""
    bits = jax.lax.bitcast_convert_type(stack, jnp.uint16)
    return jax.lax.dynamic_index_in_dim(bits, layer, keepdims=False)


def save(
    model: nnx.Module,
    path: str | Path,
    *,
    layout: str = "diffusers",
    dtype: Any = None,
    kind: str | None = None,
) -> None:
    """Saves a model.

    Args:
        model: one of ours.
        path: a folder for the layouts "diffusers" and "orbax", a .safetensors file for "comfyui"
            and "ldm".
        layout: "diffusers": config.json and the weights file that PyTorch users load; "comfyui":
            the file that ComfyUI-BrushNet loads; "ldm": the original Stable Diffusion code's names;
            "orbax": ours.
        dtype: of the file; None keeps the parameters'.
        kind: needed only to tell SDXL's second text encoder from a first one in the layout "ldm".

    Raises:
        WeightsError: the model cannot be written in that layout or dtype.
    """
    write([weights_of(model, kind)], path, layout, dtype)


def weights_of(model: nnx.Module, kind: str | None = None) -> Weights:
    """Returns a model's parameters in the form in which files are read."""
    parameters = flat(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    added = [path for path in parameters if {"lora_A", "kernel_scale"} & set(path)]
    if added:
        raise WeightsError(
            f"expected a model with plain matrices, got {checkpoint_name(added[0])}; merge "
            f"low-rank updates first or save them with save_adapter, and save before matrices are "
            f"quantized."
        )
    tensors = {checkpoint_name(path): unread(path, value) for path, value in parameters.items()}
    config: Any = getattr(model, "config")  # noqa: B009 - nnx.Module does not declare it
    return Weights(kind or kind_of(model), "the model", "memory", config.to_dict(), tensors)


def unread(path: ParameterPath, value: jax.Array | np.ndarray) -> Tensor:
    """Returns a parameter as a tensor in a checkpoint's order of axes."""
    if STACK not in path:
        return transposed(ModelTensor(value), checkpoint_axes(path, value.ndim))
    axes = checkpoint_axes(path[-1:], value.ndim - 1)  # of one layer
    return Joined(
        tuple(transposed(ModelTensor(value, number), axes) for number in range(len(value)))
    )


def write(
    models: Sequence[Weights],
    path: str | Path,
    layout: str,
    dtype: Any = None,
    *,
    pipeline: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Writes weights.

    Args:
        models: one, or the parts of a pipeline.
        path: as for `save`.
        layout: one of LAYOUTS.
        dtype: of floats in the file; None keeps each tensor's own.
        pipeline: the pipeline that the models are of, None for a single model. Each model then gets
            its own folder; from a pipeline's folder tokenizers and the scheduler are copied too.
        dry_run: check that it can be written, but write nothing.

    Raises:
        WeightsError: the weights cannot be written so. What was at `path` before is still there
            then.
    """
    place = Path(path).expanduser()
    kept = None if dtype is None else jnp.dtype(dtype)  # jax's knows the name bfloat16
    _check_request(models, place, layout)
    unet = next((w.config for w in models if w.kind == "unet"), None)
    scheduler = None if pipeline is None else pipeline_scheduler(pipeline, unet)
    if layout not in FOLDERS:
        tensors, notes = marks_of(scheduler) if scheduler is not None else ({}, {})
        for weights in models:
            plain = unjoined(weights.tensors)
            tensors |= plain if layout == "comfyui" else _ldm_tensors(weights, models)
        notes |= {f"config.{weights.kind}": json.dumps(weights.config) for weights in models}
        if not dry_run:
            write_safetensors(place, tensors, kept, {"format": "pt", **notes})
        return
    inner = {
        w.kind: Path(map_of(w.kind).folder) if pipeline is not None else Path() for w in models
    }
    for weights in models:
        _refuse_other_weights(weights, place / inner[weights.kind], layout)
    if dry_run:
        return
    with merged_folder(place, (folders.ORBAX,)) as unfinished:
        for weights in models:
            _write_folder(weights, unfinished / inner[weights.kind], layout, kept)
        if pipeline is not None and pipeline.is_dir():
            _copy_companions(pipeline, unfinished)
        elif scheduler is not None:
            write_json(unfinished / "scheduler" / "scheduler_config.json", scheduler)


def _copy_companions(source: Path, target: Path) -> None:
    for name in COMPANIONS:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    for name in folders.TOKENIZER_FILES:  # of transformers' folders, beside the weights
        if (source / name).is_file():
            (target / "tokenizer").mkdir(exist_ok=True)
            shutil.copyfile(source / name, target / "tokenizer" / name)


def _check_request(models: Sequence[Weights], place: Path, layout: str) -> None:
    if layout not in LAYOUTS:
        raise WeightsError(f"unknown layout {layout!r}; expected one of {', '.join(LAYOUTS)}.")
    if layout in FOLDERS and (place.suffix == ".safetensors" or place.is_file()):
        raise WeightsError(f"the layout {layout} is a folder; {place} is a file's name.")
    if layout not in FOLDERS and place.suffix != ".safetensors":
        raise WeightsError(
            f"the layout {layout} is one file; expected a name like x.safetensors, got {place}."
        )
    if layout == "comfyui":
        if [weights.kind for weights in models] != ["brushnet"]:
            raise WeightsError(
                "the layout comfyui is for a brushnet alone; other kinds have ldm and diffusers."
            )
        check_comfyui(list(models[0].tensors))


def _write_folder(weights: Weights, folder: Path, layout: str, dtype: np.dtype | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "diffusers":
        table = map_of(weights.kind)
        tensors = _with_copies(table, unjoined(weights.tensors))
        write_safetensors(folder / f"{table.stem}.safetensors", tensors, dtype, {"format": "pt"})
    else:
        write_orbax(folder / folders.ORBAX, _parameters(weights, dtype))
    (folder / "config.json").write_text(json.dumps(weights.config, indent=2, sort_keys=True) + "\n")


def _with_copies(table: WeightMap, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors under every name that published files have for them."""
    return {name: tensor for own, tensor in tensors.items() for name in table.names_of(own)}


def _parameters(weights: Weights, dtype: np.dtype | None) -> dict[ParameterPath, np.ndarray]:
    """Reads tensors into arrays of our layout, by parameter path."""
    _, structs = abstract_model(weights.kind, weights.config)
    check_fit(weights, structs)
    values = {}
    for path, struct in structs.items():
        tensor = weights.tensors[checkpoint_name(path)]
        values[path] = np.empty(struct.shape, written_dtype(tensor, dtype))
        with naming(checkpoint_name(path)):
            tensor.fill(values[path].transpose(checkpoint_axes(path, len(struct.shape))))
    return values


def _ldm_tensors(weights: Weights, models: Sequence[Weights]) -> dict[str, Tensor]:
    """Brings tensors to the original code's names and forms."""
    kinds = frozenset(model.kind for model in models)
    dialect = map_of(weights.kind).ldm_dialect(weights.config, kinds)
    if dialect is None:
        raise WeightsError(
            f"the original code has no names for a {weights.kind}: use another layout, or leave it "
            f"out (--without {weights.kind}) and convert it by itself."
        )
    stacks: dict[str, dict[int, Tensor]] = {}
    counts: dict[str, int] = {}
    modules, found = dialect.modules(weights.config), unjoined(weights.tensors)
    for name, pairs in pairs_of(found, modules, dialect.root, theirs=False).items():
        if len(pairs) != 1:
            raise WeightsError(f"{weights.source}: the original code has no name for {name}.")
        pair, tensor = pairs[0], found[name]
        if pair.form == "transposed" and len(tensor.shape) == 2:
            tensor = transposed(tensor, (1, 0))
        if pair.form == "conv1x1" and len(tensor.shape) == 2:
            tensor = as_conv1x1(tensor)
        tensor = with_leading(tensor, LEADING[pair.form]) if pair.form in LEADING else tensor
        index, counts[pair.other] = pair.part or (0, 1)
        stacks.setdefault(pair.other, {})[index] = tensor
    partial = [other for other, parts in stacks.items() if len(parts) != counts[other]]
    if partial:
        raise WeightsError(
            f"{weights.source} lacks parts of the original code's {', '.join(partial)}."
        )
    whole = {
        other: parts[0] if len(parts) == 1 else Stacked(tuple(parts[i] for i in range(len(parts))))
        for other, parts in stacks.items()
    }
    return _with_copies(map_of(weights.kind), whole)


def _refuse_other_weights(weights: Weights, folder: Path, layout: str) -> None:
    """Raises WeightsError where old weights would stay beside the new and be read instead."""
    table = map_of(weights.kind)
    stem = table.stem
    beside = folders.read_config(folder / "config.json")
    if (folder / "model_index.json").is_file() or (
        beside is not None and folders.class_of(beside) not in table.classes
    ):
        holds = "a pipeline" if beside is None else f"a {folders.class_of(beside)}"
        raise WeightsError(
            f"{folder} holds {holds}, whose config.json would be lost or which would be read in "
            f"the {weights.kind}'s place. Choose another folder, such as {folder / table.folder}."
        )
    new = f"{stem}.safetensors" if layout == "diffusers" else folders.ORBAX
    old = {
        path.name
        for pattern in (f"{stem}*", "pytorch_model*", folders.ORBAX)
        for path in folder.glob(pattern)
    }
    if old - {new}:
        raise WeightsError(
            f"{folder} holds other weights already: {', '.join(sorted(old - {new}))}. Choose "
            f"another folder, or "
            f"remove them."
        )
