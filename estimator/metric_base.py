"""What a metric is: sums that one batch makes on the device and the host merges in float64.

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Largest(Metric):
        value: Any

        def merge(self, other):
            return Largest(np.maximum(self.value, other.value))

        def compute(self):
            return self.value

Law: merging the metrics of two batches gives the metric of both together, so the result does not
depend on the batch size, on the order of the batches, or on the number of devices.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np


class Metric(abc.ABC):
    """Base of metrics: a frozen dataclass of sums, registered as a pytree.

    A metric can be used where TensorFlow gives the pair `(value, update_op)`: both are the value on
    this batch.
    """

    def merge(self, other: Self) -> Self:
        """Returns the metric of both batches together; by default each sum is added."""
        return jax.tree.map(lambda a, b: a + b, self, other)

    @abc.abstractmethod
    def compute(self) -> Any:
        """Returns the value: a traced array inside a model_fn, numpy's on the host."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.compute(), self.compute()))

    def __getitem__(self, index: int) -> Any:
        return (self.compute(), self.compute())[index]

    def __jax_array__(self) -> jax.Array:
        return jnp.asarray(self.compute())


def to_host(metric: Metric) -> Metric:
    """Returns the metric with sums in float64, or int64, on the host.

    >>> from estimator.metrics import mean
    >>> to_host(mean(np.array([1.0, 2.0]))).total.dtype
    dtype('float64')
    """
    return jax.tree.map(_widen, metric)


def array_module(array: Any) -> Any:
    """Returns jax.numpy for an array of JAX's, and numpy for anything else.

    >>> array_module(np.ones(3)).__name__, array_module(jnp.ones(3)).__name__
    ('numpy', 'jax.numpy')
    """
    return jnp if isinstance(array, jax.Array) else np


def divide(total: Any, count: Any) -> Any:
    """Returns `total / count`, and 0 where nothing was counted.

    >>> divide(np.array([3.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [1.5, 0.0]
    """
    xp = array_module(count)
    empty = count == 0
    return xp.where(empty, 0, as_floats(total) / as_floats(xp.where(empty, 1, count)))


def as_floats(counts: Any) -> Any:
    """Returns counts as floats, to be computed with: float32 inside a trace, float64 on the host.

    >>> as_floats(jnp.array([1, 2])).dtype, as_floats(np.array([1, 2])).dtype
    (dtype('float32'), dtype('float64'))
    """
    if isinstance(counts, jax.Array):
        is_float = jnp.issubdtype(counts.dtype, jnp.floating)
        return counts if is_float else counts.astype(jnp.float32)
    return np.asarray(counts, np.float64)[()]


def value_of(result: Any) -> Any:
    """Returns what `compute` gives: float32, as from TensorFlow.

    >>> value_of(np.float64(0.5))
    np.float32(0.5)
    """
    return as_floats(result) if isinstance(result, jax.Array) else np.float32(result)


def unless_strays(result: Any, strays: Any, message: str) -> Any:
    """Returns the result of a metric that may have counted values it cannot use.

    Inside a trace nothing can be raised: there such a result is NaN.

    >>> unless_strays(jnp.float32(0.5), jnp.int32(1), "Give probabilities.").item()
    nan

    Raises:
        ValueError: on the host, if there were such values.
    """
    if isinstance(strays, jax.Array):
        return jnp.where(strays == 0, as_floats(result), jnp.nan)
    if strays:
        raise ValueError(f"{message} It was given {int(strays)} that are not.")
    return result


def weights_for(values: jax.Array, weights: Any) -> jax.Array:
    """Returns one weight for each value.

    >>> weights_for(jnp.zeros((2, 2)), [1.0, 3.0]).tolist()
    [[1.0, 1.0], [3.0, 3.0]]

    Args:
        values: numbers of any shape.
        weights: numbers of the rank of `values` that broadcast to their shape; with a dimension
            less, one for each row of the last dimension; or a single number.

    Raises:
        ValueError: if they do not broadcast.
    """
    weights = jnp.asarray(weights, jnp.float32)
    given = weights.shape
    if weights.ndim == values.ndim + 1 and weights.shape[-1] == 1:
        weights = weights[..., 0]
    elif 0 < weights.ndim == values.ndim - 1:
        weights = weights[..., None]
    sizes = zip(weights.shape, values.shape, strict=False)
    if weights.ndim not in (0, values.ndim) or any(w not in (1, v) for w, v in sizes):
        raise ValueError(
            f"metrics: weights have shape {given}, which does not broadcast to that of the values, "
            f"{values.shape}. Give one weight for each value, or for each row."
        )
    return jnp.broadcast_to(weights, values.shape)


def one_or(values: jax.Array, weights: Any) -> jax.Array:
    """Returns one weight for each value: int32 ones, whose sums are exact, if none are given.

    >>> one_or(jnp.zeros(2), None).dtype, one_or(jnp.zeros(2), 0.5).tolist()
    (dtype('int32'), [0.5, 0.5])
    """
    return jnp.ones(values.shape, jnp.int32) if weights is None else weights_for(values, weights)


def count_of(chosen: jax.Array, weights: Any) -> jax.Array:
    """Returns how much was chosen: exactly, in int32, or by weight, in float32.

    >>> count_of(jnp.array([True, False, True]), None).item()
    2
    >>> count_of(jnp.array([True, False, True]), [0.5, 1.0, 2.0]).item()
    2.5
    """
    return jnp.sum(jnp.where(chosen, one_or(chosen, weights), 0))


def is_binary(values: jax.Array) -> jax.Array:
    """Returns where values are 0 or 1.

    >>> is_binary(jnp.array([0.0, 1.0, 0.3])).tolist()
    [True, True, False]
    """
    if values.dtype == bool:
        return jnp.ones_like(values)
    return (values == 0) | (values == 1)


def strays_among(
    arrays: Sequence[jax.Array], fits: Callable[[jax.Array], jax.Array], weights: Any
) -> jax.Array:
    """Returns how many values do not fit, NaN among them, and have a weight all the same; int32.

    >>> strays_among([jnp.array([0.0, 2.0, 3.0])], is_binary, [1.0, 1.0, 0.0]).item()
    1
    """
    counted = [count_of(~fits(a) & (one_or(a, weights) != 0), None) for a in arrays]
    return jnp.sum(jnp.stack(counted))


def same_shape(who: str, labels: Any, predictions: Any) -> tuple[jax.Array, jax.Array]:
    """Returns labels and predictions as arrays of one shape; a last dimension of 1 is dropped.

    >>> same_shape("accuracy", np.ones((3, 1)), np.ones(3))[0].shape
    (3,)

    Raises:
        ValueError: if the shapes differ.
    """
    labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
    if labels.ndim == predictions.ndim + 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if predictions.ndim == labels.ndim + 1 and predictions.shape[-1] == 1:
        predictions = predictions[..., 0]
    if labels.shape != predictions.shape:
        raise ValueError(
            f"metrics.{who}: labels have shape {labels.shape}, predictions {predictions.shape}. "
            f"They must be the same.{_did_you_mean_shape(labels.ndim - predictions.ndim)}"
        )
    return labels, predictions


def _did_you_mean_shape(more_dims: int) -> str:
    """Returns a hint where labels have one dimension less than the predictions, or one more."""
    return {
        -1: " Did you mean predictions=jnp.argmax(logits, -1), or probabilities[:, 1]?",
        1: " Did you mean labels=jnp.argmax(labels, -1), of one-hot labels?",
    }.get(more_dims, "")


def _widen(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float64 if jnp.issubdtype(array.dtype, jnp.floating) else np.int64)
