"""The networks behind the metrics: loaded from users' files, run batch by batch.

Pictures are prepared on the host in threads, a batch ahead of the device. A batch always has the
same number of rows (short ones are padded), so a picture's features do not depend on what is scored
with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from brushjax.data.text import Tokenizer, transformers_class
from brushjax.evaluation.network_files import weights_missing
from brushjax.evaluation.score import TOKENIZER
from brushjax.metrics.metric import Need
from brushjax.metrics.preprocess import PREPROCESS
from brushjax.metrics.views import Views
from brushjax.weights import WeightsError, load
from brushjax.weights.folders import ORBAX

BATCH = 8  # rows of a compiled call: enough to fill two cores, little enough for a GPU of any size
THREADS = min(4, os.cpu_count() or 1)
AHEAD = 2  # batches that are prepared while the device works on one
BLOCK = 1 << 20  # bytes of a file that are hashed at once

Inputs = tuple[np.ndarray, ...]
Tokens = Callable[[str], Inputs]  # a text -> one row of each input that the network takes


@dataclasses.dataclass(frozen=True)
class Network:
    """What a network is made of.

    Attributes:
        kinds: of weights to load, all from the one path.
        outputs: output's name -> function of the loaded models and the inputs.
        tokenizer: "clip", "bert", or None where the network reads no text.
    """

    kinds: tuple[str, ...]
    outputs: Mapping[str, Callable[..., jax.Array]]
    tokenizer: str | None = None


def _clip() -> Network:
    return Network(
        ("clip_vision", "clip_text"),
        {
            "image": lambda models, images: models["clip_vision"](images).embeds,
            "text": lambda models, ids: models["clip_text"](ids).text_embeds,
        },
        "clip",
    )


def _dino() -> Network:
    return Network(
        ("dino",),
        {
            "class": lambda models, images: models["dino"](images).pooled,
            "keys": lambda models, images: models["dino"].keys(images),
        },
    )


def _lpips() -> Network:
    return Network(
        ("lpips",),
        {
            "score": lambda models, a, b: models["lpips"](a, b).score,
            "map": lambda models, a, b: models["lpips"](a, b).map,
        },
    )


NETWORKS: dict[str, Network] = {
    **{name: _clip() for name in ("clip_b32", "clip_l14", "hps_v21")},
    **{name: _dino() for name in ("dino_s16", "dino_b8", "dinov2_s14")},
    **{f"lpips_{net}": _lpips() for net in ("alex", "squeeze", "vgg")},
    "image_reward": Network(
        ("image_reward",),
        {"score": lambda models, *inputs: models["image_reward"](*inputs)},
        "bert",
    ),
    # Reads the embeddings of clip_l14, which has to be there too.
    "aesthetic": Network(
        ("aesthetic",),
        {"score": lambda models, images: models["aesthetic"](models["clip_vision"](images).embeds)},
    ),
}
# What a network must be for its name: a setting of its config, so that a file of another size is
# refused rather than scored with.
EXPECTED: dict[str, tuple[str, Mapping[str, Any]]] = {
    "clip_b32": ("clip_vision", {"patch_size": 32, "hidden_size": 768}),
    "clip_l14": ("clip_vision", {"patch_size": 14, "hidden_size": 1024}),
    "hps_v21": ("clip_vision", {"patch_size": 14, "hidden_size": 1280}),
    "dino_s16": ("dino", {"patch_size": 16, "hidden_size": 384}),
    "dino_b8": ("dino", {"patch_size": 8, "hidden_size": 768}),
    "dinov2_s14": ("dino", {"patch_size": 14, "hidden_size": 384}),
    **{f"lpips_{net}": ("lpips", {"net": net}) for net in ("alex", "squeeze", "vgg")},
}


@dataclasses.dataclass
class Seconds:
    """Where scoring spends its time.

    Attributes:
        preprocess: of all threads together, preparing pictures.
        wait: no batch was prepared and the device had finished the one before; a wait in which it
            finished counts in full.
        total: wall clock.
    """

    preprocess: float = 0.0
    wait: float = 0.0
    total: float = 0.0

    @property
    def waiting(self) -> float:
        """Share of the time in which the device waited for the host, at most."""
        return self.wait / self.total if self.total else 0.0


class Networks:
    """Loaded networks, by name.

    Attributes:
        names: of the networks, for `registry.select`.
        hashes: sha256 of each network's files, by name.
        seconds: where the time went so far.
    """

    def __init__(
        self,
        models: Mapping[str, Mapping[str, Any]],
        tokenizers: Mapping[str, Tokens] | None = None,
        hashes: Mapping[str, str] | None = None,
        batch: int = BATCH,
    ):
        """Takes models that are loaded already: {network: {kind: model}}."""
        self._models = {name: dict(kinds) for name, kinds in models.items()}
        if "aesthetic" in self._models:
            if "clip_l14" not in self._models:
                raise ValueError("the aesthetic head reads clip_l14's embeddings: give that too")
            self._models["aesthetic"]["clip_vision"] = self._models["clip_l14"]["clip_vision"]
        self._tokenizers = dict(tokenizers or {})
        self.hashes = dict(hashes or {})
        self.batch = batch
        self.seconds = Seconds()
        self._lock = threading.Lock()
        self._running: jax.Array | None = None  # what the device was given last
        self._compiled: dict[tuple[str, str], Callable[..., jax.Array]] = {}

    @classmethod
    def load(cls, paths: Mapping[str, str | Path], batch: int = BATCH) -> Networks:
        """Loads networks from users' files.

        Args:
            paths: network's name, a key of `NETWORKS`, -> folder or file; and, where the tokenizer
                does not lie in that folder, "<name>.tokenizer" -> its folder.

        Raises:
            ValueError: an unknown name, or a network of another size than its name says.
            WeightsError: files that are missing, damaged or of another network.
            FileNotFoundError: a tokenizer that is nowhere.
        """
        names = [name for name in paths if not name.endswith(TOKENIZER)]
        unknown = [name for name in names if name not in NETWORKS]
        if unknown:
            raise ValueError(f"unknown networks {unknown}; expected some of {', '.join(NETWORKS)}")
        lost = [f"{name}: {path}" for name, path in paths.items() if not _place(path).exists()]
        if lost:  # before minutes of loading, and never from the network while scoring
            known = [name for name in names if not _place(paths[name]).exists()]
            raise WeightsError(
                f"there is no file or folder {', '.join(lost)}"
                + (f"; {weights_missing(known)}" if known else "")
            )
        models, tokenizers, hashes = {}, {}, {}
        for name in names:
            network, path = NETWORKS[name], paths[name]
            models[name] = {kind: load(kind, path) for kind in network.kinds}
            _check_size(name, models[name], path)
            hashes[name] = hash_of(path)
            if network.tokenizer:
                folder = paths.get(name + TOKENIZER, path)
                tokenizers[name] = _tokens(network.tokenizer, _place(folder))
                both = hashes[name] + hash_of(folder)  # other ids are other features
                hashes[name] = hashlib.sha256(both.encode()).hexdigest()
        if {"aesthetic", "clip_l14"} <= hashes.keys():  # its scores depend on both files
            both = hashes["aesthetic"] + hashes["clip_l14"]
            hashes["aesthetic"] = hashlib.sha256(both.encode()).hexdigest()
        return cls(models, tokenizers, hashes, batch)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    def features(
        self, needs: Sequence[Need], samples: Sequence[Views]
    ) -> list[dict[Need, np.ndarray]]:
        """Computes what metrics need, for every sample.

        Raises:
            ValueError: a sample lacks an input, or a network has no such output.
            KeyError: a network that is not loaded.
        """
        start = time.perf_counter()
        found: list[dict[Need, np.ndarray]] = [{} for _ in samples]
        for need in needs:
            for row, value in enumerate(self._rows(need, samples)):
                found[row][need] = value
        self.seconds.total += time.perf_counter() - start
        return found

    def _rows(self, need: Need, samples: Sequence[Views]) -> list[np.ndarray]:
        forward = self._forward(need)
        rows: list[np.ndarray] = [np.empty(0)] * len(samples)
        with ThreadPoolExecutor(THREADS) as threads:
            self._running, before = None, []
            for places, inputs in self._batches(need, samples, threads):
                values = forward(self._models[need.network], *inputs)  # returns before it is done
                if self._running is not None:
                    _collect(before, self._running, rows)
                self._running, before = values, places
            if self._running is not None:
                _collect(before, self._running, rows)
        return rows

    def _batches(
        self, need: Need, samples: Sequence[Views], threads: ThreadPoolExecutor
    ) -> Iterator[tuple[list[int], Inputs]]:
        """Yields batches of rows of one shape, prepared ahead; the last of a shape is padded."""
        window = AHEAD * self.batch
        waiting: list[Future[Inputs]] = []
        ready: dict[tuple, list[tuple[int, Inputs]]] = {}
        for place in range(len(samples)):
            for sample in samples[place + len(waiting) : place + window]:
                waiting.append(threads.submit(self._prepare, need, sample))
            start = time.perf_counter()
            inputs = waiting.pop(0).result()
            if self._running is None or _done(self._running):
                self.seconds.wait += time.perf_counter() - start
            group = ready.setdefault(tuple(x.shape for x in inputs), [])
            group.append((place, inputs))
            if len(group) == self.batch:
                yield self._stacked(group)
                group.clear()
        for group in ready.values():
            if group:
                yield self._stacked(group)

    def _stacked(self, group: list[tuple[int, Inputs]]) -> tuple[list[int], Inputs]:
        places = [place for place, _ in group]
        rows = [inputs for _, inputs in group]
        rows += [rows[-1]] * (self.batch - len(rows))
        return places, tuple(np.stack(column) for column in zip(*rows))

    def _prepare(self, need: Need, sample: Views) -> Inputs:
        start = time.perf_counter()
        inputs: list[np.ndarray] = []
        for one in need.inputs:
            if isinstance(one, str):
                with self._lock:  # tokenizers keep state between a call's two halves
                    inputs += self._tokenizer(need.network)(sample.text(one))
            else:
                inputs.append(PREPROCESS[need.preprocess](sample.picture(one)))
        with self._lock:
            self.seconds.preprocess += time.perf_counter() - start
        return tuple(inputs)

    def _tokenizer(self, name: str) -> Tokens:
        if name not in self._tokenizers:
            raise ValueError(f"{name} reads texts and has no tokenizer; give {name}.tokenizer")
        return self._tokenizers[name]

    def _forward(self, need: Need) -> Callable[..., jax.Array]:
        _, _, output = need.feature.partition(".")
        if need.network not in self._models:
            raise KeyError(f"{need} needs {need.network}; there are {', '.join(self.names)}")
        outputs = NETWORKS[need.network].outputs
        if output not in outputs:
            raise ValueError(f"{need.network} gives {', '.join(outputs)}, not {output!r}")
        key = (need.network, output)
        if key not in self._compiled:
            self._compiled[key] = jax.jit(outputs[output])
        return self._compiled[key]


def _done(values: Any) -> bool:
    return values.is_ready()  # jax.Array has it at run time, its type does not


def _collect(places: list[int], values: jax.Array, rows: list[np.ndarray]) -> None:
    for place, value in zip(places, np.asarray(values)):
        rows[place] = np.asarray(value)  # a row of scores is a bare number otherwise


def hash_of(path: str | Path) -> str:
    """The sha256 of a weight file, or of a folder's weights, configs and vocabularies by name."""
    place = _place(path)
    digest = hashlib.sha256()
    inside = (path for path in place.rglob("*") if path.is_file())
    files = sorted(path for path in inside if _counts(path.relative_to(place)))
    for file in files if place.is_dir() else [place]:
        digest.update(f"{file.relative_to(place)}:{file.stat().st_size}:".encode())
        with open(file, "rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _counts(path: Path) -> bool:
    """Whether a file of a network's folder holds some of it; an Orbax checkpoint's all do."""
    endings = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".json", ".txt")
    return path.suffix in endings or ORBAX in path.parts[:-1]


def _place(path: str | Path) -> Path:
    return Path(path).expanduser()


def _check_size(name: str, models: Mapping[str, Any], path: str | Path) -> None:
    if name not in EXPECTED:
        return
    kind, settings = EXPECTED[name]
    config = models[kind].config
    wrong = {key: getattr(config, key) for key in settings if getattr(config, key) != settings[key]}
    if wrong:
        raise WeightsError(f"{path} is no {name}: expected {dict(settings)}, got {wrong}.")


def _tokens(kind: str, folder: str | Path) -> Tokens:
    if kind == "clip":
        clip = Tokenizer.load(folder)
        return lambda text: (clip(text)[0],)
    return _bert_tokens(folder)


def _bert_tokens(folder: str | Path) -> Tokens:
    """ImageReward's: BERT's uncased tokenizer, padded to 35, and which tokens are no padding."""
    if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise FileNotFoundError(
            f"expected BERT's tokenizer.json or vocab.txt in {folder}; give the folder of "
            f"bert-base-uncased as image_reward.tokenizer"
        )
    from brushjax.models.scoring.image_reward import TEXT_LENGTH

    backend = transformers_class("BertTokenizer").from_pretrained(str(folder))

    def tokens(text: str) -> Inputs:
        row = backend(text, padding="max_length", truncation=True, max_length=TEXT_LENGTH)
        return np.array(row["input_ids"], np.int32), np.array(row["attention_mask"], bool)

    return tokens
