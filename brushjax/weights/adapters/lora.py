"""Merges LoRA files into loaded models: W + weight * (alpha / rank * up down + difference)."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from brushjax.weights import folders
from brushjax.weights.adapters.lora_names import (
    BUNDLE,
    Layer,
    form_of,
    layer_named,
    layers_of,
    role_of,
)
from brushjax.weights.formats import read_file
from brushjax.weights.rules import Path as ParameterPath
from brushjax.weights.rules import WeightsError, checkpoint_axes
from brushjax.weights.store import Tensor

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # in diffusers', peft's
SHOWN = 8  # offenders that an error names


@dataclasses.dataclass
class Update:
    """One layer's share of a file: a product, plain differences, or both.

    Attributes:
        down: [rank, in, ...], the first matrix or kernel.
        mid: [rank, rank, ...], a kernel between the two, where they are 1x1.
        up: [out, rank, ...], the second.
        alpha: its quotient by the rank scales the product; None stands for the rank.
        diff: what is added to the weight.
        diff_b: what is added to the bias.
    """

    down: np.ndarray | None = None
    mid: np.ndarray | None = None
    up: np.ndarray | None = None
    alpha: float | None = None
    diff: np.ndarray | None = None
    diff_b: np.ndarray | None = None

    @property
    def changes_weight(self) -> bool:
        return self.diff is not None or self.down is not None

    def weight_change(self, shape: tuple[int, ...]) -> np.ndarray:
        """What is added to a weight of this shape."""
        change = np.zeros(shape, np.float32) if self.diff is None else self.diff.reshape(shape)
        if self.down is None or self.up is None:
            return change
        rank = len(self.down)
        first = self.down.reshape(rank, -1)  # [rank, in * k * k]
        if self.mid is not None:
            inner = self.mid.reshape(*self.mid.shape[:2], -1)  # [rank, rank, k * k]
            first = np.einsum("urk,ri->uik", inner, first).reshape(len(self.mid), -1)
        product = self.up.reshape(len(self.up), -1) @ first  # [out, in * k * k]
        scale = 1.0 if self.alpha is None else self.alpha / rank
        return change + scale * product.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a file did.

    Attributes:
        count: how many parameters were changed.
        embeddings: the embeddings that came along: {word: {name in an embedding's file: tensor}}.
    """

    count: int
    embeddings: dict[str, dict[str, Tensor]]


def merge_lora(models: Mapping[str, nnx.Module], path: str | Path, weight: float | int = 1) -> int:
    """Adds a LoRA file to the weights of models, in place; all of it or, with an error, nothing.

    Args:
        models: by kind: "unet" and, where the file trains them, "clip_text" and "clip_text_2".
        path: a .safetensors file in the names of any trainer, see `lora_names`, or the folder with
            one.
        weight: how strongly; 1 is as trained, negative takes away.

    Returns:
        How many parameters were changed.

    Raises:
        WeightsError: the file is damaged, or of another form, or made for another family of models;
            with what did not fit.

    Warns:
        UserWarning: a text embedding comes along in the file; `Inpainter.load(lora=)` uses it.

    Source: Hu et al. 2021, section 4.1, W_0 + (alpha / r) B A.
    """
    merged = merge(models, path, weight)
    if merged.embeddings:
        warnings.warn(
            f"{path} brings embeddings for {', '.join(map(repr, merged.embeddings))}, which "
            "merging leaves out: load it with Inpainter.load(lora=...) to use them",
            stacklevel=2,
        )
    return merged.count


def merge(models: Mapping[str, nnx.Module], path: str | Path, weight: float | int = 1) -> Merged:
    """As `merge_lora`, but hands back the embeddings that come along."""
    file = _file(Path(path).expanduser())
    tensors, metadata = read_file(file)
    bundled = {name: x for name, x in tensors.items() if name.startswith(BUNDLE)}
    updates, unknown = _updates({name: x for name, x in tensors.items() if name not in bundled})
    _fill_alphas(updates, _notes(file, metadata))
    layers = layers_of(models)
    placed = [(layer_named(layers, name), name, update) for name, update in updates.items()]
    problems = [f"{name}: {form_of(name)}, which is not read" for name in unknown]
    problems += [problem for one in placed if (problem := _problem(*one)) is not None]
    if problems or not updates:
        raise WeightsError(_message(file, models, len(updates), problems))
    changes: dict[str, dict[ParameterPath, Update]] = {kind: {} for kind in models}
    for layer, name, update in placed:
        assert layer is not None  # `_problem` saw to it
        targets = [(layer.weight, update.changes_weight), (layer.bias, update.diff_b is not None)]
        for target in (target for target, changed in targets if changed and target is not None):
            if target.path in changes[target.kind]:
                raise WeightsError(
                    f"{file} has {name} twice, in two spellings; nothing was merged."
                )
            changes[target.kind][target.path] = update
    for kind, model in models.items():
        _apply(model, changes[kind], float(weight))
    return Merged(sum(map(len, changes.values())), _bundles(bundled))


def _bundles(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{word: {name in an embedding's file: tensor}}."""
    words: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        word, _, rest = name.removeprefix(BUNDLE).partition(".")
        words.setdefault(word, {})[rest] = tensor
    return words


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
        layer, role = role_of(name)
        if role is None:
            unknown.append(name)
            continue
        values = tensor.array(np.dtype(np.float32))
        update = updates.setdefault(layer, Update())
        setattr(update, role, float(values.reshape(())) if role == "alpha" else values)
    return updates, unknown


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


def _problem(layer: Layer | None, name: str, update: Update) -> str | None:
    """What keeps an update from its layer, if anything."""
    if layer is None or layer.weight is None:
        return f"{name}: the models have no such layer"
    if (update.down is None) != (update.up is None):
        return f"{name}: {'down' if update.down is None else 'up'} is missing"
    if not update.changes_weight and update.diff_b is None:
        return f"{name}: neither up and down nor a difference"
    shape = layer.weight.shape
    if update.down is not None and not _product_fits(update, shape):
        inner = "" if update.mid is None else f", mid {list(update.mid.shape)}"
        up = [] if update.up is None else list(update.up.shape)
        down = list(update.down.shape)
        return f"{name}: down {down}{inner} and up {up} are not for a weight {list(shape)}"
    for what, values, target in (
        ("diff", update.diff, layer.weight),
        ("diff_b", update.diff_b, layer.bias),
    ):
        if values is None:
            continue
        expected = "none" if target is None else list(target.shape)
        if (
            target is None
            or values.shape[: len(target.shape)] != target.shape
            or (values.size != math.prod(target.shape))
        ):
            return f"{name}: {what} {list(values.shape)} is not for a parameter {expected}"
    return None


def _product_fits(update: Update, shape: tuple[int, ...]) -> bool:
    down, mid, up = update.down, update.mid, update.up
    assert down is not None
    assert up is not None
    if min(down.ndim, up.ndim, len(shape)) < 2:
        return False
    kernel = math.prod(shape[2:])
    outer = len(down)
    if mid is not None:
        if mid.shape[1:2] != (outer,) or mid[0, 0].size != kernel or down[0, 0].size != 1:
            return False
        outer, kernel = len(mid), 1
    return (
        up.shape[:2] == (shape[0], outer)
        and up[0, 0].size == 1
        and down.shape[1] == shape[1]
        and down[0, 0].size == kernel
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
        "Check that it was trained for this family (Stable Diffusion 1, 2 or XL). Read are LoRA "
        "and LoCon files and plain differences; LoHa, LoKr, DoRA, OFT and GLoRA are not."
    )
    return "\n".join(lines)


def _apply(model: nnx.Module, changes: Mapping[ParameterPath, Update], weight: float) -> None:
    """Adds the changes to a model's weights; each keeps its dtype and its place."""
    state = nnx.state(model, nnx.Param)
    parameters: Any = nnx.to_flat_state(state)
    for path, leaf in parameters:
        if path not in changes:
            continue
        value = leaf.get_value()
        axes = checkpoint_axes(path, value.ndim)
        shape = tuple(value.shape[axis] for axis in axes)
        update = changes[path]
        added = update.diff_b if path[-1] == "bias" else update.weight_change(shape)
        assert added is not None  # `merge` saw to it
        change = weight * added.transpose(np.argsort(axes))
        merged = np.asarray(value, np.float32) + change
        leaf.set_value(jax.device_put(merged.astype(value.dtype), value.sharding))
    nnx.update(model, state)
