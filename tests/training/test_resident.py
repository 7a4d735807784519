"""Seeds that are trained side by side, with the samples on the device, are those trained alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.resident import Run, prepared, samples
from brushjax.data.sets.collages import PlantedRegions
from brushjax.models import RegionConfig
from brushjax.pipelines.regions import RegionEncoders
from brushjax.training.objectives.region_objective import RegionObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig
from brushjax.training.step import StepOptions, make_step
from tests import tiny_region
from tests.support import loaded


@pytest.mark.slow
def test_runs_of_several_seeds_are_the_training_loops_steps(tmp_path):
    folder = tiny_region.export(tmp_path)
    objective = RegionObjective(
        RegionEncoders(str(folder), "", "clip_text", 32, -2), RegionConfig(24, 16, residual=True)
    )
    config = TrainConfig(
        name="tiny",
        objective=objective,
        data=PlantedRegions(size=32, pool=6),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        steps=2,
        batch_size=4,
        ema_decay=0.5,
    )
    _, frozen = loaded(objective, jax.random.key(0))
    pool = prepared(objective, frozen, samples(config.data, objective.encode, workers=1))
    assert len(pool["id"]) == 6
    run = Run(config, seeds=(3, 5), every=1)
    both = run(frozen, pool)
    shapes = jax.tree.map(lambda leaf: leaf.shape, run.shapes()["params"])
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, both)
    orders = run.orders(6)
    assert sorted(np.concatenate(orders[:, 0])[:6]) == list(range(6))
    for place, seed in enumerate(run.seeds):
        alone = dataclasses.replace(run, seeds=(seed,))
        state = jax.tree.map(lambda leaf: leaf[0], alone.start())
        step = make_step(
            objective,
            run_optimizer(config),
            seed=seed,
            options=StepOptions(ema_decay=0.5, prepared=True),
        )
        for rows in orders[:, place]:
            batch = {name: jnp.asarray(array)[rows] for name, array in pool.items()}
            state, _ = step(state, frozen, batch)
        for ours, theirs in zip(jax.tree.leaves(both), jax.tree.leaves(state["ema"])):
            np.testing.assert_allclose(ours[place], theirs, atol=2e-5)


def run_optimizer(config):
    from brushjax.training.optimizers import make_optimizer

    return make_optimizer(config.optimizer, config.steps)
