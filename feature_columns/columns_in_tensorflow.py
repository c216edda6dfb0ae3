"""TensorFlow forms of the columns: their ids and numbers by TensorFlow's ops, for a SavedModel.

They are the ids of the host, of dense features: rows are filled up with `""`, -1 or NaN.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import estimator as est
from feature_columns.bucketized import BucketizedColumn
from feature_columns.categorical import (
    CategoryWeights,
    HashedColumn,
    IdentityColumn,
    KeyedColumn,
    WeightedColumn,
)
from feature_columns.columns import CategoryIds
from feature_columns.crossed import DEFAULT_HASH_KEY, CrossedColumn
from feature_columns.numeric import NoMissingNumbers, NumericValues
from feature_columns.sequence_categorical import SequenceCategoricalColumn, SequenceIds
from feature_columns.sequence_input_layer import SequenceLengths
from feature_columns.sequence_numeric import SequenceNumericColumn, SequenceValues
from feature_columns.vocabulary import VocabularyColumn


class Rows(NamedTuple):
    """A raw feature.

    Attributes:
        values: a tensor of shape `(batch, count)` or `(batch, steps, count)`.
        is_flat: whether it came as one value a row.
    """

    values: Any
    is_flat: Any


Raw = Mapping[str, Rows]


@functools.singledispatch
def ids_of(column: Any, graph: est.export.Graph, raw: Raw) -> Any:
    """Returns the ids of a categorical column, int64 of the shape of its feature; -1 is none.

    Args:
        column: the column.
        graph: what to build with.
        raw: the features by key.

    Raises:
        TypeError: if the column has no such form.
    """
    raise TypeError(f"{column.where} has no form in TensorFlow.")


@ids_of.register
def _(column: IdentityColumn, graph: est.export.Graph, raw: Raw) -> Any:
    tf = graph.tf
    ids = tf.cast(raw[column.key].values, tf.int64)
    if column.default_value is None:
        return ids
    outside = (ids < 0) | (ids >= column.number_buckets)
    default = tf.constant(column.default_value, tf.int64)
    return tf.where(outside & (ids != -1), default, ids)


@ids_of.register
def _(column: HashedColumn, graph: est.export.Graph, raw: Raw) -> Any:
    tf = graph.tf
    values = raw[column.key].values
    ids = tf.strings.to_hash_bucket_fast(_texts(graph, values), column.hash_bucket_size)
    return tf.where(_are_there(graph, values), ids, tf.constant(-1, tf.int64))


@ids_of.register
def _(column: VocabularyColumn, graph: est.export.Graph, raw: Raw) -> Any:
    tf = graph.tf
    values = raw[column.key].values
    ids = graph.places(column.words, values)
    if column.num_oov_buckets:
        hashes = tf.strings.to_hash_bucket_fast(_texts(graph, values), column.num_oov_buckets)
        ids = tf.where(ids < 0, column.size + hashes, ids)
    else:
        ids = tf.where(ids < 0, tf.constant(column.default_value, tf.int64), ids)
    return tf.where(_are_there(graph, values), ids, tf.constant(-1, tf.int64))


@ids_of.register
def _(column: BucketizedColumn, graph: est.export.Graph, raw: Raw) -> Any:
    tf = graph.tf
    source = column.source_column
    values = raw[source.key].values
    values = tf.reshape(_numbers(graph, source, values), [tf.shape(values)[0], source.width])
    buckets = tf.raw_ops.Bucketize(input=values, boundaries=list(column.boundaries))
    offsets = tf.range(source.width, dtype=tf.int64) * (len(column.boundaries) + 1)
    return tf.cast(buckets, tf.int64) + offsets


@ids_of.register
def _(column: WeightedColumn, graph: est.export.Graph, raw: Raw) -> Any:
    return ids_of(column.categorical_column, graph, raw)


@ids_of.register
def _(column: CrossedColumn, graph: est.export.Graph, raw: Raw) -> Any:
    tf = graph.tf
    crossed = []
    for leaf in column.leaves:
        if isinstance(leaf, str):  # an empty string is a value, unless it fills up a row
            values = raw[leaf].values
            there = tf.cast(_are_there(graph, values), tf.int32)
            there = raw[leaf].is_flat | (tf.cumsum(there, axis=1, reverse=True) > 0)
        else:
            values = ids_of(leaf, graph, raw)
            there = _have_ids(graph, leaf, values, raw)
        places = tf.where(there)
        crossed.append(
            tf.SparseTensor(places, tf.gather_nd(values, places), tf.shape(values, tf.int64))
        )
    key = (column.hash_key or DEFAULT_HASH_KEY) % 2**64
    made = tf.sparse.cross_hashed(crossed, column.hash_bucket_size, hash_key=_signed(key))
    return tf.sparse.to_dense(made, default_value=-1)


@est.export.tensorflow_form.register
def _(recipe: CategoryIds, graph: est.export.Graph, features: Any, labels: Any) -> Any:
    raw = _raw_rows(graph, recipe, features, labels, steps=False)
    ids = ids_of(recipe.column, graph, raw)
    return _in_range(graph, recipe.column, ids, recipe.strict)


@est.export.tensorflow_form.register
def _(recipe: SequenceIds, graph: est.export.Graph, features: Any, labels: Any) -> Any:
    raw = _raw_rows(graph, recipe, features, labels, steps=True)
    column = recipe.column.categorical_column
    return _in_range(graph, column, ids_of(column, graph, raw), recipe.strict)


@est.export.tensorflow_form.register
def _(recipe: CategoryWeights, graph: est.export.Graph, features: Any, labels: Any) -> Any:
    tf = graph.tf
    raw = _raw_rows(graph, recipe, features, labels, steps=False)
    column = recipe.column.categorical_column
    ids = ids_of(column, graph, raw)
    there = _have_ids(graph, column, ids, raw)
    weights = tf.cast(raw[recipe.column.weight_feature_key].values, tf.float32)
    width = tf.shape(ids)[1]
    lacking = tf.maximum(width - tf.shape(weights)[1], 0)
    weights = tf.pad(weights, [[0, 0], [0, lacking]], constant_values=float("nan"))
    idle = weights[:, width:]
    where = f"{recipe.column.where}: there must be one weight for each value."
    weights = graph.checked(weights[:, :width], tf.math.is_nan(idle) | (idle == 0), where)
    weights = graph.checked(weights, ~(there & tf.math.is_nan(weights)), where)
    return tf.where(there, weights, 0.0)


@est.export.tensorflow_form.register
def _(recipe: NumericValues, graph: est.export.Graph, features: Any, labels: Any) -> Any:
    value = est.raw_value(recipe.paths[recipe.column.key], features, labels)
    if recipe.exact:
        message = f"{recipe.column.where}: float32 does not hold a value."
        same = graph.tf.cast(graph.tf.cast(value, graph.tf.float32), value.dtype) == value
        whole = graph.tf.constant(not value.dtype.is_integer)
        value = graph.checked(value, same | whole, message)
    return _numbers(graph, recipe.column, value)


@est.export.tensorflow_form.register
def _(check: NoMissingNumbers, graph: est.export.Graph, value: Any) -> Any:
    if not value.dtype.is_floating:
        return value
    message = f"numeric_column({check.key}): a value is missing."
    return graph.checked(value, ~graph.tf.math.is_nan(value), message)


@est.export.tensorflow_form.register
def _(recipe: SequenceValues, graph: est.export.Graph, features: Any, labels: Any) -> Any:
    value = est.raw_value(recipe.paths[recipe.column.key], features, labels)
    return _steps_of(graph, recipe.column, value)


@est.export.tensorflow_form.register
def _(recipe: SequenceLengths, graph: est.export.Graph, features: Any, labels: Any) -> Any:
    tf = graph.tf
    found, certain = [], []
    for column in recipe.columns:
        if isinstance(column, SequenceCategoricalColumn):
            raw = _raw_rows(graph, recipe, features, labels, steps=True, keys=column.keys)
            (key,) = column.keys
            there = tf.reduce_any(_are_there(graph, raw[key].values), axis=-1)
        elif isinstance(column, SequenceNumericColumn):
            value = est.raw_value(recipe.paths[column.key], features, labels)
            there = tf.reduce_any(~tf.math.is_nan(_steps_of(graph, column, value)), axis=-1)
        else:
            raise TypeError(f"{column.where} has no form in TensorFlow.")
        steps = tf.shape(there)[1]
        lengths = tf.reduce_max(tf.where(there, tf.range(1, steps + 1), 0), axis=1)
        found.append(tf.maximum(lengths, 0))  # the largest of none is the smallest number
        # Numbers at the end of a row may be padding.
        is_sure = isinstance(column, SequenceCategoricalColumn)
        certain.append(tf.fill(tf.shape(lengths), True) if is_sure else lengths < steps)
    lengths, sure = tf.stack(found), tf.stack(certain)
    first = tf.argmax(tf.cast(sure, tf.int32), axis=0)
    agreed = tf.gather(tf.transpose(lengths), first, batch_dims=1)
    exact = sure | ~tf.reduce_any(sure, axis=0)
    fits = tf.where(exact, lengths == agreed, lengths >= agreed)
    return graph.checked(agreed, fits, "The sequences of one example must have one length.")


def _raw_rows(
    graph: est.export.Graph, recipe: Any, features: Any, labels: Any, steps: bool, keys: Any = None
) -> Raw:
    """Returns features by key, of two dimensions, or, of `steps`, three."""
    tf = graph.tf
    raw = {}
    for key in recipe.paths if keys is None else keys:
        value = est.raw_value(recipe.paths[key], features, labels)
        shape = tf.shape(value)
        if steps:
            sizes = [shape[0], tf.reduce_prod(shape[1:2]), tf.reduce_prod(shape[2:])]
        else:
            message = f"{key} must have the shape (batch,) or (batch, values)."
            value = graph.checked(value, tf.rank(value) < 3, message)
            sizes = [shape[0], tf.reduce_prod(shape[1:])]
        raw[key] = Rows(tf.reshape(value, sizes), tf.rank(value) < 2)
    return raw


def _numbers(graph: est.export.Graph, column: Any, value: Any) -> Any:
    """Returns float32 of shape `(batch, *shape)` for a numeric column."""
    tf = graph.tf
    value = tf.reshape(tf.cast(value, tf.float32), [tf.shape(value)[0], *column.shape])
    if column.default_value is None:
        message = f"{column.where}: a value is missing."
        return graph.checked(value, ~tf.math.is_nan(value), message)
    return tf.where(tf.math.is_nan(value), tf.constant(column.default_value, tf.float32), value)


def _steps_of(graph: est.export.Graph, column: SequenceNumericColumn, value: Any) -> Any:
    """Returns float32 of shape `(batch, steps, width)`; flat rows are taken apart into steps."""
    tf = graph.tf
    value = tf.cast(value, tf.float32)
    batch, width = tf.shape(value)[0], tf.reduce_prod(tf.shape(value)[2:])
    message = f"{column.where}: a step must have {column.width} values, or rows be flat."
    value = graph.checked(value, (tf.rank(value) < 3) | (width == column.width), message)
    flat = tf.reshape(value, [batch, tf.reduce_prod(tf.shape(value)[1:])])
    lacking = -tf.shape(flat)[1] % column.width
    flat = tf.pad(flat, [[0, 0], [0, lacking]], constant_values=float("nan"))
    return tf.reshape(flat, [batch, tf.shape(flat)[1] // column.width, column.width])


def _have_ids(graph: est.export.Graph, column: Any, ids: Any, raw: Raw) -> Any:
    """Returns which places hold a value, with an id or without."""
    if isinstance(column, KeyedColumn):
        return _are_there(graph, raw[column.key].values)
    return ids != -1


def _are_there(graph: est.export.Graph, values: Any) -> Any:
    """Returns which strings or integers stand for a value."""
    return values != ("" if values.dtype == graph.tf.string else -1)


def _texts(graph: est.export.Graph, values: Any) -> Any:
    """Returns what is hashed: strings as they are, integers as decimal strings."""
    return values if values.dtype == graph.tf.string else graph.tf.strings.as_string(values)


def _in_range(graph: est.export.Graph, column: Any, ids: Any, strict: bool) -> Any:
    """Returns int32 ids that the column has, and -1 for others."""
    tf = graph.tf
    high = ids >= column.num_buckets
    if strict:
        message = f"{column.where}: an id is not below {column.num_buckets}."
        ids = graph.checked(ids, ~high, message)
    return tf.cast(tf.where(high | (ids < 0), tf.constant(-1, tf.int64), ids), tf.int32)


def _signed(key: int) -> int:
    """Returns an unsigned 64-bit number as the signed one of the same bits."""
    return key - 2**64 if key >= 2**63 else key
