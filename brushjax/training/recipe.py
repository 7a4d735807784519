"""The settings of a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from brushjax.config import ConfigError
from brushjax.data.schema import Encode
from brushjax.nn.execution import Rematerialise
from brushjax.sharding import MeshShape, Rule
from brushjax.training.objectives.contract import Objective
from brushjax.training.optimizers import OptimizerConfig

Evaluator = Callable[[int, Path, Path], Mapping[str, float]]
"""`(step, export folder, workdir) -> numbers`: judges the exported folder, which users get.

Where it has a method `for_run(config)`, that is called before the first step: it checks that base,
weights and data are there, and returns the evaluator to use, which takes the run's base where its
own settings name none. Raises: ConfigError.
"""


@runtime_checkable
class Source(Protocol):
    """Samples by number: sample n is the same whenever and wherever it is read."""

    def __len__(self) -> int: ...

    def __getitem__(self, n: int) -> Mapping[str, Any]:
        """Returns the arrays of one sample, without a batch axis."""
        ...


@runtime_checkable
class Data(Protocol):
    """Settings of the training samples, as brushjax.data.pipeline.PhotoData has them."""

    pool: int
    """How many different samples there are; 0 for no end of them."""

    # Data that may not be there yet has `shapes` too, see BrushData of
    # brushjax.data.sets.brushdata: its recipe can then be checked and compiled without it.

    def source(self, encode: Encode) -> Source:
        """Returns the samples by number."""
        ...

    def batches(self, batch_size: int, encode: Encode, *, shard: tuple[int, int]) -> Any:
        """Returns an endless series of the batches of host shard[0] of shard[1].

        Each has "id", integers that name its samples. The iterator has get_state and set_state;
        the state holds for every host. With an attribute `samples`, that one's `faults` {cause:
        count} are logged.
        """
        ...


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run: what is learnt, from what, how long, and what is kept."""

    name: str
    objective: Objective
    data: Any  # a Data; tyro looks into a protocol's value only where it is Any
    """The training samples."""
    optimizer: OptimizerConfig
    steps: int
    batch_size: int
    """Samples a step, over all devices."""
    seed: int = 0
    encode_once: bool = False
    """Run the frozen encoders once on each sample of the data's pool before the first step, and
    keep the results in the host's memory; otherwise they are part of every step."""
    accumulation: int = 1
    """Parts that a batch is worked through in, one after the other, to need less memory."""
    ema_decay: float = 0.0
    """Of a moving average of the parameters, which is then what is exported; 0 keeps none."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the forward and backward pass and the frozen parameters; what is trained stays float32."""
    reduce_dtype: Literal["", "float32", "bfloat16"] = ""
    """Of the gradients while they are added up over devices. Empty is the compute dtype: in a
    bfloat16 run half the traffic of float32, for sums that are rounded to 8 bits."""
    rematerialise: Rematerialise = "nothing"
    """What the backward pass computes again instead of keeping it: "elementwise" norms and
    activations; "layers" everything inside a layer, for about a third more work."""
    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
    parameter_rules: tuple[Rule, ...] = ()
    """(path regex, tactic) of the copy of the trained parameters that a step computes with, see
    brushjax.sharding; else it is whole on every device."""
    frozen_rules: tuple[Rule, ...] = ()
    """The same for the frozen parameters."""
    optimizer_rules: tuple[Rule, ...] = ((".*", "cut:data"),)
    """The same for what the optimizer works on: the float32 parameters, their moments and their
    moving average. By default each device keeps a part (ZeRO-1); () keeps all on every device;
    `FULLY_SHARDED` here and in parameter_rules, with mesh.fsdp, cuts everything."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when a loss or gradient is not finite: stop the run, or leave the step out."""
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 2
    """Checkpoints that stay on disk."""
    export_every: int = 0
    """Export, and run the evaluators on the export, every so many steps; 0: only at the end."""
    evaluators: tuple[Any, ...] = ()
    """Evaluators, run in this order on every export."""
    validation: Any = None
    """Samples whose first batches the loss is measured on, with the same noise every time: data of
    their own, or HeldOutPart, what the training data hold out."""
    validate_every: int = 0
    """Steps between two such measurements; 0: only at the end."""
    validation_batches: int = 4
    """How many batches of `batch_size`; they stay in the host's memory."""
    best: str = ""
    """Number such as "validation/loss" or "eval/psnr" by which the best checkpoint is kept beside
    the newest, and the best export stays in best/. Empty keeps none."""
    best_is: Literal["lowest", "highest"] = "lowest"
    wandb: str = ""
    """Project in Weights & Biases to write the numbers to as well; empty writes none."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "accumulation",
            "log_every",
            "checkpoint_every",
            "keep",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} >= 1; got {getattr(self, name)}")
        validated = self.best.startswith("validation/")
        if (self.validate_every or validated) and self.validation is None:
            name = f"best = {self.best!r}" if validated else "validate_every"
            raise ConfigError(f"{name} needs validation: the data to measure on")
        if self.best and not self.best.startswith(("validation/", "eval/")):
            raise ConfigError(
                "expected best to be validation/ or eval/ and the name of a number, such as "
                f"validation/loss or eval/psnr; got {self.best!r}"
            )
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"expected a batch_size that accumulation {self.accumulation} divides; got "
                f"{self.batch_size}"
            )
        if self.encode_once and not self.data.pool:
            raise ConfigError("encode_once needs data.pool > 0: samples without end can't be kept")

    @property
    def validation_data(self) -> Any:
        """The Data to validate on, or None."""
        return self.validation.of(self.data) if hasattr(self.validation, "of") else self.validation


FULLY_SHARDED: tuple[Rule, ...] = ((".*", "cut:fsdp"),)
"""Rules that cut every array over the fsdp axis."""

FREE = (
    *("log_every", "checkpoint_every", "keep", "export_every", "evaluators", "wandb"),
    *("validation", "validate_every", "validation_batches", "best", "best_is", "nonfinite"),
    *("mesh", "parameter_rules", "frozen_rules", "optimizer_rules"),
    *("accumulation", "reduce_dtype", "rematerialise"),
)
"""Fields that may change between two starts of one run: they change nothing in what is learnt, or
(the last two lines, for going on on other machines) no more than rounding does."""
