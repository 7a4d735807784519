"""Training sets of latents that `python -m brushjax precompute` wrote, under a config of their own.

`BrushData.latents` names them, too, and compares them with the data they were made from.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from brushjax.config import ConfigError
from brushjax.data.feed import Feed
from brushjax.data.latents.cache import Cache
from brushjax.data.latents.samples import (
    ImageSamples,
    LatentSamples,
    image_samples,
    latent_samples,
)
from brushjax.data.schema import Encode
from brushjax.data.sets.brushdata import BrushData


@dataclasses.dataclass(frozen=True)
class CachedLatents:
    """Stored latents of images and masked images: a step then runs no autoencoder at all.

    Epoch after epoch each sample comes with its next crop and hole, until all stored ones were
    used. Batches are what the objective's `prepare` returns, in float16.

    Attributes:
        path: folder that precompute wrote.
        seed: of the order.
        workers: processes that read, a host; 0 leaves it to threads.
        threads: that read batches, in each process.
        ahead: batches that are read early, in each process.
    """

    path: str = ""
    seed: int = 0
    workers: int = 0
    threads: int = 2
    ahead: int = 4
    pool: ClassVar[int] = 0  # no end of them, and nothing left to encode

    def source(self, encode: Encode) -> LatentSamples:
        """Returns the samples by number; all is stored, so `encode` is not called."""
        del encode
        return latent_samples(self.path, self.seed)

    def batches(self, batch_size: int, encode: Encode, *, shard: tuple[int, int]) -> Feed:
        """Returns an endless series of batches, as BrushData's.

        Each has "mean", "deviation" and "masked_deviation" [B,h,w,4], "condition" [B,h,w,5],
        "token_ids" [B,length], "time_ids" [B,6] and "id" [B].
        """
        samples = self.source(encode)
        return Feed(samples, batch_size, shard, self.workers, self.threads, self.ahead)


@dataclasses.dataclass(frozen=True)
class CachedImages:
    """Stored latents of images; what is without its hole is encoded in the step, with new holes in
    every epoch.

    Attributes:
        path: folder that precompute wrote; its holes, if it has any, are not read.
        data: the collection it was made from, for the pixels; only its holes may be others.
    """

    path: str = ""
    data: BrushData = dataclasses.field(default_factory=BrushData)
    pool: ClassVar[int] = 0

    def __post_init__(self):
        if self.data.pool or self.data.profile != "default":
            raise ConfigError(
                "expected data.pool 0 and the default profile: the reference masks before it "
                f"crops; got {self.data.pool}, {self.data.profile}"
            )

    def source(self, encode: Encode) -> ImageSamples:
        """Returns the samples by number; the token ids are stored.

        Raises: ConfigError if the cache was made from other data.
        """
        return image_samples(self.path, self.data, encode)

    def batches(self, batch_size: int, encode: Encode, *, shard: tuple[int, int]) -> Feed:
        """Returns an endless series of batches: "mean" and "deviation" float16 [B,h,w,4] beside
        what BrushData's batches have."""
        data, samples = self.data, self.source(encode)
        return Feed(samples, batch_size, shard, data.workers, data.threads, data.ahead)


def encoder_of(data: Any) -> str:
    """Returns the digest of what encoded the latents that a Data reads; empty if it reads none."""
    folder = data.latents if isinstance(data, BrushData) else ""
    if isinstance(data, CachedLatents | CachedImages):
        folder = data.path
    return Cache.load(Path(folder)).encoder if folder else ""
