"""The sequence numeric column: numbers for each step of a sequence.

    sequence_numeric_column("temperature")
    sequence_numeric_column("position", shape=2)    # rows of x0, y0, x1, y1, ..., or of [x, y]

What is missing, and the steps behind the end, are the default value.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
from feature_columns.cells import as_float32, as_numbers, exact_float32
from feature_columns.columns import (
    ColumnRecipe,
    Features,
    OneFeatureColumn,
    SequenceColumn,
    SequenceDenseColumn,
    checked_key,
    raw_paths,
)
from feature_columns.entries import Entries, entries, row_lengths
from feature_columns.numeric import (
    Normalizer,
    checked_default,
    checked_normalizer,
    checked_shape,
    normalized,
)
from feature_columns.parse_spec import ParseSpec, VarLenFeature, checked_number


@dataclasses.dataclass(frozen=True)
class SequenceNumericColumn(OneFeatureColumn, SequenceColumn, SequenceDenseColumn):
    """Numbers of a fixed shape for each step; made by `sequence_numeric_column`."""

    key: str
    shape: tuple[int, ...]
    default_value: float
    dtype: np.dtype
    normalizer_fn: Normalizer | None

    @property
    def width(self) -> int:
        """How many values each step has."""
        return math.prod(self.shape)

    @property
    def parse_spec(self) -> ParseSpec:
        """Any number of values."""
        return {self.key: VarLenFeature(self.dtype)}

    @property
    def source(self) -> SequenceColumn:
        """The column without its function, which changes no length: so it can be written down."""
        return dataclasses.replace(self, normalizer_fn=None)

    @property
    def padding(self) -> float:
        """What the steps after a sequence's end hold."""
        return self.default_value

    def host_lengths(self, raw: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many steps each row has, int32, and where that is certain.

        What is missing at the end of a row is padding. So may be the numbers at the end of a row
        of a dense array.
        """
        found = self._entries(raw)
        if found.stored:
            lengths = row_lengths(found)
        else:
            lengths = row_lengths(found.kept(~np.isnan(found.values)))
        value = raw[self.key]
        dense = isinstance(value, np.ndarray | jax.Array) and value.dtype != object
        return lengths, np.logical_or(not dense, lengths < found.shape[1])

    def host_steps(self, raw: Mapping[str, Any], exact: bool = False) -> np.ndarray:
        """Returns float32 of shape `(batch, steps, width)`; NaN where there is no value.

        Args:
            raw: the raw features by key.
            exact: whether an integer that float32 cannot hold is an error.
        """
        found = self._entries(raw)
        where = f'{self.where}: the feature "{self.key}"'
        values = exact_float32(found.values, where) if exact else as_float32(found.values)
        placed = found.with_values(values).placed(np.nan, np.float32)
        return placed if placed.ndim == 3 else placed[..., None]

    def sequence(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns floats of shape `(batch, steps, width)` inside a model_fn."""
        del trainable
        exact = self.normalizer_fn is not None
        column = dataclasses.replace(self, normalizer_fn=None, default_value=0.0)
        paths = raw_paths(self.keys, features, self.where)
        value = est.host_feature(SequenceValues(column, paths, exact))
        missing = jnp.isnan(value)
        value = jnp.where(missing, self.default_value, value)
        if self.normalizer_fn is None:
            return value
        batch, steps, _ = shape = value.shape
        value = value.reshape(batch, steps, *self.shape)
        made = jnp.asarray(normalized(self.normalizer_fn, value, self.where))
        return jnp.where(missing, self.default_value, made.reshape(shape).astype(jnp.float32))

    @property
    def where(self) -> str:
        """What error messages call it."""
        return f"sequence_numeric_column({self.key})"

    def _entries(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the values by row and step, and by place in a step where it has several."""
        feature = raw[self.key]
        made: Entries = est.once_a_batch(
            feature, (SequenceNumericColumn, self.shape), lambda: self._read(feature)
        )
        return made

    def _read(self, value: Any) -> Entries:
        where = f'{self.where}: the feature "{self.key}"'
        if isinstance(value, np.ndarray | jax.Array) and value.ndim > 3:
            value = np.asarray(value)
            if value.shape[2:] != self.shape:
                raise self._misfit(value.shape, where)
            value = value.reshape(*value.shape[:2], self.width)
        found = entries(value, where)
        found = found.with_values(as_numbers(found.values, where))
        if len(found.shape) == 3:
            if found.shape[2] == 0:  # every step is empty
                nowhere = tuple(np.zeros((3, 0), np.int64))
                return Entries(found.values, nowhere, (*found.shape[:2], self.width), found.stored)
            if found.shape[2] != self.width:
                raise self._misfit(found.shape, where)
            return found
        if self.width == 1:
            return found
        # Rows are flat: one step after the other.
        rows, places = found.positions
        batch, flat = found.shape
        index = (rows, places // self.width, places % self.width)
        shape = (batch, -(-flat // self.width), self.width)
        full = found.index is None and flat % self.width == 0
        return Entries(found.values, None if full else index, shape, found.stored)

    def _misfit(self, shape: tuple[int, ...], where: str) -> ValueError:
        return ValueError(
            f"{where} has shape {shape}, wanted ('batch', 'steps', "
            f"{', '.join(map(str, self.shape))}) or flat rows. Give the column "
            f"shape={tuple(shape[2:])}, or reshape the feature."
        )


@dataclasses.dataclass(frozen=True, repr=False)
class SequenceValues(ColumnRecipe):
    """The numbers of a sequence numeric column, one row of steps for each example."""

    exact: bool
    dtype = np.dtype(np.float32)
    fill = np.nan
    takes_floats = True

    @property
    def dims(self) -> tuple[str | int, ...]:  # type: ignore[override]
        """One row of steps for each example."""
        return ("batch", "length", self.column.width)

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns float32 of shape `(batch, steps, width)`; NaN where there is no value."""
        return self.column.host_steps(self.raw(features, labels), self.exact)


def sequence_numeric_column(
    key: str,
    shape: int | Sequence[int] = (1,),
    default_value: float = 0.0,
    dtype: Any = np.float32,
    normalizer_fn: Normalizer | None = None,
) -> SequenceNumericColumn:
    """Returns a column of sequences of numbers.

    >>> position = sequence_numeric_column("position", shape=2)
    >>> position.host_lengths({"position": [[0.0, 0.1, 1.0, 1.1], [0.5, 0.6]]})[0].tolist()
    [2, 1]

    Args:
        key: the name of the feature: ragged rows of numbers, or of steps of numbers; a dense array
            of shape `(batch, steps, *shape)`; or a sparse one. `None` and NaN are missing; at the
            end of a row they are no steps.
        shape: the shape of one step.
        default_value: stands where there is no value: what is missing, and the steps after the end.
        dtype: the numpy dtype of the feature in a serialised example.
        normalizer_fn: a function of each value by itself, given the traced array of shape
            `(batch, steps, *shape)`, padding and all. The default value is not normalised.

    Raises:
        ValueError: if the key is no string, or the shape has a dimension below 1.
        TypeError: if the dtype is not one of numbers, the default is no number, or the normalizer
            cannot be called.
    """
    checked_key(key, "sequence_numeric_column")
    where = f"sequence_numeric_column({key})"
    return SequenceNumericColumn(
        key,
        checked_shape(shape, where),
        checked_default(default_value, (), where),
        checked_number(dtype, where),
        checked_normalizer(normalizer_fn, where),
    )
