"""The crossed column: each combination of the values of several features has an id.

    crossed_column(["city", "color"], hash_bucket_size=10_000)
    crossed_column([bucketized_column(age, [18, 65]), "city"], 10_000)

The ids are TensorFlow's: the fingerprints of the values of one combination, chained, modulo the
number of buckets.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from feature_columns.categorical import HashedColumn, WeightedColumn, raw_fingerprints
from feature_columns.cells import raw_entries, raw_integers
from feature_columns.columns import CategoricalColumn, checked_count
from feature_columns.entries import Entries, is_missing
from feature_columns.hashing import fingerprint_cat64
from feature_columns.parse_spec import ParseSpec, VarLenFeature, merged_specs

DEFAULT_HASH_KEY = 0xDECAFCAFFE
# More, rows filled up to the longest, fill the memory.
_MOST_COMBINATIONS = 2**23


@dataclasses.dataclass(frozen=True)
class CrossedColumn(CategoricalColumn):
    """Combinations of values; made by `crossed_column`."""

    crossed: tuple[str | CategoricalColumn, ...]
    hash_bucket_size: int
    hash_key: int | None

    @functools.cached_property
    def leaves(self) -> list[str | CategoricalColumn]:
        """What is crossed, crosses taken apart, in the order that they were given in."""
        flat: list[str | CategoricalColumn] = []
        for item in self.crossed:
            flat += item.leaves if isinstance(item, CrossedColumn) else [item]
        return flat

    @functools.cached_property
    def name(self) -> str:
        """The names of what is crossed, sorted and joined."""
        return "_X_".join(sorted(map(_name, self.leaves)))

    @property
    def where(self) -> str:
        """What error messages call it."""
        return f"crossed_column({self.name})"

    @property
    def keys(self) -> tuple[str, ...]:
        """The features that are crossed."""
        keys = [(leaf,) if isinstance(leaf, str) else leaf.keys for leaf in self.leaves]
        return tuple(dict.fromkeys(key for leaf in keys for key in leaf))

    @property
    def num_buckets(self) -> int:
        """How many ids there are."""
        return self.hash_bucket_size

    @property
    def parse_spec(self) -> ParseSpec:
        """Strings for features given by name, and what the columns say for theirs."""
        specs: list[ParseSpec] = [
            {leaf: VarLenFeature(np.dtype(str))} if isinstance(leaf, str) else leaf.parse_spec
            for leaf in self.leaves
        ]
        return merged_specs(specs, self.name)

    def host_ids(self, raw: Mapping[str, Any]) -> Entries:
        """Returns an id for each combination of a row's values; the first feature is slowest."""
        found = [self._fingerprints(leaf, raw) for leaf in self.leaves]
        batches = {one.shape[0] for one in found}
        if len(batches) > 1:
            sizes = {
                _name(leaf): one.shape[0] for leaf, one in zip(self.leaves, found, strict=True)
            }
            raise ValueError(f"{self.where}: the features have different batch sizes: {sizes}.")
        rows, chosen = _combinations(found, batches.pop())
        # A key of 0 is none, as in TensorFlow.
        key = np.uint64((self.hash_key or DEFAULT_HASH_KEY) % 2**64)
        hashes = np.full(len(rows), key)
        for one, picked in zip(found, chosen, strict=True):
            hashes = fingerprint_cat64(hashes, one.values[picked])
        ids = (hashes % np.uint64(self.hash_bucket_size)).astype(np.int64)
        return _in_rows(ids, rows, found)

    def _fingerprints(self, leaf: str | CategoricalColumn, raw: Mapping[str, Any]) -> Entries:
        """Returns what is hashed for each value of one feature: uint64."""
        if isinstance(leaf, str):
            where = f'{self.where}: the feature "{leaf}"'
            numeric = _holds_numbers(raw_entries(raw[leaf], where).values, where)
            found = (raw_integers if numeric else raw_fingerprints)(raw[leaf], where)
        else:
            found = leaf.host_ids(raw)
        if len(found.shape) != 2:
            raise ValueError(
                f"{self.where}: {_name(leaf)} has shape {found.shape}; only "
                "rows of values are crossed."
            )
        return found.with_values(found.values.astype(np.uint64))


def crossed_column(
    keys: Sequence[str | CategoricalColumn], hash_bucket_size: int, hash_key: int | None = None
) -> CrossedColumn:
    """Returns a categorical column of the combinations of several features' values.

    >>> column = crossed_column(["a", "b"], 100)
    >>> column.name, column.host_ids({"a": [["a", "b"]], "b": [["x", "y"]]}).values
    ('a_X_b', array([92, 47,  4,  5]))

    Args:
        keys: names of features, whose raw strings or integers are crossed (an empty string is a
            value); or categorical columns, whose ids are. Another order gives other ids. A
            bucketized column is computed on the host here: its normalizer_fn is given numpy arrays.
        hash_bucket_size: how many ids there are.
        hash_key: another key gives other ids; None and 0: TensorFlow's.

    Raises:
        ValueError: if there are fewer than two keys, or one is no categorical column, a hashed or a
            weighted one.
    """
    given = [keys] if isinstance(keys, str) else list(keys)
    if len(given) < 2:
        raise ValueError(f"crossed_column: keys must be a list with length > 1, got {keys!r}.")
    where = f"crossed_column({given})"
    for key in given:
        _check_key(key, where)
    if hash_key is not None and (isinstance(hash_key, bool) or not isinstance(hash_key, int)):
        raise ValueError(f"{where}: hash_key must be an int, got {hash_key!r}.")
    count = checked_count(hash_bucket_size, "hash_bucket_size", where)
    return CrossedColumn(tuple(given), count, hash_key)


def _check_key(key: Any, where: str) -> None:
    if isinstance(key, HashedColumn):
        raise ValueError(
            f"{where}: a hashed column would be hashed twice, with more collisions. Cross the "
            f'feature itself: give "{key.key}" in its place.'
        )
    if isinstance(key, WeightedColumn):
        raise ValueError(
            f"{where}: a weighted column cannot be crossed. Give {key.categorical_column.name!r}, "
            "without weights."
        )
    if not isinstance(key, str | CategoricalColumn):
        raise ValueError(
            f"{where}: keys must be names of features or categorical columns, got {key!r}. Numbers "
            "are crossed by their bucket: bucketized_column(numeric_column(key), boundaries)."
        )


def _name(leaf: str | CategoricalColumn) -> str:
    return leaf if isinstance(leaf, str) else leaf.name


def _holds_numbers(values: Any, where: str) -> bool:
    """Returns whether values are integers, rather than strings.

    Raises:
        TypeError: if they are floats.
    """
    if isinstance(values, np.ndarray) and values.dtype != object:
        kinds = {values.dtype.type}
    else:
        kinds = set(map(type, values)) - {type(None)}
    if any(issubclass(kind, int | np.integer) for kind in kinds):
        return True
    floats = kinds and all(issubclass(kind, float | np.floating) for kind in kinds)
    if floats and not all(map(is_missing, values)):
        raise TypeError(
            f"{where} holds floats, such as {values[0]}; strings and integers are crossed. Numbers "
            "are by their bucket: give bucketized_column(numeric_column(key), boundaries)."
        )
    return False


def _combinations(found: list[Entries], batch: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the row of each combination, and which value of each feature is in it."""
    if all(one.index is None and one.shape[1] == 1 for one in found):
        rows = np.arange(batch)
        return rows, [rows] * len(found)
    counts = np.array([np.bincount(one.positions[0], minlength=batch) for one in found])
    starts = np.cumsum(counts, axis=1) - counts
    number = batch * counts.prod(axis=0, dtype=np.float64).max(initial=0)
    if number > _MOST_COMBINATIONS:
        raise ValueError(
            f"The features of a batch have {number:.0f} combinations, rows filled up to the "
            f"longest, and a batch may have {_MOST_COMBINATIONS}: cross features of fewer values, "
            "or take fewer rows."
        )
    totals = counts.prod(axis=0)
    rows = np.repeat(np.arange(batch), totals)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(totals) - totals, totals)
    chosen: list[np.ndarray] = []
    for count, start in zip(counts[::-1], starts[::-1], strict=True):  # the last is fastest
        chosen.insert(0, start[rows] + within % count[rows])
        within = within // count[rows]
    return rows, chosen


def _in_rows(ids: np.ndarray, rows: np.ndarray, found: list[Entries]) -> Entries:
    """Returns the ids of combinations as entries of as many columns as the largest row needs."""
    batch = found[0].shape[0]
    if len(rows) == batch and all(one.index is None for one in found):
        return Entries(ids, None, (batch, 1), stored=True)
    totals = np.bincount(rows, minlength=batch)
    width = int(totals.max(initial=0))
    if (totals == width).all():
        return Entries(ids, None, (batch, width), stored=True)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(totals) - totals, totals)
    return Entries(ids, (rows, columns), (batch, width), stored=True)
