"""Training samples from photographs: image, mask and token ids, addressed by number, in batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brushjax.config import ConfigError
from brushjax.data.masks.collage import paste
from brushjax.data.masks.shapes import MaskConfig, sample_mask
from brushjax.data.schema import Encode, Inpainting
from brushjax.data.sets.photos import SHIPPED, PhotoSource

if TYPE_CHECKING:
    import grain

UNLIMITED = 1 << 30  # samples of a source without a pool: no run gets through them


@dataclass(frozen=True)
class Sample:
    """One training sample.

    Attributes:
        image: uint8 [size,size,3]; mask: uint8 [size,size,1], 1 = edit.
        caption: says what the masked region shows; phrase: the same without a template.
        class_name, class_id: of the masked region; surroundings: the class around it.
    """

    id: int
    image: np.ndarray
    mask: np.ndarray
    caption: str
    phrase: str
    class_name: str
    class_id: int
    surroundings: str


@dataclass(frozen=True)
class PhotoData:
    """Captioned crops of photographs with random masks; sample n depends on this and n alone.

    Attributes:
        size: side in pixels.
        seed: of everything random in a sample.
        split: "train" or "held_out"; they share no pixel.
        pool: how many different samples there are, visited in a new order every epoch; 0 is no end
            of new ones. A pool lets a run encode every sample once.
        masks: which masks are drawn.
        collage: share of samples whose masked region shows a crop of another class.
        name_surroundings: whether captions of collages say what is around the masked region, too.
        uncaptioned: share of samples with an empty caption (for classifier-free guidance).
        jitter: largest relative change of a colour channel, on the training split only.
        sides: smallest and largest side of the square that is cut, in pixels of the photograph.
        classes: draw only these; empty is all of the split.
        folder: of the photographs; empty is the ones that ship with the package.
    """

    size: int = 128
    seed: int = 0
    split: str = "train"
    pool: int = 0
    masks: MaskConfig = field(default_factory=MaskConfig)
    collage: float = 0.0
    name_surroundings: bool = False
    uncaptioned: float = 0.0
    jitter: float = 0.0
    sides: tuple[int, int] = (96, 256)
    classes: tuple[str, ...] = ()
    folder: str = ""

    def source(self, encode: Encode) -> PhotoSamples:
        """The samples, by number.

        Args:
            encode: an `Inpainting` -> the arrays of a sample, such as `Captioned(tokenizer)`.
        """
        return PhotoSamples(self, encode)

    def batches(
        self,
        batch_size: int,
        encode: Encode,
        *,
        shard: tuple[int, int] = (0, 1),
        threads: int = 1,
        ahead: int = 4,
    ) -> grain.IterDataset:
        """An endless dataset of batches, prepared by threads of this process.

        Its iterator's `get_state()` is a small dict of numbers, and `set_state()` continues there.

        Args:
            batch_size: of this shard.
            shard: (index, count): the share of the samples that this host reads.
            threads: that prepare batches; ahead: how many batches are prepared early.

        Returns:
            Yields what `encode` gives, stacked: {"image": uint8 [B,size,size,3], "mask": uint8
            [B,size,size,1], "token_ids": int32 [B,length], "id": int64 [B], "class_id": int32 [B]}.
        """
        import grain  # a second of start-up that only a training run pays

        index, count = shard
        if batch_size < 1 or not 0 <= index < count:
            raise ConfigError(
                f"expected batch_size >= 1 and 0 <= shard[0] < shard[1], got {batch_size}, {shard}"
            )
        samples = grain.MapDataset.source(self.source(encode)).seed(self.seed)
        if self.pool:
            samples = samples.shuffle()
        samples = samples.repeat()[index::count].batch(batch_size)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        return samples.to_iter_dataset(options)


class PhotoSamples:
    """The samples of a PhotoData by number: arrays as `samples[n]`, words too by `describe(n)`."""

    def __init__(self, config: PhotoData, encode: Encode):
        for name in ("collage", "uncaptioned"):
            if not 0 <= getattr(config, name) <= 1:
                raise ConfigError(f"expected {name} within 0 and 1, got {getattr(config, name)}")
        if config.pool < 0:
            raise ConfigError(f"expected pool >= 0, got {config.pool}")
        self.config = config
        self._encode = encode
        self._photos = PhotoSource(
            config.size,
            config.seed,
            config.split,
            sides=config.sides,
            jitter=config.jitter if config.split == "train" else 0.0,
            classes=config.classes or None,
            folder=Path(config.folder) if config.folder else SHIPPED,
        )
        if config.collage and len(self._photos.classes) < 2:
            raise ConfigError(
                f"expected two classes or more for collages, got {self._photos.classes}"
            )

    def __len__(self) -> int:
        return self.config.pool or UNLIMITED

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.describe(int(index))
        record = Inpainting(
            sample.id,
            sample.image,
            sample.mask,
            sample.caption,
            class_id=np.array(sample.class_id, np.int32),
        )
        return dict(self._encode(record))

    def describe(self, n: int) -> Sample:
        """Sample n with its caption and classes in words."""
        config = self.config
        crop = around = self._photos[n]
        # A stream of its own: other masks leave the crops as they are.
        rng = np.random.default_rng((config.seed, n, 1))
        collage, uncaptioned = rng.random(2) < (config.collage, config.uncaptioned)
        mask = sample_mask(config.masks, config.size, rng, around.outlines)
        image = around.image
        if collage and mask.any():
            others = [name for name in self._photos.classes if name != around.class_name]
            crop = self._photos.crop(n, rng, others[rng.integers(len(others))])
            image = paste(around.image, crop.image, mask, rng)
        caption = "" if uncaptioned else crop.caption
        if caption and crop is not around and config.name_surroundings:
            caption = f"{caption} in {around.phrase}"
        names = crop.phrase, crop.class_name, crop.class_id, around.class_name
        return Sample(n, image, mask, caption, *names)
