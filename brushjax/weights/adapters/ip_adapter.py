"""The second stream's keys and values in the files of IP-Adapter and of diffusers, both ways.

IP-Adapter numbers the attentions of a UNet, self-attentions too, in the order of its code: down,
up, middle. Diffusers names them by their place. In a UNet of ours they stand beside the text's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from brushjax.models.unet import UNet
from brushjax.nn import Shapes
from brushjax.weights.formats import is_pickle, read_file
from brushjax.weights.formats.pickles import read_content
from brushjax.weights.rules import WeightsError, checkpoint_axes, checkpoint_name
from brushjax.weights.store import Tensor, transposed, write_safetensors
from brushjax.weights.writing import ModelTensor

Names = Literal["numbered", "diffusers"]
GROUPS = ("down_blocks", "up_blocks", "mid_block")  # in IP-Adapter's order
NUMBERED = re.compile(r"^ip_adapter\.(\d+)\.to_([kv])_ip\.weight$")
NAMED = re.compile(r"\.attn2(?:\.processor)?\.to_([kv])_ip(?:\.0)?\.weight$")
OURS = re.compile(r"\.attn2\.to_[kv]_ip\.weight$")


def with_ip_adapter(unet: UNet, path: str | Path) -> UNet:
    """Returns a UNet with a second stream whose keys and values a file holds.

    All else is the given UNet's own, not copied.

    Args:
        path: a file in IP-Adapter's or diffusers' names; its projection of pictures is left out.

    Raises:
        WeightsError: the file does not hold exactly the keys and values of this UNet.
    """
    file = Path(path).expanduser()
    found = _read(file)
    tensors = {_today(name, unet): tensor for name, tensor in found.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if OURS.search(name)}
    widths = {tensor.shape[-1] for tensor in tensors.values()}
    if len(widths) != 1:
        raise WeightsError(
            f"{file} holds no second stream: expected tensors like ip_adapter.1.to_k_ip.weight, "
            f"all of one width, got {', '.join(list(found)[:4])}"
        )
    return _filled(unet, tensors, widths.pop(), str(file))


def _read(file: Path) -> dict[str, Tensor]:
    """Reads a file; in a pickle IP-Adapter keeps its two parts as dicts of their own."""
    with open(file, "rb") as opened:
        nested = read_content(file) if is_pickle(opened.read(256)) else {}
    second = nested.get("ip_adapter") if isinstance(nested, Mapping) else None
    if not isinstance(second, Mapping):
        return read_file(file)[0]
    return {f"ip_adapter.{name}": tensor for name, tensor in second.items()}


def _filled(unet: UNet, tensors: dict[str, Tensor], width: int, source: str) -> UNet:
    config = dataclasses.replace(unet.config, visual_cross_attention_dim=width)
    model = nnx.eval_shape(lambda: UNet(config, rngs=Shapes()))
    parameters: Any = nnx.to_flat_state(nnx.state(unet))
    own = dict(parameters)
    state = nnx.state(model)
    empty: Any = nnx.to_flat_state(state)
    wanted: dict[str, Any] = {}
    for path, leaf in empty:
        if path in own:
            leaf.set_value(own[path].get_value())
        else:
            wanted[checkpoint_name(path)] = path, leaf
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"{name} has no place" for name in sorted(tensors.keys() - wanted.keys())]
    dtype = np.dtype(unet.conv_in.kernel[...].dtype)
    for name in sorted(wanted.keys() & tensors.keys()):
        path, leaf = wanted[name]
        values = tensors[name].array(dtype)
        values = values.transpose(np.argsort(checkpoint_axes(path, values.ndim)))
        if values.shape != leaf.shape:
            problems.append(f"{name}: expected {leaf.shape}, got {values.shape}")
            continue
        leaf.set_value(jax.numpy.asarray(values))
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems)
        raise WeightsError(f"{source} does not fit this UNet's cross-attentions:\n{shown}")
    nnx.update(model, state)
    return model


def save_ip_adapter(
    unet: UNet, path: str | Path, *, names: Names = "numbered", dtype: Any = None
) -> None:
    """Writes the keys and values of a UNet's second stream as one safetensors file.

    Args:
        names: "numbered" as IP-Adapter has them, "diffusers" by their place.

    Raises:
        WeightsError: the UNet has none.
    """
    numbers = {place: number for number, place in _places(unet).items()}
    tensors: dict[str, Tensor] = {}
    parameters: Any = nnx.to_flat_state(nnx.state(unet))
    for key, leaf in parameters:
        name = checkpoint_name(key)
        if not OURS.search(name):
            continue
        place, end = name.split(".attn2.")
        which = end.removesuffix(".weight")
        other = (
            f"ip_adapter.{numbers[place]}.{which}.weight"
            if names == "numbered"
            else f"{place}.attn2.processor.{which}.0.weight"
        )
        value = leaf.get_value()
        tensors[other] = transposed(ModelTensor(value), checkpoint_axes(key, value.ndim))
    if not tensors:
        raise WeightsError("this UNet has no second stream (config visual_cross_attention_dim).")
    kept = None if dtype is None else jax.numpy.dtype(dtype)
    write_safetensors(Path(path).expanduser(), tensors, kept, {"format": "pt"})


def _places(unet: UNet) -> dict[int, str]:
    """Returns where the attentions to the text are, by IP-Adapter's number."""
    places = []
    for group in GROUPS:
        blocks: Any = getattr(unet, group)
        single = group == "mid_block"
        for i, block in enumerate([blocks] if single else blocks):
            start = group if single else f"{group}.{i}"
            for j, attention in enumerate(block.attentions):
                layers = range(len(attention.transformer_blocks))
                places += [f"{start}.attentions.{j}.transformer_blocks.{k}" for k in layers]
    return {2 * i + 1: place for i, place in enumerate(places)}


def _today(name: str, unet: UNet) -> str:
    """Returns the name that a tensor has in a UNet of ours; another tensor's as it is."""
    numbered = NUMBERED.match(name)
    if numbered:
        place = _places(unet).get(int(numbered[1]), f"ip_adapter.{numbered[1]}")
        return f"{place}.attn2.to_{numbered[2]}_ip.weight"
    return NAMED.sub(r".attn2.to_\1_ip.weight", name)
