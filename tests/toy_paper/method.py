"""The toy paper's edit as one program, and what a sweep runs."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax import weights
from brushjax.diffusion.samplers import make_sampler, sample
from brushjax.evaluation.methods.contract import Filling, Made, Recipe
from brushjax.inference.engine.batch import in_groups
from brushjax.inference.engine.edit import as_bytes, seeded_noise
from brushjax.inference.engine.program import Program
from brushjax.training.objectives.denoising import NoiseConfig
from tests.toy_paper import weight_map


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inputs:
    """What varies between two edits."""

    images: Any
    holes: Any
    noise: Any

    def samples(self):
        return vars(self)

    def per_step(self):
        return {}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a program is compiled for."""

    together: int | None = 1


@functools.partial(jax.jit, static_argnames=("graph", "options", "mesh"))
def edit(graph, params, sampler, inputs, options, mesh=None):
    """Returns the pictures, the hole painted."""
    model = nnx.merge(graph, params["toy"])

    def run(samples):
        image = samples["images"].astype(jnp.float32) / 127.5 - 1
        keep = 1 - samples["holes"].astype(jnp.float32)

        def predict(noisy, timestep, _):
            return model(noisy, timestep[None], image * keep, keep)

        painted = sample(sampler, predict, samples["noise"])
        return jnp.where(samples["holes"], as_bytes(painted), samples["images"])

    return in_groups(run, inputs.samples(), options.together, mesh)


class ToyEditor:
    """Paints holes with a ToyPainter."""

    def __init__(self, model, steps=4, mesh=None, rules=()):
        graph, state = nnx.split(model)
        run = functools.partial(edit, graph)
        params = {"toy": nnx.to_pure_dict(state)}
        self._program = Program(run, params, key=graph, mesh=mesh, rules=rules)
        self._sampler = make_sampler("ddim", NoiseConfig().to_dict(), steps)

    def __call__(self, images, holes, seeds, together=1):
        images, holes = np.stack(images), np.stack(holes)[..., None]
        noise = seeded_noise(np.array(seeds, np.uint32), images.shape[1:])
        inputs = Inputs(images, holes, np.asarray(noise))
        return self._program(self._sampler, inputs, Options(together))


@dataclasses.dataclass(frozen=True)
class Toy(Recipe):
    """The toy paper.

    Attributes:
        checkpoint: of the network; empty: what the command or the training run names.
    """

    label: str = "toy"
    checkpoint: str = ""
    steps: int = 4
    seeded = True
    reads = ()

    @property
    def takes_weights(self):
        return not self.checkpoint

    def with_weights(self, label, path):
        return dataclasses.replace(self, label=label, checkpoint=path)

    def method(self, resources):
        models = resources.models
        network = weights.load(weight_map.TOY.kind, models.source(self.checkpoint))
        own = {"kind": "toy", "steps": self.steps, "network": models.digest(network)}
        painter = functools.cache(lambda: ToyEditor(network, self.steps, resources.mesh))

        def fill(tasks):
            pictures = painter()(
                [task.pixels.source for task in tasks],
                [task.hole > 0 for task in tasks],
                [task.seed for task in tasks],
                resources.together,
            )
            return Made(pictures)

        return Filling(own, fill)
