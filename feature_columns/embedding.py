"""Embedding and indicator columns: ids become floats.

    embedding_column(city, dimension=16)        # a row of a table for each id, combined
    indicator_column(color)                     # how often each id occurs
    shared_embedding_columns([start, goal], 16) # one table for several columns

Several ids in one row are combined: their mean, their sum, or the sum divided by the root of the
sum of squares. A row without ids is zeros.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import estimator as est
from feature_columns.categorical import WeightedColumn, checked_categorical
from feature_columns.columns import (
    CategoricalColumn,
    DenseColumn,
    Features,
    SequenceColumn,
    SequenceDenseColumn,
    checked_count,
    safe_name,
)
from feature_columns.lookup import (
    Initializer,
    check_combiner,
    combined,
    counted,
    truncated_normal,
)
from feature_columns.parse_spec import ParseSpec
from feature_columns.sequence_categorical import SequenceCategoricalColumn


@dataclasses.dataclass(frozen=True)
class OfCategories(DenseColumn, SequenceDenseColumn):
    """What embedding and indicator columns have in common."""

    categorical_column: CategoricalColumn | SequenceCategoricalColumn

    @property
    def keys(self) -> tuple[str, ...]:
        """The features of the categorical column."""
        return self.categorical_column.keys

    @property
    def parse_spec(self) -> ParseSpec:
        """That of the categorical column."""
        return self.categorical_column.parse_spec

    @property
    def source(self) -> SequenceColumn:
        """The categorical column, if it is one of sequences.

        Raises:
            ValueError: if it is not.
        """
        if not isinstance(self.categorical_column, SequenceCategoricalColumn):
            raise ValueError(
                f"{self.name}: the categorical column must be one of sequences in a sequence "
                f"input layer, got {self.categorical_column!r}. Use "
                "sequence_categorical_column_with_..., or give the column to input_layer."
            )
        return self.categorical_column

    @property
    def _of_rows(self) -> CategoricalColumn:
        if isinstance(self.categorical_column, SequenceCategoricalColumn):
            raise ValueError(
                f"{self.name}: the categorical column is one of sequences, "
                f"{self.categorical_column!r}: its steps have no place in a row. Give this to "
                "sequence_input_layer, or use categorical_column_with_..."
            )
        return self.categorical_column


@dataclasses.dataclass(frozen=True)
class IndicatorColumn(OfCategories):
    """How often each id occurs in a row; made by `indicator_column`."""

    @property
    def name(self) -> str:
        """The name of the categorical column, and what was done to it."""
        return f"{self.categorical_column.name}_indicator"

    def dense(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns floats of shape `(batch, num_buckets)`: counts, or sums of weights."""
        del trainable
        column = self._of_rows
        return counted(column.ids(features), column.weights(features), column.num_buckets)

    def sequence(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns floats of shape `(batch, steps, num_buckets)`."""
        del trainable
        column = self.source
        assert isinstance(column, SequenceCategoricalColumn)
        return counted(column.ids(features), None, column.num_buckets)


@dataclasses.dataclass(frozen=True)
class EmbeddingColumn(OfCategories):
    """A row of a table for each id, combined; made by `embedding_column`.

    `shared_as` names a table that other columns share; with a slash before it, in no scope.
    """

    dimension: int
    combiner: str
    initializer: Any
    ckpt_to_load_from: str | None
    tensor_name_in_ckpt: str | None
    max_norm: float | None
    trainable: bool
    use_safe_embedding_lookup: bool
    shared_as: str | None = None

    @property
    def name(self) -> str:
        """The name of the categorical column, and what was done to it."""
        kind = "embedding" if self.shared_as is None else "shared_embedding"
        return f"{self.categorical_column.name}_{kind}"

    @property
    def scope(self) -> str:
        """What the scope of the table is named after."""
        return self.shared_as or self.name

    def dense(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns floats of shape `(batch, dimension)`."""
        column = self._of_rows
        ids, weights = column.ids(features, strict=True), column.weights(features)
        return self._looked_up(self.table(trainable), ids, weights)

    def sequence(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns floats of shape `(batch, steps, dimension)`."""
        column = self.source
        assert isinstance(column, SequenceCategoricalColumn)
        return self._looked_up(self.table(trainable), column.ids(features, strict=True), None)

    def variables(self, trainable: bool = True) -> list[jax.Array]:
        """Returns the table."""
        return [self.table(trainable)]

    def table(self, trainable: bool = True) -> jax.Array:
        """Returns the table, float32 of shape `(num_buckets, dimension)`; a shared one by its name.

        Raises:
            ValueError: if another table is shared under that name.
        """
        shape = (self.categorical_column.num_buckets, self.dimension)
        trainable = trainable and self.trainable

        def make() -> jax.Array:
            whole = self.shared_as is not None and self.shared_as.startswith("/")
            name = f"/{safe_name(self.scope)}" if whole else "embedding_weights"
            return est.get_variable(name, shape, self._initializer(), np.float32, trainable)

        if self.shared_as is None:
            return make()
        made: jax.Array = est.shared(f"shared_embedding {self.shared_as}", make)
        if made.shape != shape:
            raise ValueError(
                f"{self.name}: the shared table {self.shared_as!r} has shape {made.shape}, but "
                f"this column needs {shape}. Give one of the two another "
                "shared_embedding_collection_name."
            )
        return made

    def _initializer(self) -> Any:
        path, name = self.ckpt_to_load_from, self.tensor_name_in_ckpt
        if path is not None and name is not None:
            return lambda key, shape, dtype: est.load_variable(path, name)
        return truncated_normal(self.dimension) if self.initializer is None else self.initializer

    def _looked_up(self, table: jax.Array, ids: jax.Array, weights: jax.Array | None) -> jax.Array:
        prune = self.combiner != "sum" and self.use_safe_embedding_lookup
        return combined(table, ids, weights, self.combiner, self.max_norm, prune)


def indicator_column(
    categorical_column: CategoricalColumn | SequenceCategoricalColumn,
) -> IndicatorColumn:
    """Returns a column that counts how often each id occurs in a row.

    >>> from feature_columns.categorical import categorical_column_with_identity
    >>> indicator_column(categorical_column_with_identity("product", 1000)).name
    'product_indicator'

    Args:
        categorical_column: a categorical column, or one of sequences. With a weighted one the
            weights are added up.

    Raises:
        ValueError: if it is none.
    """
    _check_any_categorical(categorical_column, "indicator_column")
    return IndicatorColumn(categorical_column)


def embedding_column(
    categorical_column: CategoricalColumn | SequenceCategoricalColumn,
    dimension: int,
    combiner: str = "mean",
    initializer: Initializer | np.ndarray | None = None,
    ckpt_to_load_from: str | None = None,
    tensor_name_in_ckpt: str | None = None,
    max_norm: float | None = None,
    trainable: bool = True,
    use_safe_embedding_lookup: bool = True,
) -> EmbeddingColumn:
    """Returns a column that has a trained row of floats for each id.

    >>> from feature_columns.categorical import categorical_column_with_hash_bucket
    >>> city = categorical_column_with_hash_bucket("city", 1000)
    >>> embedding_column(city, dimension=16).name
    'city_embedding'

    Args:
        categorical_column: a categorical column, or one of sequences.
        dimension: the size of a row.
        combiner: how several ids of one row, or of one step, become one row: `"mean"`, `"sqrtn"` or
            `"sum"`, weighted where the column is. Mean and sqrtn leave out ids whose weight is not
            positive.
        initializer: a JAX initializer `(key, shape, dtype) -> array`, or an array; by default a
            truncated normal with standard deviation `1 / sqrt(dimension)`.
        ckpt_to_load_from: a model_dir or checkpoint whose table is the first value.
        tensor_name_in_ckpt: the name of that table there.
        max_norm: rows that are longer, in the Euclidean norm, are scaled down to it.
        trainable: whether the optimizer updates the table.
        use_safe_embedding_lookup: False keeps ids whose weight is not positive.

    Raises:
        ValueError: if it is no categorical column, the dimension is below 1, there is no such
            combiner, the initializer is no function, or one of checkpoint and name is missing.
    """
    _check_any_categorical(categorical_column, "embedding_column")
    where = f"embedding_column({categorical_column.name})"
    settings = _checked_settings(
        where,
        dimension,
        combiner,
        initializer,
        ckpt_to_load_from,
        tensor_name_in_ckpt,
        max_norm,
        trainable,
        use_safe_embedding_lookup,
    )
    return EmbeddingColumn(categorical_column, **settings)


def shared_embedding_columns(
    categorical_columns: Sequence[CategoricalColumn | SequenceCategoricalColumn],
    dimension: int,
    combiner: str = "mean",
    initializer: Initializer | np.ndarray | None = None,
    shared_embedding_collection_name: str | None = None,
    ckpt_to_load_from: str | None = None,
    tensor_name_in_ckpt: str | None = None,
    max_norm: float | None = None,
    trainable: bool = True,
    use_safe_embedding_lookup: bool = True,
) -> list[EmbeddingColumn]:
    """Returns embedding columns, one for each categorical column, that share one table.

    The table belongs to the input layer that first asks for it, and all others share it.

    >>> from feature_columns.categorical import categorical_column_with_hash_bucket
    >>> start, goal = (categorical_column_with_hash_bucket(k, 1000) for k in ("start", "goal"))
    >>> [column.name for column in shared_embedding_columns([start, goal], 16)]
    ['start_shared_embedding', 'goal_shared_embedding']

    Args:
        categorical_columns: columns of one kind, with equally many ids.
        dimension: the size of a row.
        combiner: see `embedding_column`, here and below.
        initializer: a JAX initializer, or an array.
        shared_embedding_collection_name: the name of the table; by default the sorted names of the
            columns, joined, and `_shared_embedding`.
        ckpt_to_load_from: a model_dir or checkpoint whose table is the first value.
        tensor_name_in_ckpt: the name of that table there.
        max_norm: rows that are longer are scaled down to it.
        trainable: whether the optimizer updates the table.
        use_safe_embedding_lookup: False keeps ids whose weight is not positive.

    Raises:
        ValueError: if the columns are of different kinds or have different numbers of ids; for the
            rest see `embedding_column`.
    """
    where = "shared_embedding_columns"
    columns = _checked_alike(categorical_columns, where)
    settings = _checked_settings(
        where,
        dimension,
        combiner,
        initializer,
        ckpt_to_load_from,
        tensor_name_in_ckpt,
        max_norm,
        trainable,
        use_safe_embedding_lookup,
    )
    name = shared_embedding_collection_name or _table_name(columns)
    return [EmbeddingColumn(column, **settings, shared_as=name) for column in columns]


def shared_embeddings(
    categorical_columns: Sequence[CategoricalColumn | SequenceCategoricalColumn],
    dimension: int,
    combiner: str = "mean",
    initializer: Initializer | np.ndarray | None = None,
    shared_embedding_collection_name: str | None = None,
    ckpt_to_load_from: str | None = None,
    tensor_name_in_ckpt: str | None = None,
    max_norm: float | None = None,
    trainable: bool = True,
    use_safe_embedding_lookup: bool = True,
) -> list[EmbeddingColumn]:
    """Returns what `shared_embedding_columns` does, with a table outside all scopes.

    Its variable is named by the collection alone, as in `tf.feature_column.shared_embeddings`. The
    arguments are those of `shared_embedding_columns`.

    >>> from feature_columns.categorical import categorical_column_with_hash_bucket
    >>> start, goal = (categorical_column_with_hash_bucket(k, 1000) for k in ("start", "goal"))
    >>> shared_embeddings([start, goal], 16)[0].shared_as
    '/goal_start_shared_embedding'
    """
    columns = shared_embedding_columns(
        categorical_columns,
        dimension,
        combiner,
        initializer,
        shared_embedding_collection_name,
        ckpt_to_load_from,
        tensor_name_in_ckpt,
        max_norm,
        trainable,
        use_safe_embedding_lookup,
    )
    return [dataclasses.replace(column, shared_as=f"/{column.shared_as}") for column in columns]


def _check_any_categorical(column: Any, where: str) -> None:
    if not isinstance(column, SequenceCategoricalColumn):
        checked_categorical(column, where)


def _checked_settings(
    where: str,
    dimension: Any,
    combiner: Any,
    initializer: Any,
    ckpt_to_load_from: str | None,
    tensor_name_in_ckpt: str | None,
    max_norm: float | None,
    trainable: Any,
    use_safe_embedding_lookup: Any,
) -> dict[str, Any]:
    """Returns the settings of an embedding by the names of its fields."""
    dimension = checked_count(dimension, "dimension", where)
    check_combiner(combiner, where)
    if (ckpt_to_load_from is None) != (tensor_name_in_ckpt is None):
        raise ValueError(
            f"{where}: must specify both ckpt_to_load_from and tensor_name_in_ckpt, or none of "
            f"them, got {ckpt_to_load_from!r} and {tensor_name_in_ckpt!r}."
        )
    if not (
        initializer is None
        or callable(initializer)
        or isinstance(initializer, np.ndarray | jax.Array)
    ):
        raise ValueError(
            f"{where}: initializer must be callable, (key, shape, dtype) -> array, or an array, "
            f"got {initializer!r}."
        )
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"{where}: max_norm must be above 0, got {max_norm!r}.")
    return {
        "dimension": dimension,
        "combiner": combiner,
        "initializer": initializer,
        "ckpt_to_load_from": ckpt_to_load_from,
        "tensor_name_in_ckpt": tensor_name_in_ckpt,
        "max_norm": max_norm,
        "trainable": bool(trainable),
        "use_safe_embedding_lookup": bool(use_safe_embedding_lookup),
    }


def _checked_alike(columns: Any, where: str) -> list[Any]:
    """Returns categorical columns that can share a table."""
    given = list(columns)
    if not given:
        raise ValueError(f"{where}: categorical_columns must hold at least one column.")
    for column in given:
        _check_any_categorical(column, where)
    first = given[0]
    for column in given[1:]:
        kinds = [type(_innermost(c)) for c in (first, column)]
        if kinds[0] is not kinds[1] or first.num_buckets != column.num_buckets:
            raise ValueError(
                f"{where}: columns that share a table must have the same type and number of ids, "
                f"but {first.name} is a {kinds[0].__name__} of {first.num_buckets}, {column.name} "
                f"a {kinds[1].__name__} of {column.num_buckets}."
            )
    return given


def _innermost(column: Any) -> Any:
    while isinstance(column, WeightedColumn | SequenceCategoricalColumn):
        column = column.categorical_column
    return column


def _table_name(columns: Sequence[Any]) -> str:
    return "_".join(sorted(column.name for column in columns)) + "_shared_embedding"
