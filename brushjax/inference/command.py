"""The command `python -m brushjax inpaint`: files in, files out."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brushjax import config as configs
from brushjax.files import try_places
from brushjax.inference.arguments import FILES, NOT_KEPT, InpaintArguments, stored_words
from brushjax.progress import on_terminal, progress_bar

if TYPE_CHECKING:
    from brushjax.inference.inpaint import Inpainter, InpaintResult
    from brushjax.inference.inpaint_settings import InpaintSettings
    from brushjax.inference.jobs import Batch, Job


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax inpaint ...`, with the process's own arguments by default."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        words = [*stored_words(words), *words]  # what comes later wins
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    inpaint_command(configs.parsed(InpaintArguments, words, "brushjax inpaint"))


def inpaint_command(arguments: InpaintArguments) -> None:
    """Loads the models, edits the pictures, and writes the results.

    A picture of a folder that can't be painted is named at the end, and the others are painted.

    Raises:
        SystemExit: with a message instead of a traceback, for files and values that don't fit.
    """
    from brushjax.inference import jobs  # here, so that help and wrong flags are answered at once
    from brushjax.inference.images import TransparencyWarning

    try:
        with configs.plain_warnings():
            warnings.simplefilter("ignore", TransparencyWarning)  # said where it is written
            found = _found(arguments)
            how = _settings(arguments)
            left = jobs.missing(found) if arguments.skip_existing else found
            if len(left) < len(found):
                print(f"skipped {len(found) - len(left)}, whose results are there already")
            try_places(path for job in left for path in job.written)
            groups, failed = jobs.batches(left, arguments.batch_size, **_reading(arguments, how))
            if failed and not groups:
                raise failed[0][1] if len(found) == 1 else ValueError(_listed(failed))
            if groups:
                failed += _paint_all(groups, how, arguments)
    except (ValueError, TypeError, OSError) as error:  # OSError: files that can't be read
        raise SystemExit(f"error: {error}") from error
    if failed:
        raise SystemExit(f"error: {failed[0][1] if len(found) == 1 else _listed(failed)}")


def _found(arguments: InpaintArguments) -> list[Job]:
    """What is to be painted, and where it goes."""
    from brushjax.inference import jobs
    from brushjax.inference.result import picture_format

    names = ("image", "mask", "prompt", "out", "strip", "prompts")
    found = jobs.find_jobs(**{name: getattr(arguments, name) for name in names})
    found = jobs.seeded(found, arguments.seed, arguments.num_images)
    jobs.check_places(found)
    for job in found:
        picture_format(job.out)
    return found


def _settings(arguments: InpaintArguments) -> InpaintSettings:
    """How to paint, checked before anything is loaded: with the schedule, where it lies at hand."""
    from brushjax.diffusion.samplers import make_sampler
    from brushjax.inference.inpaint_settings import InpaintSettings
    from brushjax.pipelines.bases import SHIPPED_BASE

    known = {field.name for field in dataclasses.fields(InpaintSettings)}
    given = vars(arguments)
    how = InpaintSettings(**{name: given[name] for name in given if name in known})
    schedule = arguments.scheduler_config or Path(arguments.base or SHIPPED_BASE) / "scheduler"
    if schedule.exists():
        make_sampler(how.scheduler, schedule, how.steps)
    return how


def _reading(arguments: InpaintArguments, how: InpaintSettings) -> dict[str, Any]:
    """How pictures and masks are read."""
    if how.crop is None:
        return how.reading
    from brushjax.inference.images import DEFAULT_SIDE
    from brushjax.pipelines.bases import base_path, training_side

    return {**how.reading, "side": training_side(base_path(arguments.base)) or DEFAULT_SIDE}


def load_painter(arguments: InpaintArguments) -> Inpainter:
    """Loads what the arguments name.

    Raises:
        ValueError, OSError: as `Inpainter.load`; weights for LoRA files of another number.
    """
    import jax.numpy as jnp

    from brushjax.inference.engine.cache import kept_programs
    from brushjax.inference.inpaint import Inpainter

    files, weights = arguments.lora, arguments.lora_weight or (1.0,) * len(arguments.lora)
    if len(weights) != len(files):
        raise ValueError(f"expected a --lora-weight for each of {len(files)} files, got {weights}")
    return Inpainter.load(
        arguments.base,
        arguments.brushnet,
        jnp.dtype(arguments.dtype),
        vae=arguments.vae,
        tokenizer=arguments.tokenizer,
        scheduler=arguments.scheduler_config,
        lora=dict(zip(files, weights)),
        embeddings=_embeddings(arguments.embedding),
        programs=kept_programs(),
    )


def _embeddings(given: Sequence[str]) -> dict[str, str]:
    """Reads word=file; a word may hold no =."""
    pairs = [one.partition("=") for one in given]
    for word, equals, file in pairs:
        if not (word and equals and file):
            raise ValueError(f"expected --embedding word=file, got {word + equals + file!r}")
    return {word: file for word, _, file in pairs}


class _StepBar:
    """A progress bar over the steps of all batches; on a terminal only.

    Args:
        batches: how many there are.
        steps: of each, as far as is known before the schedule is loaded.
    """

    def __init__(self, batches: int, steps: int):
        self._batches, self._batch = batches, 0
        self.bar = progress_bar(
            what="loading and compiling",
            shown=on_terminal(),
            leave=False,
            total=batches * steps,
            unit="step",
        )

    @property
    def told(self) -> Callable[[int, int], None] | None:
        """The Inpainter's progress callback; None where no bar is shown."""
        return None if self.bar.disable else self._step

    def next_batch(self) -> None:
        """Goes on to the next batch."""
        self._batch += 1

    def _step(self, done: int, steps: int) -> None:
        self.bar.total = self._batches * steps
        if done:  # before the first step the compiler is at work
            self.bar.set_description(f"batch {self._batch} of {self._batches}", refresh=False)
        self.bar.update((self._batch - 1) * steps + done - self.bar.n)


def _paint_all(
    groups: Sequence[Batch], how: InpaintSettings, arguments: InpaintArguments
) -> list[tuple[Job, Exception]]:
    """Loads, and paints batch by batch; returns the jobs that failed with the reason."""
    from brushjax.inference import jobs
    from brushjax.pipelines.bases import of_package

    failed: list[tuple[Job, Exception]] = []
    if arguments.base is None:
        print(of_package("base"), file=sys.stderr)
    print(f"{jobs.summary(groups)}: loading and compiling, then painting ...", flush=True)
    steps = _StepBar(len(groups), how.steps)
    with steps.bar as bar:
        painter = load_painter(arguments)
        for group in groups:
            steps.next_batch()
            for part, result in _painted(
                painter, group.jobs, arguments.negative_prompt, how, steps.told
            ):
                if isinstance(result, Exception):
                    failed += [(job, result) for job in part]
                    continue
                for i, job in enumerate(part):
                    bar.write(_write(job, result, i, arguments))
    return failed


def _painted(
    painter: Inpainter,
    group: Sequence[Job],
    negative_prompt: str,
    how: InpaintSettings,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Sequence[Job], InpaintResult | FloatingPointError]]:
    """A group's result; after NaN or infinity those of its pictures, one by one, to find whose it
    is. Wrong settings raise and end the command."""
    try:
        result = painter(
            [job.image for job in group],
            [job.mask for job in group],
            [job.prompt for job in group],
            negative_prompt,
            seed=[job.seed for job in group],
            progress=progress,
            settings=how,
        )
    except FloatingPointError as error:
        if len(group) == 1:
            yield group, error
            return
        for job in group:
            yield from _painted(painter, [job], negative_prompt, how, progress)
        return
    yield group, result


def _write(job: Job, result: InpaintResult, i: int, arguments: InpaintArguments) -> str:
    """Writes sample i of a result, and its strip; returns a line that says so."""
    import brushjax
    from brushjax.inference.result import WITH_ALPHA, keeps_transparency, write_picture

    picture, layers = result.images[i], result.layers(i)
    whole = picture if layers is None or not keeps_transparency(job.out) else layers

    kept = dataclasses.asdict(arguments) | {"prompt": job.prompt, "seed": job.seed}
    kept |= {"image": job.image, "mask": job.mask, "version": brushjax.__version__}
    kept = {name: value for name, value in kept.items() if name not in NOT_KEPT}
    kept |= {name: _names(kept[name]) for name in FILES}
    with_settings = write_picture(job.out, whole, kept)
    line = f"{job.out}: painted in {result.seconds / len(result.images):.1f} s"
    if layers is not None and whole is picture:
        line += f" (its transparency is dropped, over white; {', '.join(WITH_ALPHA)} keep it)"
    if not with_settings:
        line += " (only a PNG keeps the settings)"
    if job.strip is None:
        return line
    _write_strip(job, picture, arguments)
    return f"{line}; {job.strip}: image, mask and result side by side"


def _names(value: Any) -> Any:
    """Names of files without their folders, which are private."""
    if isinstance(value, (tuple, list)):
        return [_names(one) for one in value]
    word, equals, file = str(value or "").partition("=")  # of --embedding word=file
    if equals and not {"/", "\\"} & {*word}:
        return f"{word}={Path(file).name}"
    return value and Path(value).name


def _write_strip(job: Job, picture: Any, arguments: InpaintArguments) -> None:
    import numpy as np

    from brushjax.inference.images import prepare
    from brushjax.inference.result import write_picture
    from brushjax.inference.strip import strip

    assert job.strip is not None
    reading = {"mask_alpha": arguments.mask_alpha, "resize_mask": arguments.resize_mask}
    prepared = prepare([job.image], [job.mask], **reading)
    columns = {"image": prepared.originals, "mask": prepared.holes, "result": picture[None]}
    write_picture(job.strip, np.asarray(strip(columns, captions=[job.prompt])))


def _listed(failed: Sequence[tuple[Job, Exception]]) -> str:
    lines = "".join(f"\n  {job.image}: {error}" for job, error in failed)
    return f"not painted:{lines}"
