"""Metrics that only heads report."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

import estimator as est


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Baseline(est.metrics.Metric):
    """The accuracy of always answering the more frequent of two classes.

    >>> float(Baseline(est.metrics.mean([0.0, 0.0, 1.0])).compute())
    0.6667
    """

    positives: est.metrics.Mean

    def merge(self, other: "Baseline") -> "Baseline":
        """Returns the metric of both batches together."""
        return Baseline(self.positives.merge(other.positives))

    def compute(self) -> Any:
        """Returns the share of the more frequent class."""
        # Not `max`, which no trace can compute.
        return abs(self.positives.compute() - 0.5) + 0.5


def at_thresholds(
    thresholds: Sequence[float], labels: jax.Array, likely: jax.Array, weights: Any
) -> dict[str, est.metrics.Metric]:
    """Returns accuracy, precision and recall of predictions above each threshold, by name."""
    made: dict[str, est.metrics.Metric] = {}
    for threshold in thresholds:
        found = (likely > threshold).astype("float32")
        for name in ("accuracy", "precision", "recall"):
            metric = getattr(est.metrics, name)
            made[f"{name}/positive_threshold_{threshold:g}"] = metric(labels, found, weights)
    return made


def checked_thresholds(thresholds: Sequence[float] | None, where: str) -> tuple[float, ...]:
    """Returns thresholds as a tuple.

    Raises:
        ValueError: if one does not lie between 0 and 1.
    """
    made = () if thresholds is None else tuple(thresholds)
    wrong = [threshold for threshold in made if not 0 < threshold < 1]
    if wrong:
        raise ValueError(f"{where}: thresholds must lie between 0 and 1, got {wrong[0]}.")
    return made
