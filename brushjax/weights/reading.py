"""Reads weights of any layout: to unread tensors by checkpoint name, and the model's config."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brushjax.weights import folders
from brushjax.weights.checkpoints import read_orbax
from brushjax.weights.formats import read_file
from brushjax.weights.maps import MAPS, map_of
from brushjax.weights.rules import EACH, LEADING, Dialect, Pair, WeightMap, WeightsError, pairs_of
from brushjax.weights.store import (
    Joined,
    Tensor,
    as_linear,
    parts_of,
    transposed,
    with_leading,
)

TOGETHER = {"clip": ("clip_vision", "clip_text")}  # what one file or folder is published as
WHOLES = ("pipeline", "fireedit")  # what stands for several kinds at once
Config = (
    Mapping[str, Any] | str | Path | Any
)  # a dict, the path of a config.json, or one of our configs


@dataclasses.dataclass(frozen=True)
class Weights:
    """One model's weights, unread.

    Attributes:
        kind: such as "unet".
        source: where they were found, for messages.
        layout: "diffusers", "ldm" or "orbax".
        config: as in a published config.json.
        tensors: by checkpoint name, with the axes of a checkpoint. Names that the layout's table
            does not know stand here as they are in the file, so that the check against the model
            finds them. Numbered layers that are one stack here are one tensor, "layers.*.x".
        ignored: {name in the file: why it was left out}.
    """

    kind: str
    source: str
    layout: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take in their file."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def read(kind: str, path: str | Path, config: Config = None) -> Weights:
    """Finds weights and reads all about them but their values.

    Args:
        kind: a key of `maps.MAPS`.
        path: as in `folders.find`.
        config: used instead of the config that stands with the weights, or of the one their shapes
            tell.

    Raises:
        WeightsError: there are none, the files are damaged, or the config cannot be told.
    """
    table = map_of(kind)
    found = folders.find(table, path)
    given = as_dict(config)
    if found.orbax is not None:
        known = given or found.config
        if known is None:
            raise WeightsError(f"{found.orbax.parent} has no config.json; pass config= (--config).")
        return Weights(kind, str(found.orbax.parent), "orbax", known, read_orbax(found.orbax))
    tensors, metadata = read_files(found.files)
    noted = metadata.get(f"config.{kind}")
    known = given or (json.loads(noted) if noted else None) or found.config
    return interpret(table, tensors, known, str(path))


def as_dict(config: Config) -> dict[str, Any] | None:
    """Returns a config (a dict, the path of a config.json, or one of our configs) as a dict."""
    if config is None or isinstance(config, Mapping):
        return None if config is None else dict(config)
    if isinstance(config, (str, Path)):
        path = Path(config)
        read_config = folders.read_config(path / "config.json" if path.is_dir() else path)
        if read_config is None:
            raise WeightsError(f"there is no config {path}.")
        return read_config
    return config.to_dict()


def read_files(files: tuple[Path, ...]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads one file, or the shards of one model."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        more, notes = read_file(file)
        twice = tensors.keys() & more.keys()
        if twice:
            raise WeightsError(
                f"{file} repeats tensors of another shard: {', '.join(sorted(twice)[:5])}."
            )
        tensors |= more
        metadata |= notes
    return tensors, metadata


def interpret(
    table: WeightMap, found: dict[str, Tensor], config: dict[str, Any] | None, source: str
) -> Weights:
    """Brings a file's tensors to checkpoint names.

    Args:
        table: of the kind that is wanted; the file may hold others too.
        found: by the file's own names.
        config: the model's, or None to tell it from the shapes.
        source: for messages.
    """
    current = {table.spelled_today(name): tensor for name, tensor in found.items()}
    if len(current) < len(found):
        names = [name for name in found if table.spelled_today(name) != name]
        raise WeightsError(f"{source} holds tensors twice, in older names too: {', '.join(names)}.")
    dialect = dialect_of(table, set(current))
    if dialect is None:
        signs = " or ".join(dialect.root + dialect.sign for dialect in table.dialects)
        some = ", ".join(list(found)[:4])
        raise WeightsError(
            f"{source} holds no {table.kind}: expected a tensor named {signs}; it has {len(found)} "
            f"tensors: {some}, ..."
        )
    config = None if config is None else table.settings(config)
    ignored = {
        name: reason for name in current if (reason := _reason(table, dialect, name, config))
    }
    kept = {name: tensor for name, tensor in current.items() if name not in ignored}
    if config is None:
        shapes = {name[len(dialect.root) :]: tensor.shape for name, tensor in kept.items()}
        config = _inferred(dialect, shapes, source)
        if table.kind == "vae" and any(name.startswith("conditioner.") for name in found):
            from brushjax.models.vae import VAEConfig

            config["scaling_factor"] = VAEConfig.sdxl().scaling_factor
    tensors: dict[str, Tensor] = {}
    for name, pairs in pairs_of(kept, dialect.modules(config), dialect.root, theirs=True).items():
        if not pairs:
            tensors[name] = kept[name]
        for pair in pairs:
            tensors[pair.name] = _ours(kept[name], pair, table)
    tensors = joined(tensors, table.stacks)
    return Weights(table.kind, source, dialect.layout, config, tensors, ignored)


def _inferred(dialect: Dialect, shapes: dict[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    try:
        return dialect.infer(shapes)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    except (KeyError, StopIteration) as error:
        raise WeightsError(
            f"{source}: the config cannot be told from the tensors, {error} is missing. Pass "
            f"config= (--config)."
        ) from error


def dialect_of(table: WeightMap, names: set[str]) -> Dialect | None:
    """Returns in which of a kind's dialects a file holds it, None when it does not."""
    return next((d for d in table.dialects if d.root + d.sign in names), None)


def _reason(
    table: WeightMap, dialect: Dialect, name: str, config: dict[str, Any] | None
) -> str | None:
    reason = table.reason_to_ignore(name)
    if reason is None and not name.startswith(dialect.root):
        return f"not part of the {table.kind}"
    if reason is None and config is not None:
        rules = table.ignored_for(config)
        return next((r.reason for r in rules if r.matches(name[len(dialect.root) :])), None)
    return reason


def joined(tensors: Mapping[str, Tensor], stacks: tuple[str, ...]) -> dict[str, Tensor]:
    """Joins the tensors of numbered layers, "layers.0.x", "layers.1.x", ... to "layers.*.x".

    Layers that lack a number or differ in shape stay as they are, for the check to name them.
    """
    found: dict[str, dict[int, Tensor]] = {}
    rest = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in stacks if name.startswith(prefix)), None)
        number, _, end = name[len(prefix or "") :].partition(".")
        if prefix is None or not number.isdecimal():
            rest[name] = tensor
        else:
            found.setdefault(f"{prefix}{EACH}.{end}", {})[int(number)] = tensor
    for name, layers in found.items():
        shapes = {tensor.shape for tensor in layers.values()}
        if sorted(layers) == list(range(len(layers))) and len(shapes) == 1:
            rest[name] = Joined(tuple(layers[number] for number in range(len(layers))))
        else:
            rest |= {name.replace(EACH, str(number)): one for number, one in layers.items()}
    return rest


def unjoined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Splits "layers.*.x" to "layers.0.x", "layers.1.x", ..."""
    single = {}
    for name, tensor in tensors.items():
        if EACH not in name:
            single[name] = tensor
            continue
        for number, part in enumerate(parts_of(tensor)):
            single[name.replace(EACH, str(number))] = part
    return single


def _ours(tensor: Tensor, pair: Pair, table: WeightMap) -> Tensor:
    """Brings a dialect's tensor to the form of ours that the pair names."""
    if pair.part is not None:
        index, count = pair.part
        rows = tensor.shape[0] // count
        tensor = tensor.rows(index * rows, (index + 1) * rows)
    if pair.form == "transposed" and len(tensor.shape) == 2:
        tensor = transposed(tensor, (1, 0))
    leading = LEADING.get(pair.form, 0)
    if leading and tensor.shape[:leading] == (1,) * leading:
        tensor = with_leading(tensor, -leading)
    may_be_flat = pair.form == "conv1x1" or (table.flat and re.search(table.flat, pair.name))
    if may_be_flat and tensor.shape[2:] == (1, 1):
        tensor = as_linear(tensor)
    return tensor


def kinds_in(path: str | Path) -> tuple[str, ...]:
    """Returns the kinds of model that a pipeline folder or a whole-model file holds."""
    place = folders.local_path(path, tuple(MAPS.values()))
    if place.is_dir():
        kinds = tuple(kind for kind, table in MAPS.items() if (place / table.folder).is_dir())
    else:
        found, _ = read_file(place)
        kinds = tuple(kind for kind, table in MAPS.items() if _in_whole_file(table, set(found)))
    if not kinds:
        expected = ", ".join(f"{table.folder}/" for table in MAPS.values())
        raise WeightsError(
            f"{place} is no pipeline: expected a folder with some of {expected} or a whole-model "
            f"file."
        )
    return kinds


def _in_whole_file(table: WeightMap, names: set[str]) -> bool:
    dialect = dialect_of(table, {table.spelled_today(name) for name in names})
    return dialect is not None and dialect.root != ""


@dataclasses.dataclass(frozen=True)
class Listed:
    """One row of `list_tensors`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    ignored: str | None


def list_tensors(kind: str, path: str | Path) -> list[Listed]:
    """Lists the tensors of a kind (or of one of WHOLES) under the names they have in their
    files.

    No model is built and no value is read.
    """
    parts = kinds_in(path) if kind in WHOLES else TOGETHER.get(kind, ())
    if parts:
        return [row for one in parts for row in list_tensors(one, path)]
    table = map_of(kind)
    found = folders.find(table, path)
    if found.orbax is not None:
        tensors, root = read_orbax(found.orbax), ""
    else:
        tensors, _ = read_files(found.files)
        dialect = dialect_of(table, {table.spelled_today(name) for name in tensors})
        root = dialect.root if dialect else ""
    return [
        Listed(name, tensor.shape, str(tensor.dtype), tensor.nbytes, table.reason_to_ignore(name))
        for name, tensor in sorted(tensors.items())
        if name.startswith(root)
    ]
