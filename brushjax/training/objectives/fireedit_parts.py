"""Where FireEdit's parts come from: shapes without files, weights straight into their places."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.models.unet import SECOND_STREAM
from brushjax.pipelines.fireedit import Sizes
from brushjax.pipelines.published import read_tokenizer
from brushjax.training.objectives.contract import blueprint, fresh, join, placed, read
from brushjax.typing import Params
from brushjax.weights.adapters.peft import fill_adapter
from brushjax.weights.fireedit import ADAPTER, NULL_CONTEXT, NULL_NAME
from brushjax.weights.reading import kinds_in
from brushjax.weights.store import read_safetensors

NULL = "null_context"
ROWS = ("new_embed", "new_head")
ADDED = ("lora_A", "lora_B", *ROWS)  # to a published language model


@dataclasses.dataclass(frozen=True)
class Sources:
    """Folder or hub id of each part; an empty one starts afresh.

    Attributes:
      start: a FireEdit folder, or what an earlier stage left: what it holds comes from there.
      groma: of proposals, regions and the bridge to the language model.
      clip: of the image encoder, and of the text encoder with its tokenizer, whose features of an
        empty prompt stand for a dropped instruction; must be the UNet's.
      llama: also of the tokenizer, where `start` has none.
    """

    start: str = ""
    llama: str = "llava-hf/llava-1.5-7b-hf"
    dino: str = "facebook/dinov2-large"
    clip: str = "openai/clip-vit-large-patch14"
    groma: str = "FoundationVision/groma-7b-finetune"
    unet: str = "timbrooks/instruct-pix2pix"
    vae: str = "timbrooks/instruct-pix2pix"
    qformer: str = ""
    tati: str = ""
    hvca: str = ""

    def of(self, kind: str) -> str:
        """Returns where a part comes from; empty where it starts afresh."""
        if self.start and kind in kinds_in(self.start):
            return self.start
        names = {"clip_vision": "clip", "clip_text": "clip"}
        names |= dict.fromkeys(("proposer", "region_encoder", "bridge"), "groma")
        return getattr(self, names.get(kind, kind))

    @property
    def tokenizer(self) -> str:
        """Where the language model's tokenizer is."""
        if self.start and (Path(self.start) / "tokenizer").is_dir():
            return self.start
        return self.llama

    @property
    def adapter(self) -> str:
        """Folder of the language model's updates and rows; empty where there is none."""
        folder = Path(self.start) / ADAPTER
        return str(folder) if self.start and folder.is_dir() else ""


def part_shapes(sizes: Sizes, kinds: tuple[str, ...]) -> Params:
    """Returns the parameters of parts as jax.ShapeDtypeStruct, reading nothing."""
    return {kind: blueprint(*sizes.of(kind))[1] for kind in kinds}


def load_parts(
    sizes: Sizes, sources: Sources, key: jax.Array, wanted: Params, afresh: tuple[str, ...] = ()
) -> Params:
    """Returns what is wanted of the parts, read or fresh, straight in its places.

    Args:
      afresh: kinds that start from nothing, whatever the sources have.
    """
    params = {}
    for number, (kind, structs) in enumerate(sorted(wanted.items())):
        own = jax.random.fold_in(key, number)
        if kind in afresh:
            params[kind] = fresh(*sizes.of(kind), own, structs)
        elif kind == "llama":
            params[kind] = _language(sizes, sources, own, structs)
        elif kind == "unet" and sources.of(kind):
            params[kind] = _unet(sources.of(kind), structs)
        elif sources.of(kind):
            params[kind] = read(kind, sources.of(kind), structs)
        else:
            params[kind] = fresh(*sizes.of(kind), own, structs)
    return params


def _language(sizes: Sizes, sources: Sources, key: jax.Array, wanted: Params) -> Params:
    """The published matrices, and what is added to them: of an earlier stage, or at its start."""
    added, published = _parted(wanted, lambda path: any(name in path for name in ADDED))
    source = sources.of("llama")
    if not source:
        return fresh(*sizes.of("llama"), key, wanted)
    params: Params = read("llama", source, published)
    stored = fill_adapter(sources.adapter, "llama", added) if sources.adapter else {}
    missing, _ = _parted(added, lambda path: not _holds(stored, path))
    params = join(params, stored)
    rows = {name: leaf for name, leaf in missing.items() if name in ROWS}
    if rows:
        means = _mean_rows(params, sizes.sequence.new_tokens)
        params = {**params, **placed(means, rows)}
        missing = {name: leaf for name, leaf in missing.items() if name not in ROWS}
    return join(params, fresh(*sizes.of("llama"), key, missing)) if missing else params


def _mean_rows(params: Params, count: int) -> Params:
    """New tokens' rows, which start as the mean of the published ones, as SmartEdit's do."""

    def mean(matrix: jax.Array, axis: int) -> jax.Array:
        where: Any = matrix.sharding
        if isinstance(where, NamedSharding):  # of several hosts, each needs the whole of it
            where = NamedSharding(where.mesh, PartitionSpec())
        of_rows = functools.partial(jnp.mean, axis=axis, dtype=jnp.float32)
        means = jax.jit(of_rows, out_shardings=where)(matrix)
        return jnp.tile(jax.device_get(means), (count, 1))

    table = params["model"]["embed_tokens"]["embedding"]
    rows = mean(table, 0)
    head = mean(params["lm_head"]["kernel"], 1) if "lm_head" in params else rows
    return {"new_embed": rows, "new_head": head}


def _unet(source: str, wanted: Params) -> Params:
    """The UNet; what a published one lacks starts without effect or as IP-Adapter's does.

    Its second stream's keys and values are copies of the first's, and the picture's channels of its
    first layer are 0.
    """
    config = weights.read("unet", source).config
    own, second = wanted, {}
    if config.get("visual_cross_attention_dim") is None:
        second, own = _parted(wanted, lambda path: any(name in path for name in SECOND_STREAM))
    first = own["conv_in"]["kernel"]
    lacking = first.shape[2] - config.get("in_channels", 4)
    if not lacking:
        params = read("unet", source, own)
    else:
        narrow = {"conv_in": {"kernel": _narrow(first, lacking)}}
        kernel = np.asarray(read("unet", source, narrow)["conv_in"]["kernel"])
        rest = {**own, "conv_in": {k: v for k, v in own["conv_in"].items() if k != "kernel"}}
        wide = np.pad(kernel, ((0, 0), (0, 0), (0, lacking), (0, 0)))
        entry = {"conv_in": placed({"kernel": wide}, {"kernel": first})}
        params = join(read("unet", source, rest), entry)
    return join(params, _copied(params, second)) if second else params


def _narrow(leaf: jax.ShapeDtypeStruct, lacking: int) -> jax.ShapeDtypeStruct:
    height, width, channels, features = leaf.shape
    here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    shape = (height, width, channels - lacking, features)
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=here)


def _copied(params: Params, wanted: Params) -> Params:
    """Copies of the first stream's matrices, where the second's are wanted."""
    made = {}
    for name, leaf in wanted.items():
        first = params[SECOND_STREAM.get(name, name)]
        if name in SECOND_STREAM:
            struct = leaf["kernel"]
            if first["kernel"].shape != struct.shape:
                raise ConfigError(
                    f"expected unet.visual_cross_attention_dim {first['kernel'].shape[0]}, the "
                    f"text's width, for a second stream that starts as a copy of the first; got "
                    f"{struct.shape[0]}"
                )
            made[name] = {"kernel": jax.device_put(jnp.copy(first["kernel"]), struct.sharding)}
        else:
            made[name] = _copied(first, leaf)
    return made


def _parted(tree: Params, chosen: Any) -> tuple[Params, Params]:
    """Divides a tree by its paths, (those chosen, the others)."""
    ours: dict[Any, Any] = {}
    others: dict[Any, Any] = {}

    def walk(branch: Params, path: tuple[Any, ...], one: Any, other: Any) -> None:
        for name, leaf in branch.items():
            here = (*path, name)
            if isinstance(leaf, Mapping):
                below: Any = ({}, {})
                walk(leaf, here, *below)
                for side, part in zip((one, other), below):
                    if part:
                        side[name] = part
            else:
                (one if chosen(here) else other)[name] = leaf

    walk(tree, (), ours, others)
    return ours, others


def _holds(tree: Any, path: tuple[Any, ...]) -> bool:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return False
        tree = tree[name]
    return True


def null_context(sizes: Sizes, sources: Sources) -> np.ndarray:
    """Returns the text encoder's features of an empty prompt. float32 [1, Q, D]

    Of fewer latents than the encoder has tokens, as many of the first: they know of none behind.

    Raises:
      ConfigError: if they are not as many or as wide as the edit's.
    """
    stored = Path(sources.start) / NULL_CONTEXT
    if sources.start and stored.is_file():
        null = read_safetensors(stored)[0][NULL_NAME].array(np.dtype(np.float32))
    else:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            text: Any = weights.load("clip_text", sources.clip)
            ids = jnp.asarray(read_tokenizer(sources.clip)([""]))
            null = np.asarray(jax.jit(lambda ids: text(ids).last_hidden_state)(ids))
            null = null[:, : sizes.tati.num_latents]
    expected = (1, sizes.tati.num_latents, sizes.tati.width)
    if null.shape != expected:
        raise ConfigError(
            f"expected features {list(expected)} of an empty prompt, tati's num_latents and width; "
            f"got {list(null.shape)} of {sources.clip}"
        )
    return null
