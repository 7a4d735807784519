"""The evaluation sweep: plan, generate, score, report. There is one, for all papers.

Every stage can be run and repeated alone: what a stage has finished stands in the output folder and
is not done again. Processes share a sweep without talking to each other: each does the sessions
that are its own, over its own devices.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brushjax import config as configs
from brushjax.evaluation.generate import Gallery, generate
from brushjax.evaluation.judging.answers import Answers, write_requests
from brushjax.evaluation.methods.contract import Recipe, Resources, unfolded
from brushjax.evaluation.methods.given import Given
from brushjax.evaluation.models import DEFAULT, Models, named_paths
from brushjax.evaluation.plan import Plan, make_plan
from brushjax.evaluation.records import BenchmarkError, Unit
from brushjax.evaluation.report.lint import Finding
from brushjax.evaluation.results import Report, Shown, environment
from brushjax.evaluation.score import (
    TOKENIZER,
    Features,
    check_metrics,
    collect,
    metrics_of,
    row_key,
    score_units,
)
from brushjax.evaluation.store import read_parts
from brushjax.files import write_text
from brushjax.metrics.bootstrap import Bootstrap
from brushjax.metrics.metric import Metric
from brushjax.pipelines.bases import base_path
from brushjax.weights import WeightsError

STAGES = ("plan", "generate", "score", "report")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Benchmarks x methods x seeds.

    Attributes:
        benchmarks: of `brushjax.evaluation.benchmarks`.
        methods: recipes of `brushjax.evaluation.methods`; a `Grid` is checkpoints x bases x
            samplers x guidance x scale.
        seeds: of the noise; methods without noise are run once.
        profiles: of metrics: "clean", "paper:<name>", or "paper" for those of the papers that
            report on a benchmark.
        metrics: names of the metrics to compute; empty: all that there are weights for.
        networks: (name, path) of the weights of metrics' networks, see docs/evaluating.md.
        judge_answers: file of a judge's answers to the requests of `Run.write_requests`; its
            scores are then computed too.
        baseline: label of the method that the others are compared with, pair by pair.
        headline: names of the metrics whose changes are printed; empty: all.
        base: pipeline folder of methods that name none; empty: in a training run that run's, else
            the one in the package.
        weights: branch of methods that name no checkpoint, where the command is given none; empty:
            the one in the base's folder, as in the package's.
        batch_size: pictures per call, over all devices of a process.
        together: pictures that a device makes at once. At 1 a picture is the same, bit for bit,
            on any number of devices; more is faster where one does not fill an accelerator, and
            changes pictures by rounding.
        shown: how many records are shown.
        bootstrap: how the intervals are resampled.
        left_out: what a config that looks for its parts did not find; said in the report.
    """

    benchmarks: tuple[Any, ...]
    methods: tuple[Any, ...]
    seeds: tuple[int, ...] = (0,)
    profiles: tuple[str, ...] = ("clean", "paper")
    metrics: tuple[str, ...] = ()
    networks: tuple[tuple[str, str], ...] = ()
    judge_answers: str = ""
    baseline: str = ""
    headline: tuple[str, ...] = ()
    base: str = ""
    weights: str = ""
    batch_size: int = 16
    together: int = 1
    shown: Shown = dataclasses.field(default_factory=Shown)
    bootstrap: Bootstrap = dataclasses.field(default_factory=Bootstrap)
    left_out: tuple[str, ...] = ()

    def __call__(self, step: int, export: Path, workdir: Path) -> Mapping[str, float]:
        """As an evaluator of a training run: writes to workdir/samples, returns the means."""
        del step  # the weights' digest tells one export from another
        report = Run(self, workdir / "samples", Models(export, self.base)).all()
        return {} if report is None else report.flat()

    def for_run(self, config: Any) -> Sweep:
        """As an evaluator of a training run: on the run's base where it names none, checked.

        Raises: ConfigError if base, data or metrics' networks are not there.
        """
        sweep = dataclasses.replace(
            self,
            base=self.base or getattr(config.objective, "base", ""),
            benchmarks=tuple(one.for_run(config) for one in self.benchmarks),
        )
        try:
            if sweep.base:
                base_path(sweep.base)
            for benchmark in sweep.benchmarks:
                benchmark.records()
            _ = Run(sweep, "").metrics
        except (BenchmarkError, WeightsError, OSError) as error:
            raise configs.ConfigError(f"an evaluator lacks what it needs: {error}") from error
        return sweep

    def sweep(self) -> Sweep:
        """Itself: configs that stand for a sweep have this method too."""
        return self

    def describe(self) -> str:
        """What a run would make, a line a benchmark."""
        methods, lines, total = self.unfolded(), [], 0
        for benchmark in self.benchmarks:
            try:
                count = len(benchmark.records())
            except BenchmarkError as error:
                lines.append(f"{benchmark.name}: {error}\n")
                continue
            runs = sum(
                benchmark.wants(method.label, repeat)
                for method in methods
                for repeat in range(len(self.seeds) if method.seeded else 1)
            )
            total += count * runs
            lines.append(f"{benchmark.name}: {count} records, {count * runs} pictures\n")
        lines += [f"left out: {text}\n" for text in self.left_out]
        return "".join(lines) + f"{total} pictures\n"

    def unfolded(self) -> list[Recipe]:
        """The methods, with what a `Grid` stands for in its place."""
        return unfolded(self.methods)

    def for_given(self, folders: Sequence[str]) -> Sweep:
        """The same benchmarks and metrics, on pictures that lie in these folders.

        Args:
            folders: paths, or "NAME=PATH" to name one in the report.
        """
        methods = tuple(Given(path, name) for name, path in named_paths(folders).items())
        return dataclasses.replace(self, methods=methods, seeds=(0,), baseline="")

    def comparing(self, weights: Mapping[str, str]) -> Sweep:
        """The same with one method for each of these branches where a method names none.

        Args:
            weights: name -> path. A method alone of its kind is then called by the name; of several
                kinds, the name stands in the place of "default", or behind the label.
        """
        methods = self.unfolded()
        open_ = [one for one in methods if one.takes_weights]
        labels = {
            one.label: {_label(one.label, name, len(open_)): path for name, path in weights.items()}
            for one in open_
        }
        replaced = []
        for one in methods:
            named = labels.get(one.label, {}).items() if one.takes_weights else ()
            replaced += [one.with_weights(*both) for both in named] or [one]
        benchmarks = (
            one.relabelled({k: list(v) for k, v in labels.items()}) for one in self.benchmarks
        )
        return dataclasses.replace(self, methods=tuple(replaced), benchmarks=tuple(benchmarks))

    def check(self) -> None:
        """Finds what no run could do, before anything is loaded.

        Raises:
            BenchmarkError: a baseline that no method is called, a metric that nothing computes
                here, or one whose network has no weights.
        """
        labels = [one.label for one in self.unfolded()]
        if self.baseline and self.baseline not in labels:
            raise BenchmarkError(
                f"expected as baseline one of {', '.join(labels)}, got {self.baseline!r}"
            )
        networks = [name for name, _ in self.networks if not name.endswith(TOKENIZER)]
        check_metrics(self.benchmarks, self.profiles, self.metrics, networks)


def _label(label: str, name: str, kinds: int) -> str:
    if DEFAULT in label.split():
        return label.replace(DEFAULT, name)
    return name if kinds == 1 else f"{label} {name}"


class Run:
    """One process's part of a sweep into a folder.

    Args:
        sweep: what is to be done.
        out: the folder; a second start goes on where the first was stopped.
        models: the networks that make the pictures.
        share: (index, count) of the processes that work on this folder.
        devices: that make pictures; all of this process by default.
        networks: of the metrics, loaded already; by default those that the sweep names.
        command: how the run was started, for the summary.
    """

    def __init__(
        self,
        sweep: Sweep,
        out: str | Path,
        models: Models | None = None,
        *,
        share: tuple[int, int] = (0, 1),
        devices: Sequence[Any] | None = None,
        networks: Features | None = None,
        progress: bool = True,
        command: str = "",
    ):
        if not 0 <= share[0] < share[1]:
            raise BenchmarkError(f"expected a share INDEX/COUNT with INDEX < COUNT, got {share}")
        if networks is None:
            sweep.check()
        self.sweep, self.out, self.share = sweep, Path(out), share
        self.models = Models(base=sweep.base) if models is None else models
        self.gallery = Gallery(self.out)
        self.resources = Resources(self.models, devices, sweep.together)
        self._progress, self._command = progress, command
        self._plan: Plan | None = None
        self._networks = networks

    def all(self, stages: Sequence[str] = STAGES) -> Report | None:
        """Run these stages, in their order; the report, once all processes have done their share.

        Raises:
            BenchmarkError: an unknown stage, or what the stages raise.
        """
        if unknown := set(stages) - set(STAGES):
            raise BenchmarkError(f"expected stages of {STAGES}, got {sorted(unknown)}")
        if {"score", "report"} & set(stages):
            _ = self.networks  # wrong weights are an error now, not after hours of generating
        if "plan" in stages:
            self.write_plan()
        if "generate" in stages:
            self.generate()
        if "score" in stages:
            self.score()
        if "report" not in stages or (self.share[1] > 1 and not self.complete()):
            return None
        return self.report()

    @property
    def plan(self) -> Plan:
        """What is to be done; made anew from the benchmarks and weights by every process."""
        if self._plan is None:
            sweep = self.sweep
            self._plan = make_plan(sweep.benchmarks, sweep.methods, sweep.seeds, self.resources)
        return self._plan

    def write_plan(self) -> None:
        """The stage `plan`: plan.parquet, and the config as text."""
        plan = self.plan
        if self.share[0] == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            plan.write(self.out / "plan.parquet")
            write_text(self.out / "config.txt", configs.dump(self.sweep))

    def generate(self) -> None:
        """The stage `generate`: this process's pictures that are not there yet."""
        made = any(recipe.makes for recipe in self.plan.methods.values())
        share = (len(self.resources.devices) if made else 1) * self.sweep.together
        size = -(-self.sweep.batch_size // share) * share  # every device gets as many

        def fills(label: str):
            return self.plan.methods[label].method(self.resources).fill

        generate(self.plan, self.units, fills, self.gallery, size, self._progress)

    def score(self) -> None:
        """The stage `score`: the metrics of this process's pictures that have none yet."""
        self.gallery.refresh()
        mine = [unit for unit in self.units if unit.record.scored]
        if lacking := [str(unit) for unit in mine if unit.key not in self.gallery]:
            raise BenchmarkError(
                f"expected {len(mine)} pictures, {len(lacking)} are missing, such as {lacking[0]};"
                " run the stage generate first"
            )
        score_units(
            mine,
            self.gallery,
            self.metrics,
            self.networks,
            progress=self._progress,
            answers=self._answered if self.answers else None,
        )

    def write_requests(self, path: Path) -> int:
        """Write what the benchmarks' judges are to be asked about this process's pictures.

        Returns: how many requests there are.
        """
        self.gallery.refresh()
        mine = [unit for unit in self.units if unit.record.scored and unit.key in self.gallery]
        judgings = {one.name: one.judging for one in self.sweep.benchmarks}
        return write_requests(path, mine, self.gallery, judgings)

    @functools.cached_property
    def answers(self) -> Answers | None:
        """What the judge answered; None where the sweep names no file."""
        return Answers.load(self.sweep.judge_answers) if self.sweep.judge_answers else None

    def _answered(self, unit: Unit) -> Mapping[Any, str] | None:
        judging = self.plan.benchmarks[unit.record.benchmark].judging
        if judging is None or self.answers is None:
            return None
        return self.answers.of(unit, judging, self.gallery.rows[unit.key]["sha256"]) or None

    def complete(self) -> bool:
        """Whether every scored picture of the plan has its row, whoever wrote it."""
        done = read_parts(self.out / "scores")
        return all(
            row_key(unit, self.metrics[unit.record.benchmark], self.networks) in done
            for unit in self.plan.scored
        )

    def report(self) -> Report:
        """The stage `report`: aggregates, checks and writes all rows of the plan."""
        self.gallery.refresh()
        scored = collect(self.plan, self.gallery, self.metrics, self.networks)
        sweep = self.sweep
        methods = {name: one.explain(self.models) for name, one in self.plan.methods.items()}
        report = Report.of(
            self.plan, scored, sweep.baseline, sweep.bootstrap, sweep.headline, methods
        )
        report.findings.extend(Finding("note", "left out", text) for text in sweep.left_out)
        report.write(self.out, self.gallery, self._about(), sweep.shown)
        return report

    @property
    def units(self) -> list[Unit]:
        """This process's units."""
        return self.plan.share(*self.share)

    @functools.cached_property
    def metrics(self) -> dict[str, tuple[Metric, ...]]:
        """The metrics of every benchmark."""
        sweep, networks = self.sweep, self.networks
        names = () if networks is None else tuple(networks.names)
        found = {}
        for one in sweep.benchmarks:
            judged = () if self.answers is None else self.answers.metrics(one, sweep.profiles)
            found[one.name] = (*judged, *metrics_of(one, sweep.profiles, sweep.metrics, names))
        return found

    @property
    def networks(self) -> Features | None:
        """What runs the metrics' networks; None where the sweep names no weights."""
        if self._networks is None and self.sweep.networks:
            from brushjax.evaluation.networks import Networks

            try:
                self._networks = Networks.load(dict(self.sweep.networks))
            except ValueError as error:  # weights of another network, or an unknown name
                raise BenchmarkError(
                    f"networks of the metrics: {error} (--networks with nothing behind it computes"
                    " the metrics on pixels only)"
                ) from error
        return self._networks

    def _about(self) -> dict[str, Any]:
        return {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": self._command,
            "settings": self.plan.settings,
            "networks": dict(self.networks.hashes) if self.networks else {},
            "environment": environment(),
            "config": configs.dump(self.sweep).splitlines(),
        }
