"""What a study of regions keeps between starts: two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from brushjax.files import whole_file, write_json


class Kept:
    """Scores and weights that were made so far, in a folder.

    scores.json: {variant: {"iou", "auc", "area": [seeds, samples]}}, and "asked" of the samples.
    weights.npz: float32 arrays; names are "clip/..." and "VARIANT/...", the latter [seeds, ...].
    """

    def __init__(self, folder: Path):
        self.scores_file, self.weights_file = folder / "scores.json", folder / "weights.npz"
        folder.mkdir(parents=True, exist_ok=True)
        there = self.scores_file.is_file()
        self.scores: dict[str, Any] = json.loads(self.scores_file.read_text()) if there else {}
        self.weights: dict[str, np.ndarray] = {}
        if self.weights_file.is_file():
            with np.load(self.weights_file) as stored:
                self.weights = dict(stored)

    def params(self, name: str) -> Any:
        """The parameters kept under a name."""
        tree: dict[Any, Any] = {}
        for path, array in self.weights.items():
            head, *inner = path.split("/")
            *above, last = (int(part) if part.isdigit() else part for part in inner)
            if head == name:
                node = tree
                for part in above:
                    node = node.setdefault(part, {})
                node[last] = array.astype(np.float32)
        return tree

    def add(self, name: str, params: Any = None, found: Any = None) -> None:
        """Keeps parameters or scores, on disk too."""
        if params is not None:
            flat = jax.tree_util.tree_flatten_with_path(jax.device_get(params))[0]
            for path, leaf in flat:
                inner = "/".join(str(part.key) for part in path)
                self.weights[f"{name}/{inner}"] = leaf.astype(np.float16)
            with whole_file(self.weights_file) as part, open(part, "wb") as target:
                np.savez_compressed(target, **self.weights)  # pyright: ignore[reportArgumentType]
        if found is not None:
            self.scores[name] = found
            write_json(self.scores_file, self.scores)
