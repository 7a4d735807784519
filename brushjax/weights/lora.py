"""Merges LoRA files of community models into loaded models: W + weight * alpha / rank * up down."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from brushjax.weights import folders
from brushjax.weights.formats import read_file
from brushjax.weights.maps import map_of
from brushjax.weights.rules import Path as ParameterPath
from brushjax.weights.rules import WeightsError, checkpoint_axes, checkpoint_name, pairs_of
from brushjax.weights.store import Tensor

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # in diffusers', peft's
SHOWN = 8  # offenders that an error names

# How the programs spell the two matrices of a module, and their scale.
ROLES = (
    ("down", re.compile(r"\.(?:lora_down|lora\.down|lora_linear_layer\.down)\.weight$")),
    ("up", re.compile(r"\.(?:lora_up|lora\.up|lora_linear_layer\.up)\.weight$")),
    ("down", re.compile(r"\.lora_A(?:\.\w+)?\.weight$")),  # peft; the word is the adapter's name
    ("up", re.compile(r"\.lora_B(?:\.\w+)?\.weight$")),
    ("alpha", re.compile(r"\.alpha$")),
)
# Diffusers' first files: ....attn1.processor.to_q_lora.down.weight
PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")


@dataclasses.dataclass
class Update:
    """One module's share of a file; all three are read, `alpha` may be missing.

    Attributes:
        down: [rank, in, ...], the first matrix or kernel.
        up: [out, rank, ...], the second.
        alpha: its quotient by the rank scales the product; None stands for the rank.
    """

    down: np.ndarray | None = None
    up: np.ndarray | None = None
    alpha: float | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """A weight that an update may be for."""

    kind: str
    path: ParameterPath
    shape: tuple[int, ...]  # as in checkpoints: (out, in, ...)


def merge_lora(models: Mapping[str, nnx.Module], path: str | Path, weight: float | int = 1) -> int:
    """Adds a LoRA file to the weights of models, in place; all of it or, with an error, nothing.

    Args:
        models: by kind: "unet" and, where the file trains them, "clip_text" and "clip_text_2".
        path: a .safetensors file in the names of kohya's scripts (also those for SDXL, which
            follow the original code's blocks), of diffusers or of peft, or the folder with one.
        weight: how strongly; 1 is as trained, negative takes away.

    Returns:
        How many weights were changed.

    Raises:
        WeightsError: the file is damaged, or no plain LoRA, or made for another family of models;
            with what did not fit.

    Source: Hu et al. 2021, section 4.1, W_0 + (alpha / r) B A.
    """
    file = _file(Path(path).expanduser())
    tensors, metadata = read_file(file)
    updates, unknown = _updates(tensors)
    _fill_alphas(updates, _notes(file, metadata))
    targets = _targets(models)
    placed = [(targets.get(_today(name)), name, update) for name, update in updates.items()]
    problems = [f"{name}: neither up nor down of a plain LoRA" for name in unknown]
    problems += [problem for one in placed if (problem := _problem(*one)) is not None]
    if problems or not updates:
        raise WeightsError(_message(file, models, len(updates), problems))
    for kind, model in models.items():
        changes = [(t.path, update) for t, _, update in placed if t is not None and t.kind == kind]
        _apply(model, dict(changes), float(weight))
    return len(placed)


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    found = [path / name for name in FILES if (path / name).is_file()]
    if not found:
        raise WeightsError(
            f"there is no LoRA file {path}, nor a folder of that name with {' or '.join(FILES)}."
        )
    return found[0]


def _updates(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Update], list[str]]:
    """Groups tensors by module, whose name stays as it is in the file; and what is no LoRA's."""
    updates: dict[str, Update] = {}
    unknown = []
    for name, tensor in tensors.items():
        module, role = _role(name)
        if role is None:
            unknown.append(name)
            continue
        values = tensor.array(np.dtype(np.float32))
        update = updates.setdefault(module, Update())
        setattr(update, role, float(values.reshape(())) if role == "alpha" else values)
    return updates, unknown


def _role(name: str) -> tuple[str, str | None]:
    """Splits a tensor's name into the module's and what the tensor is to it."""
    old = PROCESSOR.search(name)
    if old:
        layer = "to_out.0" if old[1] == "out" else f"to_{old[1]}"
        return f"{name[: old.start()]}.{layer}", old[2]
    for role, pattern in ROLES:
        found = pattern.search(name)
        if found:
            return name[: found.start()], role
    return name, None


def _today(module: str) -> str:
    """A module's name without what peft and older diffusers put around it."""
    return module.removeprefix("base_model.model.").replace(".processor.", ".")


def _notes(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What diffusers writes into the header, or peft beside the file, about ranks and alphas."""
    if "lora_adapter_metadata" in metadata:
        return json.loads(metadata["lora_adapter_metadata"])
    return folders.read_config(file.parent / "adapter_config.json") or {}


def _fill_alphas(updates: Mapping[str, Update], notes: Mapping[str, Any]) -> None:
    """Sets the alphas that the file itself leaves out."""
    for name, update in updates.items():
        if update.alpha is not None or update.down is None:
            continue
        part = name.split(".")[0] + "." if f"{name.split('.')[0]}.lora_alpha" in notes else ""
        alpha = notes.get(f"{part}lora_alpha")
        for pattern, other in (notes.get(f"{part}alpha_pattern") or {}).items():
            if re.search(rf"(^|\.){pattern}$", name):
                alpha = other
        rank = update.down.shape[0]
        if alpha is not None and notes.get(f"{part}use_rslora"):
            alpha *= rank**0.5  # rank-stabilised: alpha / sqrt(rank)
        update.alpha = alpha


def _targets(models: Mapping[str, nnx.Module]) -> dict[str, Target]:
    """Every weight that can be updated, under each name that a file may have for its module."""
    targets: dict[str, Target] = {}
    for kind, model in models.items():
        parameters: Any = nnx.to_flat_state(nnx.state(model, nnx.Param))
        for path, leaf in parameters:
            if path[-1] != "kernel":
                continue
            shape = tuple(leaf.shape[axis] for axis in checkpoint_axes(path, len(leaf.shape)))
            target = Target(kind, path, shape)
            spelled = _spellings(kind, checkpoint_name(path), model, "clip_text_2" in models)
            targets |= dict.fromkeys(spelled, target)
    return targets


def _spellings(kind: str, name: str, model: nnx.Module, xl: bool) -> Iterator[str]:
    """The names that files have for a weight's module."""
    module = name.removesuffix(".weight")
    if kind == "unet":
        config: Any = getattr(model, "config")  # noqa: B009 - nnx.Module does not declare it
        original = map_of(kind).ldm_dialect(config.to_dict(), frozenset())
        assert original is not None  # every UNet has original names
        table = original.modules(config.to_dict())
        (pairs,) = pairs_of([name], table, "", theirs=False).values()
        names = [module, *(pair.other.removesuffix(".weight") for pair in pairs)]
        yield module  # diffusers' files of a UNet alone
        yield f"unet.{module}"
        yield from (f"lora_unet_{one.replace('.', '_')}" for one in names)
        return
    number = {"clip_text": "1" if xl else "", "clip_text_2": "2"}[kind]
    folder = map_of(kind).folder
    for one in (module, module.removeprefix("text_model.")):  # the second: transformers 5
        yield f"{folder}.{one}"
        yield f"lora_te{number}_{one.replace('.', '_')}"


def _problem(target: Target | None, name: str, update: Update) -> str | None:
    """What keeps an update from its weight, if anything."""
    down, up = update.down, update.up
    if target is None:
        return f"{name}: the models have no such layer"
    if down is None or up is None:
        return f"{name}: {'down' if down is None else 'up'} is missing"
    fits = (
        up.shape[:2] == (target.shape[0], down.shape[0])
        and up.size == up.shape[0] * up.shape[1]
        and down.shape[1] == target.shape[1]
        and down[0, 0].size == np.prod(target.shape[2:], dtype=int)
    )
    if fits:
        return None
    return (
        f"{name}: down {list(down.shape)} and up {list(up.shape)} are not for a weight "
        f"{list(target.shape)}"
    )


def _message(file: Path, models: Mapping[str, Any], count: int, problems: list[str]) -> str:
    lines = [
        f"{file} does not fit these models ({', '.join(models)}); nothing was merged.",
        f"  {len(problems)} problems beside {count} modules found in it:",
        *(f"    {problem}" for problem in problems[:SHOWN]),
    ]
    if len(problems) > SHOWN:
        lines.append(f"    ... and {len(problems) - SHOWN} more")
    lines.append(
        "Check that it was trained for this family (Stable Diffusion 1, 2 or XL) and is a plain "
        "LoRA: LoHa, LoKr and DoRA files are not read."
    )
    return "\n".join(lines)


def _apply(model: nnx.Module, changes: Mapping[ParameterPath, Update], weight: float) -> None:
    """Adds the products to a model's weights; each keeps its dtype and its place."""
    state = nnx.state(model, nnx.Param)
    parameters: Any = nnx.to_flat_state(state)
    for path, leaf in parameters:
        if path not in changes:
            continue
        update = changes[path]
        assert update.down is not None  # `_problem` saw to both
        assert update.up is not None
        value = leaf.get_value()
        rank = len(update.down)
        scale = weight * (1.0 if update.alpha is None else update.alpha / rank)
        product = update.up.reshape(-1, rank) @ update.down.reshape(rank, -1)  # [out, in * k * k]
        axes = checkpoint_axes(path, value.ndim)
        shape = tuple(value.shape[axis] for axis in axes)
        merged = np.asarray(value, np.float32) + scale * product.reshape(shape).transpose(
            np.argsort(axes)
        )
        leaf.set_value(jax.device_put(merged.astype(value.dtype), value.sharding))
    nnx.update(model, state)
