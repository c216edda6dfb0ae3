"""First centers of a clustering, chosen from batches before the first step.

    centers = ByKMeansPlusPlus(retries=2).choose(key, batches, count=64)

A batch is a pair of points, of shape (n, d), and their weights, of shape (n,) or None. Points are
float32, or float64 on the host where float32 does not hold their digits.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from canned.clustering import kmeans_plus_plus, random_order

PointBatches = Iterable[tuple[Any, jax.Array | None]]

# A callable that chooses nothing from so many batches in a row will choose nothing from the rest.
_FRUITLESS_BATCHES = 1000


class FirstCenters(abc.ABC):
    """A way to choose the first centers."""

    @abc.abstractmethod
    def choose(self, key: jax.Array, batches: PointBatches, count: int) -> np.ndarray:
        """Returns centers of the dtype of the points, of shape (count, d).

        Args:
            key: what is drawn with.
            batches: pairs of points and weights, as many as there are.
            count: how many centers.

        Raises:
            ValueError: if the batches do not hold that many.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Given(FirstCenters):
    """The centers that the user gave."""

    centers: np.ndarray

    def choose(self, key: jax.Array, batches: PointBatches, count: int) -> np.ndarray:
        """Returns them."""
        return self.centers


@dataclasses.dataclass(frozen=True)
class ByRandom(FirstCenters):
    """Different points, all equally probable, of the first batches.

    Attributes:
        batches: how many batches to draw from; None: until ten rows a center, or one whole batch,
            are seen.
    """

    batches: int | None = None

    def choose(self, key: jax.Array, batches: PointBatches, count: int) -> np.ndarray:
        """Returns different rows of the first batches."""
        points, weights = self._gathered(batches, count)
        found = 0
        for drawn in sorted({min(2 * count, len(points)), len(points)}):
            order = np.asarray(random_order(key, len(points), drawn, weights))
            rows = points[order]
            first = np.unique(rows, axis=0, return_index=True)[1]
            found = len(first)
            if found >= count:
                return rows[np.sort(first)[:count]]
        raise ValueError(
            f"KMeans: num_clusters is {count}, but there are only {found} different points in the "
            f"first {len(points)} rows. Choose fewer clusters, or look at more batches: "
            "init_batches=."
        )

    def _gathered(self, batches: PointBatches, count: int) -> tuple[np.ndarray, Any]:
        points: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        rows = 0
        for number, (batch, of_batch) in enumerate(batches, 1):
            kept = np.asarray(batch)
            rows += len(kept)
            if of_batch is not None:
                weighed = np.asarray(of_batch)
                kept = kept[weighed > 0]
                weights.append(weighed[weighed > 0])
            points.append(kept)
            if number == self.batches or (self.batches is None and rows >= 10 * count):
                break
        together = np.concatenate(points)
        return together, np.concatenate(weights) if weights else None


@dataclasses.dataclass(frozen=True)
class ByKMeansPlusPlus(FirstCenters):
    """Points of the first batch, far from each other (see `kmeans_plus_plus`).

    Attributes:
        retries: how many more rows to draw for each center.
    """

    retries: int

    def choose(self, key: jax.Array, batches: PointBatches, count: int) -> np.ndarray:
        """Returns rows of the first batch."""
        points, weights = next(iter(batches))
        usable = len(points) if weights is None else int((weights > 0).sum())
        if usable < count:
            raise ValueError(
                f"KMeans: the first batch has {usable} points, but k-means++ chooses all "
                f"{count} centers from it. Make batches of at least num_clusters points, or use "
                "initial_clusters=KMeans.RANDOM_INIT, which gathers several batches."
            )
        centered = jnp.asarray(points - points.mean(0), jnp.float32)
        rows = kmeans_plus_plus(key, centered, count, self.retries, weights)
        return np.asarray(points)[np.asarray(rows)]


@dataclasses.dataclass(frozen=True)
class ByFunction(FirstCenters):
    """Centers that the user's function `f(points, k)` chooses from one batch after the other."""

    function: Callable[[jax.Array, int], Any]

    def choose(self, key: jax.Array, batches: PointBatches, count: int) -> np.ndarray:
        """Returns what the function chose until there were enough."""
        chosen: list[np.ndarray] = []
        missing, fruitless = count, 0
        for points, _ in batches:
            made = self._checked(self.function(points, missing), points, missing)
            missing -= len(made)
            chosen.append(made)
            fruitless = 0 if len(made) else fruitless + 1
            if missing == 0:
                return np.concatenate(chosen)
            if fruitless == _FRUITLESS_BATCHES:
                break
        raise ValueError(
            f"KMeans: initial_clusters chose {count - missing} of {count} centers from "
            f"{len(chosen)} batches, and "
            + ("nothing from the last." if fruitless == _FRUITLESS_BATCHES else "the input ended.")
            + " It must return num_clusters rows in all; give more batches, or fewer clusters."
        )

    def _checked(self, made: Any, points: Any, missing: int) -> np.ndarray:
        rows = np.asarray(made, points.dtype)
        if rows.ndim != 2 or (len(rows) and rows.shape[1] != points.shape[1]):
            raise ValueError(
                f"KMeans: initial_clusters returned an array of shape {rows.shape}. It is given "
                f"one batch, of shape {points.shape}, and returns rows of it: shape "
                f"(0 to k, {points.shape[1]})."
            )
        if len(rows) > missing:
            raise ValueError(
                f"KMeans: initial_clusters returned {len(rows)} centers, but only {missing} were "
                "asked for. It is called as f(inputs, k), and may return up to k rows."
            )
        return rows


def with_equal_columns(batches: PointBatches) -> Iterator[tuple[Any, jax.Array | None]]:
    """Yields the batches, and says so if one has another number of columns than the first."""
    columns = None
    for points, weights in batches:
        columns = points.shape[1] if columns is None else columns
        if points.shape[1] != columns:
            raise ValueError(
                f"KMeans: a batch of points has {points.shape[1]} columns, the first {columns}. "
                "All batches need the same features."
            )
        yield points, weights
