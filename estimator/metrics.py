"""Metrics: sums that one batch makes on the device and the host merges in float64.

    eval_metric_ops = {"accuracy": metrics.accuracy(labels, predicted_classes)}

Law: merging the metrics of two batches gives the metric of both together, so the result does not
depend on the batch size.
"""

import abc
import dataclasses
from collections.abc import Iterator
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
        """Returns the value: a traced scalar inside a model_fn, a numpy scalar on the host."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.compute(), self.compute()))

    def __getitem__(self, index: int) -> Any:
        return (self.compute(), self.compute())[index]

    def __jax_array__(self) -> jax.Array:
        return jnp.asarray(self.compute())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean(Metric):
    """A weighted mean: `total / count`, and 0 where nothing was counted.

    >>> Mean(total=6.0, count=3.0).merge(Mean(total=2.0, count=1.0)).compute()
    np.float32(2.0)
    """

    total: Any
    count: Any

    def compute(self) -> Any:
        """Returns the mean."""
        if isinstance(self.count, jax.Array):
            empty = self.count == 0
            return jnp.where(empty, 0.0, self.total / jnp.where(empty, 1.0, self.count))
        return np.float32(self.total / self.count if self.count else 0.0)


def mean(values: Any, weights: Any = None, name: str | None = None) -> Mean:
    """Returns the mean of `values`.

    >>> float(mean(np.array([1.0, 2.0, 6.0])).compute())
    3.0

    Args:
        values: numbers of any shape.
        weights: numbers of the rank of `values` that broadcast to their shape; with a dimension
            less, one for each row of the last dimension; or a single number. All 1 by default.
        name: accepted as in TensorFlow; the key in `eval_metric_ops` names the metric.
    """
    del name
    values = jnp.asarray(values, jnp.float32)
    if weights is None:
        return Mean(values.sum(), jnp.float32(values.size))
    weights = _weights_for(values, weights)
    return Mean((values * weights).sum(), weights.sum())


def accuracy(labels: Any, predictions: Any, weights: Any = None, name: str | None = None) -> Mean:
    """Returns how often `predictions` are equal to `labels`.

    >>> float(accuracy(labels=np.array([1, 2, 0, 1]), predictions=np.array([1, 2, 2, 2])).compute())
    0.5

    Args:
        labels: numbers of any shape.
        predictions: numbers of the same shape; a last dimension of 1 more or less is dropped.
        weights: as for `mean`.
        name: accepted as in TensorFlow; the key in `eval_metric_ops` names the metric.

    Raises:
        ValueError: if the shapes differ.
    """
    labels, predictions = _same_shape("accuracy", jnp.asarray(labels), jnp.asarray(predictions))
    return mean(labels == predictions, weights, name)


def to_host(metric: Metric) -> Metric:
    """Returns the metric with sums in float64, or int64, on the host.

    >>> to_host(mean(np.array([1.0, 2.0]))).total.dtype
    dtype('float64')
    """
    return jax.tree.map(_widen, metric)


def _widen(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float64 if jnp.issubdtype(array.dtype, jnp.floating) else np.int64)


def _weights_for(values: jax.Array, weights: Any) -> jax.Array:
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


def _same_shape(who: str, labels: jax.Array, predictions: jax.Array) -> tuple[jax.Array, jax.Array]:
    if labels.ndim == predictions.ndim + 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if predictions.ndim == labels.ndim + 1 and predictions.shape[-1] == 1:
        predictions = predictions[..., 0]
    if labels.shape != predictions.shape:
        raise ValueError(
            f"metrics.{who}: labels have shape {labels.shape}, predictions {predictions.shape}. "
            "They must be the same; did you mean predictions=jnp.argmax(logits, -1)?"
        )
    return labels, predictions
