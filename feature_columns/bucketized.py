"""The bucketized column: numbers become the bucket that they lie in.

    bucketized_column(numeric_column("age"), boundaries=[18, 25, 65])   # 4 buckets

Bucket i holds `boundaries[i - 1] <= x < boundaries[i]`. As part of an input layer it is one-hot; it
is also a categorical column. It works on the device; inside a cross, on the host.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from feature_columns.columns import CategoricalColumn, DenseColumn, Features
from feature_columns.entries import Entries
from feature_columns.numeric import NumericColumn
from feature_columns.parse_spec import ParseSpec

# With more boundaries a binary search beats looking at all of them.
_FEW = 64


@dataclasses.dataclass(frozen=True)
class BucketizedColumn(DenseColumn, CategoricalColumn):
    """Numbers by their bucket; made by `bucketized_column`."""

    source_column: NumericColumn
    boundaries: tuple[float, ...]

    @property
    def name(self) -> str:
        """The name of the source, and what was done to it."""
        return f"{self.source_column.name}_bucketized"

    @property
    def keys(self) -> tuple[str, ...]:
        """The feature of the source."""
        return self.source_column.keys

    @property
    def num_buckets(self) -> int:
        """How many ids there are: the buckets of each value of the source."""
        return (len(self.boundaries) + 1) * self.source_column.width

    @property
    def parse_spec(self) -> ParseSpec:
        """That of the source."""
        return self.source_column.parse_spec

    def dense(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns floats of shape `(batch, num_buckets)`: a one where a value's bucket is."""
        del trainable
        buckets = self._buckets(self.source_column.dense(features))
        one_hot = jax.nn.one_hot(buckets, len(self.boundaries) + 1, dtype=jnp.float32)
        return one_hot.reshape(buckets.shape[0], self.num_buckets)

    def ids(self, features: Features, strict: bool = False) -> jax.Array:
        """Returns int32 of shape `(batch, values)`, the ids of each value's buckets."""
        del strict
        buckets = self._buckets(self.source_column.dense(features))
        return buckets + self._offsets

    def host_ids(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the ids of each value's bucket, on the host."""
        values = self.source_column.host_dense(raw)
        bounds = np.asarray(self.boundaries, np.float32)
        buckets = np.searchsorted(bounds, values, side="right") + self._offsets
        return Entries(buckets.astype(np.int64).ravel(), None, buckets.shape, stored=True)

    @property
    def _offsets(self) -> np.ndarray:
        count = len(self.boundaries) + 1
        return np.arange(self.source_column.width, dtype=np.int32) * np.int32(count)

    def _buckets(self, values: jax.Array) -> jax.Array:
        bounds = jnp.asarray(self.boundaries, values.dtype)
        method = "compare_all" if len(self.boundaries) <= _FEW else "scan"
        return jnp.searchsorted(bounds, values, side="right", method=method).astype(jnp.int32)


def bucketized_column(
    source_column: NumericColumn, boundaries: Sequence[float]
) -> BucketizedColumn:
    """Returns a column of the buckets that numbers lie in.

    >>> from feature_columns.numeric import numeric_column
    >>> age = bucketized_column(numeric_column("age"), [18, 65])
    >>> age.name, age.host_ids({"age": [17.9, 18.0, 90.0]}).values
    ('age_bucketized', array([0, 1, 2]))

    Args:
        source_column: a numeric column of one dimension.
        boundaries: numbers in ascending order; a number that equals one lies in the bucket above.

    Raises:
        ValueError: if the source is no numeric column of one dimension, or the boundaries do not
            ascend.
    """
    if not isinstance(source_column, NumericColumn):
        raise ValueError(
            f"bucketized_column: source_column must be a numeric_column, got {source_column!r}."
        )
    where = f"bucketized_column({source_column.name})"
    if len(source_column.shape) > 1:
        raise ValueError(
            f"{where}: source_column must be one-dimensional, but its shape is "
            f"{source_column.shape}."
        )
    given = tuple(boundaries) if isinstance(boundaries, Sequence | np.ndarray) else ()
    ascending = all(a < b for a, b in itertools.pairwise(given))
    if not given or not ascending or isinstance(boundaries, str):
        raise ValueError(
            f"{where}: boundaries must be a sorted list of different numbers, got {boundaries!r}."
        )
    return BucketizedColumn(source_column, tuple(float(bound) for bound in given))
