"""The input layer: columns side by side, the dense input of a model.

    net = input_layer(features, [numeric_column("age"), embedding_column(city, 16)])

The order of the columns in the list does not matter: they stand in the order of their names.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import estimator as est
from estimator import layers
from feature_columns.columns import (
    CategoricalColumn,
    DenseColumn,
    FeatureColumn,
    Features,
    SequenceColumn,
    SequenceDenseColumn,
    scopes_of,
)


def input_layer(
    features: Features,
    feature_columns: Iterable[DenseColumn] | DenseColumn,
    *,
    trainable: bool = True,
    cols_to_vars: dict[Any, Any] | None = None,
    cols_to_output_tensors: dict[Any, jax.Array] | None = None,
    cols_to_output_slices: dict[Any, slice] | None = None,
    name: str | None = None,
) -> jax.Array:
    """Returns the columns of a batch side by side, in the order of their names.

    >>> import estimator as est
    >>> from feature_columns import numeric_column
    >>> columns, slices = [numeric_column("b"), numeric_column("a", shape=2)], {}
    >>> def net(features):
    ...     return input_layer(features, columns, cols_to_output_slices=slices)
    >>> est.preview(net, {"a": [[1.0, 2.0]], "b": [3.0]})[0].tolist(), slices[columns[0]]
    ([[1.0, 2.0, 3.0]], slice(2, 3, None))

    Args:
        features: the features of a batch by name.
        feature_columns: dense columns of different names.
        trainable: whether the optimizer updates the variables of the columns.
        cols_to_vars: a dict that is filled with the variables of each column.
        cols_to_output_tensors: a dict that is filled with each column's part of the result.
        cols_to_output_slices: a dict that is filled with the slice of the result's last dimension
            that is each column's.
        name: the scope of the variables; `input_layer`, `input_layer_1`, ... by default.

    Returns:
        float32 of shape `(batch, sum of the columns' widths)`.

    Raises:
        ValueError: if there are no columns, two share a name, a feature is missing, or the features
            have different batch sizes.
        TypeError: if one is no dense column.
    """
    columns = checked_columns(feature_columns, "input_layer", check_dense)
    with layers.layer_scope("input_layer", name):
        parts = []
        scopes = scopes_of(column.scope for column in columns)
        for column in columns:
            with est.variable_scope(scopes[column.scope]):
                parts.append(column.dense(features, trainable))
                if cols_to_vars is not None:
                    cols_to_vars[column] = column.variables(trainable)
    check_same_size("input_layer", columns, parts)
    if cols_to_output_tensors is not None:
        cols_to_output_tensors.update(zip(columns, parts, strict=True))
    if cols_to_output_slices is not None:
        cols_to_output_slices.update(zip(columns, slices_of(parts), strict=True))
    return jnp.concatenate(parts, axis=1)


def checked_columns(
    feature_columns: Any, where: str, check: Callable[[Any], str | None]
) -> list[Any]:
    """Returns columns in the order of their names.

    Args:
        feature_columns: one column, or several.
        where: who was given them, for the error message.
        check: returns what is wrong with a column, or None.

    Raises:
        ValueError: if there are no columns, or two share a name.
        TypeError: if they are no columns, or `check` finds something wrong.
    """
    if isinstance(feature_columns, FeatureColumn):
        feature_columns = [feature_columns]
    if isinstance(feature_columns, Mapping | str) or not isinstance(feature_columns, Iterable):
        raise ValueError(
            f"{where}: feature_columns must be a list of columns, got a "
            f"{type(feature_columns).__name__}."
        )
    columns = list(feature_columns)
    if not columns:
        raise ValueError(f"{where}: feature_columns must not be empty: give at least one column.")
    for column in columns:
        wrong = check(column)
        if wrong:
            raise TypeError(f"{where}: {wrong}")
    by_name: dict[str, Any] = {}
    for column in columns:
        other = by_name.setdefault(column.name, column)
        if other is not column:
            raise ValueError(
                f"{where}: two columns have the name {column.name!r}: {other!r} and {column!r}. "
                "Columns need different names: their names order them and name their variables."
            )
    if len(by_name) < len(columns):
        raise ValueError(f"{where}: one column stands twice in {[c.name for c in columns]}.")
    return [by_name[name] for name in sorted(by_name)]


def check_same_size(where: str, columns: list[Any], parts: list[jax.Array]) -> None:
    """Checks that all columns answer for equally many examples.

    Raises:
        ValueError: if they do not.
    """
    sizes = {column.name: part.shape[0] for column, part in zip(columns, parts, strict=True)}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"{where}: the batch size (first dimension) of each feature must be the same, got "
            f"{sizes}."
        )


def slices_of(parts: Iterable[jax.Array]) -> Iterator[slice]:
    """Yields the slice of the last dimension that is each part's, once they stand side by side.

    >>> list(slices_of([jnp.zeros((1, 2)), jnp.zeros((1, 3))]))
    [slice(0, 2, None), slice(2, 5, None)]
    """
    start = 0
    for part in parts:
        yield slice(start, start + part.shape[-1])
        start += part.shape[-1]


def check_dense(column: Any) -> str | None:
    """Returns what keeps a column from being a part of a dense layer, or None.

    >>> check_dense("age")
    "feature_columns must be dense columns, such as numeric_column(key), got 'age'."
    """
    if isinstance(column, DenseColumn):
        return None
    if isinstance(column, CategoricalColumn):
        return (
            f"{column.name} is a categorical column, which has no place in a dense layer. Wrap it: "
            "indicator_column(column), or embedding_column(column, dimension)."
        )
    if isinstance(column, SequenceColumn | SequenceDenseColumn):
        return f"{column.name} is a column of sequences: give it to sequence_input_layer."
    return f"feature_columns must be dense columns, such as numeric_column(key), got {column!r}."
