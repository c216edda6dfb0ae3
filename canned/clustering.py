"""Clustering: the arithmetic of k-means, as pure functions of arrays.

    index, distance = nearest(points, centers)              # (n,), (n,)
    sums, counts, loss = cluster_sums(points, centers)      # (k, d), (k,), ()
    centers = moved(centers, seen, sums, counts)            # (k, d)

Squared distances are computed as |x|^2 - 2 x.c + |c|^2, and float32 has seven digits: so points are
looked at from an `origin`, some place among them, block by block, and centers are given from there.
Points may be sums of two parts, where float32 does not hold their digits.

Law: no function holds an array of n x k at once, `squared_distances` excepted.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Rows of one block: large enough to keep two cores busy, small enough for their caches.
_BLOCK_CELLS = 2**20
_LANES = 16


def nearest(
    points: jax.Array,
    centers: jax.Array,
    *,
    low: jax.Array | None = None,
    origin: jax.Array | None = None,
    unit: bool = False,
    block_rows: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the index of each point's nearest center, and the squared distance to it.

    Of equally near centers it is the first.

    >>> index, distance = nearest(jnp.array([[0.0], [4.0]]), jnp.array([[1.0], [5.0], [5.0]]))
    >>> index.tolist(), distance.tolist()
    ([0, 1], [1.0, 1.0])

    Args:
        points: numbers of any dtype, of shape (n, d).
        centers: float32, of shape (k, d), as they are seen from the origin.
        low: what is to be added to the points, float32 of shape (n, d); None: nothing.
        origin: a place among the points, of shape (d,); None: zero.
        unit: takes points to length 1, and centers for such of length 1; half a distance is then
            1 - cos(x, c), and 1 for zero vectors.
        block_rows: how many points are compared with the centers at once; it changes nothing but
            speed and memory.

    Returns:
        Indices, int32 of shape (n,), and squared distances, float32 of shape (n,), never below 0.
    """
    n = points.shape[0]
    made = (jnp.zeros(n, jnp.int32), jnp.zeros(n, jnp.float32))

    def put(made: Any, block: _Block) -> Any:
        def at_start(whole: jax.Array, part: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, part, block.start, axis=0)

        return at_start(made[0], block.nearest), at_start(made[1], block.distance)

    return _over_blocks(points, low, centers, origin, unit, block_rows, put, made)


def cluster_sums(
    points: jax.Array,
    centers: jax.Array,
    weights: jax.Array | None = None,
    *,
    low: jax.Array | None = None,
    origin: jax.Array | None = None,
    unit: bool = False,
    block_rows: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the sum of the points nearest to each center, how many they are, and the loss.

    >>> points, centers = jnp.array([[1.0], [2.0], [9.0]]), jnp.array([[0.0], [9.0], [99.0]])
    >>> sums, counts, loss = cluster_sums(points, centers)
    >>> sums.tolist(), counts.tolist(), loss.item()
    ([[3.0], [9.0], [0.0]], [2.0, 1.0, 0.0], 5.0)

    Args:
        points: numbers of any dtype, of shape (n, d).
        centers: float32, of shape (k, d), as they are seen from the origin.
        weights: how often each point counts, of shape (n,); None: once.
        low, origin, unit, block_rows: as for `nearest`.

    Returns:
        Sums of the points as they are seen from the origin, float32 of shape (k, d); weights,
        float32 of shape (k,); and the sum of all squared distances.
    """
    k, columns = centers.shape
    # Whole numbers are exact beyond 2^24 points.
    counting = jnp.int32 if weights is None else jnp.float32
    made = (jnp.zeros((k, columns)), jnp.zeros(k, counting), jnp.float32(0))

    def add(made: Any, block: _Block) -> Any:
        sums, counts, loss = made
        # Rows that the block before had already go nowhere.
        index = jnp.where(block.is_new, block.nearest, k)
        rows, distance, weight = block.points, block.distance, jnp.ones(index.shape, counting)
        if weights is not None:
            weight = jax.lax.dynamic_slice_in_dim(weights, block.start, index.shape[0])
            rows, distance = rows * weight[:, None], distance * weight
        loss = loss + jnp.sum(jnp.where(block.is_new, distance, 0))
        return (
            sums.at[index].add(rows, mode="drop"),
            counts.at[index].add(weight, mode="drop"),
            loss,
        )

    sums, counts, loss = _over_blocks(points, low, centers, origin, unit, block_rows, add, made)
    return sums, counts.astype(jnp.float32), loss


def squared_distances(
    points: jax.Array,
    centers: jax.Array,
    *,
    low: jax.Array | None = None,
    origin: jax.Array | None = None,
    unit: bool = False,
) -> jax.Array:
    """Returns the squared distance of each point to each center, never below 0.

    >>> squared_distances(jnp.array([[0.0], [4.0]]), jnp.array([[1.0], [5.0]])).tolist()
    [[1.0, 25.0], [9.0, 1.0]]

    Args:
        points: numbers of any dtype, of shape (n, d).
        centers: float32, of shape (k, d), as they are seen from the origin.
        low, origin, unit: as for `nearest`.

    Returns:
        float32, of shape (n, k).
    """
    points = _seen(points, low, origin, unit)
    norms = _squared_norms(points, unit)[:, None] + _squared_norms(centers, unit)
    return jnp.maximum(norms - 2 * (points @ centers.T), 0)


def moved(
    centers: jax.Array, seen: jax.Array | float, sums: jax.Array, counts: jax.Array
) -> jax.Array:
    """Returns the centers, moved towards their new points: `x + (sum(d) - k x) / (n + k)`.

    With `seen` 0 they become the means of those points (Lloyd, 1982); with the number of points
    seen so far, running means (Sculley, 2010). A center without points stays where it is.

    >>> moved(jnp.array([[1.0], [5.0]]), 1.0, jnp.array([[6.0], [0.0]]), jnp.array([2.0, 0.0]))
    Array([[2.3333335],
           [5.       ]], dtype=float32)

    Args:
        centers: float32, of shape (k, d).
        seen: how many points each center stands for, of shape (k,), or a number.
        sums: the sum of each center's new points, of shape (k, d).
        counts: how many they are, of shape (k,).
    """
    total = (seen + counts)[:, None]
    return centers + (sums - counts[:, None] * centers) / jnp.where(total > 0, total, 1)


def in_two_parts(
    points: jax.Array, low: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """Returns points as float32, and what is to be added to that; None: nothing.

    >>> [part.tolist() for part in in_two_parts(jnp.array([[2**24 + 1]]))]
    [[[16777216.0]], [[1.0]]]

    Args:
        points: numbers of any dtype, of shape (n, d).
        low: what is to be added to float32 points; None: nothing.
    """
    high = points.astype(jnp.float32)
    if points.dtype == jnp.float32 or points.dtype.itemsize < 4:
        return high, low
    return high, (points - high.astype(points.dtype)).astype(jnp.float32)


def unit_rows(points: jax.Array) -> jax.Array:
    """Returns the points at length 1; zero vectors stay.

    >>> unit_rows(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    # The largest value first: the square of a small or large number leaves float32.
    largest = jnp.max(jnp.abs(points), 1, keepdims=True)
    scaled = points / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.sum(scaled * scaled, 1, keepdims=True))
    return scaled / jnp.where(length > 0, length, 1)


@functools.partial(jax.jit, static_argnames=("count", "retries"))
def kmeans_plus_plus(
    key: jax.Array,
    points: jax.Array,
    count: int,
    retries: int = 2,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Returns the rows of points chosen by k-means++ (Arthur and Vassilvitskii, 2007).

    The first is drawn uniformly, each later one in proportion to its squared distance to the
    nearest of those chosen; no row is chosen twice. Each time `1 + retries` rows are drawn, and the
    one that leaves the smallest sum of squared distances is kept.

    >>> points = jnp.array([[0.0], [0.1], [9.0], [9.1]])
    >>> sorted((kmeans_plus_plus(jax.random.key(0), points, 2) // 2).tolist())
    [0, 1]

    Args:
        key: what it draws with.
        points: float32, of shape (n, d).
        count: how many to choose, at most n.
        retries: how many more rows to draw each time; below 0: 2 + log(count).
        weights: how often each point counts, of shape (n,); None: once.

    Returns:
        Row numbers, int32 of shape (count,).
    """
    draws = 1 + (retries if retries >= 0 else 2 + int(math.log(count)))
    weights = jnp.ones(points.shape[0]) if weights is None else weights
    norms = jnp.sum(points * points, 1)
    start = jnp.full(points.shape[0], jnp.inf), jnp.ones_like(weights), jnp.zeros(count, jnp.int32)

    def choose(n: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        distances, free, chosen = state
        by_weight = weights * free
        by_distance = jnp.where(by_weight > 0, distances, 0) * weights
        # At first, and where all points lie on centers, any row that is left is as good.
        even = (n == 0) | ~(jnp.sum(by_distance) > 0)
        rows = _drawn(jax.random.fold_in(key, n), jnp.where(even, by_weight, by_distance), draws)
        candidates = points[rows]
        there = norms[:, None] + norms[rows] - 2 * (points @ candidates.T)
        there = jnp.minimum(distances[:, None], jnp.maximum(there, 0))
        best = jnp.argmin(weights @ there)
        row = rows[best]
        return there[:, best].at[row].set(0), free.at[row].set(0), chosen.at[n].set(row)

    return jax.lax.fori_loop(0, count, choose, start)[2]


@functools.partial(jax.jit, static_argnames=("rows", "count"))
def random_order(
    key: jax.Array, rows: int, count: int, weights: jax.Array | None = None
) -> jax.Array:
    """Returns `count` different row numbers, drawn in proportion to the weights.

    >>> sorted(random_order(jax.random.key(0), 3, 3).tolist())
    [0, 1, 2]
    """
    logits = jnp.zeros(rows) if weights is None else jnp.log(weights)
    return jax.lax.top_k(logits + jax.random.gumbel(key, logits.shape), count)[1]


def _drawn(key: jax.Array, weights: jax.Array, count: int) -> jax.Array:
    """Returns `count` row numbers, each drawn in proportion to the weights."""
    # In two steps, by blocks: a running sum over all rows is slow, and rounds.
    size = max(1, math.isqrt(weights.shape[0]))
    blocks = jnp.pad(weights, (0, -weights.shape[0] % size)).reshape(-1, size)
    first, second = jax.random.uniform(key, (2, count))
    block = _first_above(jnp.cumsum(jnp.sum(blocks, 1))[None], first[:, None])
    row = _first_above(jnp.cumsum(blocks[block], 1), second[:, None])
    return (block * size + row).astype(jnp.int32)


def _first_above(sums: jax.Array, share: jax.Array) -> jax.Array:
    """Returns where running sums first exceed a share of the last; never where nothing is added."""
    return jnp.argmax(sums > jnp.minimum(share, 1 - 1e-6) * sums[:, -1:], axis=1)


class _Block(NamedTuple):
    """Some rows, compared with the centers.

    Attributes:
        start: the number of the first row.
        is_new: which rows no block before had, of shape (rows,).
        points: as they are seen from the origin, of shape (rows, d).
        nearest: the index of each one's nearest center, of shape (rows,).
        distance: its squared distance, of shape (rows,).
    """

    start: jax.Array
    is_new: jax.Array
    points: jax.Array
    nearest: jax.Array
    distance: jax.Array


def _over_blocks(
    points: jax.Array,
    low: jax.Array | None,
    centers: jax.Array,
    origin: jax.Array | None,
    unit: bool,
    block_rows: int | None,
    visit: Callable[[Any, _Block], Any],
    made: Any,
) -> Any:
    """Returns what `visit(made, block)` makes of one block after the other."""
    n, k = points.shape[0], centers.shape[0]
    if n == 0:
        return made
    rows = n  # a number that is not known yet, as when a model is exported, is one block
    if isinstance(n, int):
        rows = min(max(_BLOCK_CELLS // k, 128) if block_rows is None else block_rows, n)
    padded, norms = _in_lanes(centers, _squared_norms(centers, unit))

    def one_block(number: jax.Array, made: Any) -> Any:
        # The last block overlaps the one before.
        start = jnp.minimum(number * rows, n - rows)
        part = jax.lax.dynamic_slice_in_dim(points, start, rows)
        rest = None if low is None else jax.lax.dynamic_slice_in_dim(low, start, rows)
        block = _seen(part, rest, origin, unit)
        index, score = _nearest_of_block(block, padded, norms)
        distance = jnp.maximum(score + _squared_norms(block, unit), 0)
        is_new = start + jnp.arange(rows) >= number * rows
        return visit(made, _Block(start, is_new, block, jnp.minimum(index, k - 1), distance))

    return jax.lax.fori_loop(0, -(-n // rows), one_block, made)


def _seen(
    points: jax.Array, low: jax.Array | None, origin: jax.Array | None, unit: bool
) -> jax.Array:
    if unit:
        return unit_rows(points.astype(jnp.float32))
    high, rest = in_two_parts(points, low)
    seen = high if origin is None else high - origin
    return seen if rest is None else seen + rest


def _squared_norms(rows: jax.Array, unit: bool) -> jax.Array:
    return jnp.ones(rows.shape[0]) if unit else jnp.sum(rows * rows, 1)


def _in_lanes(centers: jax.Array, norms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the centers, filled up to whole lanes, and their squared norms, infinite there."""
    more = -centers.shape[0] % _LANES
    padded = jnp.pad(norms, (0, more), constant_values=jnp.inf)
    return jnp.pad(centers, ((0, more), (0, 0))), padded


def _nearest_of_block(
    block: jax.Array, centers: jax.Array, norms: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the nearest centers, and their scores |c|^2 - 2 x.c.

    XLA's own argmin is slow on a CPU. This goes over the scores once, lane by lane, and finds the
    first of the best lanes by two plain minima: of the scores, and of the indices of the best.
    """
    products = block @ centers.T
    score = norms[:_LANES] - 2 * products[:, :_LANES]
    offset = jnp.zeros_like(score)
    for start in range(_LANES, centers.shape[0], _LANES):
        lanes = slice(start, start + _LANES)
        other = norms[lanes] - 2 * products[:, lanes]
        offset = jnp.where(other < score, jnp.float32(start), offset)
        score = jnp.minimum(score, other)
    least = jnp.min(score, 1)
    best = jnp.where(score == least[:, None], offset + jnp.arange(_LANES), jnp.inf)
    return jnp.min(best, 1).astype(jnp.int32), least
