"""Class metrics: answers that are right or wrong, counted by kind or by class.

    eval_metric_ops = {"recall": recall(labels, classes), "top5": recall_at_k(labels, logits, k=5)}

Counts without weights are exact. Every one takes `weights` as `metrics.mean` does.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimator.mean_metrics import Mean
from estimator.metric_base import (
    Metric,
    array_module,
    count_of,
    divide,
    is_binary,
    one_or,
    same_shape,
    strays_among,
    unless_strays,
    value_of,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BinaryCount(Metric):
    """What a binary classifier has counted: `total`, or `total / count` where there is a count.

    Attributes:
        total: the examples of interest.
        count: the examples they are a part of; None: the total itself is the value.
        strays: how many labels and predictions were neither 0 nor 1.
    """

    total: Any
    count: Any
    strays: Any

    def compute(self) -> Any:
        """Returns the number or the ratio.

        Raises:
            ValueError: on the host, if labels or predictions were no classes.
        """
        result = self.total if self.count is None else divide(self.total, self.count)
        return unless_strays(
            value_of(result),
            self.strays,
            "metrics: labels and predictions of a binary metric must be 0 or 1, or bool. Give "
            "predicted classes, such as probabilities > 0.5; metrics.auc takes probabilities.",
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassMean(Metric):
    """The mean over classes of `hits / counts`; classes that never occur do not count.

    Attributes:
        hits: by class.
        counts: by class.
        strays: how many labels and predictions were no class.
    """

    hits: Any
    counts: Any
    strays: Any

    def compute(self) -> Any:
        """Returns the mean.

        Raises:
            ValueError: on the host, if labels or predictions were no classes.
        """
        xp, occurs = array_module(self.counts), self.counts > 0
        return unless_strays(
            value_of(divide(xp.sum(divide(self.hits, self.counts)), xp.sum(occurs))),
            self.strays,
            f"metrics: labels and predictions must be classes in [0, {len(self.counts)}). Raise "
            "num_classes, or give a weight of 0 to examples that do not count.",
        )


def precision(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> BinaryCount:
    """Returns which part of the positive predictions is right; 0 where there are none.

    >>> float(precision(labels=[1, 0, 1, 1], predictions=[1, 1, 0, 1]).compute())
    0.6667

    Args:
        labels: bools, or numbers 0 and 1, of any shape.
        predictions: likewise, of the same shape: classes, not probabilities.
        weights: as for `metrics.mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    del name
    return _binary("precision", labels, predictions, weights, lambda y, p: p & y, lambda y, p: p)


def recall(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> BinaryCount:
    """Returns which part of the positive labels is found; 0 where there are none.

    >>> float(recall(labels=[1, 0, 1, 1], predictions=[1, 1, 0, 1]).compute())
    0.6667

    Args:
        labels: bools, or numbers 0 and 1, of any shape.
        predictions: likewise, of the same shape: classes, not probabilities.
        weights: as for `metrics.mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    del name
    return _binary("recall", labels, predictions, weights, lambda y, p: p & y, lambda y, p: y)


def true_positives(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> BinaryCount:
    """Returns how many positive predictions are right; arguments as for `precision`.

    >>> float(true_positives(labels=[1, 0, 1, 1], predictions=[1, 1, 0, 1]).compute())
    2.0
    """
    del name
    return _binary("true_positives", labels, predictions, weights, lambda y, p: p & y)


def false_positives(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> BinaryCount:
    """Returns how many positive predictions are wrong; arguments as for `precision`.

    >>> float(false_positives(labels=[1, 0, 1, 1], predictions=[1, 1, 0, 1]).compute())
    1.0
    """
    del name
    return _binary("false_positives", labels, predictions, weights, lambda y, p: p & ~y)


def true_negatives(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> BinaryCount:
    """Returns how many negative predictions are right; arguments as for `precision`.

    >>> float(true_negatives(labels=[1, 0, 1, 1], predictions=[1, 1, 0, 1]).compute())
    0.0
    """
    del name
    return _binary("true_negatives", labels, predictions, weights, lambda y, p: ~p & ~y)


def false_negatives(
    labels: Any, predictions: Any, weights: Any = None, name: str | None = None
) -> BinaryCount:
    """Returns how many negative predictions are wrong; arguments as for `precision`.

    >>> float(false_negatives(labels=[1, 0, 1, 1], predictions=[1, 1, 0, 1]).compute())
    1.0
    """
    del name
    return _binary("false_negatives", labels, predictions, weights, lambda y, p: ~p & y)


def mean_per_class_accuracy(
    labels: Any,
    predictions: Any,
    num_classes: int,
    weights: Any = None,
    name: str | None = None,
) -> ClassMean:
    """Returns the mean over classes of which part of a class is found.

    A class that no label has is left out; in TensorFlow it counts as 0.

    >>> float(mean_per_class_accuracy([0, 0, 1, 1], [0, 1, 1, 1], num_classes=3).compute())
    0.75

    Args:
        labels: ints of any shape, in [0, num_classes) where the weight is not 0.
        predictions: ints of the same shape.
        num_classes: how many classes there are.
        weights: as for `metrics.mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    del name
    labels, predictions, weight, strays = _classes(
        "mean_per_class_accuracy", labels, predictions, num_classes, weights
    )
    hits = _by_class(labels, jnp.where(predictions == labels, weight, 0), num_classes)
    return ClassMean(hits, _by_class(labels, weight, num_classes), strays)


def mean_iou(
    labels: Any,
    predictions: Any,
    num_classes: int,
    weights: Any = None,
    name: str | None = None,
) -> ClassMean:
    """Returns the mean over classes of intersection over union: right / (labelled or predicted).

    A class that neither labels nor predictions have is left out.

    >>> float(mean_iou([0, 0, 1, 1], [0, 1, 1, 1], num_classes=3).compute())
    0.5833

    Args:
        labels: ints of any shape, in [0, num_classes) where the weight is not 0.
        predictions: ints of the same shape.
        num_classes: how many classes there are.
        weights: as for `metrics.mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ.
    """
    del name
    labels, predictions, weight, strays = _classes(
        "mean_iou", labels, predictions, num_classes, weights
    )
    right = predictions == labels
    hits = _by_class(labels, jnp.where(right, weight, 0), num_classes)
    wrong = jnp.where(right, 0, weight)
    missed = _by_class(labels, wrong, num_classes) + _by_class(predictions, wrong, num_classes)
    return ClassMean(hits, hits + missed, strays)


def recall_at_k(
    labels: Any,
    predictions: Any,
    k: int,
    class_id: int | None = None,
    weights: Any = None,
    name: str | None = None,
) -> Mean:
    """Returns which part of the labels is among the `k` likeliest classes.

    >>> float(recall_at_k([2, 0], [[0.1, 0.7, 0.2], [0.3, 0.5, 0.2]], k=2).compute())
    1.0

    Args:
        labels: ints of shape `(...,)`, or `(..., labels of an example)`; -1 is missing.
        predictions: numbers of shape `(..., classes)`; of equal ones the first class wins.
        k: how many classes are predicted.
        class_id: counts this class only.
        weights: one for each example, or a single number.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer than `k` classes.
    """
    del name
    labels, _, found = _top_k("recall_at_k", labels, predictions, k, class_id)
    right = jnp.sum(found, -1, dtype=jnp.int32)
    earlier = jnp.tril(jnp.ones((labels.shape[-1],) * 2, bool), -1)
    repeated = ((labels[..., :, None] == labels[..., None, :]) & earlier).any(-1)
    wanted = jnp.sum((labels != -1) & ~repeated, -1, dtype=jnp.int32)
    return _part(right, wanted, weights)


def precision_at_k(
    labels: Any,
    predictions: Any,
    k: int,
    class_id: int | None = None,
    weights: Any = None,
    name: str | None = None,
) -> Mean:
    """Returns which part of the `k` likeliest classes is among the labels.

    >>> float(precision_at_k([2, 0], [[0.1, 0.7, 0.2], [0.3, 0.5, 0.2]], k=2).compute())
    0.5

    Args:
        labels: ints of shape `(...,)`, or `(..., labels of an example)`; -1 is missing.
        predictions: numbers of shape `(..., classes)`; of equal ones the first class wins.
        k: how many classes are predicted.
        class_id: counts this class only.
        weights: one for each example, or a single number.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer than `k` classes.
    """
    del name
    _, top, found = _top_k("precision_at_k", labels, predictions, k, class_id)
    right = jnp.sum(found, -1, dtype=jnp.int32)
    return _part(right, jnp.sum(top != -1, -1, dtype=jnp.int32), weights)


def _binary(
    who: str,
    labels: Any,
    predictions: Any,
    weights: Any,
    chosen: Callable[[jax.Array, jax.Array], jax.Array],
    among: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> BinaryCount:
    """Counts the examples that two functions of labels and predictions, as bools, choose."""
    labels, predictions = same_shape(who, labels, predictions)
    strays = strays_among((labels, predictions), is_binary, weights)
    y, p = labels.astype(bool), predictions.astype(bool)
    count = None if among is None else count_of(among(y, p), weights)
    return BinaryCount(count_of(chosen(y, p), weights), count, strays)


def _classes(
    who: str, labels: Any, predictions: Any, num_classes: int, weights: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns labels, predictions, a weight for each, and how many that count are no class."""
    labels, predictions = same_shape(who, labels, predictions)

    def is_class(values: jax.Array) -> jax.Array:
        ids = values.astype(jnp.int32)
        return (ids >= 0) & (ids < num_classes) & (ids.astype(values.dtype) == values)

    strays = strays_among((labels, predictions), is_class, weights)
    weight = one_or(labels, weights)
    return labels.astype(jnp.int32), predictions.astype(jnp.int32), weight, strays


def _by_class(classes: jax.Array, amounts: jax.Array, num_classes: int) -> jax.Array:
    """Returns the amounts added up by class; those of no class are dropped."""
    ids = jnp.where(classes < 0, num_classes, classes)
    sums = jnp.zeros(num_classes, amounts.dtype)
    return sums.at[ids.ravel()].add(amounts.ravel(), mode="drop")


def _top_k(
    who: str, labels: Any, predictions: Any, k: int, class_id: int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns labels `(..., labels)`, the top classes `(..., k)`, and which of them are labels.

    With a `class_id` all other classes are -1, which is never found.
    """
    labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
    if labels.ndim == predictions.ndim - 1:
        labels = labels[..., None]
    if labels.ndim != predictions.ndim or labels.shape[:-1] != predictions.shape[:-1]:
        raise ValueError(
            f"metrics.{who}: labels have shape {labels.shape}, predictions {predictions.shape}. "
            "Give predictions a number for each class, (..., classes), and labels (...,) or "
            "(..., labels of an example)."
        )
    if not 1 <= k <= predictions.shape[-1]:
        raise ValueError(
            f"metrics.{who}: k is {k}, but there are {predictions.shape[-1]} classes. Give a k "
            "between 1 and the number of classes."
        )
    labels = labels.astype(jnp.int32)
    top = jax.lax.top_k(predictions, k)[1].astype(jnp.int32)
    if class_id is not None:
        labels = jnp.where(labels == class_id, labels, -1)
        top = jnp.where(top == class_id, top, -1)
    found = (top[..., :, None] == labels[..., None, :]).any(-1) & (top != -1)
    return labels, top, found


def _part(right: jax.Array, whole: jax.Array, weights: Any) -> Mean:
    weight = one_or(right, weights)
    right, whole = right.astype(weight.dtype), whole.astype(weight.dtype)
    return Mean((right * weight).sum(), (whole * weight).sum())
