"""Finds the files that hold a model: in its folder, a pipeline's, at a path, or on the hub."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from brushjax.weights.choice import belongs, choose
from brushjax.weights.formats.flax_files import as_pytorch
from brushjax.weights.rules import WeightMap, WeightsError

ORBAX = "params"  # folder of the Orbax checkpoint, beside its config.json
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "vocab.txt"),
)
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
        ours = beside is not None and class_of(beside) in table.classes
        files = _indexed(place) if place.name.endswith(".json") else (place,)
        return Found(files=files, config=beside if ours and belongs(table, place.name) else None)
    if (place / table.folder).is_dir() and not (place / "config.json").is_file():
        place = place / table.folder
    config = read_config(place / "config.json")
    # A config may name no class; its settings and the tensors then have to fit.
    if config is not None and class_of(config) not in (None, *table.classes):
        raise WeightsError(
            f"{place / 'config.json'} describes a {class_of(config)}; expected "
            f"{' or '.join(filter(None, table.classes))} "
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
    return from_hub(str(path), _wanted(_listed(str(path)), tables))


def _listed(name: str) -> list[str] | None:
    """Returns the names of a hub repository's files, None where the hub does not tell them."""
    from huggingface_hub import list_repo_files

    try:
        return list(list_repo_files(name))
    except (
        OSError,
        ValueError,
    ):  # out of reach or refused: `from_hub` tries its cache, and says so
        return None


def _wanted(listed: list[str] | None, tables: tuple[WeightMap, ...]) -> list[str]:
    """Which of a repository's files to download: configs, and each model's weights once."""
    companions = ("scheduler", "tokenizer", "tokenizer_2")
    folders = [*(table.folder for table in tables), *companions]
    wanted = [f"{folder}/*.{ending}" for folder in folders for ending in ("json", "txt")]
    wanted += ["model_index.json", "config.json", "*/config.json", *TOKENIZER_FILES]
    if listed is None:  # what the cache holds was chosen when it was downloaded
        return [*wanted, *(f"{folder}/*" for folder in folders), *(f"{t.stem}*" for t in tables)]
    for table in tables:
        for folder in (f"{table.folder}/", ""):
            names = {name.removeprefix(folder) for name in listed if name.startswith(folder)}
            chosen = choose(table, names)
            wanted += [folder + name for name in chosen.files] if chosen else []
    return wanted


def from_hub(name: str, wanted: list[str]) -> Path:
    """Returns the folder of a hub repository's files that match, downloaded if need be.

    Raises:
        WeightsError: there is no such repository, it asks for a login, or the hub is out of reach
            and the files are not in its cache on this machine.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, allow_patterns=wanted)
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
        return as_pytorch(json.loads(path.read_text()))
    except ValueError as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error


def class_of(config: dict[str, Any]) -> str | None:
    """Returns the class a config names: diffusers and transformers have different keys for it."""
    return config.get("_class_name") or (config.get("architectures") or [None])[0]


def _weight_files(table: WeightMap, folder: Path) -> tuple[Path, ...]:
    """Picks a model's weights by the rule of `choice`."""
    names = sorted(path.name for path in folder.iterdir())
    try:
        chosen = choose(table, names)
        problem = f"no weights of the {table.kind}"
    except WeightsError as error:
        chosen, problem = None, str(error)
    if chosen is None:
        raise WeightsError(
            f"{folder} holds {problem}: expected {table.stem}.safetensors (or .bin, its shards, a "
            f"variant such as fp16, Flax's .msgpack, or a {table.folder}/ folder with them), found "
            f"{', '.join(names) or 'nothing'}. Pass the path of the file to read."
        )
    if chosen.whole is None and chosen.index is not None:
        return _indexed(folder / chosen.index)
    return tuple(folder / name for name in _all_shards(folder, chosen.files))


def _all_shards(folder: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names; raises WeightsError where they are shards and some are missing."""
    number = re.search(r"-(\d+)-of-(\d+)", names[0])
    if number and len(names) != int(number[2]):
        raise WeightsError(
            f"{folder} holds {len(names)} of {int(number[2])} shards: {', '.join(names)}. Download "
            "the others too."
        )
    return names


def _indexed(path: Path) -> tuple[Path, ...]:
    """Returns all the files that an index names."""
    index = read_config(path) or {}
    names = sorted(set(index.get("weight_map", {}).values()))
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing or not names:
        raise WeightsError(
            f"{path} names {len(names)} files; missing are {', '.join(missing) or 'all'}."
        )
    return tuple(path.parent / name for name in names)
