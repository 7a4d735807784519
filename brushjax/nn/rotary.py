"""Rotary position embeddings: queries and keys turned by angles that grow with their position."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SETTINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
"""What each kind of scaling reads of a config.json."""


@dataclasses.dataclass(frozen=True)
class RotarySettings:
    """How fast each pair of features turns.

    Attributes:
      theta: the slowest pair turns about this many times slower than the fastest.
      kind: "default"; "linear": all turn `factor` times slower; "llama3": only those that turn less
        than `low_freq_factor` times within the original length do, with a ramp up to
        `high_freq_factor`.
    """

    theta: float = 1e4
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    @classmethod
    def from_config(cls, published: Mapping[str, Any]) -> RotarySettings:
        """Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.

        Raises:
          ValueError: for a kind of scaling that is not implemented, naming those that are.
        """
        given = published.get("rope_parameters") or published.get("rope_scaling") or {}
        kind = given.get("rope_type") or given.get("type") or "default"
        theta = given.get("rope_theta") or published.get("rope_theta") or cls.theta
        known = {"rope_type", "type", "rope_theta", *SETTINGS.get(kind, ())}
        odd = {name: value for name, value in given.items() if name not in known}
        missing = [name for name in SETTINGS.get(kind, ()) if name not in given]
        if kind not in SETTINGS or missing or any(value is not None for value in odd.values()):
            raise ValueError(
                f"expected rotary embeddings of the kind {' or '.join(SETTINGS)} with its settings "
                f"({'; '.join(f'{name}: {list(names)}' for name, names in SETTINGS.items())}), "
                f"got {dict(given)}"
            )
        return cls(float(theta), kind, **{name: given[name] for name in SETTINGS[kind]})

    def to_config(self) -> dict[str, Any]:
        """Returns the keys that transformers of every age reads."""
        scaling = {name: getattr(self, name) for name in SETTINGS[self.kind]}
        return {
            "rope_theta": self.theta,
            "rope_scaling": {"rope_type": self.kind, **scaling} if scaling else None,
        }

    def frequencies(self, width: int) -> np.ndarray:
        """Returns each pair's angle from one position to the next, in float64. [width / 2]"""
        plain = self.theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
        if self.kind != "llama3":
            return plain / self.factor
        turns = self.original_max_position_embeddings * plain / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return plain * (kept + (1 - kept) / self.factor)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotation:
    """Cosines and sines of the angles, [B, S, 1, D/2]."""

    cosine: Any
    sine: Any

    def __call__(self, x: Float[Array, "B S K D"]) -> Float[Array, "B S K D"]:
        """Turns feature i of a head together with feature i + D/2.

        Source: RoFormer (arXiv 2104.09864), eq. 34, paired as in transformers `rotate_half`.
        """
        one, other = jnp.split(x, 2, axis=-1)
        cosine, sine = self.cosine.astype(x.dtype), self.sine.astype(x.dtype)
        return jnp.concatenate([one * cosine - other * sine, other * cosine + one * sine], axis=-1)


def rotation(positions: Int[Array, "B S"], frequencies: np.ndarray, dtype: Any) -> Rotation:
    """Returns the rotation at each position; angles are at least in float32, else in `dtype`."""
    precise = jnp.promote_types(dtype, jnp.float32)
    angles = positions[:, :, None, None].astype(precise) * jnp.asarray(frequencies, precise)
    return Rotation(jnp.cos(angles), jnp.sin(angles))
