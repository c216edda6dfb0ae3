"""The sequence input layer: columns of sequences side by side, step by step.

    steps, lengths = sequence_input_layer(features, [embedding_column(words, 16), temperature])

Sequences of a batch are padded to one length, which is a round number: few lengths compile few
programs. `lengths` tells the true ones; what stands behind them never counts.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
from estimator import layers
from feature_columns.columns import (
    Features,
    SequenceColumn,
    SequenceDenseColumn,
    raw_paths,
    scopes_of,
)
from feature_columns.input_layer import check_same_size, checked_columns


def sequence_input_layer(
    features: Features,
    feature_columns: Iterable[SequenceDenseColumn] | SequenceDenseColumn,
    *,
    trainable: bool = True,
    name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns columns of sequences side by side, in the order of their names, and the lengths.

    >>> from feature_columns import sequence_numeric_column
    >>> def net(features):
    ...     return sequence_input_layer(features, sequence_numeric_column("x"))
    >>> steps, lengths = est.preview(net, {"x": [[1.0, 2.0, 3.0], [4.0]]})[0]
    >>> steps.shape, steps[1, :, 0].tolist(), lengths.tolist()
    ((2, 4, 1), [4.0, 0.0, 0.0, 0.0], [3, 1])

    Args:
        features: the features of a batch by name.
        feature_columns: embeddings or indicators of sequence categorical columns, and sequence
            numeric columns, of different names.
        trainable: whether the optimizer updates the variables of the columns.
        name: the scope of the variables; `sequence_features`, ... by default.

    Returns:
        float32 of shape `(batch, steps, sum of the columns' widths)`, padded to a round number of
        steps (`RunConfig(length_buckets=)`), and int32 of shape `(batch,)`, the true lengths.

    Raises:
        ValueError: if there are no columns, two share a name, a feature is missing, or sequences of
            one example differ in length.
        TypeError: if one is no column of sequences.
    """
    columns = checked_columns(feature_columns, "sequence_input_layer", _check_sequence)
    with layers.layer_scope("sequence_features", name):
        parts = []
        scopes = scopes_of(column.scope for column in columns)
        for column in columns:
            with est.variable_scope(scopes[column.scope]):
                parts.append(column.sequence(features, trainable))
    check_same_size("sequence_input_layer", columns, parts)
    lengths = est.host_feature(sequence_lengths(features, columns))
    steps = max(part.shape[1] for part in parts)
    filled = [_filled(column, part, steps) for column, part in zip(columns, parts, strict=True)]
    return jnp.concatenate(filled, axis=2), lengths


def sequence_lengths(
    features: Features, feature_columns: Iterable[SequenceDenseColumn] | SequenceDenseColumn
) -> est.HostRecipe:
    """Returns the host recipe that makes the lengths of the sequences of a batch.

    >>> from feature_columns import sequence_numeric_column
    >>> def net(features):
    ...     return est.host_feature(sequence_lengths(features, sequence_numeric_column("x")))
    >>> est.preview(net, {"x": [[1.0, 2.0, 3.0], [4.0]]})[0].tolist()
    [3, 1]

    Args:
        features: the features of a batch by name.
        feature_columns: as for `sequence_input_layer`.

    Returns:
        A recipe that makes int32 of shape `(batch,)`.

    Raises:
        ValueError, TypeError: as `sequence_input_layer`.
    """
    columns = checked_columns(feature_columns, "sequence_input_layer", _check_sequence)
    sources = tuple(column.source for column in columns)
    keys = [key for source in sources for key in source.keys]
    return SequenceLengths(sources, raw_paths(keys, features, "sequence_input_layer"))


def concatenate_context_input(context_input: Any, sequence_input: Any) -> jax.Array:
    """Returns a sequence with the same context at the end of each step.

    >>> concatenate_context_input(jnp.ones((2, 1)), jnp.zeros((2, 3, 4))).shape
    (2, 3, 5)

    Args:
        context_input: floats of shape `(batch, context)`.
        sequence_input: floats of shape `(batch, steps, width)`.

    Returns:
        Floats of shape `(batch, steps, width + context)`.

    Raises:
        ValueError: if they have other ranks, or different batch sizes.
    """
    context, steps = jnp.asarray(context_input), jnp.asarray(sequence_input)
    if context.ndim != 2 or steps.ndim != 3 or context.shape[0] != steps.shape[0]:
        raise ValueError(
            "concatenate_context_input: needs context_input of shape (batch, context) and "
            f"sequence_input of shape (batch, steps, width), got {context.shape} and {steps.shape}."
        )
    shape = (*steps.shape[:2], context.shape[1])
    repeated = jnp.broadcast_to(context[:, None, :].astype(steps.dtype), shape)
    return jnp.concatenate([steps, repeated], axis=2)


@dataclasses.dataclass(frozen=True)
class SequenceLengths(est.HostRecipe):
    """The lengths that the columns of a sequence input layer agree on."""

    may_hold_functions = True

    columns: tuple[SequenceColumn, ...]
    paths: Mapping[str, tuple[Any, ...]]
    dtype = np.dtype(np.int32)
    dims = ("batch",)
    takes_floats = None

    @property
    def reads(self) -> frozenset[tuple[Any, ...]]:
        """The paths of the features of all columns."""
        return frozenset(map(tuple, self.paths.values()))

    @functools.cached_property
    def name(self) -> str:
        """Names the columns, and tells them from others of their names."""
        moved = {key: path for key, path in self.paths.items() if path != ("features", key)}
        columns = ", ".join(f"{column.name}-{column.digest}" for column in self.columns)
        return f"SequenceLengths({columns}{moved or ''})"

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns int32 of shape `(batch,)`.

        Raises:
            ValueError: if two columns have different lengths in one row.
        """
        raw = {key: est.raw_value(path, features, labels) for key, path in self.paths.items()}
        found = [column.host_lengths(raw) for column in self.columns]
        lengths, certain = (np.stack(arrays) for arrays in zip(*found, strict=True))
        # A row that may be padded is long enough; where all may be, they must be equally long.
        first = certain.argmax(0)
        agreed = np.take_along_axis(lengths, first[None], axis=0)
        exact = certain | ~certain.any(0)
        wrong = np.where(exact, lengths != agreed, lengths < agreed)
        if wrong.any():
            column, row = (int(i) for i in np.argwhere(wrong)[0])
            names = [self.columns[i].name for i in (first[row], column)]
            raise ValueError(
                "sequence_input_layer: the sequences of one example must have one length, but in "
                f"row {row} {names[0]} has {agreed[0, row]} steps and {names[1]} "
                f"{lengths[column, row]}. Cut or fill one of them in input_fn."
            )
        return np.asarray(agreed[0], np.int32)


def _filled(column: SequenceDenseColumn, part: jax.Array, steps: int) -> jax.Array:
    """Returns a column's part with as many steps as the longest has."""
    missing = steps - part.shape[1]
    return jnp.pad(part, ((0, 0), (0, missing), (0, 0)), constant_values=column.padding)


def _check_sequence(column: Any) -> str | None:
    if not isinstance(column, SequenceDenseColumn):
        return (
            "feature_columns must be columns of sequences: embedding_column or indicator_column of "
            "a sequence_categorical_column_with_..., or sequence_numeric_column; got "
            f"{column!r}."
        )
    return None
