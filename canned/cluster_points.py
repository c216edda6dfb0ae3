"""The points of a clustering: what a batch of features holds, in a model_fn.

    points = points_of(features, columns=None, weight_column="weight")
    points.values, points.low, points.weights

Points are an array of rows, columns of a dict side by side, or what feature columns make of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import estimator as est
from canned.cluster_reports import PointCheck
from canned.clustering import in_two_parts
from feature_columns import input_layer


class Points(NamedTuple):
    """Points as a model_fn has them.

    Attributes:
        values: numbers of any dtype, of shape (n, d).
        low: what float32 values do not hold of the points, of shape (n, d); None: nothing.
        weights: how often each point counts, of shape (n,); None: once.
    """

    values: jax.Array
    low: jax.Array | None
    weights: jax.Array | None

    @property
    def is_wide(self) -> bool:
        """Whether the points have more digits than float32 holds."""
        return in_two_parts(self.values, self.low)[1] is not None


def points_of(features: Any, columns: Sequence[Any] | None, weight_column: str | None) -> Points:
    """Returns the points and their weights that a batch holds.

    Args:
        features: an array of rows, or a dict of arrays.
        columns: what of a dict makes the points; None: all arrays, side by side, by their names.
        weight_column: the name of the weights in a dict; None: each point counts once.

    Raises:
        ValueError: if the features are no points, or hold no weights.
    """
    weights = None
    if weight_column is not None:
        if not isinstance(features, Mapping) or weight_column not in features:
            there = sorted(features) if isinstance(features, Mapping) else "no dict"
            raise ValueError(
                f'KMeans: weight_column is "{weight_column}", but the features are {there}.'
            )
        weights = jnp.ravel(jnp.asarray(features[weight_column], jnp.float32))
    if columns is not None:
        return Points(input_layer(features, columns), None, weights)
    if not isinstance(features, Mapping):
        return Points(*_as_rows("the features", features), weights)
    names = sorted(name for name in features if name != weight_column)
    if not names:
        raise ValueError("KMeans: the dict of features holds no points.")
    parts = [_as_rows(f'features["{name}"]', features[name], in_dict=True) for name in names]
    if len({rows.dtype for rows, _ in parts}) > 1:
        parts = [in_two_parts(*part) for part in parts]
    rows, lows = zip(*parts, strict=True)
    if all(low is None for low in lows):
        return Points(jnp.concatenate(rows, 1), None, weights)
    filled = [jnp.zeros(part.shape) if low is None else low for part, low in parts]
    return Points(jnp.concatenate(rows, 1), jnp.concatenate(filled, 1), weights)


def check_points(features: Any, columns: Sequence[Any] | None, weight_column: str | None) -> None:
    """Has the raw values looked at on the host: a step cannot say which row is wrong.

    Args:
        features, columns, weight_column: as for `points_of`.
    """
    if isinstance(features, Mapping):
        named = {f'features["{name}"]': name for name in features}
    else:
        named = {"the features": None}
    for shown, name in named.items():
        value = features if name is None else features[name]
        is_weight = name is not None and name == weight_column
        # Columns check their own features.
        if (columns is None or is_weight) and isinstance(value, jax.Array):
            est.host_check(value, PointCheck(shown, value.ndim, is_weight))


def _as_rows(name: str, values: Any, in_dict: bool = False) -> tuple[jax.Array, jax.Array | None]:
    """Returns points, of shape (n, d), and what float32 does not hold of them."""
    low = est.low_part(values)
    rows = jnp.asarray(values)
    if rows.ndim == 1 and in_dict:
        rows, low = rows[:, None], None if low is None else low[:, None]
    if rows.ndim != 2:
        raise ValueError(
            f"KMeans: {name} must be points in rows, of shape (n, d), got shape {rows.shape}. "
            "Points of one number are points.reshape(-1, 1)."
        )
    return rows, low
