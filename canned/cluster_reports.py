"""What is told of a clustering: sizes of clusters, points that are no numbers, when to stop."""

import dataclasses
from collections import deque
from typing import Any

import jax
import numpy as np

import estimator as est


@dataclasses.dataclass(frozen=True)
class _OfCounts(est.metrics.Metric):
    """A metric of the points of each cluster, or their weights, of shape (k,)."""

    counts: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LargestCluster(_OfCounts):
    """The size of the largest cluster."""

    def compute(self) -> Any:
        """Returns the largest of the counts."""
        return self.counts.max()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EmptyClusters(_OfCounts):
    """The number of clusters without points."""

    def compute(self) -> Any:
        """Returns how many counts are 0."""
        return (self.counts == 0).sum()


@dataclasses.dataclass(frozen=True)
class PointCheck(est.HostCheck):
    """Refuses a batch with a value that is not finite, or with a negative weight, by its row."""

    name: str
    rank: int
    is_weight: bool = False

    def __call__(self, values: np.ndarray) -> None:
        """Raises a ValueError that names the row."""
        array = np.asarray(values)
        # A sum hides no NaN, and needs no array of its own.
        if not self.is_weight and np.isfinite(array.sum(dtype=np.float64)):
            return
        bad = ~np.isfinite(array)
        if self.is_weight:
            bad |= array < 0
        if bad.any():
            position = np.argwhere(bad)[0]
            wanted = "a number of at least 0" if self.is_weight else "a finite number"
            raise ValueError(
                f"KMeans: row {position[array.ndim - self.rank]} of {self.name} holds "
                f"{array[tuple(position)]}, where {wanted} is wanted. Drop such rows, or fill them."
            )


class RelativeToleranceHook(est.SessionRunHook):
    """Stops a run where the loss changes by less than a part of it.

    The change from one loss to the next is `|next - last| / (1 + |last|)`.

    Args:
        tolerance: the change below which the run stops.
        lag: how many steps late the loss is read, so that no step waits for it.
    """

    def __init__(self, tolerance: float, lag: int = 0) -> None:
        self._tolerance = tolerance
        self._lag = lag
        self._unread: deque[Any] = deque()
        self._last: float | None = None

    def begin(self) -> None:
        """Forgets the losses of an earlier run."""
        self._unread.clear()
        self._last = None

    def before_run(self, run_context: est.SessionRunContext) -> est.SessionRunArgs:
        """Asks for the loss."""
        return est.SessionRunArgs("loss")

    def after_run(
        self, run_context: est.SessionRunContext, run_values: est.SessionRunValues
    ) -> None:
        """Compares it with the one before."""
        self._unread.append(run_values.results)
        if len(self._unread) <= self._lag:
            return
        loss = float(self._unread.popleft())
        last, self._last = self._last, loss
        if last is not None and abs(loss - last) / (1 + abs(last)) < self._tolerance:
            run_context.request_stop()
