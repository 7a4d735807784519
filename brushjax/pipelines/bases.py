"""A base model's parts, from a pipeline folder, a hub id, or one file as communities share them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.data.text import Tokenizer
from brushjax.models.encoders.clip import CLIPText
from brushjax.models.vae import VAEConfig, working_dtype
from brushjax.weights import WeightsError, load, read
from brushjax.weights.adapters.embeddings import embedding_of, read_embedding
from brushjax.weights.adapters.lora import merge
from brushjax.weights.folders import from_hub, local_path
from brushjax.weights.maps import MAPS
from brushjax.weights.noise import SD1_SCHEDULER, XL_SCHEDULER, pipeline_scheduler
from brushjax.weights.reading import kinds_in

__all__ = ["SD1_SCHEDULER", "SHIPPED_BASE", "XL_SCHEDULER", "BaseFiles", "base_path", "load_base"]

SHIPPED_BASE = Path(__file__).parents[1] / "assets/base"
PARTS = {"unet": "unet", "vae": "vae", "clip_text": "text_encoder", "clip_text_2": "text_encoder_2"}

# A single file holds no tokenizer and no scheduler config. Every Stable Diffusion 1 and XL has the
# vocabulary of OpenAI's CLIP; XL's second tokenizer pads with another token.
VOCABULARY = "openai/clip-vit-large-patch14"
SECOND_PADDING = "!"
PIXELS = 8  # a side of a latent's cell


@dataclasses.dataclass(frozen=True)
class BaseFiles:
    """Where a base's parts come from; None takes them from the base itself.

    Attributes:
        base: pipeline folder or single file, see `base_path`.
        vae: an autoencoder instead of the base's.
        tokenizer: folder of the vocabulary.
        scheduler: a published scheduler_config.json: dict, file or folder.
        lora: LoRA files with the weights to merge them with.
        embeddings: files of learnt words.
    """

    base: Path
    vae: str | Path | None = None
    tokenizer: str | Path | None = None
    scheduler: Any = None
    lora: tuple[tuple[str | Path, float | int], ...] = ()
    embeddings: Mapping[str, str | Path] = dataclasses.field(default_factory=dict)


def load_base(files: BaseFiles, dtype: Any) -> dict[str, Any]:
    """Loads a base's parts, as arguments of `Inpainter.from_parts`.

    Raises:
        WeightsError: a part is missing, with what to pass; or it is damaged.
    """
    models = _models(files, dtype)
    learnt: dict[str, dict[str, np.ndarray]] = {}
    for path, weight in files.lora:
        merged = merge({kind: models[kind] for kind in models if kind != "vae"}, path, weight)
        for word, content in merged.embeddings.items():
            learnt[word] = embedding_of(content, f"{path}, {word}")
    learnt |= {word: read_embedding(path) for word, path in files.embeddings.items()}
    parts: dict[str, Any] = {PARTS[kind]: model for kind, model in models.items()}
    for kind in ("clip_text", "clip_text_2"):
        if kind in models:
            length = models[kind].config.max_position_embeddings
            name = PARTS[kind].replace("text_encoder", "tokenizer")
            parts[name] = _tokenizer(files, name, length)
    parts["scheduler"] = _scheduler(files, models["unet"].config)
    parts["side"] = training_side(files.base)
    if learnt:
        parts["embeddings"] = learnt
    return parts


def learnt_words(
    embeddings: Mapping[str, Any], encoders: Mapping[str, CLIPText]
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the vectors of learnt words for each of a base's text encoders.

    Args:
        embeddings: {word: file, or what `read_embedding` makes of it}.
        encoders: by kind, "clip_text" and for XL "clip_text_2".

    Returns:
        {kind: {word: [n, D]}}; n is 0 where a word was learnt for the other encoder alone.

    Raises:
        WeightsError: an embedding for other encoders than these.
    """
    words: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in encoders}
    widths = {kind: model.config.hidden_size for kind, model in encoders.items()}
    for word, given in embeddings.items():
        if not word.strip():
            raise WeightsError("expected a word for every embedding, got an empty one.")
        read = given if isinstance(given, Mapping) else read_embedding(given)
        fits = {}
        for kind, width in widths.items():
            vectors = read.get(kind, read.get(""))
            none = np.zeros((0, width), np.float32)
            fits[kind] = none if vectors is None or vectors.shape[1] != width else vectors
        named = {kind for kind in read if kind}
        if not any(map(len, fits.values())) or any(not len(fits.get(kind, ())) for kind in named):
            shapes = ", ".join(f"{kind} {list(x.shape)}".strip() for kind, x in read.items())
            raise WeightsError(
                f"the embedding of {word!r} is for another family: expected vectors for "
                f"{', '.join(f'{kind} of width {width}' for kind, width in widths.items())}, got "
                f"{shapes}."
            )
        for kind, vectors in fits.items():
            words[kind][word] = vectors
    return words


def of_package(flag: str) -> str:
    """A line for users of a command without this flag: what to expect of what serves instead."""
    return (
        f"note: without --{flag} the miniature in the package serves: it knows a few photographs, "
        "and works roughly"
    )


def base_path(base: str | Path | None) -> Path:
    """Returns where a base is on this machine: a hub id is downloaded, None is the small one."""
    kinds = (*PARTS, "brushnet")
    return SHIPPED_BASE if base is None else local_path(base, tuple(MAPS[kind] for kind in kinds))


def training_side(place: Path) -> int | None:
    """Returns the side in pixels of the pictures that a base was trained on, if its config tells.

    Raises:
        WeightsError: there is no UNet.
    """
    cells = read("unet", place).config.get("sample_size")
    return cells * PIXELS if isinstance(cells, int) else None


def _models(files: BaseFiles, dtype: Any) -> dict[str, Any]:
    """The base's networks by kind."""
    place = files.base
    kinds = [kind for kind in kinds_in(place) if kind in PARTS]
    sources: dict[str, str | Path] = dict.fromkeys(kinds, place)
    if files.vae is not None:
        sources["vae"] = files.vae
    missing = {"unet", "vae", "clip_text"} - sources.keys()
    if missing:
        raise WeightsError(
            f"{place} holds no {' and no '.join(sorted(missing))}: expected a pipeline folder or a "
            f"whole-model file with {', '.join(sources) or 'nothing'} and these; "
            + ("pass vae= (--vae)." if missing == {"vae"} else "pass another base.")
        )
    models: dict[str, Any] = {
        kind: load(kind, source, dtype=dtype) for kind, source in sources.items() if kind != "vae"
    }
    stored = read("vae", sources["vae"])
    config = stored.config
    if models["unet"].config.addition_embed_type is not None and "scaling_factor" not in config:
        # A VAE file without config doesn't state it.
        config = {**config, "scaling_factor": VAEConfig.sdxl().scaling_factor}
    kept = dtype or next(iter(stored.tensors.values())).dtype
    dtype = working_dtype(kept, bool(config.get("force_upcast")))
    models["vae"] = load("vae", sources["vae"], dtype=dtype, config=config)
    return models


def _tokenizer(files: BaseFiles, name: str, length: int) -> Tokenizer:
    """The tokenizer of an encoder: given, the folder's own, or the published vocabulary."""
    place, given = files.base, files.tokenizer
    if given is None and (place / name).is_dir():
        return Tokenizer.load(place / name, length)
    padding = SECOND_PADDING if name == "tokenizer_2" else None
    if given is not None:
        own = Path(given) / name
        if name == "tokenizer_2" and own.is_dir():  # a pipeline folder with both
            return Tokenizer.load(own, length)
        return Tokenizer.load(given, length, padding)
    try:
        folder = from_hub(VOCABULARY, ["*.json", "merges.txt"])
    except WeightsError as error:
        raise WeightsError(
            f"{place} holds no {name}/, and CLIP's vocabulary, {VOCABULARY} on the hub, can't be "
            f"had: {error} Pass tokenizer= (--tokenizer) with a folder that holds vocab.json and "
            f"merges.txt, such as the tokenizer/ of any Stable Diffusion in diffusers layout."
        ) from error
    return Tokenizer.load(folder, length, padding)


def _scheduler(files: BaseFiles, unet: Any) -> Any:
    """The scheduler config: given, or what the base says; WeightsError where it says nothing."""
    place = files.base
    if files.scheduler is not None:
        return files.scheduler
    if place.is_dir():
        return place / "scheduler"
    scheduler = pipeline_scheduler(place, unet.to_dict())
    if scheduler is None:
        raise WeightsError(
            f"{place} is a Stable Diffusion 2, whose file doesn't say whether it predicts noise or "
            f"velocity: pass scheduler= (--scheduler-config) with its scheduler_config.json."
        )
    return scheduler
