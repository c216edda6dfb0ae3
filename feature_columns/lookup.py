"""Lookups: ids of a batch become floats, on the device.

    combined(table, ids, weights, "mean")       # the rows of a table, combined
    counted(ids, weights, num_buckets)          # how often each id occurs

Law: an id of -1 adds nothing, so padding never changes a result.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import estimator as est

COMBINERS = ("mean", "sqrtn", "sum")

Initializer = Callable[[jax.Array, tuple[int, ...], Any], Any]


def combined(
    table: jax.Array,
    ids: jax.Array,
    weights: jax.Array | None,
    combiner: str,
    max_norm: float | None = None,
    prune: bool = False,
) -> jax.Array:
    """Returns the rows of a table for the ids in the last dimension, combined.

    >>> combined(jnp.array([[1.0], [3.0]]), jnp.array([[0, 1], [1, -1]]), None, "mean").tolist()
    [[2.0], [3.0]]

    Args:
        table: floats of shape `(ids, dimension)`.
        ids: integers of shape `(..., count)`; -1 is none.
        weights: floats of the shape of the ids, or None.
        combiner: `"mean"`, `"sqrtn"` or `"sum"`.
        max_norm: longer rows are scaled down to it.
        prune: whether ids count whose weight is not positive.

    Returns:
        Floats of shape `(..., dimension)`.

    Source: TensorFlow, `safe_embedding_lookup_sparse`.
    """
    there = ids >= 0
    if weights is not None and prune:
        there = there & (weights > 0)
    rows = table[jnp.where(there, ids, 0)]
    if max_norm is not None:
        rows = rows * _scale_to(rows, max_norm)
    ones = there.astype(rows.dtype)
    factors = ones if weights is None else jnp.where(there, weights, 0).astype(rows.dtype)
    if ids.shape[-1] == 1 and weights is None:
        return rows[..., 0, :] * factors
    total = jnp.sum(rows * factors[..., None], axis=-2)
    if combiner == "sum":
        return total
    size = jnp.sum(factors, -1) if combiner == "mean" else jnp.sqrt(jnp.sum(factors**2, -1))
    empty = size == 0
    return jnp.where(empty[..., None], 0, total / jnp.where(empty, 1, size)[..., None])


def counted(ids: jax.Array, weights: jax.Array | None, num_buckets: int) -> jax.Array:
    """Returns how often each id occurs in the last dimension, or the sum of its weights.

    >>> counted(jnp.array([[2, 2, -1]]), None, 3).tolist()
    [[0.0, 0.0, 2.0]]

    Args:
        ids: integers of shape `(..., count)`; -1 is none.
        weights: floats of the shape of the ids, or None.
        num_buckets: how many ids there are.

    Returns:
        float32 of shape `(..., num_buckets)`.
    """
    *outer, count = ids.shape
    values = jnp.ones(ids.shape, jnp.float32) if weights is None else weights
    flat = ids.reshape(math.prod(outer), count)
    # What is no id goes out of range, where it is dropped.
    places = jnp.where(flat >= 0, flat, num_buckets)
    rows = jnp.arange(flat.shape[0])[:, None]
    counts = jnp.zeros((flat.shape[0], num_buckets), jnp.float32)
    counts = counts.at[rows, places].add(values.reshape(flat.shape), mode="drop")
    return counts.reshape(*outer, num_buckets)


def truncated_normal(dimension: int) -> Initializer:
    """Returns TensorFlow's initializer of embeddings: standard deviation `1 / sqrt(dimension)`.

    What lies more than two standard deviations away is drawn again.

    >>> float(truncated_normal(4)(jax.random.key(0), (1000,), jnp.float32).max()) < 1.0
    True
    """

    def initializer(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        drawn = jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)
        return drawn / math.sqrt(dimension)

    return initializer


def check_combiner(combiner: Any, where: str) -> None:
    """Checks that there is such a combiner.

    Raises:
        ValueError: if there is not.
    """
    if combiner not in COMBINERS:
        raise ValueError(
            f"{where}: combiner must be one of {COMBINERS}, got {combiner!r}."
            f"{est.did_you_mean(str(combiner), COMBINERS)}"
        )


def _scale_to(rows: jax.Array, max_norm: float) -> jax.Array:
    squares = jnp.sum(rows**2, axis=-1, keepdims=True)
    long = squares > max_norm**2
    # The root of a stand-in: at zero its gradient is infinite, and 0 * inf is NaN.
    return jnp.where(long, max_norm / jnp.sqrt(jnp.where(long, squares, 1)), 1)
