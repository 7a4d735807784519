"""The command `python evaluate.py CONFIG.py --out DIR`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from brushjax import config as configs
from brushjax.config import ConfigError

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


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Evaluates weights as a config file says; goes on where it was stopped.

    Behind these options, --any.nested.field VALUE overrides a field of the config.

    Attributes:
        config: file with a function get_config().
        out: folder where the report goes.
        weights: [NAME=]DIR, branch of the methods that name no checkpoint; given several times, all
            are compared.
        score_only: [NAME=]DIR, score the pictures in this folder, made by anyone; given several
            times, all are.
        judge_requests: file to write what the benchmarks' judges are to answer, once the pictures
            are made; then end.
        judge_answers: file of the answers to such requests, a line {id, model, answer} each.
        stages: A,B: run only these of plan,generate,score,report.
        share: I/N, which of N processes this is, from 0.
        distributed: take the share from jax.distributed (TPU slices, SLURM).
        dry_run: say what would be done, and end.
    """

    config: Positional[Annotated[Path, arg(metavar="CONFIG.py")]]
    out: Path | None = None
    weights: UseAppendAction[tuple[str, ...]] = ()
    score_only: UseAppendAction[tuple[str, ...]] = ()
    judge_requests: Path | None = None
    judge_answers: Path | None = None
    stages: str = "plan,generate,score,report"
    share: str = "0/1"
    distributed: bool = False
    dry_run: bool = False

    @property
    def part(self) -> tuple[int, int]:
        """(index, count) of the processes.

        Raises: ConfigError if `share` is no I/N.
        """
        index, _, count = self.share.partition("/")
        if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
            raise ConfigError(f"expected --share I/N with 0 <= I < N, got {self.share!r}")
        return int(index), int(count)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; the arguments of the process by default."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options, overrides = configs.own_options(EvaluateOptions, arguments, "evaluate.py", HELP)
    asked_for_help = bool({"-h", "--help"} & set(overrides))
    if options.out is None and not options.dry_run and not asked_for_help:
        configs.wrong_usage("evaluate.py", "expected --out DIR (or --dry-run)")
    from brushjax.evaluation.records import BenchmarkError

    try:
        config = configs.load(options.config, "sweep")
        config = configs.override(config, overrides, f"evaluate.py {options.config}")
        if options.dry_run:
            _asked(config.sweep(), options).check()
            print(configs.dump(config) + config.describe())
            return
        command = shlex.join(["python", "evaluate.py", *arguments])
        with configs.interruptible("stopped; the same command goes on"), configs.plain_warnings():
            _run(config.sweep(), options, command)
    except (ConfigError, BenchmarkError, OSError) as error:
        sys.exit(f"error: {error}")


def _run(sweep, options: EvaluateOptions, command: str) -> None:
    from brushjax.evaluation.models import Models, named_paths
    from brushjax.evaluation.sweep import Run
    from brushjax.files import try_places
    from brushjax.lock import locked

    share, stages = _share(options), options.stages.split(",")
    sweep = _asked(sweep, options)
    models = Models(next(iter(named_paths(options.weights).values()), sweep.weights), sweep.base)
    assert options.out is not None  # made sure of before
    run = Run(sweep, options.out, models, share=share, command=command)
    if options.judge_requests:
        try_places([options.judge_requests])
    # Each share has a lock of its own: what two processes would make twice is what one share makes.
    with locked(options.out, f".lock-{share[0]}-of-{share[1]}", main=True):
        if options.judge_requests:
            run.all(("plan", "generate"))
            count = run.write_requests(options.judge_requests)
            print(f"{count} requests: {options.judge_requests}")
            return
        report = run.all(stages)
    if report is None:
        print(f"share {share[0]}/{share[1]}, stages {', '.join(stages)}: done")
        return
    print(report.markdown())
    print(f"report, tables, scores and pictures: {options.out}")
    if errors := [str(one) for one in report.findings if one.level == "error"]:
        sys.exit("\n".join(errors))


def _asked(sweep, options: EvaluateOptions):
    """The sweep of the config with the weights or the pictures that the command names."""
    from brushjax.evaluation.models import named_paths

    if options.judge_answers:
        sweep = dataclasses.replace(sweep, judge_answers=str(options.judge_answers))
    if options.score_only:
        return sweep.for_given(options.score_only)
    weights = named_paths(options.weights)
    alone = len(weights) == 1 and [*weights.values()] == [*options.weights]  # one without a name
    return sweep.comparing(weights) if weights and not alone else sweep


def _share(options: EvaluateOptions) -> tuple[int, int]:
    if not options.distributed:
        return options.part
    import jax

    jax.distributed.initialize()
    return jax.process_index(), jax.process_count()
