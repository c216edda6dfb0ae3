"""Sequence categorical columns: ids for each step of a sequence.

    sequence_categorical_column_with_vocabulary_list("words", ["the", "cat"], num_oov_buckets=1)

A feature has a row of steps for each example, each step a value, or a list of values. Wrap the
column with `embedding_column` or `indicator_column` and give it to `sequence_input_layer`.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

import estimator as est
from feature_columns.categorical import (
    HashedColumn,
    IdentityColumn,
    KeyedColumn,
    categorical_column_with_hash_bucket,
    categorical_column_with_identity,
)
from feature_columns.columns import (
    ColumnRecipe,
    Features,
    SequenceColumn,
    raw_paths,
)
from feature_columns.entries import row_lengths
from feature_columns.parse_spec import ParseSpec
from feature_columns.vocabulary import (
    VocabularyColumn,
    categorical_column_with_vocabulary_file,
    categorical_column_with_vocabulary_list,
)


@dataclasses.dataclass(frozen=True)
class SequenceCategoricalColumn(SequenceColumn):
    """The steps of a categorical column; made by `sequence_categorical_column_with_...`."""

    categorical_column: KeyedColumn

    @property
    def name(self) -> str:
        """The name of the categorical column."""
        return self.categorical_column.name

    @property
    def where(self) -> str:
        """What error messages call it."""
        return f"sequence_{self.categorical_column.where}"

    @property
    def keys(self) -> tuple[str, ...]:
        """The feature of the categorical column."""
        return self.categorical_column.keys

    @property
    def num_buckets(self) -> int:
        """How many ids there are."""
        return self.categorical_column.num_buckets

    @property
    def parse_spec(self) -> ParseSpec:
        """That of the categorical column."""
        return self.categorical_column.parse_spec

    def host_lengths(self, raw: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many steps each row has, int32; a value without an id is a step, too."""
        lengths = row_lengths(self.categorical_column.host_values(raw))
        return lengths, np.full(len(lengths), True)

    def ids(self, features: Features, strict: bool = False) -> jax.Array:
        """Returns int32 of shape `(batch, steps, count)` inside a model_fn; -1 is none."""
        paths = raw_paths(self.keys, features, self.where)
        strict = strict and self.categorical_column.may_be_out_of_range
        return est.host_feature(SequenceIds(self, paths, strict))


@dataclasses.dataclass(frozen=True, repr=False)
class SequenceIds(ColumnRecipe):
    """The ids of a sequence categorical column, one row of steps for each example."""

    strict: bool
    dtype = np.dtype(np.int32)
    dims = ("batch", "length", "count")
    fill = -1

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns int32 of shape `(batch, steps, count)`; -1 is none."""
        column = self.column.categorical_column
        found = column.host_ids(self.raw(features, labels))
        placed = column.in_range(found, self.strict).placed(-1, np.int32)
        return placed if placed.ndim == 3 else placed[..., None]


def sequence_categorical_column_with_identity(
    key: str, num_buckets: int, default_value: int | None = None
) -> SequenceCategoricalColumn:
    """Returns a column of sequences of integers that are ids already.

    >>> sequence_categorical_column_with_identity("products", 1000).num_buckets
    1000

    Args and errors are those of `categorical_column_with_identity`.
    """
    column: IdentityColumn = categorical_column_with_identity(key, num_buckets, default_value)
    return SequenceCategoricalColumn(column)


def sequence_categorical_column_with_hash_bucket(
    key: str, hash_bucket_size: int, dtype: Any = str
) -> SequenceCategoricalColumn:
    """Returns a column of sequences of strings, or integers, whose ids are hashes.

    >>> sequence_categorical_column_with_hash_bucket("words", 1000).name
    'words'

    Args and errors are those of `categorical_column_with_hash_bucket`.
    """
    column: HashedColumn = categorical_column_with_hash_bucket(key, hash_bucket_size, dtype)
    return SequenceCategoricalColumn(column)


def sequence_categorical_column_with_vocabulary_list(
    key: str,
    vocabulary_list: Iterable[Any],
    dtype: Any = None,
    default_value: int = -1,
    num_oov_buckets: int = 0,
) -> SequenceCategoricalColumn:
    """Returns a column of sequences of words from a list.

    >>> words = sequence_categorical_column_with_vocabulary_list("words", ["the", "cat"])
    >>> words.host_lengths({"words": [["the", "dog"], ["cat"]]})[0].tolist()
    [2, 1]

    Args and errors are those of `categorical_column_with_vocabulary_list`.
    """
    column: VocabularyColumn = categorical_column_with_vocabulary_list(
        key, vocabulary_list, dtype, default_value, num_oov_buckets
    )
    return SequenceCategoricalColumn(column)


def sequence_categorical_column_with_vocabulary_file(
    key: str,
    vocabulary_file: str | os.PathLike[str],
    vocabulary_size: int | None = None,
    num_oov_buckets: int = 0,
    default_value: int | None = None,
    dtype: Any = str,
) -> SequenceCategoricalColumn:
    """Returns a column of sequences of words from a file.

    Args and errors are those of `categorical_column_with_vocabulary_file`, in another order, as in
    TensorFlow.
    """
    column: VocabularyColumn = categorical_column_with_vocabulary_file(
        key, vocabulary_file, vocabulary_size, dtype, default_value, num_oov_buckets
    )
    return SequenceCategoricalColumn(column)
