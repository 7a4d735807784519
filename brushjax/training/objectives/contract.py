"""What a run trains: models and the loss between them, in one frozen dataclass."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax.nn import Keys
from brushjax.typing import Params

Batch = Mapping[str, Any]
Tokenize = Callable[[Sequence[str]], np.ndarray]
Loss = tuple[jax.Array, dict[str, Any]]


class Parts(NamedTuple):
    """Means over parts of the samples, such as a loss per quarter of the timesteps.

    Attributes:
      total, weight: [parts] each, both divided by the number of samples of the batch; a part's
        mean is total / weight, also of sums over several batches.
    """

    total: jax.Array
    weight: jax.Array


class Objective(abc.ABC):
    """The contract between a paper and the one training loop.

    Parameters travel as pure dicts, trainable and frozen apart.
    """

    MEASURED: ClassVar[int] = 0
    """Samples of the data that `export` measures something on."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> tuple[Params, Params]:
        """Returns (trainable, frozen): fresh or read from disk."""

    def shapes(self) -> tuple[Params, Params]:
        """Returns what `init` returns as jax.ShapeDtypeStruct.

        To be replaced where `init` reads files or calls `fresh`, which can't be traced.
        """
        return jax.eval_shape(self.init, jax.random.key(0))

    def tokenizer(self) -> Tokenize:
        """Returns what turns captions into ids, int32 [n, L]; without a text encoder L is 0."""
        return lambda captions: np.zeros((len(captions), 0), np.int32)

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        """Returns what `loss` reads, for all that depends on frozen parameters and the sample
        alone.

        A run with a pool of samples does this once per sample before it starts, and keeps the
        outputs in the host's memory: its step then never runs the frozen encoders. Otherwise it is
        part of the step. Randomness belongs into `loss`. The samples' "id" stays beside what this
        returns.
        """
        return batch

    def encoder(self, frozen: Params) -> str:
        """Returns a digest of what latents and token ids that were stored beforehand depend on,
        weights included; empty where `prepare` takes none.

        Args:
          frozen: of `init`.
        """
        del frozen
        return ""

    def across(self, batch: Batch) -> Batch:
        """Returns the batch with what `loss` reads of other samples added to each.

        The step asks for it on the whole batch, prepared or not, before that is cut over devices
        and parts. What a sample is given may depend on the samples' ids, never on their places.
        """
        return batch

    @abc.abstractmethod
    def loss(self, trainable: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        """Returns the scalar to minimise, in float32, and what else is worth logging.

        Both are means over the batch's samples, so that the mean over parts of a batch is that of
        the whole; `Parts` stands for means over some of the samples.

        Args:
          trainable: gradients are taken of these.
          frozen: constant.
          batch: of `prepare`.
          keys: one per sample, of this step: what is drawn for a sample comes from its own.
        """

    @abc.abstractmethod
    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        """Writes the trained models into subfolders of an empty folder, in diffusers layout.

        Args:
          trainable: numpy arrays.
          batch: samples 0, 1, ... of the run's data, as many as `MEASURED` says; empty for 0.
        """


@functools.cache
def blueprint(model: type[nnx.Module], config: Any) -> tuple[Any, Params]:
    """Returns the graph definition of a model and its parameters' shapes; makes none."""
    abstract = nnx.eval_shape(lambda: model(config, rngs=Keys(0)))  # type: ignore[call-arg]
    graph, state = nnx.split(abstract)
    return graph, nnx.to_pure_dict(state)


def build(model: type[nnx.Module], config: Any, params: Params) -> Any:
    """Returns the model with the given parameters."""
    return nnx.merge(blueprint(model, config)[0], params)


def fresh(model: type[nnx.Module], config: Any, key: jax.Array) -> Params:
    """Returns newly initialised parameters.

    One program instead of one per layer, compiled without optimisation: it runs once, and on a CPU
    its hundreds of random draws take the compiler twice as long otherwise (28 s to 14 s for a UNet
    of 5 million parameters).
    """

    def make(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.state(model(config, rngs=Keys(key))))  # type: ignore[call-arg]

    return jax.jit(make, compiler_options={"xla_backend_optimization_level": 0})(key)


def parameters(model: nnx.Module) -> Params:
    """Returns a model's parameters as a pure dict."""
    return nnx.to_pure_dict(nnx.state(model))


def dtype_of(params: Params) -> Any:
    """Returns the dtype of a tree's parameters: the one to compute in."""
    return jax.tree.leaves(params)[0].dtype


def to_unit_range(image: Any, dtype: Any) -> jax.Array:
    """Returns uint8 pixels as floats in [-1, 1]."""
    return (jnp.asarray(image, jnp.float32) / 127.5 - 1.0).astype(dtype)
