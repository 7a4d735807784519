"""Collages of the photographs: captioned ones for CLIP, and planted regions with an instruction.

A planted region is the honest test of a region predictor: two things lie in one picture, either may
be the pasted one, an instruction names one of the two, and the region is where that one is. Both
instructions are given on every picture, so that finding what was pasted is worth nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brushjax.data.masks.collage import paste
from brushjax.data.masks.shapes import MaskConfig, sample_mask
from brushjax.data.schema import Encode, Record, RegionEdit, TextChoice
from brushjax.data.sets.photos import SHIPPED, TEMPLATES, Crop, PhotoSource

if TYPE_CHECKING:
    import grain

UNLIMITED = 1 << 30
BETWEEN = ("and", "with", "beside", "in front of", "next to")
ARTICLES = ("a ", "an ", "the ")


@dataclass(frozen=True)
class Collages:
    """What all sets have.

    Attributes:
      size: side in pixels.
      seed: of everything random in a sample.
      split: "train" or "held_out"; they share no pixel.
      pool: how many different samples there are, visited in a new order every epoch; 0 is no end of
        new ones.
      masks: shapes of what is pasted.
      jitter: largest relative change of a colour channel, on the training split only.
      sides: smallest and largest side of the square that is cut, in pixels of the photograph.
      folder: of the photographs; empty is the ones that ship with the package.
    """

    size: int = 64
    seed: int = 0
    split: str = "train"
    pool: int = 0
    masks: MaskConfig = field(
        default_factory=lambda: MaskConfig(
            brush=0.0, outline=0.0, blob=0.4, ellipse=0.3, box=0.3, share=(0.15, 0.5), invert=0.0
        )
    )
    jitter: float = 0.0
    sides: tuple[int, int] = (80, 256)
    folder: str = ""

    def batches(
        self, batch_size: int, encode: Encode, *, shard: tuple[int, int] = (0, 1)
    ) -> grain.IterDataset:
        """An endless dataset of this host's batches."""
        import grain

        samples = grain.MapDataset.source(self.source(encode)).seed(self.seed)
        if self.pool:
            samples = samples.shuffle()
        samples = samples.repeat()[shard[0] :: shard[1]].batch(batch_size)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        return samples.to_iter_dataset(options)

    def source(self, encode: Encode) -> Samples:
        """The samples, by number."""
        return Samples(self, encode)

    def photos(self) -> PhotoSource:
        """The crops that collages are made of."""
        folder = Path(self.folder) if self.folder else SHIPPED
        jitter = self.jitter if self.split == "train" else 0.0
        settings: dict[str, Any] = {"sides": self.sides, "jitter": jitter, "folder": folder}
        return PhotoSource(self.size, self.seed, self.split, **settings)

    def record(self, n: int, photos: PhotoSource) -> Record:
        """Returns record n, which depends on the settings and n alone."""
        raise NotImplementedError


class Samples:
    """Arrays by number as `samples[n]`, records by `record(n)`."""

    def __init__(self, data: Collages, encode: Encode):
        self._data, self._encode, self._photos = data, encode, data.photos()

    def __len__(self) -> int:
        return self._data.pool or UNLIMITED

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return dict(self._encode(self.record(int(index))))

    def record(self, n: int) -> Any:
        """Returns record n, before an objective turns it into arrays."""
        return self._data.record(n, self._photos)


@dataclass(frozen=True)
class CaptionedCollages(Collages):
    """Pictures of one to three things with their caption and captions that are wrong.

    Attributes:
      counts: weights of pictures of one, two and three things.
      wrong: captions beside the true one, in each of which one thing was swapped, left out or put
        in.
    """

    counts: tuple[float, float, float] = (0.3, 0.5, 0.2)
    wrong: int = 1

    def record(self, n: int, photos: PhotoSource) -> TextChoice:
        rng = np.random.default_rng((self.seed, n, 2))
        weights = np.array(self.counts) / sum(self.counts)
        crops = distinct(photos, n, rng, 1 + int(rng.choice(3, p=weights)))
        image = crops[0].image
        for crop in crops[1:]:
            image = paste(image, crop.image, sample_mask(self.masks, self.size, rng), rng)
        shown = [crop.phrase for crop in crops]
        named = [{crop.class_id for crop in crops}]
        texts = [caption(shown, rng)]
        for _ in range(self.wrong):
            phrases, ids = self._changed(crops, photos, n, rng)
            texts.append(caption(phrases, rng))
            named.append(ids)
        things = np.zeros((len(texts), len(photos.class_ids)), np.uint8)
        for row, ids in zip(things, named, strict=True):
            row[list(ids)] = 1
        return TextChoice(n, image, tuple(texts), things)

    def _changed(
        self, crops: Sequence[Crop], photos: PhotoSource, n: int, rng: np.random.Generator
    ) -> tuple[list[str], set[int]]:
        """Returns phrases and classes of a caption in which one thing is wrong."""
        kept = list(crops)
        ways = ["swap"] + ["drop"] * (len(kept) > 1) + ["add"] * (len(kept) < 3)
        way = ways[rng.integers(len(ways))]
        if way != "add":
            del kept[rng.integers(len(kept))]
        if way != "drop":
            taken = {crop.class_name for crop in crops}
            others = [name for name in photos.classes if name not in taken]
            kept.append(photos.crop(n, rng, others[rng.integers(len(others))]))
        return [crop.phrase for crop in kept], {crop.class_id for crop in kept}


@dataclass(frozen=True)
class PlantedRegions(Collages):
    """Two things in a picture, an instruction to replace one of them by a third, and a picture of
    the third as donor. Samples 2 k and 2 k + 1 ask for either thing of picture k."""

    def record(self, n: int, photos: PhotoSource) -> RegionEdit:
        picture, role = divmod(n, 2)
        rng = np.random.default_rng((self.seed, picture, 3))
        around, pasted, new = distinct(photos, picture, rng, 3)
        mask = sample_mask(self.masks, self.size, rng)
        image = paste(around.image, pasted.image, mask, rng)
        flip = int(rng.integers(2))  # else the pasted thing would always be asked for first
        inside = role == flip
        old = pasted if inside else around
        things = [around.phrase, pasted.phrase]
        order = rng.permutation(2)
        after = [new.phrase if phrase == old.phrase else phrase for phrase in things]
        seed = int(rng.integers(1 << 30))
        source, target = (
            caption([phrases[k] for k in order], np.random.default_rng(seed))
            for phrases in (things, after)
        )
        instruction = f"replace the {bare(old.phrase)} with {new.phrase}"
        region = mask if inside else 1 - mask
        return RegionEdit(n, image, new.image, source, instruction, target, region)


def distinct(photos: PhotoSource, n: int, rng: np.random.Generator, count: int) -> list[Crop]:
    """Returns crops of as many different classes."""
    names = rng.choice(len(photos.classes), count, replace=False)
    return [photos.crop(n, rng, photos.classes[name]) for name in names]


def caption(phrases: Sequence[str], rng: np.random.Generator) -> str:
    """Returns a text that names all things, in the order given."""
    between = f" {BETWEEN[rng.integers(len(BETWEEN))]} "
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(between.join(phrases))


def bare(phrase: str) -> str:
    """Returns a phrase without its article."""
    return next((phrase[len(a) :] for a in ARTICLES if phrase.startswith(a)), phrase)
