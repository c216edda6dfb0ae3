"""The state of a clustering: its variables, and how a step moves them.

    state = ClusterState(count=5, columns=2, cosine=False, mini_batch=True, period=1)
    sums, counts, loss = cluster_sums(points, state.centers, origin=state.origin, unit=cosine)
    state.update(sums, counts)

Variables: `clusters`, of shape (k, d), and `clusters_low`, what float32 does not hold of them;
`origin`, a place among the points; of mini-batches `counts`, and, where centers move every few
steps only, `clusters_updated`, likewise in two parts, and `update_in_steps`.

Law: a center without points keeps its very bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
from canned.clustering import moved, unit_rows

CLUSTERS = "clusters"
LOW = "_low"


class Centers(NamedTuple):
    """Centers, float32 of shape (k, d), and what is to be added to them; None: they are directions.

    Centers of float32 points are float32 numbers themselves: their low part is 0.
    """

    high: jax.Array
    low: jax.Array | None


class ClusterState:
    """The variables of a clustering inside a model_fn.

    Attributes:
        clusters: the centers that points are compared with.
        origin: where they are looked at from, of shape (d,); None: they are directions.

    Args:
        count: how many clusters.
        columns: how many numbers a point has.
        cosine: whether vectors are compared by their angle.
        mini_batch: whether a batch is a part of the data.
        period: after how many steps moved centers take effect, in mini-batches.
        wide: whether points have more digits than float32 holds.
    """

    def __init__(
        self,
        count: int,
        columns: int,
        cosine: bool,
        mini_batch: bool,
        period: int,
        wide: bool = False,
    ) -> None:
        self._shape = (count, columns)
        self._cosine = cosine
        self._mini_batch = mini_batch
        self._period = period
        self._wide = wide
        self.clusters = self._held(CLUSTERS)
        self.origin = None if cosine else _variable("origin", (columns,))

    @property
    def centers(self) -> jax.Array:
        """The centers as they are seen from the origin, or at length 1, of shape (k, d)."""
        return unit_rows(self.clusters.high) if self._cosine else self._relative(self.clusters)

    def update(self, sums: jax.Array, counts: jax.Array) -> None:
        """Moves the centers by one step.

        Args:
            sums: the sum of each center's points, seen from the origin, of shape (k, d).
            counts: how many they are, of shape (k,).
        """
        if not self._mini_batch:
            new = self._moved(self.clusters, 0.0, sums, counts)
            _assign(CLUSTERS, self._published(new, counts))
            return
        one_step = self._period == 1
        # With centers that move at each step, a first center counts as one point.
        fill = jax.nn.initializers.constant(1.0 if one_step else 0.0)
        seen = est.get_variable("counts", (self._shape[0],), fill, trainable=False)
        total = seen + counts
        if one_step:
            _assign(CLUSTERS, self._moved(self.clusters, seen, sums, counts))
            est.assign("counts", total)
            return
        updated = self._held("clusters_updated")
        left = est.get_variable("update_in_steps", (), np.int32(self._period), trainable=False)
        due = left <= 1
        new = self._moved(updated, seen, sums, counts)
        new = _where(due, self._published(new, total), new)
        _assign(CLUSTERS, _where(due, new, self.clusters))
        _assign("clusters_updated", new)
        est.assign("counts", jnp.where(due, 0.0, total))
        est.assign("update_in_steps", jnp.where(due, self._period, left - 1))

    def _held(self, name: str) -> Centers:
        low = None if self._cosine else _variable(name + LOW, self._shape)
        return Centers(_variable(name, self._shape), low)

    def _moved(
        self, centers: Centers, seen: jax.Array | float, sums: jax.Array, counts: jax.Array
    ) -> Centers:
        new = moved(self._relative(centers), seen, sums, counts)
        if self.origin is None:
            made = Centers(new, None)
        else:
            high, low = _two_sum(new, self.origin)
            made = Centers(high, low if self._wide else jnp.zeros_like(low))
        return _where(counts[:, None] > 0, made, centers)

    def _published(self, centers: Centers, counts: jax.Array) -> Centers:
        """Returns centers that points are compared with from now on: directions at length 1."""
        if not self._cosine:
            return centers
        directions = Centers(unit_rows(centers.high), None)
        return _where(counts[:, None] > 0, directions, centers)

    def _relative(self, centers: Centers) -> jax.Array:
        if self.origin is None or centers.low is None:
            return centers.high
        return centers.high - self.origin + centers.low


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the float32 next to a + b, and what is left of it (Knuth, 1969)."""
    high = a + b
    part = high - a
    return high, (a - (high - part)) + (b - part)


def _variable(name: str, shape: tuple[int, ...]) -> jax.Array:
    zeros = jax.nn.initializers.zeros
    return est.get_variable(name, shape, zeros, trainable=False, needs_init=True)


def _assign(name: str, centers: Centers) -> None:
    est.assign(name, centers.high)
    if centers.low is not None:
        est.assign(name + LOW, centers.low)


def _where(condition: jax.Array, first: Centers, second: Centers) -> Centers:
    made: Centers = jax.tree.map(lambda a, b: jnp.where(condition, a, b), first, second)
    return made
