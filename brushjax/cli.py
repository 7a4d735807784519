"""The commands. Each imports what it needs only once its arguments are understood, so that help is
quick."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from brushjax import __version__
from brushjax import config as configs
from brushjax.config import ConfigError

COMMANDS = {
    "train": ("brushjax.cli", "train", "train what a config file says"),
    "precompute": ("brushjax.training.precompute", "main", "encode a collection beforehand"),
    "inpaint": ("brushjax.inference.command", "main", "fill the masked part of an image"),
    "edit": ("brushjax.agents.command", "main", "change a picture as an instruction says"),
    "app": ("brushjax.app.command", "main", "the web editor, on this machine"),
    "instruct": ("brushjax.agents.instruct", "main", "make instructions for captioned pictures"),
    "donors": ("brushjax.agents.donors", "main", "make the pictures that regions learn from"),
    "prepare": ("brushjax.agents.prepare", "main", "make records for training, on Beam runners"),
    "propose": ("brushjax.training.propose", "main", "find FireEdit's regions beforehand"),
    "convert": ("brushjax.weights.command", "run", "convert weights, compare and list them"),
    "tokenizer": ("brushjax.cli", "tokenizer", "make a small tokenizer from captions"),
    "evaluate": ("brushjax.evaluation.command", "main", "score a model on a benchmark"),
    "judge": ("brushjax.evaluation.judging.ask", "main", "put a benchmark's questions to a judge"),
}

TRAIN_HELP = """\
examples:
  python train.py configs/quickstart.py --workdir runs/quickstart
  python train.py configs/quickstart.py --workdir runs/short --steps 100 --optimizer.warmup_steps 5
  python train.py configs/quickstart.py --dry-run     config, shardings, parameter counts, bytes
  python train.py configs/quickstart.py --help        every field of the config
  python train.py configs/brushnet_sd15_segmentation.py --compile-for v5e-256
                                                      does it fit a TPU slice that isn't here?

Started again with the same workdir, a run goes on from its newest checkpoint. The workdir gets
config.txt, metrics.jsonl, tensorboard/, checkpoints/ and, at the end, export/ in diffusers layout.
"""


class _AboveBars(logging.StreamHandler):
    """Writes to stderr above progress bars, which stay below."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line, or several with a traceback."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def _plain_log() -> None:
    """Logs messages alone; to be called before libraries are imported, which would set the log up
    in their own way."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_AboveBars()])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax COMMAND ...`."""
    _plain_log()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    lines = "\n".join(f"  {name:<12}{text}" for name, (_, _, text) in COMMANDS.items())
    usage = f"usage: python -m brushjax COMMAND ...\n\n{lines}\n\nCOMMAND --help tells more. "
    usage += "Options may be written with - or with _ between their words."
    if arguments and arguments[0] in COMMANDS:
        module, function, _ = COMMANDS[arguments[0]]
        with configs.interruptible("stopped"):
            getattr(importlib.import_module(module), function)(arguments[1:])
    elif arguments and arguments[0] in ("-h", "--help"):
        print(usage)
    elif arguments and arguments[0] in ("-V", "--version"):
        print(f"brushjax {__version__}")
    elif arguments:
        near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        known = f"expected one of {', '.join(COMMANDS)}; got {arguments[0]!r}{hint}"
        configs.wrong_usage("python -m brushjax", known)
    else:
        sys.exit(f"expected a command ({', '.join(COMMANDS)}); got nothing\n\n{usage}")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Trains what a config file says; goes on where an earlier start was stopped.

    Behind these options, --any.nested.field VALUE overrides a field of the config.

    Attributes:
        config: file with a function get_config().
        workdir: folder where the run lives.
        dry_run: say what would be trained, and end.
        compile_for: compile the step for a TPU slice that isn't here (v5e-256, v6e-8, v5p-128,
            v4-32, ...), say what it would need and about how long it takes, and end.
        price: of a chip for an hour: --compile-for then says what a million samples cost.
        profile: FIRST:LAST, the steps to trace into WORKDIR/profile, for TensorBoard's profiler or
            Perfetto.
        extend: let a run whose learning rate decays get more steps after all.
        hosts: HOST[:PORT],HOST,... the machines of a run without a cluster manager, one for each
            process; TPU slices, SLURM, Open MPI and GKE need no list (docs/running.md).
        process: this process's place in the list, where the machine's name doesn't tell.
    """

    config: Positional[Annotated[Path, arg(metavar="CONFIG.py")]]
    workdir: Path | None = None
    dry_run: bool = False
    compile_for: str = ""
    price: float = 0.0
    profile: str = ""
    extend: bool = False
    hosts: str = ""
    process: int | None = None

    @property
    def traced(self) -> tuple[int, int] | None:
        """First and last step to trace.

        Raises: ConfigError if `profile` is no FIRST:LAST.
        """
        if not self.profile:
            return None
        first, colon, last = self.profile.partition(":")
        if not (colon and first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
            raise ConfigError(f"expected --profile FIRST:LAST, such as 20:25; got {self.profile!r}")
        return int(first), int(last)


def train(arguments: Sequence[str] | None = None) -> None:
    """Runs `python train.py CONFIG.py --workdir DIR [--any.nested.field VALUE]`."""
    _plain_log()
    options, overrides = configs.own_options(TrainOptions, arguments, "train.py", TRAIN_HELP)
    needs_none = options.dry_run or options.compile_for or {"-h", "--help"} & set(overrides)
    if options.workdir is None and not needs_none:
        configs.wrong_usage(
            "train.py", "expected --workdir DIR (or --dry-run, or --compile-for SLICE)"
        )

    try:
        traced = options.traced
        config = configs.load(options.config, "objective")
        config = configs.override(config, overrides, f"train.py {options.config}")
        if options.dry_run:
            from brushjax.training.plan import describe, make_plan

            print(describe(config, make_plan(config)))
            return
        if options.compile_for:
            from brushjax.training.scale import ahead, ahead_report

            print("Compiling: 5 to 15 minutes for a full-size model on two cores.", flush=True)
            program = ahead.compile_for(config, options.compile_for)
            print(ahead_report.describe(program, options.price))
            return
    except ConfigError as error:
        sys.exit(f"error: {error}")
    _run(config, options, traced)


def _run(config: Any, options: TrainOptions, traced: tuple[int, int] | None) -> None:
    """Joins the other hosts, if there are any, and trains.

    What a user can mend is one line; whatever ends one process ends all of them.
    """
    from brushjax.distributed import end_all, initialize
    from brushjax.training.lifecycle.stopping import GOES_ON, Interrupted
    from brushjax.training.loop import run

    assert options.workdir is not None  # made sure of before
    workdir = options.workdir
    logging.getLogger("brushjax").setLevel(logging.INFO)
    try:
        initialize(options.hosts.split(",") if options.hosts else (), options.process)
        with configs.plain_warnings():
            folder = run(config, workdir, profile=traced, extend=options.extend)
    except (Interrupted, KeyboardInterrupt):
        end_all(GOES_ON, 0)
    except _mistakes() as error:
        end_all(f"error: {error}")
    except Exception as error:  # a fault of ours: with its traceback, and not on this host alone
        logging.getLogger("brushjax").exception("a fault that was not foreseen")
        end_all(f"error: {type(error).__name__}: {error}")
    samples = workdir / "samples"
    if folder and samples.is_dir():
        print(f"pictures and tables: {samples} (report.html)")
    print(f"exported to {folder}" if folder else GOES_ON)


def _mistakes() -> tuple[type[Exception], ...]:
    """Kinds of errors whose message says it all, so that a traceback would only hide it."""
    from brushjax.data.faults import TooManyFaults
    from brushjax.training.lifecycle.publishing import EvaluationFailed
    from brushjax.weights import WeightsError

    return (
        *(ConfigError, WeightsError, EvaluationFailed, TooManyFaults),
        *(OSError, FloatingPointError),
    )


@dataclasses.dataclass(frozen=True)
class TokenizerOptions:
    """Makes a small tokenizer of CLIP's kind.

    Attributes:
        out: folder to write.
        captions: file with one caption a line; by default the captions of the photographs that
            ship with the package.
        size: number of ids.
    """

    out: Path
    captions: Path | None = None
    size: int = 1024


def tokenizer(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax tokenizer --out DIR`."""
    options = configs.parsed(TokenizerOptions, arguments, "brushjax tokenizer")

    from brushjax.data.sets.photos import all_captions
    from brushjax.data.text import Tokenizer, train_tokenizer
    from brushjax.files import try_places

    try:
        try_places([options.out / "tokenizer.json"])
        captions = options.captions.read_text().splitlines() if options.captions else all_captions()
        train_tokenizer(captions, options.out, options.size)
    except OSError as error:
        sys.exit(f"error: {error}")
    print(f"{Tokenizer.load(options.out).vocabulary_size} ids in {options.out}")
