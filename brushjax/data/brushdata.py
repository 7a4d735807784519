"""BrushData and collections like it as training samples: pictures, holes and token ids.

Which sample comes when, and how it is cropped and masked, depends on the seed, the sample's number
and the epoch alone; never on the number of hosts, processes or threads.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np

from brushjax.data import decoding, reference
from brushjax.data.collection import open_collection
from brushjax.data.faults import Fault, FaultCounts, FaultLog, TooManyFaults, from_rows, to_row
from brushjax.data.feed import Feed, stacked
from brushjax.data.holes import HoleConfig, sample_hole

Tokenize = Callable[[Sequence[str]], np.ndarray]
Profile = Literal["default", "reference_segmentation", "reference_random"]
UNLIMITED = 1 << 40  # samples of a source without a pool
ATTEMPTS = 32  # substitutes for a faulty sample before all of the data must be called faulty
FAULTS = "faults"  # column that tells the training process what a batch met
OBJECT_MEMBERS = ("height", "width", "segmentation")
CROP, HOLE, SUBSTITUTE = 0, 1, 2  # streams of random numbers


@dataclass(frozen=True)
class BrushData:
    """Captioned pictures with annotated objects, as published or of one's own.

    Attributes:
        path: tars in WebDataset's layout (members image, caption, height, width, segmentation),
            ArrayRecord shards, a tensorflow-datasets folder, or a folder with captions.jsonl; local
            or with a protocol (gs://, s3://, hf://); a folder, a file or a pattern.
        size: side of the crops in pixels.
        seed: of order, crops and holes.
        profile: "default", or one of the reference's two preparations with its faults, for
            comparisons; these read nothing of `holes`.
        holes: what is to be painted.
        pool: so many fixed samples, the first of the order, instead of new crops and holes in every
            epoch; 0 is all and new ones.
        faulty_share: largest share of unusable samples that a run puts up with.
        index_cache: folder for the tars' indices; empty is ~/.cache/brushjax/tars.
        workers: processes that prepare samples, a host; 0 leaves it to threads.
        threads: that prepare batches, in each process; ahead: batches prepared early, likewise.
    """

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

    def __post_init__(self):
        if self.size < 16 or self.pool < 0:
            raise ValueError(f"expected size >= 16 and pool >= 0, got {self.size}, {self.pool}")
        if not 0 <= self.faulty_share <= 1:
            raise ValueError(f"expected faulty_share within 0 and 1, got {self.faulty_share}")

    def source(self, tokenize: Tokenize) -> BrushSamples:
        """Returns the samples by number; the same object for the same config and tokenizer, so
        that its fault counts are those of the run.

        Args:
          tokenize: captions -> int32 [n, length].
        Raises: FileNotFoundError if there is no data; TooManyFaults if too much of it is missing.
        """
        return _opened(self, tokenize)

    def batches(self, batch_size: int, tokenize: Tokenize, *, shard: tuple[int, int]) -> Feed:
        """Returns an endless series of batches; its iterator has get_state and set_state.

        Args:
          batch_size: of this host's part.
          tokenize: captions -> int32 [n, length].
          shard: (index, count) of the hosts.

        Each batch has "image" uint8 [B,size,size,3], "mask" [B,size,size,1] with 1 = edit,
        "token_ids" int32 [B,length], "id" int64 [B] and "time_ids" float32 [B,6], SDXL's original
        height, width, crop top, left, and size twice. The reference's profiles add "masked_image"
        float32 [B,size,size,3], 0..255, and make the mask float32.
        """
        samples = self.source(tokenize)
        return Feed(samples, batch_size, shard, self.workers, self.threads, self.ahead)


@functools.lru_cache(maxsize=4)
def _opened(config: BrushData, tokenize: Tokenize) -> BrushSamples:
    return BrushSamples(config, tokenize)


class BrushSamples:
    """The samples of a BrushData.

    By position in the order of training (`samples[p]`, `batch`), or by number and epoch (`sample`).
    A sample that turns out faulty is counted, and another, drawn by seed and position, takes its
    place: so every host's batch is full, and the others stay where they are.
    """

    def __init__(self, config: BrushData, tokenize: Tokenize):
        self.config = config
        self._tokenize = tokenize
        self._collection = open_collection(config.path, config.index_cache)
        self._objects = config.profile == "reference_segmentation" or (
            config.profile == "default" and config.holes.needs_objects
        )
        self._needed = ("image", "caption")
        if config.profile == "reference_segmentation" or (
            config.profile == "default" and config.holes.only_objects
        ):
            self._needed += ("segmentation",)
        self._counts = FaultCounts(config.faulty_share)
        self._log = FaultLog()
        self.numbers = self._usable()
        self._order = _shuffled(len(self.numbers), config.seed)

    def _usable(self) -> np.ndarray:
        """Numbers of the samples that are not known to be faulty; counts the others."""
        collection = self._collection
        known = collection.faults(self._needed)
        counts: dict[str, int] = {}
        for n, cause in known.items():
            counts[cause] = counts.get(cause, 0) + 1
            self._log(cause, collection.name(n), "left out from the start")
        usable = np.setdiff1d(np.arange(len(collection)), np.array(list(known), np.int64))
        self._counts.absent(counts, len(collection))
        if not len(usable):
            raise TooManyFaults(f"{self.config.path}: none of {len(collection)} samples is whole")
        return usable

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
        """Returns (number, epoch) of the sample at a position of the order."""
        epoch, within = divmod(position, self.config.pool or len(self.numbers))
        if self.config.pool:  # the same samples with the same crops, in a new order every epoch
            pool = _shuffled(self.config.pool, self.config.seed + 1)
            epoch, within = divmod(int(pool[position]), len(self.numbers))
            return int(self.numbers[self._order[epoch * len(self.numbers) + within]]), epoch
        return int(self.numbers[self._order[position]]), epoch

    def batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns the samples at these positions, and the faults that were met.

        Raises: TooManyFaults if one after the other turns out faulty.
        """
        samples, rows = [], []
        for position in numbers:
            met: list[str] = []
            samples.append(self._whole(position, met))
            rows.append(to_row(met))
        captions = [sample.pop("caption") for sample in samples]
        token_ids = np.asarray(self._tokenize(captions), np.int32)
        return {**stacked(samples), "token_ids": token_ids, FAULTS: np.stack(rows)}

    def received(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Counts the faults that a batch brought.

        Raises: TooManyFaults if their share has grown too large.
        """
        counts = from_rows(batch.pop(FAULTS))
        self._counts.add(len(batch["id"]), counts)
        return batch

    def sample(self, number: int, epoch: int, hole: int = 0) -> tuple[dict[str, Any], list[str]]:
        """Returns a sample with its caption in words, and notes on conversions.

        Args:
          number: of the sample ("id").
          epoch: gives another crop and another hole.
          hole: gives another hole in the same crop.
        Raises: Fault if it can't be used.
        """
        if self.config.profile == "default":
            return self._default(number, epoch, hole)
        return self._as_reference(number, epoch, hole)

    def _whole(self, position: int, met: list[str]) -> dict[str, Any]:
        """The sample at a position, or else a substitute."""
        for number, epoch in self._candidates(position):
            try:
                sample, notes = self.sample(number, epoch)
            except Fault as fault:
                met.append(fault.cause)
                self._log(fault.cause, self.name(number), str(fault))
                continue
            met.extend(notes)
            return sample
        raise TooManyFaults(f"{ATTEMPTS} samples in turn can't be used: {met}")

    def _candidates(self, position: int) -> Iterator[tuple[int, int]]:
        number, epoch = self.place(position)
        yield number, epoch
        rng = self._rng(position, epoch, SUBSTITUTE)
        for _ in range(ATTEMPTS - 1):
            yield int(self.numbers[rng.integers(len(self.numbers))]), epoch

    def _rng(self, number: int, epoch: int, *stream: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, number, epoch, *stream))

    def _read(self, number: int) -> tuple[dict[str, bytes], list[str]]:
        """Members as the config needs them; a note if there are no annotations."""
        optional = OBJECT_MEMBERS if self._objects else ()
        members = self._collection.read(number, self._needed, optional)
        annotated = "segmentation" in members or not self._objects
        return members, [] if annotated else ["no segmentation"]

    def _default(self, number: int, epoch: int, hole: int) -> tuple[dict[str, Any], list[str]]:
        size = self.config.size
        members, notes = self._read(number)
        caption, about_caption = decoding.caption(members["caption"])
        image, about_image = decoding.picture(members["image"])
        height, width = image.shape[:2]
        side = min(height, width)
        rng = self._rng(number, epoch, CROP)
        top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
        cut = slice(top, top + side), slice(left, left + side)
        objects = Objects(members, (height, width), cut, size)
        rng = self._rng(number, epoch, HOLE, hole)
        mask = sample_hole(self.config.holes, size, objects, lambda: self._donated(rng), rng)
        corner = top * size / side, left * size / side
        sample = {
            "image": _resized(image[cut], size),
            "mask": mask,
            "caption": caption,
            "id": np.int64(number),
            "time_ids": np.array((height, width, *corner, size, size), np.float32),
        }
        return sample, [*notes, *about_caption, *about_image]

    def _donated(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Objects of another sample, stretched to the crop; none if they can't be read."""
        number = int(self.numbers[rng.integers(len(self.numbers))])
        try:
            members = self._collection.read(number, OBJECT_MEMBERS)
            stated = decoding.stated_size(members["height"], members["width"])
            objects = Objects(members, stated, (slice(None), slice(None)), self.config.size)
            return [objects[n] for n in rng.permutation(len(objects))[:1]]
        except Fault:  # met, and counted, when its own turn comes
            return []

    def _as_reference(self, number: int, epoch: int, hole: int) -> tuple[dict[str, Any], list[str]]:
        size = self.config.size
        members, notes = self._read(number)
        caption, about_caption = decoding.caption(members["caption"])
        image, about_image = decoding.picture(members["image"], as_reference=True)
        whole = slice(None), slice(None)
        seeds = np.random.SeedSequence((self.config.seed, number, epoch, hole)).generate_state(2)
        chance = random.Random(int(seeds[0]))
        prepared = reference.prepare(
            image,
            Objects(members, image.shape[:2], whole, 0),
            size,
            random_mask=self.config.profile == "reference_random",
            chance=chance,
            draws=np.random.RandomState(int(seeds[1])),
        )
        sample = {
            "image": prepared.image,
            "masked_image": prepared.masked.astype(np.float32),
            "mask": 1 - prepared.keep,
            "caption": caption,
            "id": np.int64(number),
            "time_ids": np.array((*image.shape[:2], *prepared.crop, size, size), np.float32),
        }
        return sample, [*notes, *about_caption, *about_image]


class Objects(Sequence):
    """Masks of a sample's objects, each decoded when it is asked for.

    Args:
      members: of the sample; without a segmentation there are no objects.
      shape: (height, width) of the picture.
      cut: rows and columns of the crop.
      size: side of the masks; 0 leaves them as they are.
    Raises: Fault if the annotations are no run lists, or of a picture of another shape.
    """

    def __init__(self, members: dict[str, bytes], shape: Sequence[int], cut: Any, size: int):
        self._shape, self._cut, self._size = tuple(shape), cut, size
        self._runs: list[Any] = []
        if "segmentation" in members:
            stated = self._shape  # as the published samples that lack it
            if "height" in members and "width" in members:
                stated = decoding.stated_size(members["height"], members["width"])
            if stated != self._shape:
                raise Fault("wrong size", f"stated {stated}, the picture has {self._shape}")
            self._runs = decoding.run_lists(members["segmentation"])

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, n: Any) -> Any:
        mask = decoding.object_mask(self._runs[n], *self._shape)
        if not self._size:
            return mask
        return _resized(mask[self._cut].astype(np.uint8) * 255, self._size) > 127


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    """Brings a picture to size x size."""
    # Area averaging is antialiased when shrinking, but amounts to nearest when enlarging.
    how = cv2.INTER_AREA if picture.shape[0] >= size else cv2.INTER_CUBIC
    return cv2.resize(picture, (size, size), interpolation=how)


@functools.lru_cache(maxsize=8)
def _shuffled(length: int, seed: int) -> Any:
    """Numbers 0 to length - 1 in a random order, then in another, without end."""
    import grain  # a second of start-up that only a training run pays

    return grain.MapDataset.range(length).seed(seed).shuffle().repeat()
