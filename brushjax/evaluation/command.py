"""The command `python evaluate.py CONFIG.py --out DIR`."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

HELP = """\
examples:
  python evaluate.py configs/eval/quickstart.py --out runs/shipped      the package's own branch
  python evaluate.py configs/eval/quickstart.py --out runs/eval --weights runs/quickstart/export
  python evaluate.py configs/eval/quickstart.py --out runs/both \\
      --weights before=runs/a/export --weights after=runs/b/export
  python evaluate.py configs/eval/quickstart.py --out runs/short --weights runs/quickstart/export \\
      --held_out.count 16 --sampling.steps 10
  python evaluate.py configs/eval/magicbrush.py --out runs/theirs --score-only results/theirs
  python evaluate.py configs/eval/quickstart.py --dry-run     print config and number of pictures
  python evaluate.py configs/eval/quickstart.py --help        list every field of the config

Started again with the same --out, it makes and scores only what is missing. The folder gets
report.html, table.{md,csv,tex}, changes.csv, scores.parquet, summary.json, plan.parquet, picture
strips, and the pictures. Several processes share a folder with --share 0/2, --share 1/2 ...; the
one that ends last writes the report.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; the arguments of the process by default."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help()
        return
    options, overrides = parser.parse_known_args(arguments)
    asked_for_help = bool({"-h", "--help"} & set(overrides))
    if options.out is None and not options.dry_run and not asked_for_help:
        parser.error("expected --out DIR (or --dry-run)")

    from brushjax import config as configs
    from brushjax.evaluation.records import BenchmarkError

    try:
        config = configs.load(options.config)
        config = configs.override(config, overrides, f"evaluate.py {options.config}")
        if options.dry_run:
            _asked(config.sweep(), options).check()
            print(configs.dump(config) + config.describe())
            return
        command = shlex.join(["python", "evaluate.py", *arguments])
        _run(config.sweep(), options, command)
    except (configs.ConfigError, BenchmarkError, OSError) as error:
        sys.exit(f"error: {error}")


def _run(sweep, options: argparse.Namespace, command: str) -> None:
    from brushjax.evaluation.models import Models, named_paths
    from brushjax.evaluation.sweep import Run
    from brushjax.lock import locked

    share = _share(options)
    sweep = _asked(sweep, options)
    models = Models(next(iter(named_paths(options.weights).values()), sweep.weights), sweep.base)
    run = Run(sweep, options.out, models, share=share, command=command)
    # Each share has a lock of its own: what two processes would make twice is what one share makes.
    with locked(options.out, f".lock-{share[0]}-of-{share[1]}", main=True):
        if options.judge_requests:
            run.all(("plan", "generate"))
            count = run.write_requests(options.judge_requests)
            print(f"{count} requests: {options.judge_requests}")
            return
        report = run.all(options.stages)
    if report is None:
        print(f"share {share[0]}/{share[1]}, stages {', '.join(options.stages)}: done")
        return
    print(report.markdown())
    print(f"report, tables, scores and pictures: {options.out}")
    if errors := [str(one) for one in report.findings if one.level == "error"]:
        sys.exit("\n".join(errors))


def _asked(sweep, options: argparse.Namespace):
    """The sweep of the config with the weights or the pictures that the command names."""
    from brushjax.evaluation.models import named_paths

    if options.judge_answers:
        sweep = dataclasses.replace(sweep, judge_answers=str(options.judge_answers))
    if options.score_only:
        return sweep.for_given(options.score_only)
    weights = named_paths(options.weights)
    alone = len(weights) == 1 and [*weights.values()] == options.weights  # one without a name
    return sweep.comparing(weights) if weights and not alone else sweep


def _share(options: argparse.Namespace) -> tuple[int, int]:
    if not options.distributed:
        return options.share
    import jax

    jax.distributed.initialize()
    return jax.process_index(), jax.process_count()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        usage="evaluate.py CONFIG.py --out DIR [--weights [NAME=]DIR ...]"
        " [--score-only [NAME=]DIR ...] [--dry-run]"
        " [--any.field VALUE ...]",
        description="Evaluates weights as a config file says; goes on where it was stopped.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "config", type=Path, metavar="CONFIG.py", help="file with a function get_config()"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes")
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="branch of the methods that name no checkpoint; given several times, all are compared",
    )
    parser.add_argument(
        "--score-only",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="score the pictures in this folder, made by anyone; given several times, all are",
    )
    parser.add_argument(
        "--judge-requests",
        type=Path,
        metavar="FILE",
        help="make the pictures, write what the benchmarks' judges are to be asked, and end",
    )
    parser.add_argument(
        "--judge-answers",
        type=Path,
        metavar="FILE",
        help="score the answers to such requests, a line {id, model, answer} each",
    )
    parser.add_argument(
        "--stages",
        type=lambda text: tuple(text.split(",")),
        default=("plan", "generate", "score", "report"),
        metavar="A,B",
        help="run only these of plan,generate,score,report",
    )
    parser.add_argument(
        "--share",
        type=_fraction,
        default=(0, 1),
        metavar="I/N",
        help="which of N processes this is, from 0",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="take the share from jax.distributed (TPU slices, SLURM)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and end")
    return parser


def _fraction(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with 0 <= I < N, got {text!r}")
    return int(index), int(count)
