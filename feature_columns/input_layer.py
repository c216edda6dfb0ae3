"""The input layer: columns side by side, the dense input of a model.

    net = input_layer(features, [numeric_column("age"), numeric_column("height")])

The order of the columns in the list does not matter.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from estimator import layers
from feature_columns.columns import DenseColumn


def input_layer(
    features: Mapping[str, Any], feature_columns: Sequence[DenseColumn] | DenseColumn
) -> jax.Array:
    """Returns the columns of a batch side by side, in the order of their names.

    Args:
        features: the features of a batch by name.
        feature_columns: columns of different names.

    Returns:
        float32 of shape `(batch, sum of the columns' widths)`.

    Raises:
        ValueError: if there are no columns, two share a name, or a feature is missing.
        TypeError: if one is no column.
    """
    columns = [feature_columns] if isinstance(feature_columns, DenseColumn) else [*feature_columns]
    for column in columns:
        if not isinstance(column, DenseColumn):
            raise TypeError(
                f"input_layer: feature_columns must be dense columns, such as numeric_column(key), "
                f"got {column!r}."
            )
    names = [column.name for column in columns]
    if not columns or len(set(names)) < len(names):
        raise ValueError(
            f"input_layer: needs columns of different names, at least one, got {sorted(names)}."
        )
    with layers.layer_scope("input_layer", None):
        ordered = sorted(columns, key=lambda column: column.name)
        return jnp.concatenate([column.dense(features) for column in ordered], axis=1)
