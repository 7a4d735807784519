"""The command `python -m brushjax edit`: a picture and an instruction in, an edited picture out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from brushjax import config as configs
from brushjax.files import try_places

if TYPE_CHECKING:
    from brushjax.agents.plan import EditPlan
    from brushjax.agents.protocols import Editor, Instructor, Segmenter

FILES = ("image", "mask", "base", "brushnet", "plan", "region", "fireedit")
SETTINGS = ("steps", "scheduler", "guidance", "image_guidance")  # where none is given, these:
INPAINTING = (50, "unipc", 7.5, 1.5)
FIREEDIT = (100, "euler-a", 7.5, 1.5)
SMALL_FIREEDIT = (1, "ddim", 1.0, 1.0)  # of the weights in the package
NOT_KEPT = ("out", "plan_out", "step", "session", "undo", "turn", "dry_run")  # where, not what


@dataclasses.dataclass(frozen=True)
class EditArguments:
    """Edits a picture as an instruction says.

    An instructor finds category, object and captions, a segmenter the mask, and a method paints.
    --step plan stops before painting; --plan goes on from a plan that was corrected by hand. With
    folders as image and out, all of a folder's pictures. A PNG keeps its settings, seed and plan.

    Attributes:
        image: picture file, or folder of pictures.
        out: file to write, its ending chooses the format; for a folder the folder to write to.
        instruction: what to change, such as "replace the dog with a cat".
        mask: mask of the same size, white = edit, or a folder of masks named as the pictures;
            without it a segmenter makes it.
        plan: plan.json to carry out, instead of an instruction; for a folder a folder of them.
        plan_out: file to write the plan to; for a folder a folder.
        step: where to stop: plan, before painting, or edit.
        method: agent (mask and inpainting), region (a predictor's mask, instead of a segmenter's)
            or fireedit (the instruction as it is, without a mask).
        fireedit: of the method fireedit: folder that a run of configs/fireedit exports; else the
            small model that ships, which knows the things in the shipped photographs alone.
        region: of the method region: folder that a run of configs/region exports; else the small
            predictor that ships, which knows the things in the shipped photographs alone.
        source_caption: what the picture shows.
        target_caption: what it shows after the edit, instead of the instructor's.
        instructor: patterns (no model), endpoint (OpenAI's protocol) or local (transformers).
        model: of the instructor.
        url: of the endpoint; its key is read from OPENAI_API_KEY.
        cache: folder of the endpoint's replies.
        segmenter: grounded-sam, or click.
        click: x,y in pixels for the segmenter click.
        instances: which of the things found to edit, the best is 0; all without.
        dilation: pixels that the mask of a removal is widened by.
        base: as `python -m brushjax inpaint` takes it; without it the small model in the package.
        brushnet: as there.
        dtype: what the networks compute in.
        negative_prompt: what the edited part should not show.
        steps: number of steps; 50, 100 of the method fireedit, 1 of its small model.
        guidance: how strongly the caption, or the instruction, acts; 1 is off, as for the small
            fireedit; else 7.5.
        image_guidance: of the method fireedit, how strongly the picture acts; 1.5, or 1 likewise.
        scale: how strongly the branch acts.
        scheduler: as `python -m brushjax inpaint` takes it; unipc, euler-a of fireedit and
            ddim of its small model.
        seed: the same seed gives the same picture.
        blend: paste keeps every pixel outside the mask; feather and the others as there.
        session: folder in which turns are kept; the edit goes on from where it stands.
        undo: turns of the session to take back first; they stay as a branch.
        turn: number of the session's turn to go to first; the edit begins a branch there. Without
            an instruction or a plan, undo and turn only go there, and list the turns.
        crop: for large pictures, as `python -m brushjax inpaint` takes it.
        dry_run: make the plan, write nothing, and print it.
    """

    image: Path
    out: Path | None = None
    instruction: str = ""
    mask: Path | None = None
    plan: Path | None = None
    plan_out: Path | None = None
    step: Literal["plan", "edit"] = "edit"
    method: Literal["agent", "region", "fireedit"] = "agent"
    region: Path | None = None
    fireedit: Path | None = None
    source_caption: str = ""
    target_caption: str = ""
    instructor: Literal["patterns", "endpoint", "local"] = "patterns"
    model: str = ""
    url: str = ""
    cache: Path | None = None
    segmenter: Literal["grounded-sam", "click"] = "grounded-sam"
    click: tuple[str, ...] = ()
    instances: tuple[int, ...] = ()
    dilation: int = 20
    base: str | None = None
    brushnet: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    negative_prompt: str = ""
    steps: int | None = None
    guidance: float | int | None = None
    image_guidance: float | int | None = None
    scale: float | int = 1.0
    scheduler: str | None = None
    seed: int = 0
    blend: str = "paste"
    session: Path | None = None
    undo: int = 0
    turn: int | None = None
    crop: float | int | None = None
    dry_run: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax edit ...`, with the process's own arguments by default."""
    given = configs.parsed(EditArguments, arguments, "brushjax edit")
    with configs.plain_warnings():
        edit_command(given)


def edit_command(arguments: EditArguments) -> None:
    """Plans and paints; of a folder the pictures that fail are named at the end.

    Raises:
        SystemExit: with a message instead of a traceback, for files and values that don't fit.
    """
    arguments = _filled(arguments)
    try:
        _check(arguments)
        jobs = find_jobs(arguments)
        if not arguments.dry_run:
            try_places(_written(jobs, arguments))
        parts = _Parts(arguments)
        failed = []
        for job in jobs:
            try:
                print(_done(job, arguments, parts), flush=True)
            except (ValueError, TypeError, OSError, FloatingPointError) as error:
                if len(jobs) == 1:
                    raise
                failed.append(f"\n  {job.image}: {error}")
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error
    if failed:
        raise SystemExit(f"error: not edited:{''.join(failed)}")


@dataclasses.dataclass(frozen=True)
class EditJob:
    """One picture to edit, and the files that belong to it."""

    image: Path
    out: Path | None
    mask: Path | None
    plan: Path | None
    plan_out: Path | None


def find_jobs(arguments: EditArguments) -> list[EditJob]:
    """Pairs pictures with masks, plans and what to write.

    Raises:
        ValueError: a folder without pictures, or a result that would be written over an input.
        FileNotFoundError: no such picture, mask or plan.
    """
    from brushjax.data.sources.pictures import ENDINGS

    given = arguments
    for path in (given.image, given.mask, given.plan):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
    if not given.image.is_dir():
        jobs = [EditJob(given.image, given.out, given.mask, given.plan, given.plan_out)]
    else:
        if given.session:
            raise ValueError("expected one picture for a --session, got a folder")
        pictures = sorted(
            path
            for path in given.image.iterdir()
            if path.suffix.lower() in ENDINGS and path.name[0] != "."
        )
        if not pictures:
            raise ValueError(f"expected pictures in the folder {given.image}, found none")
        jobs = [
            EditJob(
                picture,
                given.out and given.out / f"{picture.stem}.png",
                _of(given.mask, picture, ENDINGS),
                _of(given.plan, picture, (".json",)),
                given.plan_out and given.plan_out / f"{picture.stem}.json",
            )
            for picture in pictures
        ]
    read = {path.resolve() for job in jobs for path in (job.image, job.mask) if path}
    for job in jobs:
        if job.out and job.out.resolve() in read:
            raise ValueError(f"{job.out} would be written over an input; give it another name")
    return jobs


def _written(jobs: Sequence[EditJob], arguments: EditArguments) -> list[Path]:
    """What will be written; raises ValueError where a name's ending is no picture's."""
    from brushjax.agents.sessions import NAME
    from brushjax.inference.result import picture_format

    painted = arguments.step == "edit"
    pictures = [job.out for job in jobs if job.out is not None and painted]
    for picture in pictures:
        picture_format(picture)
    plans = [job.plan_out for job in jobs if job.plan_out is not None]
    sessions = [arguments.session / NAME] if arguments.session is not None and painted else []
    return [*pictures, *plans, *sessions]


def _of(place: Path | None, picture: Path, endings: Sequence[str]) -> Path | None:
    """The file of a picture's name in a folder, or the one file for all."""
    if place is None or not place.is_dir():
        return place
    for ending in endings:
        if (place / f"{picture.stem}{ending}").is_file():
            return place / f"{picture.stem}{ending}"
    raise FileNotFoundError(f"{place} has no file named as {picture.name}")


def _check(arguments: EditArguments) -> None:
    if (arguments.undo or arguments.turn is not None) and not arguments.session:
        raise ValueError("expected --session FOLDER with --undo and --turn")
    if _moves_only(arguments):
        return
    if bool(arguments.instruction) == bool(arguments.plan):
        none = "" if arguments.plan else "; got no words in either"
        raise ValueError(f"expected --instruction or --plan, one of the two{none}")
    needs_out = arguments.step == "edit" and not arguments.dry_run
    if needs_out and arguments.out is None and arguments.session is None:
        raise ValueError("expected --out FILE (or --session FOLDER, --step plan, --dry-run)")
    if arguments.step == "plan" and not (arguments.plan_out or arguments.dry_run):
        raise ValueError("expected --plan-out FILE with --step plan")


def _filled(arguments: EditArguments) -> EditArguments:
    """With the settings of its method where none were given."""
    usual = INPAINTING
    if arguments.method == "fireedit":
        usual = SMALL_FIREEDIT if arguments.fireedit is None else FIREEDIT
    lacking = {k: v for k, v in zip(SETTINGS, usual) if getattr(arguments, k) is None}
    return dataclasses.replace(arguments, **lacking)


def _moves_only(arguments: EditArguments) -> bool:
    """Whether a session is only to stand at another turn."""
    moves = bool(arguments.undo) or arguments.turn is not None
    return moves and not arguments.instruction and arguments.plan is None


class _Parts:
    """What the arguments name, loaded once and when it is first needed."""

    def __init__(self, arguments: EditArguments):
        self._arguments = arguments
        self._made: dict[str, Any] = {}

    def instructor(self) -> Instructor:
        from brushjax.agents.instructors import instructor_of

        return self._once("instructor", lambda: instructor_of(self._arguments))

    def segmenter(self, mask: Path | None) -> Segmenter:
        from brushjax.agents.segmenters import GivenMask

        if mask is not None:
            return GivenMask(mask)
        return self._once("segmenter", lambda: _segmenter(self._arguments))

    def finder(self) -> Any:
        return self._once("finder", lambda: _finder(self._arguments))

    def editor(self) -> Editor:
        return self._once("editor", lambda: _editor(self._arguments))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def _segmenter(arguments: EditArguments) -> Segmenter:
    from brushjax.agents.segmenters import segmenter

    if arguments.segmenter != "click":
        try:
            return segmenter(arguments.segmenter)
        except (OSError, ImportError) as error:
            raise ValueError(
                f"{error}. Or do without a segmenter: --mask FILE, --method region or fireedit"
            ) from error
    try:
        points = [(float(x), float(y)) for x, y in (one.split(",") for one in arguments.click)]
    except ValueError as error:
        raise ValueError(f"expected --click X,Y in pixels, got {arguments.click}") from error
    return segmenter("click", points=points)


def _finder(arguments: EditArguments) -> Any:
    from brushjax.pipelines.bases import of_package
    from brushjax.pipelines.regions import SHIPPED_REGION, RegionFinder

    if arguments.region is None:
        print(of_package("region"), file=sys.stderr)
    return RegionFinder.load(arguments.region or SHIPPED_REGION)


def _editor(arguments: EditArguments) -> Editor:
    from brushjax.agents.editors import editor

    def load() -> Any:
        import jax.numpy as jnp

        from brushjax.inference.engine.cache import kept_programs
        from brushjax.inference.inpaint import Inpainter
        from brushjax.pipelines.bases import of_package

        dtype, programs = jnp.dtype(arguments.dtype), kept_programs()
        flag = "fireedit" if arguments.method == "fireedit" else "base"
        if getattr(arguments, flag) is None:
            print(of_package(flag), file=sys.stderr)
        if arguments.method == "fireedit":
            from brushjax.inference.fireedit import FireEditor
            from brushjax.pipelines.fireedit import SHIPPED_FIREEDIT

            return FireEditor.load(arguments.fireedit or SHIPPED_FIREEDIT, dtype, programs=programs)
        return Inpainter.load(arguments.base, arguments.brushnet, dtype, programs=programs)

    names = ("steps", "guidance", "image_guidance", "scale", "scheduler", "blend")
    names = (*names, "negative_prompt", "crop")
    settings = {name: getattr(arguments, name) for name in names}
    return editor(arguments.method, load, **settings)


def _done(job: EditJob, arguments: EditArguments, parts: _Parts) -> str:
    """Plans and paints one picture; returns a line that says so."""
    session = _session(job, arguments)
    if session is not None and _moves_only(arguments):
        return f"{session.folder}: {session.told()}"
    plan = _planned(job, arguments, parts, job.image if session is None else session.image)
    said = f"{plan.category} {plan.object!r}"
    said += f": {plan.target_caption!r}" if plan.target_caption else ""
    if arguments.method == "fireedit":
        said = repr(plan.instruction)
    if arguments.dry_run:
        return f"{job.image}: {said}"
    if job.plan_out is not None:
        plan.save(job.plan_out)
    if arguments.step == "plan":
        return f"{job.plan_out}: {said}"
    if session is None:
        result, where = parts.editor()(plan, arguments.seed), ""
    else:
        turn = session.edit(plan, parts.editor(), arguments.seed)
        result, where = session.image, f"{session.folder}: turn {turn.number}; "
    if job.out is None:
        return f"{where}{said}"
    _write(job.out, result, plan, arguments, job)
    return f"{where}{job.out}: {said}"


def _session(job: EditJob, arguments: EditArguments) -> Any:
    from brushjax.agents.sessions import NAME, Session

    if arguments.session is None or arguments.dry_run or arguments.step == "plan":
        return None
    if (arguments.session / NAME).exists():
        session = Session.open(arguments.session)
        session.expect(job.image)
        for _ in range(arguments.undo):
            session.undo()
        if arguments.turn is not None:
            session.go(arguments.turn)
        return session
    if arguments.undo or arguments.turn is not None:
        raise ValueError(f"expected a session in {arguments.session}; there is none")
    return Session.start(arguments.session, job.image)


def _planned(job: EditJob, arguments: EditArguments, parts: _Parts, image: Any) -> EditPlan:
    import numpy as np

    from brushjax.agents.masks import MaskRules
    from brushjax.agents.plan import EditPlan
    from brushjax.inference.images import read_image

    picture = read_image(image)
    if job.plan is not None:
        plan = EditPlan.load(job.plan, picture)
    elif arguments.method == "fireedit":  # reads the instruction itself
        plan = EditPlan(picture, arguments.instruction, "global")
    else:
        plan = parts.instructor()(arguments.instruction, picture, arguments.source_caption)
    if arguments.target_caption:
        plan = dataclasses.replace(plan, target_caption=arguments.target_caption)
    if job.mask is not None:
        return dataclasses.replace(plan, mask=job.mask)
    if arguments.method == "region" and _needs_mask(plan, arguments):
        found = parts.finder().find(picture, plan.instruction)
        return dataclasses.replace(plan, mask=found.region * np.uint8(255))
    rules = MaskRules(arguments.dilation, arguments.instances)
    return rules(plan, parts.segmenter(job.mask)) if _needs_mask(plan, arguments) else plan


def _needs_mask(plan: EditPlan, arguments: EditArguments) -> bool:
    """A plan is shown without its mask where nothing is painted, or without one."""
    return plan.mask is None and not arguments.dry_run and arguments.method != "fireedit"


def _write(
    path: Path, picture: Any, plan: EditPlan, arguments: EditArguments, job: EditJob
) -> None:
    import brushjax
    from brushjax.inference.result import write_picture

    kept = dataclasses.asdict(arguments)
    kept |= {"image": job.image, "mask": job.mask, "plan": job.plan}
    kept = {name: value for name, value in kept.items() if name not in NOT_KEPT}
    kept |= {name: kept[name] and Path(kept[name]).name for name in FILES}
    kept["cache"] = None
    kept |= {"instruction": plan.instruction, "category": plan.category, "object": plan.object}
    kept |= {"source_caption": plan.source_caption, "target_caption": plan.target_caption}
    kept |= {"boxes": plan.boxes, "version": brushjax.__version__, "command": "edit"}
    write_picture(path, picture, kept)
