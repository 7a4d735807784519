"""BrushData and collections like it as training samples: pictures, holes and token ids.

Which sample comes when, and how it is cropped and masked, depends on the seed, the sample's number
and the epoch alone; never on the number of hosts, processes or threads.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from brushjax.config import ConfigError
from brushjax.data.faults import (
    ATTEMPTS,
    FAULTS,
    Fault,
    FaultCounts,
    FaultLog,
    TooManyFaults,
    as_fault,
    from_rows,
    to_row,
)
from brushjax.data.feed import UNLIMITED, Feed, stacked
from brushjax.data.latents.cache import blank
from brushjax.data.latents.samples import check, compare, free, image_samples, latent_samples
from brushjax.data.masks import reference
from brushjax.data.masks.holes import HoleConfig, sample_hole
from brushjax.data.order import Order
from brushjax.data.preflight import preflight
from brushjax.data.schema import Encode, Inpainting
from brushjax.data.sources import decoding, pictures
from brushjax.data.sources.collection import open_collection
from brushjax.data.sources.tars import KINDS, WANTED
from brushjax.data.split import Split, part, told
from brushjax.data.text import LENGTH

Profile = Literal["default", "reference_segmentation", "reference_random"]
OBJECT_MEMBERS = ("height", "width", "segmentation")
DONOR_MEMBERS = ("image", "segmentation")
CELL, CHANNELS = 8, 4  # pixels a side, and numbers, of a latent cell of every Stable Diffusion
CROP, HOLE, SUBSTITUTE = 0, 1, 2  # streams of random numbers


@dataclass(frozen=True)
class BrushData:
    """Captioned pictures with annotated objects, as published or of one's own.

    Attributes:
        path: of pictures with captions: a folder with captions.jsonl, metadata.jsonl, metadata.csv
            or a .txt beside each picture; tars in WebDataset's layout; ArrayRecord shards; or a
            tensorflow-datasets folder. Tars may be at gs://, s3:// or hf://. A folder, a file or a
            pattern; see docs/data.md.
        size: side of the crops in pixels.
        seed: of order, crops and holes.
        profile: "default", or one of the reference's two preparations with its faults, for
            comparisons; these read nothing of `holes`.
        holes: what is to be painted.
        pool: so many fixed samples, the first of the order, instead of new crops and holes in every
            epoch; 0 is all and new ones.
        faulty_share: largest share of unusable samples that a run tolerates.
        index_cache: folder for the tars' indices; empty is ~/.cache/brushjax/tars.
        workers: processes that prepare samples, a host; 0 leaves it to threads.
        threads: that prepare batches, in each process.
        ahead: batches that are prepared early, in each process.
        latents: folder that `python -m brushjax precompute` wrote from these data; empty encodes
            every picture in every step.
        new_holes: with latents, take the pictures' alone, and make new holes in every epoch, whose
            pictures are encoded in the step; otherwise the stored holes come by turns.
        split: "train" leaves out what is held out, "held_out" is that alone, "all" everything.
        held_out_share: share of the samples that are held out, by a hash of their names; at least
            one is.
    """

    FREE: ClassVar = ("faulty_share", "index_cache", "workers", "threads", "ahead")
    """Fields that change nothing in the samples, only how they are read."""

    path: str = ""
    size: int = 512
    seed: int = 0
    profile: Profile = "default"
    holes: HoleConfig = field(default_factory=HoleConfig)
    pool: int = 0
    faulty_share: float = 0.05
    index_cache: str = ""
    workers: int = 0
    threads: int = 2
    ahead: int = 4
    latents: str = ""
    new_holes: bool = False
    split: Split = "all"
    held_out_share: float = 0.05

    def __post_init__(self):
        if self.size < 16 or self.pool < 0:
            raise ConfigError(f"expected size >= 16 and pool >= 0, got {self.size}, {self.pool}")
        for name in ("faulty_share", "held_out_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"expected {name} within 0 and 1, got {getattr(self, name)}")
        if self.new_holes and not self.latents:
            raise ConfigError("expected latents with new_holes: without them all holes are new")

    def source(self, encode: Encode) -> Any:
        """Returns the samples by number, BrushSamples or stored latents; the same
        object for the same config and tokenizer, so that its fault counts are those of the run.

        Args:
          encode: an `Inpainting` -> the arrays of a sample.
        Raises: FileNotFoundError if there is no data; TooManyFaults if too much of it is missing;
          ConfigError if the latents are of other data.
        """
        if self.latents and self.new_holes:
            return image_samples(self.latents, self.pixels, encode)
        if self.latents:
            check(Path(self.latents), self.pixels, free(self))
            compare(Path(self.latents), self)
            return latent_samples(self.latents, self.seed)
        return _opened(self, encode)

    @property
    def pixels(self) -> BrushData:
        """The same data without the latents."""
        return dataclasses.replace(self, latents="", new_holes=False)

    def batches(self, batch_size: int, encode: Encode, *, shard: tuple[int, int]) -> Feed:
        """Returns an endless series of batches; its iterator has get_state and set_state.

        Args:
          batch_size: of this host's part.
          encode: an `Inpainting` -> the arrays of a sample.
          shard: (index, count) of the hosts.

        Each batch has "image" uint8 [B,size,size,3], "mask" [B,size,size,1] with 1 = edit,
        "token_ids" int32 [B,length], "id" int64 [B] and "time_ids" float32 [B,6], SDXL's original
        height, width, crop top, left, and size twice. The reference's profiles add "masked_image"
        float32 [B,size,size,3], 0..255, and make the mask float32. With latents see
        `brushjax.data.cached`.
        """
        samples = self.source(encode)
        return Feed(samples, batch_size, shard, self.workers, self.threads, self.ahead)

    def shapes(self) -> dict[str, Any]:
        """Returns a sample of zeros as `source` gives them, for programs that are compiled where
        the data is not."""
        latent = (self.size // CELL, self.size // CELL, CHANNELS)
        stored = blank(latent, LENGTH, holes=not self.new_holes)
        if self.latents and not self.new_holes:
            return stored
        image = np.zeros((self.size, self.size, 3), np.uint8)
        pixels = {"image": image, "mask": image[..., :1]}
        if self.profile != "default":
            masked = image.astype(np.float32)
            pixels |= {"masked_image": masked, "mask": masked[..., :1]}
        words = ("mean", "deviation") if self.latents else ()
        return {**pixels, **{k: stored[k] for k in (*words, "token_ids", "id", "time_ids")}}


@functools.lru_cache(maxsize=4)
def _opened(config: BrushData, encode: Encode) -> BrushSamples:
    return BrushSamples(config, encode)


class BrushSamples:
    """The samples of a BrushData.

    By position in the order of training (`samples[p]`, `batch`), or by number and epoch (`sample`).
    A sample that turns out faulty is counted, and another, drawn by seed and position, takes its
    place: so every host's batch is full, and the others stay where they are.
    """

    def __init__(self, config: BrushData, encode: Encode):
        self.config = config
        self._encode = encode
        self._collection = open_collection(config.path, config.index_cache)
        holes, profile = config.holes, config.profile
        objects = (
            holes.needs_objects if profile == "default" else profile == "reference_segmentation"
        )
        only = objects and (profile != "default" or holes.only_objects)
        self._needed = ("image", "caption", *(("segmentation",) if only else ()))
        self._optional = OBJECT_MEMBERS if objects else ()
        self._counts = FaultCounts(config.faulty_share)
        self._log = FaultLog()
        self.numbers = self._usable()
        self._order = Order(len(self.numbers), config.seed)

    def _usable(self) -> np.ndarray:
        """Numbers of the samples that are not known to be faulty; counts the others.

        Raises: TooManyFaults if none is left, or more are faulty than may be.
        """
        collection = self._collection
        known = collection.faults(self._needed)
        lost = {n: collection.lost(n) for n in known}
        counts: dict[str, int] = {}
        for n, cause in known.items():
            counts[cause] = counts.get(cause, 0) + 1
            about = f"left out from the start, about {lost[n]} samples"
            self._log(cause, collection.name(n), about)
        for kind, (count, first) in collection.members().items():
            if kind in KINDS:
                continue
            counts["unknown member"] = counts.get("unknown member", 0) + count
            self._log("unknown member", first, f"{count} members of kind {kind!r} are not read")
        left_out = sum(lost.values())
        total = len(collection) + left_out - len(lost)
        usable = np.setdiff1d(np.arange(len(collection)), np.array(list(known), np.int64))
        if not len(usable):
            raise TooManyFaults(self._none(total, counts))
        self._counts.absent(counts, left_out, total)
        self._sound = len(usable)
        return part(usable, collection.name, self.config.split, self.config.held_out_share)

    def found(self) -> str:
        """Says what lies at the path and what of it is used, for the log of a run that starts."""
        use = told(self.config.split, len(self.numbers), self._sound)
        about = preflight(self._collection, self.numbers, self.config.size, self.faults, use)
        return f"{self.config.path}: {about}"

    def _none(self, total: int, counts: dict[str, int]) -> str:
        """Says why no sample can be used: what was found, and what was wanted."""
        text = f"{self.config.path}: none of {total} samples is whole"
        found = self._collection.members()
        if found:
            kinds = ", ".join(f"{kind} ({count})" for kind, (count, _) in sorted(found.items()))
            wanted = "" if "segmentation" not in self._needed else " and segmentation"
            text += f"; found members {kinds}; wanted {WANTED}{wanted}"
        return f"{text}: {counts}" if counts else text

    def __len__(self) -> int:
        return self.config.pool or UNLIMITED

    def __getitem__(self, position: int) -> dict[str, Any]:
        batch = self.batch([int(position)])
        return {name: array[0] for name, array in batch.items() if name != FAULTS}

    @property
    def faults(self) -> dict[str, int]:
        """{cause: count} of what this process's batches and the indices met, see
        `brushjax.data.faults`."""
        return self._counts.as_dict()

    def name(self, number: int) -> str:
        """Returns where the sample with this "id" lies."""
        return self._collection.name(number)

    def place(self, position: int) -> tuple[int, int]:
        """Returns (number, epoch) of the sample at a position of the order.

        A pool's samples are the first positions, crops included, in a new order every epoch.
        """
        if self.config.pool:
            position = Order(self.config.pool, self.config.seed + 1)[position]
        return int(self.numbers[self._order[position]]), position // len(self.numbers)

    def batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns the samples at these positions, and the faults that were met.

        Raises: TooManyFaults if one after the other turns out faulty.
        """
        samples, rows = [], []
        for position in numbers:
            met: list[str] = []
            samples.append(self._whole(position, met))
            rows.append(to_row(met))
        return {**self.encoded(samples), FAULTS: np.stack(rows)}

    def encoded(self, samples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Returns samples as one batch of what the objective reads."""
        return stacked([dict(self._encode(Inpainting(**sample))) for sample in samples])

    def received(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Counts the faults that a batch brought.

        Raises: TooManyFaults if their share has grown too large.
        """
        counts = from_rows(batch.pop(FAULTS))
        self._counts.add(len(batch["id"]), counts)
        return batch

    def sample(
        self, number: int, epoch: int, holes: Sequence[int] = (0,)
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Returns one crop of a sample with its caption in words, once with each hole; and notes
        on conversions.

        Args:
          number: of the sample ("id").
          epoch: gives another crop and other holes.
          holes: numbers of holes; the default profile has the same crop for all of them.
        Raises: Fault if the sample can't be used.
        """
        members = self._collection.read(number, self._needed, self._optional)
        caption, notes = decoding.caption(members["caption"])
        as_reference = self.config.profile != "default"
        image, about_image = decoding.picture(members["image"], as_reference=as_reference)
        if self._optional and "segmentation" not in members:
            notes.append("no segmentation")
        make = self._as_reference if as_reference else self._default
        words = {"caption": caption, "id": np.int64(number)}
        made = [{**words, **part} for part in make(image, members, number, epoch, holes)]
        return made, [*notes, *about_image]

    def tried(
        self, number: int, epoch: int, met: list[str], holes: Sequence[int] = (0,)
    ) -> list[dict[str, Any]]:
        """Returns what `sample` does, or nothing if it can't be used; `met` gets what was met."""
        try:
            with as_fault("failed sample"):
                made, notes = self.sample(number, epoch, holes)
        except Fault as fault:
            met.append(fault.cause)
            self._log(fault.cause, self.name(number), fault.found)
            return []
        met.extend(notes)
        return made

    def _whole(self, position: int, met: list[str]) -> dict[str, Any]:
        """The sample at a position, or else a substitute."""
        for number, epoch in self._candidates(position):
            made = self.tried(number, epoch, met)
            if made:
                return made[0]
        first = "; ".join(f"{cause} in {found}" for cause, found in self._log.first.items())
        raise TooManyFaults(f"{ATTEMPTS} samples in turn can't be used, the first of each: {first}")

    def _candidates(self, position: int) -> Iterator[tuple[int, int]]:
        number, epoch = self.place(position)
        yield number, epoch
        rng = self._rng(position, epoch, SUBSTITUTE)
        for _ in range(ATTEMPTS - 1):
            yield int(self.numbers[rng.integers(len(self.numbers))]), epoch

    def _rng(self, number: int, epoch: int, *stream: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, number, epoch, *stream))

    def _default(
        self,
        image: np.ndarray,
        members: dict[str, bytes],
        number: int,
        epoch: int,
        holes: Sequence[int],
    ) -> Iterator[dict[str, Any]]:
        """The largest square that fits, at random along the longer side, with holes made in it."""
        size = self.config.size
        height, width = image.shape[:2]
        side = min(height, width)
        rng = self._rng(number, epoch, CROP)
        top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
        cut = slice(top, top + side), slice(left, left + side)
        corner = top * size / side, left * size / side
        shared = {
            "image": decoding.resized(image[cut], size),
            "time_ids": np.array((height, width, *corner, size, size), np.float32),
        }
        objects = decoding.Objects(members, (height, width), cut, size)
        for hole in holes:
            rng = self._rng(number, epoch, HOLE, hole)
            donor = functools.partial(self._donated, rng)
            yield {**shared, "mask": sample_hole(self.config.holes, size, objects, donor, rng)}

    def _donated(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Objects of another sample, stretched to the crop; none if they can't be read."""
        number = int(self.numbers[rng.integers(len(self.numbers))])
        try:
            with as_fault("failed sample"):
                members = self._collection.read(number, DONOR_MEMBERS, OBJECT_MEMBERS)
                shape = pictures.upright_size(members["image"])  # what it states may be anything
                whole = slice(None), slice(None)
                objects = decoding.Objects(members, shape, whole, self.config.size)
                return [objects[n] for n in rng.permutation(len(objects))[:1]]
        except Fault:  # met, and counted, when its own turn comes
            return []

    def _as_reference(
        self,
        image: np.ndarray,
        members: dict[str, bytes],
        number: int,
        epoch: int,
        holes: Sequence[int],
    ) -> Iterator[dict[str, Any]]:
        """As the published scripts do it, each hole with a crop of its own."""
        size = self.config.size
        whole = slice(None), slice(None)
        objects = decoding.Objects(members, image.shape[:2], whole, 0)
        for hole in holes:
            seeds = np.random.SeedSequence((self.config.seed, number, epoch, hole))
            first, second = seeds.generate_state(2).tolist()
            prepared = reference.prepare(
                image,
                objects,
                size,
                random_mask=self.config.profile == "reference_random",
                chance=random.Random(first),
                draws=np.random.RandomState(second),
            )
            place = (*image.shape[:2], *prepared.crop, size, size)
            yield {
                "image": prepared.image,
                "masked_image": prepared.masked.astype(np.float32),
                "mask": 1 - prepared.keep,
                "time_ids": np.array(place, np.float32),
            }
