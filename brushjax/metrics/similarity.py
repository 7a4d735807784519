"""Similarities of feature vectors, and of texts with pictures; features come in as arrays."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Vector = Float[np.ndarray, " D"]

TINY = 1e-8  # below every length of a real feature; keeps a zero vector from dividing by zero


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of two vectors in float64, NaN where one of them has no direction."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths > TINY**2 else np.nan


def unit(a: Vector) -> Vector:
    """The vector at length 1."""
    a = np.asarray(a, np.float64)
    return a / max(float(np.linalg.norm(a)), TINY)


def clip_score(image: Vector, text: Vector) -> float:
    """100 times the cosine, and 0 where that is negative.

    Source: torchmetrics `CLIPScore`, called once per picture.
    """
    value = 100 * cosine(image, text)
    return value if np.isnan(value) else max(value, 0.0)


def direction(
    source_image: Vector,
    image: Vector,
    source_text: Vector,
    text: Vector,
    *,
    normalized: bool,
) -> float:
    """Cosine between how the picture changed and how its caption changed.

    NaN (undefined) where picture or caption did not change.

    Args:
        normalized: bring the four vectors to length 1 before subtracting (InstructPix2Pix), or
            subtract them as they are (scripts written for Emu Edit).

    Source: Gal et al., "StyleGAN-NADA" (arXiv 2108.00946), eq. 1.
    """
    bring = unit if normalized else lambda vector: np.asarray(vector, np.float64)
    change = bring(image) - bring(source_image)
    wanted = bring(text) - bring(source_text)
    return cosine(change, wanted)


def self_similarity(tokens: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N N"]:
    """Cosine of every token with every other."""
    tokens = np.asarray(tokens, np.float64)
    lengths = np.linalg.norm(tokens, axis=1)
    return tokens @ tokens.T / np.maximum(np.outer(lengths, lengths), TINY)


def structure_distance(a: Float[np.ndarray, "_N _D"], b: Float[np.ndarray, "_N _D"]) -> float:
    """Mean squared difference of the self-similarities of two pictures' tokens.

    Source: Tumanyan et al., "Splicing ViT Features for Semantic Appearance Transfer" (arXiv
    2201.00424), eq. 5, with the keys of DINO's last layer.
    """
    if a.shape != b.shape:
        raise ValueError(f"expected as many tokens of both pictures, got {a.shape} and {b.shape}")
    return float(np.mean((self_similarity(a) - self_similarity(b)) ** 2))
