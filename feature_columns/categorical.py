"""Categorical columns without a vocabulary: ids as they are, and hashes of strings.

    categorical_column_with_identity("product", num_buckets=1000)
    categorical_column_with_hash_bucket("city", hash_bucket_size=10_000)
    weighted_categorical_column(city, weight_feature_key="share")

A categorical column is no input of a network yet: wrap it with `indicator_column` or
`embedding_column`, or give it to `linear_model`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

import estimator as est
from feature_columns.cells import are_there, floats, raw_entries, raw_integers, raw_strings
from feature_columns.columns import (
    CategoricalColumn,
    ColumnRecipe,
    Features,
    OneFeatureColumn,
    checked_count,
    checked_key,
    raw_paths,
)
from feature_columns.entries import Entries
from feature_columns.hashing import fingerprint64
from feature_columns.parse_spec import (
    ParseSpec,
    VarLenFeature,
    checked_number,
    merged_specs,
    string_or_integer,
)


class KeyedColumn(OneFeatureColumn, CategoricalColumn):
    """A categorical column of one feature, strings or integers; subclass as a frozen dataclass."""

    dtype: np.dtype
    factory: ClassVar[str]

    @property
    def parse_spec(self) -> ParseSpec:
        """Any number of strings or integers."""
        return {self.key: VarLenFeature(self.dtype)}

    @property
    def where(self) -> str:
        """What error messages call it."""
        return f"{self.factory}({self.key})"

    def host_values(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the strings or integers of a raw batch, without what is missing."""
        found = self.host_entries(raw)
        return found.kept(are_there(found))

    def host_entries(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the strings or integers of a raw batch, with `""` and -1."""
        where = f'{self.where}: the feature "{self.key}"'
        read = raw_strings if self.dtype.kind == "U" else raw_integers
        return read(raw[self.key], where)


@dataclasses.dataclass(frozen=True)
class IdentityColumn(KeyedColumn):
    """Integers that are ids already; made by `categorical_column_with_identity`."""

    key: str
    number_buckets: int
    default_value: int | None
    factory = "categorical_column_with_identity"
    dtype: ClassVar[np.dtype] = np.dtype(np.int64)  # type: ignore[misc]

    @property
    def num_buckets(self) -> int:
        """How many ids there are."""
        return self.number_buckets

    def host_ids(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the integers themselves, or the default where there is no such id."""
        found = self.host_values(raw)
        if self.default_value is None:
            return found
        outside = (found.values < 0) | (found.values >= self.number_buckets)
        return found.with_values(np.where(outside, self.default_value, found.values))

    @property
    def may_be_out_of_range(self) -> bool:
        """Whether `host_ids` may give ids that there are not."""
        return self.default_value is None

    def in_range(self, found: Entries, strict: bool) -> Entries:
        """Returns the ids that there are, and -1 for others."""
        ids = found.values
        high = ids >= self.number_buckets
        if strict and high.any():
            raise ValueError(
                f"{self.where}: the feature holds {ids[high][0]}, but there are ids 0 to "
                f"{self.number_buckets - 1} only. Raise num_buckets, or give the column a "
                "default_value."
            )
        return found.with_values(np.where(high | (ids < 0), -1, ids))


@dataclasses.dataclass(frozen=True)
class HashedColumn(KeyedColumn):
    """Hashes of strings or integers; made by `categorical_column_with_hash_bucket`."""

    key: str
    hash_bucket_size: int
    dtype: np.dtype
    factory = "categorical_column_with_hash_bucket"

    @property
    def num_buckets(self) -> int:
        """How many ids there are."""
        return self.hash_bucket_size

    def host_ids(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the fingerprint of each value, modulo the number of buckets."""
        found = self.host_entries(raw)
        if self.dtype.kind == "U":
            hashes = raw_fingerprints(raw[self.key], self.where).values
        else:
            hashes = fingerprint64(as_texts(found.values))
        ids = (hashes % np.uint64(self.hash_bucket_size)).astype(np.int64)
        return found.with_values(ids).kept(are_there(found))


@dataclasses.dataclass(frozen=True)
class WeightedColumn(CategoricalColumn):
    """Ids with a weight each; made by `weighted_categorical_column`."""

    categorical_column: CategoricalColumn
    weight_feature_key: str
    dtype: np.dtype

    @property
    def name(self) -> str:
        """The names of the column and of the weights."""
        return f"{self.categorical_column.name}_weighted_by_{self.weight_feature_key}"

    @property
    def keys(self) -> tuple[str, ...]:
        """The features of ids and weights."""
        return (*self.categorical_column.keys, self.weight_feature_key)

    @property
    def where(self) -> str:
        """What error messages call it."""
        return f"weighted_categorical_column({self.weight_feature_key})"

    @property
    def num_buckets(self) -> int:
        """How many ids there are."""
        return self.categorical_column.num_buckets

    @property
    def parse_spec(self) -> ParseSpec:
        """That of the ids, and any number of weights."""
        weights: ParseSpec = {self.weight_feature_key: VarLenFeature(self.dtype)}
        return merged_specs([self.categorical_column.parse_spec, weights], self.name)

    def host_ids(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the ids of the column."""
        return self.categorical_column.host_ids(raw)

    @property
    def may_be_out_of_range(self) -> bool:
        """Whether `host_ids` may give ids that there are not."""
        return self.categorical_column.may_be_out_of_range

    def in_range(self, found: Entries, strict: bool) -> Entries:
        """Returns the ids that the column has, and -1 for others."""
        return self.categorical_column.in_range(found, strict)

    def ids(self, features: Features, strict: bool = False) -> jax.Array:
        """Returns the ids of the column, inside a model_fn."""
        return self.categorical_column.ids(features, strict)

    def weights(self, features: Features) -> jax.Array:
        """Returns the weights, float32 of the shape of the ids; 0 where there is no id."""
        return est.host_feature(CategoryWeights(self, raw_paths(self.keys, features, self.where)))


@dataclasses.dataclass(frozen=True, repr=False)
class CategoryWeights(ColumnRecipe):
    """The weights of ids, one row for each example."""

    dtype = np.dtype(np.float32)
    dims = ("batch", "count")
    fill = 0.0

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns float32 of the shape of the ids.

        Raises:
            ValueError: if ids and weights do not stand in the same places, or a weight is missing.
        """
        raw = self.raw(features, labels)
        column, key = self.column.categorical_column, self.column.weight_feature_key
        where = f'{self.column.where}: the weights "{key}"'
        ids = column.host_ids(raw)
        weights = floats(raw_entries(raw[key], where), where)
        weights = weights.kept(~np.isnan(weights.values))
        # Of the raw values, some may have no id because they are missing: their weights are idle.
        raw_ids = raw_entries(raw[column.keys[0]], where) if len(column.keys) == 1 else ids
        width = max(weights.shape[1], ids.shape[1])
        at_weights, at_ids, at_raw = (_flat(x, width) for x in (weights, ids, raw_ids))
        lacking = ~np.isin(at_ids, at_weights)
        idle = ~np.isin(at_weights, at_raw) & (weights.values != 0)
        if lacking.any() or idle.any():
            row = int(np.concatenate([at_ids[lacking], at_weights[idle]]).min()) // width
            counts = [int((x.positions[0] == row).sum()) for x in (weights, ids)]
            raise ValueError(
                f"{where} of {column.name} do not fit: row {row} has {counts[0]} weights (None and "
                f"NaN are none) for {counts[1]} ids, or in other places. Give one weight for each "
                "value, in the form that the values have."
            )
        values = weights.values[np.searchsorted(at_weights, at_ids)]
        return ids.with_values(values).placed(0.0, np.float32)


def categorical_column_with_identity(
    key: str, num_buckets: int, default_value: int | None = None
) -> IdentityColumn:
    """Returns a categorical column of integers that are ids already.

    >>> categorical_column_with_identity("product", 1000).num_buckets
    1000

    Args:
        key: the name of the feature, integers in `[0, num_buckets)`. -1 is missing.
        num_buckets: how many ids there are.
        default_value: the id of what is out of range; None: it has none under `indicator_column`,
            and is an error under `embedding_column` and in `linear_model`.

    Raises:
        ValueError: if there are no buckets, or the default is none of the ids.
    """
    where = f"categorical_column_with_identity({key})"
    checked_key(key, "categorical_column_with_identity")
    count = checked_count(num_buckets, "num_buckets", where)
    if default_value is not None and (
        checked_count(default_value, "default_value", where, least=0) >= count
    ):
        raise ValueError(
            f"{where}: default_value must be an id in [0, {count}), got {default_value!r}."
        )
    return IdentityColumn(key, count, default_value)


def categorical_column_with_hash_bucket(
    key: str, hash_bucket_size: int, dtype: Any = str
) -> HashedColumn:
    """Returns a categorical column whose ids are hashes: for many strings that nobody listed.

    The ids are TensorFlow's: FarmHash's Fingerprint64 modulo the number of buckets. Different
    strings may share an id.

    >>> column = categorical_column_with_hash_bucket("city", 1000)
    >>> column.host_ids({"city": ["hello", "a"]}).values
    array([296, 939])

    Args:
        key: the name of the feature; `""` and `None`, or -1, are missing.
        hash_bucket_size: how many ids there are.
        dtype: `str`, or a numpy dtype of integers, which are hashed as decimal strings.

    Raises:
        ValueError: if there are no buckets, or the dtype is another.
    """
    where = f"categorical_column_with_hash_bucket({key})"
    checked_key(key, "categorical_column_with_hash_bucket")
    count = checked_count(hash_bucket_size, "hash_bucket_size", where)
    return HashedColumn(key, count, string_or_integer(dtype, where))


def weighted_categorical_column(
    categorical_column: CategoricalColumn, weight_feature_key: str, dtype: Any = np.float32
) -> WeightedColumn:
    """Returns a categorical column whose ids have a weight each.

    >>> tags = categorical_column_with_hash_bucket("tags", 1000)
    >>> weighted_categorical_column(tags, "shares").name
    'tags_weighted_by_shares'

    Args:
        categorical_column: the column of the ids.
        weight_feature_key: the name of the feature that holds a weight for each id, in the same
            places. An embedding with the combiner `"mean"` or `"sqrtn"` leaves out ids whose weight
            is not positive; `"sum"` and `indicator_column` add them, negative ones too.
        dtype: a numpy dtype of numbers.

    Raises:
        ValueError: if it is no categorical column.
        TypeError: if the dtype is not one of numbers.
    """
    where = f"weighted_categorical_column({weight_feature_key})"
    checked_key(weight_feature_key, "weighted_categorical_column: weight_feature_key")
    checked_categorical(categorical_column, where)
    return WeightedColumn(categorical_column, weight_feature_key, checked_number(dtype, where))


def raw_fingerprints(feature: Any, where: str) -> Entries:
    """Returns the fingerprints of a feature's strings, hashed once for all columns of a batch."""
    found = raw_strings(feature, where)
    made: Entries = est.once_a_batch(
        feature, fingerprint64, lambda: found.with_values(fingerprint64(as_texts(found.values)))
    )
    return made


def as_texts(values: Any) -> list[str | bytes]:
    """Returns what is hashed: strings as they are, integers as decimal strings.

    >>> as_texts(np.array([3, -1]))
    [b'3', b'-1']
    """
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return [b"%d" % number for number in listed]
    return listed


def checked_categorical(column: Any, where: str) -> None:
    """Checks that something is a categorical column.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(column, CategoricalColumn):
        raise ValueError(
            f"{where}: needs a categorical column, such as "
            f"categorical_column_with_vocabulary_list(key, words), got {column!r}."
        )


def _flat(found: Entries, width: int) -> np.ndarray:
    """Returns the place of each entry as one number."""
    rows, columns = found.positions
    return rows * width + columns
