"""The programs of SD 1.5's branch step and guided edit step, before and after a change.

    python -m benchmarks.programs --save before      # on the tree as it was
    python -m benchmarks.programs --against before   # on the tree as it is: equal, or what differs

Programs are lowered from shapes, never compiled or run: a minute of one core, no weights. A change
that only moves code must leave them equal to the byte; one that does more is seen in the counts of
operations. Both trees need the same version of jax.
"""

import argparse
import collections
import difflib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.pod_sizes import Shapes
from brushjax.inference.engine.options import Condition, EditInputs, EditOptions
from brushjax.inference.engine.predict import Predictor
from brushjax.models import BrushNet, BrushNetConfig, UNet, UNetConfig
from brushjax.nn import Keys
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.plan import make_plan
from brushjax.training.recipe import TrainConfig
from brushjax.training.scale.ahead import step_shapes
from brushjax.training.step import step_of

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
DIFFERENCES = 12  # lines of the texts that are shown


def train_step(base=BASE, size=512, batch=2):
    """The text of a branch's training step on one device."""
    config = TrainConfig(
        name="program",
        objective=BrushNetObjective(base=base),
        data=Shapes(size),
        optimizer=OptimizerConfig(),
        steps=10,
        batch_size=batch,
    )
    plan = make_plan(config, jax.devices()[:1])
    return step_of(config, plan).lower(*step_shapes(config, plan)).as_text()


def edit_step(unet=None, branch=None, cells=64, tokens=77):
    """The text of a guided step of an edit: UNet and branch, two conditions."""
    unet, branch = unet or UNetConfig.sd15(), branch or BrushNetConfig.sd15()
    shape = jax.ShapeDtypeStruct
    split = [
        nnx.split(nnx.eval_shape(lambda kind=kind, config=config: kind(config, rngs=Keys(0))))
        for kind, config in ((UNet, unet), (BrushNet, branch))
    ]
    graphs, params = zip(*split, strict=True)
    text = shape((1, tokens, unet.cross_attention_dim), jnp.float32)
    conditions = (Condition(text), Condition(text))
    inputs = EditInputs(
        None, None, None, conditions, shape((), jnp.float32), shape((1,), jnp.float32)
    )
    x, condition = (shape((1, cells, cells, c), jnp.float32) for c in (4, 5))

    def step(params, x, condition, inputs, timestep):
        networks = (nnx.merge(*pair) for pair in zip(graphs, params, strict=True))
        predict = Predictor(*networks, condition, inputs, timestep[None], EditOptions())
        row = jax.tree.map(lambda table: table[0], predict.per_step)
        return predict(x, timestep, row)

    return jax.jit(step).lower(params, x, condition, inputs, shape((), jnp.float32)).as_text()


def operations(text):
    """How often each kind of operation stands in a program's text."""
    return collections.Counter(re.findall(r"(?<== )\"?([a-z_]+\.[a-z_]+)", text))


def compare(before, after):
    """Returns what differs between two texts of a program, in a few lines; none if equal."""
    if before == after:
        return []
    one, other = operations(before), operations(after)
    counts = [
        f"{name}: {one[name]} -> {other[name]}"
        for name in sorted(one | other)
        if one[name] != other[name]
    ]
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    shown = [line[:160] for line in changed[:DIFFERENCES]] if len(before) < 2_000_000 else []
    return [*counts, *shown] or ["other constants or order"]


PROGRAMS = {"train_step": train_step, "edit_step": edit_step}


def main():
    """Lowers the programs, and saves or compares them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", type=Path, help="folder to write the texts to")
    parser.add_argument("--against", type=Path, help="folder of --save to compare with")
    options = parser.parse_args()
    for name, lower in PROGRAMS.items():
        text = lower()
        print(f"{name}: {sum(operations(text).values())} operations")
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            (options.save / f"{name}.txt").write_text(text)
        if options.against:
            found = compare((options.against / f"{name}.txt").read_text(), text)
            print("\n".join(f"  {line}" for line in found) or "  equal to the byte")


if __name__ == "__main__":
    main()
