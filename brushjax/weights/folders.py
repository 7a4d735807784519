"""Finds the files that hold a model: in its folder, a pipeline's, at a path, or on the hub."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from brushjax.weights.rules import WeightMap, WeightsError

ORBAX = "params"  # folder of the Orbax checkpoint, beside its config.json
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Found:
    """Where a model's weights are.

    Attributes:
        files: weight files that together hold it; empty for an Orbax checkpoint.
        orbax: the Orbax checkpoint's folder, or None.
        config: content of the config.json that belongs to it, or None.
    """

    files: tuple[Path, ...] = ()
    orbax: Path | None = None
    config: dict[str, Any] | None = None


def find(table: WeightMap, path: str | Path) -> Found:
    """Finds a model's files.

    Args:
        table: of the model's kind.
        path: a weight file, the model's folder, a pipeline folder that contains it, or a hub id.

    Raises:
        WeightsError: nothing is there, or it is not clear what to read.
    """
    place = local_path(path, (table,))
    if place.is_file():
        beside = read_config(place.parent / "config.json")
        ours = beside is not None and _class_of(beside) in table.classes
        return Found(
            files=(place,), config=beside if ours and place.name.startswith(table.stem) else None
        )
    if (place / table.folder).is_dir() and not (place / "config.json").is_file():
        place = place / table.folder
    config = read_config(place / "config.json")
    if config is not None and _class_of(config) not in table.classes:
        raise WeightsError(
            f"{place / 'config.json'} describes a {_class_of(config)}; expected "
            f"{' or '.join(table.classes)} "
            f"for {table.kind}. Pass the folder of the {table.kind}."
        )
    if (place / ORBAX).is_dir():
        return Found(orbax=place / ORBAX, config=config)
    return Found(files=_weight_files(table, place), config=config)


def local_path(path: str | Path, tables: tuple[WeightMap, ...]) -> Path:
    """Returns where `path` is on this machine; downloads a hub id's weights of these kinds."""
    place = Path(path).expanduser()
    if place.exists():
        return place
    if not HUB_ID.fullmatch(str(path)):
        raise WeightsError(
            f"there is no file or folder {place}, and it is no hub id such as owner/name."
        )
    folders = [table.folder for table in tables] + ["scheduler", "tokenizer", "tokenizer_2"]
    endings = ("json", "txt", "safetensors")
    wanted = [f"{folder}/*.{ending}" for folder in folders for ending in endings]
    wanted += ["model_index.json", "config.json"]
    wanted += [f"{stem}*.safetensors*" for stem in {table.stem for table in tables}]
    return from_hub(str(path), wanted)


def from_hub(name: str, wanted: list[str]) -> Path:
    """Returns the folder of a hub repository's files that match, downloaded if need be.

    Raises:
        WeightsError: there is no such repository, it asks for a login, or the hub is out of reach
            and the files are not in its cache on this machine.
    """
    from huggingface_hub import snapshot_download

    duplicates = ["*.fp16.*", "*.non_ema.*", "*fp16*.json"]
    try:
        folder = snapshot_download(name, allow_patterns=wanted, ignore_patterns=duplicates)
    except (OSError, ValueError) as error:  # the hub's errors are one or the other
        raise WeightsError(
            f"{name} is no file or folder here, and the hub did not give it: "
            f"{str(error).strip().splitlines()[0]} Check the name and the connection, log in with "
            f"`hf auth login` if it asks for a licence, or pass the folder of a copy."
        ) from error
    return Path(folder)


def read_config(path: Path) -> dict[str, Any] | None:
    """Reads a config.json, None where there is none."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error


def _class_of(config: dict[str, Any]) -> str | None:
    """Returns the class a config names: diffusers and transformers have different keys for it."""
    return config.get("_class_name") or (config.get("architectures") or [None])[0]


def _weight_files(table: WeightMap, folder: Path) -> tuple[Path, ...]:
    """Picks a model's weights: full precision before variants, safetensors before pickles."""
    stem = table.stem
    for name in (f"{stem}.safetensors", f"{stem}.safetensors.index.json"):
        if (folder / name).is_file():
            return _shards(folder / name)
    variants = sorted({*folder.glob(f"{stem}.*.index.json"), *folder.glob(f"{stem}.*.safetensors")})
    variants = [path for path in variants if not re.search(r"-of-\d+\.safetensors$", path.name)]
    if len(variants) == 1:
        return _shards(variants[0])
    pickles = [
        folder / f"{name}.bin"
        for name in (stem, "pytorch_model")
        if (folder / f"{name}.bin").is_file()
    ]
    if not variants and pickles:
        return (pickles[0],)
    present = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    problem = (
        f"several variants of the {table.kind}" if variants else f"no weights of the {table.kind}"
    )
    raise WeightsError(
        f"{folder} holds {problem}: expected {stem}.safetensors (or its shards, or a "
        f"{table.folder}/ folder with "
        f"them), found {present}. Pass the path of the file to read."
    )


def _shards(path: Path) -> tuple[Path, ...]:
    """Returns a weight file, or all the files that an index names."""
    if path.suffix != ".json":
        return (path,)
    index = read_config(path) or {}
    names = sorted(set(index.get("weight_map", {}).values()))
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing or not names:
        raise WeightsError(
            f"{path} names {len(names)} files; missing are {', '.join(missing) or 'all'}."
        )
    return tuple(path.parent / name for name in names)
