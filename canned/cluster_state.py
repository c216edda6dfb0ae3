"""The state of a clustering: its variables, and how a step moves them.

    state = ClusterState(count=5, columns=2, cosine=False, mini_batch=True, period=1)
    sums, counts, loss = cluster_sums(points, state.centers, origin=state.origin, unit=cosine)
    state.update(sums, counts)

Variables: `clusters`, of shape (k, d); `origin`, a place among the points; of mini-batches
`counts`, and, where centers move every few steps only, `clusters_updated` and `update_in_steps`.

Law: a center without points keeps its very bits.
"""

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
from canned.clustering import moved, unit_rows

CLUSTERS = "clusters"


class ClusterState:
    """The variables of a clustering inside a model_fn.

    Attributes:
        clusters: the centers that points are compared with, of shape (k, d).
        origin: where they are looked at from, of shape (d,); None: they are directions.

    Args:
        count: how many clusters.
        columns: how many numbers a point has.
        cosine: whether vectors are compared by their angle.
        mini_batch: whether a batch is a part of the data.
        period: after how many steps moved centers take effect, in mini-batches.
    """

    def __init__(
        self, count: int, columns: int, cosine: bool, mini_batch: bool, period: int
    ) -> None:
        self._shape = (count, columns)
        self._cosine = cosine
        self._mini_batch = mini_batch
        self._period = period
        self.clusters = self._held(CLUSTERS, self._shape)
        self.origin = None if cosine else self._held("origin", (columns,))

    @property
    def centers(self) -> jax.Array:
        """The centers as they are seen from the origin, or at length 1, of shape (k, d)."""
        return unit_rows(self.clusters) if self._cosine else self._relative(self.clusters)

    def update(self, sums: jax.Array, counts: jax.Array) -> None:
        """Moves the centers by one step.

        Args:
            sums: the sum of each center's points, seen from the origin, of shape (k, d).
            counts: how many they are, of shape (k,).
        """
        if not self._mini_batch:
            new = self._moved(self.clusters, 0.0, sums, counts)
            est.assign(CLUSTERS, self._published(new, counts))
            return
        one_step = self._period == 1
        # With centers that move at each step, a first center counts as one point.
        fill = jax.nn.initializers.constant(1.0 if one_step else 0.0)
        seen = est.get_variable("counts", (self._shape[0],), fill, trainable=False)
        total = seen + counts
        if one_step:
            est.assign(CLUSTERS, self._moved(self.clusters, seen, sums, counts))
            est.assign("counts", total)
            return
        updated = self._held("clusters_updated", self._shape)
        left = est.get_variable("update_in_steps", (), np.int32(self._period), trainable=False)
        due = left <= 1
        new = self._moved(updated, seen, sums, counts)
        new = jnp.where(due, self._published(new, total), new)
        est.assign(CLUSTERS, jnp.where(due, new, self.clusters))
        est.assign("clusters_updated", new)
        est.assign("counts", jnp.where(due, 0.0, total))
        est.assign("update_in_steps", jnp.where(due, self._period, left - 1))

    def _held(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        zeros = jax.nn.initializers.zeros
        return est.get_variable(name, shape, zeros, trainable=False, needs_init=True)

    def _moved(
        self, centers: jax.Array, seen: jax.Array | float, sums: jax.Array, counts: jax.Array
    ) -> jax.Array:
        new = moved(self._relative(centers), seen, sums, counts)
        new = new if self.origin is None else new + self.origin
        return jnp.where(counts[:, None] > 0, new, centers)

    def _published(self, centers: jax.Array, counts: jax.Array) -> jax.Array:
        """Returns centers that points are compared with from now on: directions at length 1."""
        if not self._cosine:
            return centers
        return jnp.where(counts[:, None] > 0, unit_rows(centers), centers)

    def _relative(self, centers: jax.Array) -> jax.Array:
        return centers if self.origin is None else centers - self.origin
