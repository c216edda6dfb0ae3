"""The linear model: a weight for each number and for each id, and a bias.

    logits = linear_model(features, [numeric_column("age"), city], units=3)

Categorical columns need no wrapping here: each id has a row of weights.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

import estimator as est
from estimator import layers
from feature_columns.columns import (
    CategoricalColumn,
    FeatureColumn,
    Features,
    checked_count,
    scopes_of,
)
from feature_columns.input_layer import check_dense, check_same_size, checked_columns
from feature_columns.lookup import check_combiner, combined


def linear_model(
    features: Features,
    feature_columns: Iterable[FeatureColumn] | FeatureColumn,
    units: int = 1,
    sparse_combiner: str = "sum",
    *,
    trainable: bool = True,
    cols_to_vars: dict[Any, Any] | None = None,
    name: str | None = None,
) -> jax.Array:
    """Returns a linear function of the columns of a batch.

    >>> import numpy as np
    >>> from feature_columns import numeric_column
    >>> values = {"linear_model/x/weights": np.ones((1, 1)), "linear_model/bias_weights": [0.5]}
    >>> def net(features):
    ...     return linear_model(features, numeric_column("x"))
    >>> est.preview(net, {"x": [1.0, 2.0]}, variables=values)[0].tolist()
    [[1.5], [2.5]]

    Args:
        features: the features of a batch by name.
        feature_columns: dense and categorical columns of different names. A column that is both,
            the bucketized one, counts as categorical.
        units: how many numbers to compute for each example.
        sparse_combiner: how the weights of several ids in one row are combined: `"sum"`, `"mean"`
            or `"sqrtn"`, as in `embedding_column`.
        trainable: whether the optimizer updates the weights.
        cols_to_vars: a dict that is filled with the variables of each column, and `"bias"`.
        name: the scope of the variables; `linear_model`, `linear_model_1`, ... by default.

    Returns:
        float32 of shape `(batch, units)`.

    Raises:
        ValueError: if there are no columns, two share a name, a feature is missing, the features
            have different batch sizes, or there is no such combiner.
        TypeError: if one is no dense or categorical column.
    """
    checked_count(units, "units", "linear_model")
    check_combiner(sparse_combiner, "linear_model: sparse_combiner")
    columns = checked_columns(feature_columns, "linear_model", _check_linear)
    with layers.layer_scope("linear_model", name):
        parts = []
        weight_scopes = scopes_of(column.name for column in columns)
        table_scopes = scopes_of(column.scope for column in columns)
        for column in columns:
            scopes = (table_scopes[column.scope], weight_scopes[column.name])
            part, used = _part(column, features, units, sparse_combiner, trainable, *scopes)
            parts.append(part)
            if cols_to_vars is not None:
                cols_to_vars[column] = used
        check_same_size("linear_model", columns, parts)
        zeros = jax.nn.initializers.zeros
        bias = est.get_variable("bias_weights", (units,), zeros, trainable=trainable)
        if cols_to_vars is not None:
            cols_to_vars["bias"] = [bias]
    return jnp.stack(parts).sum(0) + bias


def _part(
    column: Any,
    features: Features,
    units: int,
    sparse_combiner: str,
    trainable: bool,
    table_scope: str,
    weight_scope: str,
) -> tuple[jax.Array, list[jax.Array]]:
    """Returns a column's share of the result, and its variables."""

    def weights(rows: int) -> jax.Array:
        zeros = jax.nn.initializers.zeros
        with est.variable_scope(weight_scope):
            return est.get_variable("weights", (rows, units), zeros, trainable=trainable)

    if isinstance(column, CategoricalColumn):
        table = weights(column.num_buckets)
        ids, factors = column.ids(features, strict=True), column.weights(features)
        prune = sparse_combiner != "sum"
        return combined(table, ids, factors, sparse_combiner, prune=prune), [table]
    with est.variable_scope(table_scope):
        values, used = column.dense(features, trainable), column.variables(trainable)
    kernel = weights(values.shape[1])
    return values @ kernel, [*used, kernel]


def _check_linear(column: Any) -> str | None:
    return None if isinstance(column, CategoricalColumn) else check_dense(column)
