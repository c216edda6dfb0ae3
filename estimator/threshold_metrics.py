"""Threshold metrics: what becomes of probabilities when they are cut at many thresholds.

    eval_metric_ops = {"auc": auc(labels, p), "auc_pr": auc(labels, p, curve="PR")}

A batch counts its positives and negatives between each two thresholds; everything else is computed
from these counts, on the host in float64. A prediction is positive if it is greater than the
threshold.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator.messages import did_you_mean
from estimator.metric_base import (
    Metric,
    array_module,
    as_floats,
    divide,
    is_binary,
    one_or,
    same_shape,
    strays_among,
    unless_strays,
    value_of,
)

_EPSILON = 1e-7
# How much a constraint may be missed by the rounding of weights.
_SLACK = 1e-6
_METHODS = {
    "ROC": ("trapezoidal", "minoring", "majoring"),
    "PR": ("careful_interpolation", "trapezoidal", "minoring", "majoring"),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Buckets:
    """Positives and negatives between each two thresholds, of shape `(thresholds + 1,)`.

    Attributes:
        positives: those up to the first threshold, between it and the second, ..., above the last.
        negatives: likewise.
        strays: how many labels were not 0 or 1, and predictions not in [0, 1].
    """

    positives: Any
    negatives: Any
    strays: Any

    def checked(self, result: Any) -> Any:
        """Returns a result of these counts, as `compute` gives it.

        Raises:
            ValueError: on the host, if there were strays.
        """
        return unless_strays(
            value_of(result),
            self.strays,
            "metrics: labels must be 0 or 1 and predictions probabilities in [0, 1]. Give "
            "jax.nn.sigmoid(logits), not logits, and the probability of class 1 where there are "
            "two.",
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AreaUnderCurve(Metric):
    """The area under the ROC curve, or under that of precision and recall.

    Sources: for the ROC curve the trapezoidal rule; for precision and recall Davis and Goadrich,
    "The Relationship Between Precision-Recall and ROC Curves", 2006, section 4: between two
    thresholds true positives grow in a straight line with the positive predictions.
    """

    buckets: Buckets
    curve: str = dataclasses.field(metadata={"static": True})
    method: str = dataclasses.field(metadata={"static": True})

    def compute(self) -> Any:
        """Returns the area.

        Raises:
            ValueError: on the host, if labels or predictions were not what they should be.
        """
        counts = Confusion.of(self.buckets)
        xp = array_module(counts.tp)
        if self.method == "careful_interpolation":
            return self.buckets.checked(_interpolated(counts, xp))
        if self.curve == "ROC":
            x, y = counts.false_positive_rate(), counts.recall()
        else:
            x = counts.recall()
            y = xp.where(counts.tp + counts.fp == 0, 1.0, counts.precision())
        left, right = y[1:], y[:-1]
        heights = {
            "trapezoidal": (left + right) / 2,
            "minoring": xp.minimum(left, right),
            "majoring": xp.maximum(left, right),
        }
        return self.buckets.checked(xp.sum((x[:-1] - x[1:]) * heights[self.method]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AtThresholds(Metric):
    """A rate at each of some thresholds, in the order they were given."""

    buckets: Buckets
    rate: str = dataclasses.field(metadata={"static": True})
    thresholds: tuple[float, ...] = dataclasses.field(metadata={"static": True})

    def compute(self) -> Any:
        """Returns the rates, of shape `(thresholds,)`.

        Raises:
            ValueError: on the host, if labels or predictions were not what they should be.
        """
        rates = _RATES[self.rate](Confusion.of(self.buckets))
        order = np.argsort(np.argsort(self.thresholds, kind="stable"))
        return self.buckets.checked(rates[order])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BestRate(Metric):
    """The best value of one rate among the thresholds at which another is at least so much."""

    buckets: Buckets
    rate: str = dataclasses.field(metadata={"static": True})
    other: str = dataclasses.field(metadata={"static": True})
    least: float = dataclasses.field(metadata={"static": True})

    def compute(self) -> Any:
        """Returns the rate.

        Raises:
            ValueError: on the host, if labels or predictions were not what they should be.
        """
        counts = Confusion.of(self.buckets)
        rates, others = _RATES[self.rate](counts), _RATES[self.other](counts)
        xp, exact = array_module(rates), jnp.issubdtype(self.buckets.positives.dtype, jnp.integer)
        reached = others >= self.least - (0.0 if exact else _SLACK)
        return self.buckets.checked(xp.max(xp.where(reached, rates, 0.0)))


@dataclasses.dataclass(frozen=True)
class Confusion:
    """True and false positives and negatives, each of shape `(thresholds,)`."""

    tp: Any
    fp: Any
    tn: Any
    fn: Any

    @classmethod
    def of(cls, buckets: Buckets) -> "Confusion":
        """Returns the counts at each threshold."""
        xp = array_module(buckets.positives)
        both = (buckets.positives, buckets.negatives)
        below_p, below_n = (as_floats(xp.cumsum(x)) for x in both)
        above_p, above_n = (as_floats(xp.cumsum(x[::-1])[::-1]) for x in both)
        return cls(tp=above_p[1:], fp=above_n[1:], tn=below_n[:-1], fn=below_p[:-1])

    def precision(self) -> Any:
        """Returns tp / (tp + fp), 0 where nothing is predicted."""
        return divide(self.tp, self.tp + self.fp)

    def recall(self) -> Any:
        """Returns tp / (tp + fn), which is also called sensitivity."""
        return divide(self.tp, self.tp + self.fn)

    def specificity(self) -> Any:
        """Returns tn / (tn + fp)."""
        return divide(self.tn, self.tn + self.fp)

    def false_positive_rate(self) -> Any:
        """Returns fp / (tn + fp)."""
        return divide(self.fp, self.tn + self.fp)


_RATES: dict[str, Callable[[Confusion], Any]] = {
    "precision": Confusion.precision,
    "recall": Confusion.recall,
    "specificity": Confusion.specificity,
}


def auc(
    labels: Any,
    predictions: Any,
    weights: Any = None,
    num_thresholds: int = 200,
    curve: str = "ROC",
    name: str | None = None,
    summation_method: str | None = None,
    thresholds: Sequence[float] | None = None,
) -> AreaUnderCurve:
    """Returns the area under a curve of the classifier, approximated at many thresholds.

    >>> labels, probabilities = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
    >>> float(auc(labels, probabilities).compute())
    0.75
    >>> float(auc(labels, probabilities, curve="PR").compute())
    0.7973

    Args:
        labels: bools, or numbers 0 and 1, of any shape.
        predictions: probabilities in [0, 1], of the same shape.
        weights: as for `metrics.mean`.
        num_thresholds: how many thresholds, 0 and 1 among them.
        curve: `"ROC"` or `"PR"` (precision over recall).
        name: accepted as in TensorFlow.
        summation_method: `"trapezoidal"` (the default for ROC), `"careful_interpolation"` (the
            default for PR, where the trapezoidal rule is too optimistic), `"minoring"` or
            `"majoring"`.
        thresholds: the thresholds between 0 and 1, in place of evenly spaced ones.

    Returns:
        A metric; the area under a ROC curve is 0 where all labels are the same.

    Raises:
        ValueError: if the shapes differ, or a setting cannot be.
    """
    del name
    kind = str(curve).upper()
    if kind not in _METHODS:
        raise ValueError(f'metrics.auc: curve must be "ROC" or "PR", got {curve!r}.')
    method = _METHODS[kind][0] if summation_method is None else summation_method
    if method not in _METHODS[kind]:
        raise ValueError(
            f"metrics.auc: summation_method must be one of {list(_METHODS[kind])} for curve "
            f"{kind!r}, got {method!r}.{did_you_mean(str(method), _METHODS[kind])}"
        )
    cuts = _even("auc", num_thresholds) if thresholds is None else _bounded("auc", thresholds)
    return AreaUnderCurve(_buckets("auc", labels, predictions, cuts, weights), kind, method)


def precision_at_thresholds(
    labels: Any,
    predictions: Any,
    thresholds: Sequence[float],
    weights: Any = None,
    name: str | None = None,
) -> AtThresholds:
    """Returns the precision at each threshold; 0 where nothing is predicted.

    >>> precision_at_thresholds([0, 1, 1], [0.2, 0.4, 0.8], [0.1, 0.5]).compute().tolist()
    [0.6667, 1.0]

    Args:
        labels: bools, or numbers 0 and 1, of any shape.
        predictions: probabilities in [0, 1], of the same shape.
        thresholds: numbers in [0, 1], in any order.
        weights: as for `metrics.mean`.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ, or a threshold is none.
    """
    del name
    return _at("precision", labels, predictions, thresholds, weights)


def recall_at_thresholds(
    labels: Any,
    predictions: Any,
    thresholds: Sequence[float],
    weights: Any = None,
    name: str | None = None,
) -> AtThresholds:
    """Returns the recall at each threshold; arguments as for `precision_at_thresholds`.

    >>> recall_at_thresholds([0, 1, 1], [0.2, 0.4, 0.8], [0.1, 0.5]).compute().tolist()
    [1.0, 0.5]
    """
    del name
    return _at("recall", labels, predictions, thresholds, weights)


def sensitivity_at_specificity(
    labels: Any,
    predictions: Any,
    specificity: float,
    weights: Any = None,
    num_thresholds: int = 200,
    name: str | None = None,
) -> BestRate:
    """Returns the best sensitivity (recall) at which the specificity is at least so much.

    >>> labels, probabilities = [0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8]
    >>> float(sensitivity_at_specificity(labels, probabilities, specificity=0.5).compute())
    1.0

    Args:
        labels: bools, or numbers 0 and 1, of any shape.
        predictions: probabilities in [0, 1], of the same shape.
        specificity: a number in [0, 1].
        weights: as for `metrics.mean`.
        num_thresholds: how many evenly spaced thresholds to try.
        name: accepted as in TensorFlow.

    Raises:
        ValueError: if the shapes differ, or a setting cannot be.
    """
    del name
    who = "sensitivity_at_specificity"
    return _best(
        who, "recall", "specificity", specificity, labels, predictions, weights, num_thresholds
    )


def specificity_at_sensitivity(
    labels: Any,
    predictions: Any,
    sensitivity: float,
    weights: Any = None,
    num_thresholds: int = 200,
    name: str | None = None,
) -> BestRate:
    """Returns the best specificity at which the sensitivity (recall) is at least so much.

    >>> labels, probabilities = [0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8]
    >>> float(specificity_at_sensitivity(labels, probabilities, sensitivity=0.5).compute())
    1.0

    Arguments are those of `sensitivity_at_specificity`.
    """
    del name
    who = "specificity_at_sensitivity"
    return _best(
        who, "specificity", "recall", sensitivity, labels, predictions, weights, num_thresholds
    )


def precision_at_recall(
    labels: Any,
    predictions: Any,
    recall: float,
    weights: Any = None,
    num_thresholds: int = 200,
    name: str | None = None,
) -> BestRate:
    """Returns the best precision at which the recall is at least so much.

    >>> labels, probabilities = [0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8]
    >>> float(precision_at_recall(labels, probabilities, recall=1.0).compute())
    0.6667

    Arguments are those of `sensitivity_at_specificity`.
    """
    del name
    who = "precision_at_recall"
    return _best(who, "precision", "recall", recall, labels, predictions, weights, num_thresholds)


def _at(
    rate: str, labels: Any, predictions: Any, thresholds: Sequence[float], weights: Any
) -> AtThresholds:
    who = f"{rate}_at_thresholds"
    given = _checked(who, thresholds)
    buckets = _buckets(who, labels, predictions, sorted(given), weights)
    return AtThresholds(buckets, rate, given)


def _best(
    who: str,
    rate: str,
    other: str,
    least: float,
    labels: Any,
    predictions: Any,
    weights: Any,
    num_thresholds: int,
) -> BestRate:
    if not 0 <= least <= 1:
        name = who.rsplit("_", 1)[1]
        raise ValueError(f"metrics.{who}: {name} must be in [0, 1], got {least}.")
    cuts = _even(who, num_thresholds)
    return BestRate(_buckets(who, labels, predictions, cuts, weights), rate, other, float(least))


def _buckets(
    who: str, labels: Any, predictions: Any, cuts: Sequence[float], weights: Any
) -> Buckets:
    labels, predictions = same_shape(who, labels, predictions)
    predictions = predictions.astype(jnp.float32)
    strays = strays_among((labels,), is_binary, weights)
    strays += strays_among((predictions,), lambda x: (x >= 0) & (x <= 1), weights)
    weight = one_or(labels, weights)
    thresholds = jnp.asarray(np.asarray(cuts, np.float32))
    above = jnp.searchsorted(thresholds, predictions.ravel(), side="left", method="compare_all")

    def counted(chosen: jax.Array) -> jax.Array:
        amounts = jnp.where(chosen, weight, 0).ravel()
        return jnp.zeros(len(cuts) + 1, weight.dtype).at[above].add(amounts)

    positive = labels.astype(bool)
    return Buckets(counted(positive), counted(~positive), strays)


def _interpolated(counts: Confusion, xp: Any) -> Any:
    """Returns the area under the curve of precision and recall, after Davis and Goadrich."""
    tp, predicted = counts.tp, counts.tp + counts.fp
    more_tp, more = tp[:-1] - tp[1:], predicted[:-1] - predicted[1:]
    slope = divide(more_tp, more)
    intercept = tp[1:] - slope * predicted[1:]
    both = (predicted[:-1] > 0) & (predicted[1:] > 0)
    ratio = xp.where(both, divide(predicted[:-1], predicted[1:]), 1.0)
    parts = slope * (more_tp + intercept * xp.log(ratio))
    return xp.sum(divide(parts, tp[1:] + counts.fn[1:]))


def _even(who: str, num_thresholds: int) -> list[float]:
    """Returns TensorFlow's thresholds: the first and the last just outside [0, 1]."""
    if num_thresholds < 2:
        raise ValueError(f"metrics.{who}: num_thresholds must be >= 2, got {num_thresholds}.")
    inner = [(i + 1) / (num_thresholds - 1) for i in range(num_thresholds - 2)]
    return [-_EPSILON, *inner, 1 + _EPSILON]


def _bounded(who: str, thresholds: Sequence[float]) -> list[float]:
    """Returns thresholds of the user's between two just outside [0, 1], as in TensorFlow."""
    return [-_EPSILON, *sorted(_checked(who, thresholds)), 1 + _EPSILON]


def _checked(who: str, thresholds: Sequence[float]) -> tuple[float, ...]:
    given = tuple(float(threshold) for threshold in thresholds)
    if not given or not all(0 <= threshold <= 1 for threshold in given):
        raise ValueError(
            f"metrics.{who}: thresholds must be numbers in [0, 1], at least one, got {list(given)}."
        )
    return given
