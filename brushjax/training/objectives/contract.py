"""What a run trains: models and the loss between them, in one frozen dataclass."""

from __future__ import annotations

import abc
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.distributed import place
from brushjax.models.vae import VAEConfig, in_working_dtype
from brushjax.nn import Keys, Shapes
from brushjax.sharding import path_name
from brushjax.training.state import cast
from brushjax.typing import Params

Batch = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A sum and what it is to be divided by, so that it can be added up before the division.

    Over parts of a batch and over devices sums and weights are added apart and divided once: a mean
    over tokens, cells or some of the samples then is that of the whole batch, however unevenly it
    was divided.

    Attributes:
      total, weight: float32, [] each, or [parts] for means over parts of the samples.
    """

    total: Any
    weight: Any

    @classmethod
    def over(cls, values: jax.Array, weights: jax.Array | None = None) -> Mean:
        """Returns the mean of all values.

        Args:
          values: of any shape; of samples or tokens, say.
          weights: of the same shape; None counts every value once.
        """
        values = values.astype(jnp.float32)
        if weights is None:
            return cls(values.sum(), jnp.float32(values.size))
        weights = weights.astype(jnp.float32)
        return cls((values * weights).sum(), weights.sum())

    def scaled(self, factor: float | int) -> Mean:
        """Returns `factor` times the mean."""
        return Mean(self.total * factor, self.weight)

    @property
    def value(self) -> Any:
        """The mean; 0 where nothing was counted."""
        return self.total / (self.weight + (self.weight == 0))


@dataclasses.dataclass(frozen=True)
class Losses:
    """What `Objective.loss` returns.

    Attributes:
      terms: the sum of their means is minimised; their weights depend on the batch alone. Several
        terms are logged under their names as well.
      logged: what else is worth logging.
    """

    terms: Mapping[str, Mean]
    logged: Mapping[str, Mean] = dataclasses.field(default_factory=dict)

    @property
    def value(self) -> jax.Array:
        """What is minimised, of these samples alone."""
        return jnp.stack([term.value for term in self.terms.values()]).sum()


class Objective(abc.ABC):
    """The contract between a paper and the one training loop.

    Parameters travel as one pure dict. `trains` says which of them are learnt; of the others the
    step forms no gradient, no moments and no second copy.
    """

    MEASURED: ClassVar[int] = 0
    """Samples of the data that `export` measures something on."""

    @property
    @abc.abstractmethod
    def trains(self) -> tuple[str, ...]:
        """Path regexes of what is trained, such as `unet\\..*` or `llama\\..*\\.lora_[ab]`."""

    @abc.abstractmethod
    def shapes(self) -> Params:
        """Returns all parameters as jax.ShapeDtypeStruct, in float32; reads configs, no weights."""

    @abc.abstractmethod
    def load(self, key: jax.Array, wanted: Params) -> Params:
        """Returns parameters, fresh or read from disk, straight in their places.

        Args:
          key: of what starts at random.
          wanted: the part of `shapes` that is needed, as jax.ShapeDtypeStruct with the dtype and
            the sharding of every array. A run that goes on needs what is frozen alone.
        """

    def working(self, frozen: Params, dtype: Any) -> Params:
        """Returns the shapes of frozen parameters in the dtypes that they are kept and computed in;
        by default all in the run's.

        Args:
          frozen: the part of `shapes` that `trains` leaves.
          dtype: of the run's forward and backward pass.
        """
        return jax.eval_shape(lambda tree: cast(tree, dtype), frozen)

    def encode(self, record: Any) -> Mapping[str, np.ndarray]:
        """Turns a record of the data (pictures, texts, boxes, masks) into the arrays of one sample,
        on the host; by default its pictures and numbers alone.

        Args:
          record: of `brushjax.data.schema`.
        """
        return record.arrays()

    def blank(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns a sample of zeros with what `encode` adds to it, for programs that are compiled
        where data and tokenizer are not.

        Args:
          sample: what the data's `shapes` says.
        """
        return sample

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        """Returns what `loss` reads, for all that depends on frozen parameters and the sample
        alone.

        A run with a pool of samples does this once per sample before it starts, and keeps the
        outputs in the host's memory: its step then never runs the frozen encoders. Otherwise it is
        part of the step. Randomness belongs into `loss`. The samples' "id" stays beside what this
        returns.
        """
        return batch

    def encoder(self) -> str:
        """Returns a digest of what latents and token ids that were stored beforehand depend on,
        weights included; empty where `prepare` takes none."""
        return ""

    def across(self, batch: Batch) -> Batch:
        """Returns the batch with what `loss` reads of other samples added to each.

        The step calls it on the whole batch, prepared or not, before that is cut over devices
        and parts. What a sample is given may depend on the samples' ids, never on their places.
        """
        return batch

    @abc.abstractmethod
    def loss(self, params: Params, batch: Batch, keys: jax.Array) -> Losses:
        """Returns what is minimised and what is logged, as sums with their weights, in float32.

        Args:
          params: all parameters; gradients are taken of those that `trains` names.
          batch: of `prepare`.
          keys: one per sample, of this step: what is drawn for a sample comes from its own.
        """

    @abc.abstractmethod
    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        """Writes the trained models into subfolders of an empty folder, in diffusers layout.

        Args:
          trainable: what `trains` names, as numpy arrays.
          batch: samples 0, 1, ... of the run's data, as many as `MEASURED` says; empty for 0.
        """


def split(params: Params, trains: Sequence[str]) -> tuple[Params, Params]:
    """Divides a tree of parameters into (trained, frozen) by path regexes; works on shapes too.

    Raises: ConfigError if a regex names nothing.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    unused = [r for r in trains if not any(re.fullmatch(r, path_name(path)) for path, _ in flat)]
    if unused:
        raise ConfigError(
            f"expected path regexes of parameters to train, such as {path_name(flat[0][0])!r}; "
            f"nothing matches {unused}"
        )
    trained, frozen = {}, {}
    for path, leaf in flat:
        chosen = any(re.fullmatch(regex, path_name(path)) for regex in trains)
        tree = trained if chosen else frozen
        *above, last = (entry.key for entry in path)
        for name in above:
            tree = tree.setdefault(name, {})
        tree[last] = leaf
    return trained, frozen


def join(one: Params, other: Params) -> Params:
    """Puts two parts of a tree together again: the inverse of `split`."""
    both = {**other, **one}
    for name in one.keys() & other.keys():
        both[name] = join(one[name], other[name])
    return both


@functools.cache
def blueprint(model: Callable[..., nnx.Module], config: Any) -> tuple[Any, Params]:
    """Returns the graph definition of a model and its parameters' shapes; makes none.

    Args:
      model: its class, or a function `(config, rngs=)` that builds it.
    """
    abstract = nnx.eval_shape(lambda: model(config, rngs=Shapes()))
    graph, state = nnx.split(abstract)
    return graph, nnx.to_pure_dict(state)


def build(model: Callable[..., nnx.Module], config: Any, params: Params) -> Any:
    """Returns the model with the given parameters."""
    return nnx.merge(blueprint(model, config)[0], params)


def placed_in(place: Any, shapes: Params, dtype: Any = None) -> Params:
    """Returns shapes as `Objective.load` wants them, all with one sharding (and dtype)."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=place), shapes
    )


def read(kind: str, folder: str, wanted: Params) -> Params:
    """Reads a published model's parameters, or some of them, straight in their places.

    Args:
      wanted: jax.ShapeDtypeStruct with dtype and sharding; may leave parameters out.
    """
    return weights.fill(kind, folder, wanted) if wanted else {}


def fresh(model: Callable[..., nnx.Module], config: Any, key: jax.Array, wanted: Params) -> Params:
    """Returns newly initialised parameters, or some of them, in their places.

    One program instead of one per layer, which makes no more than is wanted. It is compiled without
    optimisation: it runs once, and on a CPU its hundreds of random draws take the compiler twice as
    long otherwise (28 s to 14 s for a UNet of 5 million parameters).
    """

    def make(key: jax.Array) -> Params:
        return _chosen(nnx.to_pure_dict(nnx.state(model(config, rngs=Keys(key)))), wanted)

    options = {"xla_backend_optimization_level": 0}
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        params = jax.jit(make, compiler_options=options)(key)
    return placed(params, wanted)


def _chosen(params: Params, wanted: Params) -> Params:
    return {
        name: _chosen(params[name], leaf) if isinstance(leaf, Mapping) else params[name]
        for name, leaf in wanted.items()
    }


def placed(params: Params, wanted: Params) -> Params:
    """Returns what is wanted of parameters that every process holds whole, in its place."""
    return {
        name: placed(params[name], leaf)
        if isinstance(leaf, Mapping)
        else _placed(params[name], leaf)
        for name, leaf in wanted.items()
    }


def _placed(values: Any, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    # A copy: the step donates what it trains, whoever else still holds the values.
    return place(np.array(jax.device_get(values), wanted.dtype), wanted.sharding)


def parameters(model: nnx.Module) -> Params:
    """Returns a model's parameters as a pure dict."""
    return nnx.to_pure_dict(nnx.state(model))


def with_autoencoder(frozen: Params, config: VAEConfig) -> Params:
    """Returns the shapes of frozen parameters with the part "vae", if there, in the dtype that an
    autoencoder computes in where the others compute in theirs."""
    if "vae" not in frozen:
        return frozen
    return {**frozen, "vae": jax.eval_shape(lambda x: in_working_dtype(x, config), frozen["vae"])}


def dtype_of(params: Params) -> Any:
    """Returns the dtype of a tree's parameters: the one to compute in."""
    return jax.tree.leaves(params)[0].dtype


def to_unit_range(image: Any, dtype: Any) -> jax.Array:
    """Returns uint8 pixels as floats in [-1, 1]."""
    return (jnp.asarray(image, jnp.float32) / 127.5 - 1.0).astype(dtype)
