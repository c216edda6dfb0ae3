"""Mean metrics: sums and means over examples, and the errors of regression made of them.

    eval_metric_ops = {"r2": r2(labels, predictions), "rmse": root_mean_squared_error(labels, ...)}

Every one takes `weights`: numbers of the rank of the values that broadcast to their shape, one for
each row, or a single number; all 1 by default.
"""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp

from estimator.metric_base import (
    Metric,
    array_module,
    count_of,
    divide,
    one_or,
    same_shape,
    value_of,
    weights_for,
)


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
        return value_of(divide(self.total, self.count))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RootMean(Metric):
    """The square root of a weighted mean.

    >>> RootMean(total=8.0, count=2.0).compute()
    np.float32(2.0)
    """

    total: Any
    count: Any

    def compute(self) -> Any:
        """Returns the root of the mean."""
        return value_of(array_module(self.count).sqrt(divide(self.total, self.count)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Metric):
    """A weighted sum.

    >>> Sum(6.0).merge(Sum(2.0)).compute()
    np.float32(8.0)
    """

    total: Any

    def compute(self) -> Any:
        """Returns the sum."""
        return value_of(self.total)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Determination(Metric):
    """The coefficient of determination: 1 - squared errors / squares of labels about their mean.

    Squares are summed about a `shift` near the labels, not about 0, so that labels far from 0 lose
    no digits.

    Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances", 1979, equation 2.1.
    """

    errors: Any
    count: Any
    shift: Any
    total: Any
    squares: Any
    low: Any
    high: Any

    def merge(self, other: Self) -> Self:
        """Returns the metric of both batches together."""
        count = self.count + other.count
        step = other._mean() - self._mean()
        share = divide(other.count, count)
        return dataclasses.replace(
            self,
            errors=self.errors + other.errors,
            count=count,
            shift=self._mean() + step * share,
            total=0.0 * count,
            squares=self._spread() + other._spread() + step**2 * self.count * share,
            low=array_module(self.low).minimum(self.low, other.low),
            high=array_module(self.high).maximum(self.high, other.high),
        )

    def compute(self) -> Any:
        """Returns it; where all labels are equal 1 for no error and 0 for any."""
        # Not `spread == 0`: rounding leaves a little of it.
        xp, equal = array_module(self.count), self.low >= self.high
        missed = xp.where(equal, xp.where(self.errors == 0, 0.0, 1.0), self.errors)
        return value_of(1.0 - missed / xp.where(equal, 1.0, self._spread()))

    def _mean(self) -> Any:
        return self.shift + divide(self.total, self.count)

    def _spread(self) -> Any:
        return self.squares - self.total * divide(self.total, self.count)


def mean(values: Any, weights: Any = None, name: str | None = None) -> Mean:
    """Returns the mean of `values`.

    >>> import numpy as np
    >>> float(mean(np.array([1.0, 2.0, 6.0])).compute())
    3.0

    Args:
        values: numbers of any shape.
        weights: numbers of the rank of `values` that broadcast to their shape; with a dimension
            less, one for each row of the last dimension; or a single number. All 1 by default.
        name: accepted as in TensorFlow; the key in `eval_metric_ops` names the metric.
    """
    del name
    return Mean(*_total_and_count(values, weights))


def sum(values: Any, weights: Any = None, name: str | None = None) -> Sum:
    """Returns the sum of `values`, each times its weight.

    >>> float(sum([1.0, 2.0, 6.0], weights=[1.0, 1.0, 0.5]).compute())
    6.0

    Args:
        values: numbers of any shape.
        weights: as for `mean`.
        name: accepted as in TensorFlow.
    """
    del name
    return Sum(_total_and_count(values, weights)[0])


def accuracy(labels: Any, predictions: Any, weights: Any = None, name: str | None = None) -> Mean:
    """Returns how often `predictions` are equal to `labels`.

    >>> import numpy as np
    >>> float(accuracy(labels=np.array([1, 2, 0, 1]), predictions=np.array([1, 2, 2, 2])).compute())
    0.5

    Args:
        labels: numbers of any shape.
        predictions: numbers of the same shape: classes, not probabilities; a last dimension of 1
            more or less is dropped.
        weights: as for `mean`.
        name: accepted as in TensorFlow; the key in `eval_metric_ops` names the metric.

    Raises:
        ValueError: if the shapes differ.
    """
    del name
    labels, predictions = same_shape("accuracy", labels, predictions)
    if labels.dtype != predictions.dtype:
        # Not JAX's promotion: with it 2049 is equal to the float16 2048.
        both = (labels.dtype, predictions.dtype)
        kind = "float" if any(jnp.issubdtype(dtype, jnp.floating) for dtype in both) else "int"
        common = f"{kind}{max(32, *(8 * dtype.itemsize for dtype in both))}"
        labels, predictions = labels.astype(common), predictions.astype(common)
    equal = labels == predictions
    return Mean(count_of(equal, weights), count_of(jnp.ones_like(equal), weights))


def mean_squared_error(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> Mean:
    """Returns the mean of `(predictions - labels)**2`.

    >>> float(mean_squared_error([1.0, 2.0], [1.0, 4.0]).compute())
    2.0

    Args:
        labels: numbers of any shape.
        predictions: numbers of the same shape.
        weights: as for `mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    return mean(_errors("mean_squared_error", labels, predictions) ** 2, weights, name)


def root_mean_squared_error(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> RootMean:
    """Returns the square root of the mean of `(predictions - labels)**2`.

    >>> float(root_mean_squared_error([1.0, 2.0], [3.0, 4.0]).compute())
    2.0

    Args:
        labels: numbers of any shape.
        predictions: numbers of the same shape.
        weights: as for `mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    del name
    errors = _errors("root_mean_squared_error", labels, predictions)
    return RootMean(*_total_and_count(errors**2, weights))


def mean_absolute_error(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> Mean:
    """Returns the mean of `abs(predictions - labels)`.

    >>> float(mean_absolute_error([1.0, 2.0], [1.0, 4.0]).compute())
    1.0

    Args:
        labels: numbers of any shape.
        predictions: numbers of the same shape.
        weights: as for `mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    return mean(jnp.abs(_errors("mean_absolute_error", labels, predictions)), weights, name)


def mean_relative_error(
    labels: Any,
    predictions: Any,
    normalizer: Any,
    weights: Any = None,
    name: str | None = None,
) -> Mean:
    """Returns the mean of `abs(predictions - labels) / normalizer`, 0 where the normalizer is 0.

    >>> float(mean_relative_error([1.0, 2.0], [2.0, 4.0], normalizer=[1.0, 2.0]).compute())
    1.0

    Args:
        labels: numbers of any shape.
        predictions: numbers of the same shape.
        normalizer: numbers of the same shape; the labels themselves, for example.
        weights: as for `mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    errors = jnp.abs(_errors("mean_relative_error", labels, predictions))
    by, errors = same_shape("mean_relative_error", jnp.asarray(normalizer, jnp.float32), errors)
    return mean(divide(errors, by), weights, name)


def mean_cosine_distance(
    labels: Any, predictions: Any, dim: int, weights: Any = None, name: str | None = None
) -> Mean:
    """Returns the mean of `1 - sum(labels * predictions)` along `dim`, a distance of unit vectors.

    >>> float(mean_cosine_distance([[1.0, 0.0]], [[0.6, 0.8]], dim=1).compute())
    0.4

    Args:
        labels: vectors of length 1, in an array of any shape.
        predictions: vectors of length 1, in an array of the same shape.
        dim: the axis of a vector's numbers.
        weights: as for `mean`, for an array with that axis gone, or of size 1.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    labels, predictions = same_shape("mean_cosine_distance", labels, predictions)
    products = jnp.asarray(labels, jnp.float32) * jnp.asarray(predictions, jnp.float32)
    distances = 1.0 - jnp.sum(products, dim)
    given = jnp.shape(weights) if weights is not None else ()
    if len(given) == products.ndim and given[dim] == 1:
        weights = jnp.squeeze(jnp.asarray(weights), dim)
    return mean(distances, weights, name)


def percentage_below(
    values: Any, threshold: float, weights: Any = None, name: str | None = None
) -> Mean:
    """Returns which part of the `values` is below the threshold, in [0, 1].

    >>> float(percentage_below([1.0, 2.0, 3.0, 4.0], threshold=2.0).compute())
    0.25

    Args:
        values: numbers of any shape.
        threshold: the number to compare with.
        weights: as for `mean`.
        name: accepted as in TensorFlow.
    """
    return mean(jnp.asarray(values, jnp.float32) < threshold, weights, name)


def r2(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> Determination:
    """Returns the coefficient of determination: 1 is perfect, 0 no better than the labels' mean.

    >>> round(float(r2([3.0, -0.5, 2.0, 7.0], [2.5, 0.0, 2.0, 8.0]).compute()), 4)
    0.9486

    Args:
        labels: numbers of any shape; all of them have one mean.
        predictions: numbers of the same shape.
        weights: as for `mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    del name
    errors = _errors("r2", labels, predictions)
    labels = jnp.asarray(same_shape("r2", labels, predictions)[0], jnp.float32)
    shift = divide(*_total_and_count(labels, weights))
    total, count = _total_and_count(labels - shift, weights)
    squares = _total_and_count((labels - shift) ** 2, weights)[0]
    counted = one_or(labels, weights) != 0
    return Determination(
        errors=_total_and_count(errors**2, weights)[0],
        count=count,
        shift=shift,
        total=total,
        squares=squares,
        low=jnp.min(labels, where=counted, initial=jnp.inf),
        high=jnp.max(labels, where=counted, initial=-jnp.inf),
    )


def _errors(who: str, labels: Any, predictions: Any) -> jax.Array:
    labels, predictions = same_shape(who, labels, predictions)
    return jnp.asarray(predictions, jnp.float32) - jnp.asarray(labels, jnp.float32)


def _total_and_count(values: Any, weights: Any) -> tuple[jax.Array, jax.Array]:
    values = jnp.asarray(values, jnp.float32)
    if weights is None:
        return values.sum(), jnp.float32(values.size)
    weights = weights_for(values, weights)
    # A weight of 0 leaves a value out, even one that is no number.
    return jnp.where(weights == 0, 0, values * weights).sum(), weights.sum()
