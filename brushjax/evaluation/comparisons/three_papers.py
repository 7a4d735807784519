"""BrushEdit, learnable regions and FireEdit on the same records, beside what they have to beat."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from brushjax.agents.command import SMALL_FIREEDIT
from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.benchmarks.miniature import Miniature
from brushjax.evaluation.benchmarks.piebench import PieBench
from brushjax.evaluation.benchmarks.tables import EmuEdit
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.methods.contract import Recipe
from brushjax.evaluation.methods.editors import FireEdit, Pix2Pix
from brushjax.evaluation.methods.inpainting import Blended, Sampling
from brushjax.evaluation.methods.instructed import Agent
from brushjax.evaluation.methods.regions import Predicted
from brushjax.evaluation.records import Benchmark
from brushjax.evaluation.results import Shown
from brushjax.evaluation.sweep import Sweep

MASKED = ("BrushEdit's agent", "blended latents")  # are given the benchmark's mask
NETWORKS = ("clip_b32", "dino_s16", "clip_l14", "lpips_squeeze", "lpips_alex", "dino_b8")
HEADLINE = ("mae_truth", "mae_hole", "l1", "clip_i", "clip_t", "clip_direction")


@dataclasses.dataclass(frozen=True)
class ThreePapers:
    """What is there of methods, benchmarks and networks is compared; what is not is named.

    Attributes:
        base, weights: pipeline folder and branch of the agent, of regions and of blended latents;
            empty: the package's.
        region: export folder of a region predictor's run; empty is the small one that ships.
        pix2pix: published pipeline folder of instruct-pix2pix.
        fireedit: folder that a run of configs/fireedit/ exported; empty is the small one that
            ships, with the settings that it is made for.
        magicbrush, emuedit, piebench: folders of the published files, see docs/evaluating.md.
        miniature: what always runs.
        networks: folder of the metrics' networks, each in a folder of its own name.
        sampling: of the methods that fill a mask.
        editor_steps: of those that make the whole picture.
        limit: sessions or records of each published benchmark; 0 is all.
        seeds: of the noise.
        batch_size: pictures per call.
        shown: how many records are shown.
    """

    base: str = ""
    weights: str = ""
    region: str = ""
    pix2pix: str = "weights/instruct-pix2pix"
    fireedit: str = ""
    magicbrush: str = "data/MagicBrush/test"
    emuedit: str = "data/emu_edit_test_set/data"
    piebench: str = "data/PIE-Bench"
    miniature: Miniature = dataclasses.field(default_factory=Miniature)
    networks: str = "weights"
    sampling: Sampling = dataclasses.field(default_factory=lambda: Sampling(guidance=4.0))
    editor_steps: int = 100
    limit: int = 0
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 16
    shown: Shown = dataclasses.field(default_factory=Shown)

    def sweep(self) -> Sweep:
        """The sweep of all that is there."""
        methods, no_methods = self._methods()
        benchmarks, no_benchmarks = self._benchmarks([one.label for one in methods])
        there = [name for name in NETWORKS if (Path(self.networks) / name).is_dir()]
        no_networks = [name for name in NETWORKS if name not in there]
        lacking = (
            f"metrics of {', '.join(no_networks)}: no such folders in {self.networks}/;"
            " docs/evaluating.md has the commands"
        )
        return Sweep(
            benchmarks=benchmarks,
            methods=methods,
            seeds=self.seeds,
            networks=tuple((name, f"{self.networks}/{name}") for name in there),
            baseline="copy",
            headline=HEADLINE,
            base=self.base,
            weights=self.weights,
            batch_size=self.batch_size,
            shown=self.shown,
            left_out=(*no_methods, *no_benchmarks, *([lacking] if no_networks else [])),
        )

    def describe(self) -> str:
        """What a run would make, and what it would leave out."""
        return self.sweep().describe()

    def _methods(self) -> tuple[tuple[Recipe, ...], list[str]]:
        """The methods whose weights are there, and what is said of the others."""
        agent, blended = MASKED
        filling = {"base": self.base, "sampling": self.sampling, "blend": "paste"}
        steps = self.editor_steps
        wanted = (
            ("", "", Agent(agent, **filling)),
            (
                "region",
                self.region,
                Predicted("learnable regions", True, predictor=self.region, **filling),
            ),
            ("fireedit", self.fireedit, self._fireedit()),
            ("pix2pix", self.pix2pix, Pix2Pix(steps=steps, base=self.pix2pix)),
            ("", "", Blended(blended, **filling)),
            ("", "", Copy()),
        )
        there = tuple(one for _, path, one in wanted if not path or Path(path).is_dir())
        return there, [
            f"the method {one.label}: no folder {path}; --{field} DIR names its weights"
            for field, path, one in wanted
            if path and not Path(path).is_dir()
        ]

    def _fireedit(self) -> FireEdit:
        if self.fireedit:
            return FireEdit(steps=self.editor_steps, folder=self.fireedit)
        steps, scheduler, text, image = SMALL_FIREEDIT
        return FireEdit("FireEdit", steps, scheduler, text, image)

    def _benchmarks(self, labels: list[str]) -> tuple[tuple[Benchmark, ...], list[str]]:
        """The benchmarks whose files are there, and what is said of the others."""
        limit = self.limit
        free = tuple(label for label in labels if label not in MASKED)
        wanted: tuple[tuple[str, str, tuple[Benchmark, ...]], ...] = (
            (
                "magicbrush",
                self.magicbrush,
                (
                    MagicBrush(self.magicbrush, "single", limit=limit),
                    MagicBrush(self.magicbrush, "multi", limit=limit),
                ),
            ),
            ("emuedit", self.emuedit, (EmuEdit(self.emuedit, limit=limit, methods=free),)),
            ("piebench", self.piebench, (PieBench(self.piebench, limit=limit),)),
        )
        there: list[Benchmark] = [self.miniature]
        absent = []
        for field, path, benchmarks in wanted:
            if Path(path).is_dir():
                there += benchmarks
            else:
                names = " and ".join(one.name for one in benchmarks)
                absent.append(f"the benchmark {names}: no folder {path}; --{field} DIR names it")
        if any(isinstance(one, EmuEdit) for one in there):
            absent.append(f"{' and '.join(MASKED)} on Emu Edit: it has no masks to give them")
        return tuple(there), absent
