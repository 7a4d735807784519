"""Which pictures a command paints: one file, or a folder's, in batches of one size."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from brushjax.data.sources.pictures import ENDINGS, FORMATS
from brushjax.inference.images import prepare

NOT_READ = (".heic", ".heif", ".jxl", ".svg")  # pictures that Pillow doesn't know either


@dataclasses.dataclass(frozen=True)
class Job:
    """One picture to paint.

    Attributes:
        image, mask: files to read.
        prompt: what to paint.
        out: file to write.
        strip: file for image, mask and result side by side, or None.
        seed: of the noise.
    """

    image: Path
    mask: Path
    prompt: str
    out: Path
    strip: Path | None = None
    seed: int = 0

    @property
    def written(self) -> list[Path]:
        """The files that it writes."""
        return [self.out] if self.strip is None else [self.out, self.strip]

    def with_seed(self, seed: int) -> Job:
        """The same with a seed, which the names of its files then end with."""
        named = lambda path: path.with_stem(f"{path.stem}_{seed}")  # noqa: E731
        strip = None if self.strip is None else named(self.strip)
        return dataclasses.replace(self, seed=seed, out=named(self.out), strip=strip)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pictures that are painted at once.

    Attributes:
        jobs: one a picture.
        size: height and width that they are worked on at, in pixels.
    """

    jobs: list[Job]
    size: tuple[int, int]


def find_jobs(
    image: Path,
    mask: Path,
    prompt: str | None,
    out: Path,
    strip: Path | None,
    prompts: Path | None,
) -> list[Job]:
    """Pairs pictures with masks and names what to write.

    Args:
        image: a picture, or a folder of pictures.
        mask: for a folder a folder too, with masks of the pictures' names (any ending), or one mask
            for all.
        out, strip: files; for a folder folders, which get the pictures' names.
        prompts: JSON file {name without ending: prompt}; the others get `prompt`.

    Raises:
        ValueError: a folder without pictures, or pictures without a mask or a prompt, all of them
            listed.
        FileNotFoundError: no such picture or mask.
    """
    if not image.exists():
        raise FileNotFoundError(f"there is no picture or folder {image}")
    if not image.is_dir():
        words = _prompts([image], _stored_prompts(prompts), prompt)
        return [Job(image, mask, words[image], out, strip)]
    pictures = _pictures(image)
    if not pictures:
        raise ValueError(f"expected pictures in the folder {image}, found none")
    masks = _masks(mask, pictures)
    stored = _stored_prompts(prompts)
    unknown = sorted(stored.keys() - {picture.stem for picture in pictures})
    if unknown:
        raise ValueError(f"{prompts} names pictures that are not in {image}: {', '.join(unknown)}")
    words = _prompts(pictures, stored, prompt)
    return [
        Job(
            picture,
            masks[picture],
            words[picture],
            out / f"{picture.stem}.png",
            None if strip is None else strip / f"{picture.stem}.png",
        )
        for picture in pictures
    ]


def seeded(jobs: Sequence[Job], seed: int, count: int) -> list[Job]:
    """Paints every picture `count` times, from seeds one after the other.

    Raises:
        ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"expected --num-images of at least 1, got {count}")
    if count == 1:
        return [dataclasses.replace(job, seed=seed) for job in jobs]
    return [job.with_seed(seed + i) for job in jobs for i in range(count)]


def missing(jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose files are not all there; files are written whole or not at all."""
    return [job for job in jobs if not all(path.exists() for path in job.written)]


def check_places(jobs: Sequence[Job]) -> None:
    """Raises ValueError where a file to write is one that is read, or is written twice."""
    taken = {path.resolve(): "the input" for job in jobs for path in (job.image, job.mask)}
    for job in jobs:
        for path in job.written:
            if path.resolve() in taken:
                where = taken[path.resolve()]
                raise ValueError(f"{path} would be written over {where}; give it another name")
            taken[path.resolve()] = "another result"


def batches(
    jobs: Sequence[Job], size: int, **reading: Any
) -> tuple[list[Batch], list[tuple[Job, Exception]]]:
    """Groups pictures of one size, and crops of one size, at most `size` at a time, in the order of
    their names.

    Every picture and mask is read and checked here, so that a bad one fails before any painting.

    Args:
        size: of a batch.
        reading: as for `brushjax.inference.images.prepare`.

    Returns:
        The batches, and the jobs that can't be done with the reason.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"expected a batch size of at least 1, got {size}")
    seen: dict[tuple[Path, Path], Any] = {}  # a picture that is painted several times is read once
    by_size: dict[tuple[int, int, int, int], list[Job]] = {}
    failed: list[tuple[Job, Exception]] = []
    for job in jobs:
        pair = job.image, job.mask
        if pair not in seen:
            seen[pair] = _shape(job, reading)
        if isinstance(seen[pair], Exception):
            failed.append((job, seen[pair]))
        else:
            by_size.setdefault(seen[pair], []).append(job)
    groups = [
        Batch(group[i : i + size], sides[-2:])
        for sides, group in by_size.items()
        for i in range(0, len(group), size)
    ]
    return groups, failed


def summary(groups: Sequence[Batch]) -> str:
    """How many pictures there are, and in which sizes they are worked on."""
    count = sum(len(group.jobs) for group in groups)
    sizes = [f"{height}x{width}" for height, width in sorted({group.size for group in groups})]
    if len(sizes) > 3:
        sizes = [f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}"]
    return f"{count} picture{'s' * (count > 1)} at {', '.join(sizes)} (height x width)"


def _shape(job: Job, reading: Mapping[str, Any]) -> tuple[int, int, int, int] | Exception:
    """The sizes of a picture and of what is worked on, or why it can't be painted."""
    try:
        prepared = prepare([job.image], [job.mask], **reading)
    except (ValueError, TypeError, OSError) as error:
        return error
    return (*prepared.originals.shape[1:3], *prepared.masked.shape[1:3])


def _pictures(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    pictures = [path for path in files if path.suffix.lower() in ENDINGS]
    known = {*Image.registered_extensions(), *NOT_READ} - {*ENDINGS}
    others = [path.name for path in files if path.suffix.lower() in known]
    if others:
        warnings.warn(
            f"left out of {folder}: {', '.join(others)}; only {', '.join(FORMATS)} are read",
            stacklevel=3,
        )
    stems = [path.stem for path in pictures]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(f"{folder} has several pictures of one name: {', '.join(twice)}")
    return pictures


def _masks(mask: Path, pictures: Sequence[Path]) -> Mapping[Path, Path]:
    if not mask.exists():
        raise FileNotFoundError(f"there is no mask or folder {mask}")
    if not mask.is_dir():
        return dict.fromkeys(pictures, mask)
    by_stem = {path.stem: path for path in _pictures(mask)}
    missing = [picture.name for picture in pictures if picture.stem not in by_stem]
    if missing:
        raise ValueError(f"{mask} has no mask named as {', '.join(missing)}")
    return {picture: by_stem[picture.stem] for picture in pictures}


def _prompts(
    pictures: Sequence[Path], stored: Mapping[str, str], prompt: str | None
) -> dict[Path, str]:
    """The prompt of each picture."""
    words = {picture: stored.get(picture.stem, prompt) for picture in pictures}
    without = [picture.name for picture, text in words.items() if text is None]
    if without:
        raise ValueError(
            f"expected --prompt, or --prompts with all pictures; without one: {', '.join(without)}"
        )
    return {picture: text or "" for picture, text in words.items()}


def _stored_prompts(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(words, dict) or not all(isinstance(text, str) for text in words.values()):
        raise ValueError(f'expected {path} to hold {{"name without ending": "prompt", ...}}')
    return words
