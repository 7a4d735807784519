"""The loss on samples that are never trained on, with the same noise every time."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brushjax.config import ConfigError
from brushjax.data.schema import Encode
from brushjax.distributed import is_main
from brushjax.nn import Execution
from brushjax.progress import progress_bar
from brushjax.training.batches import share_of, to_devices
from brushjax.training.logging import means
from brushjax.training.plan import Plan
from brushjax.training.recipe import TrainConfig
from brushjax.training.state import State, export_parameters
from brushjax.training.step import make_validation
from brushjax.typing import Params


class Validation:
    """Measures a run on the first batches of `config.validation_data`.

    Samples, noise and timesteps are the same in every call, so that two steps' numbers compare.
    The samples stay in the host's memory.
    """

    def __init__(self, config: TrainConfig, plan: Plan, encode: Encode):
        self._plan = plan
        share, shard = share_of(config.batch_size, plan.mesh)
        feed = iter(config.validation_data.batches(share, encode, shard=shard))
        self._batches = list(itertools.islice(feed, config.validation_batches))
        self._measure = make_validation(
            config.objective,
            seed=config.seed,
            compute_dtype=jnp.dtype(config.compute_dtype),
            places=plan.places,
            execution=Execution(mesh=plan.mesh),
        )
        if config.best.startswith("validation/") and config.best not in (known := self._names()):
            raise ConfigError(
                f"expected best to be a number that validation gives, {', '.join(known)}; got "
                f"{config.best!r}"
            )

    def _names(self) -> list[str]:
        """Names of the numbers, found without computing any."""
        hosts = jax.process_count()
        batch = {
            name: jax.ShapeDtypeStruct(
                (hosts * len(array), *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype)
            )
            for name, array in self._batches[0].items()
        }
        shapes = jax.eval_shape(
            self._measure, export_parameters(self._plan.state), self._plan.frozen, batch
        )
        ones = jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes)
        return [f"validation/{name}" for name in means([ones])]

    def __call__(self, state: State, frozen: Params) -> dict[str, float]:
        """Returns validation/loss and what else the objective measures, of the parameters that
        would be exported."""
        rows: list[dict[str, Any]] = []
        params = export_parameters(state)
        for batch in progress_bar(self._batches, "validation", leave=False, shown=is_main()):
            metrics = self._measure(params, frozen, to_devices(batch, self._plan.mesh))
            rows.append(jax.device_get(metrics))
        return {f"validation/{name}": value for name, value in means(rows).items()}
