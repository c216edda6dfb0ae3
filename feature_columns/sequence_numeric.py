"""The sequence numeric column: numbers for each step of a sequence.

sequence_numeric_column("temperature")
sequence_numeric_column("position", shape=2)    # rows hold x0, y0, x1, y1, ..., or [x, y] pairs
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
from feature_columns.columns import (
    ColumnRecipe,
    Features,
    SequenceColumn,
    SequenceDenseColumn,
    checked_key,
    raw_paths,
)
from feature_columns.entries import Entries, entries, floats, row_lengths
from feature_columns.numeric import (
    Normalizer,
    checked_normalizer,
    checked_number,
    checked_shape,
)
from feature_columns.parse_spec import ParseSpec, VarLenFeature


@dataclasses.dataclass(frozen=True)
class SequenceNumericColumn(SequenceColumn, SequenceDenseColumn):
    """Numbers of a fixed shape for each step; made by `sequence_numeric_column`."""

    key: str
    shape: tuple[int, ...]
    default_value: float
    dtype: np.dtype
    normalizer_fn: Normalizer | None

    @property
    def name(self) -> str:
        """The name of the feature."""
        return self.key

    @property
    def keys(self) -> tuple[str, ...]:
        """The one feature that it reads."""
        return (self.key,)

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
        """The column itself."""
        return self

    @property
    def padding(self) -> float:
        """What the steps after a sequence's end hold."""
        return self.default_value

    def host_lengths(self, raw: Mapping[str, Any]) -> tuple[np.ndarray, bool]:
        """Returns how many steps each row has, int32; of a full dense array it is not certain."""
        found = self._entries(raw)
        value = raw[self.key]
        dense = isinstance(value, np.ndarray | jax.Array) and value.dtype != object
        return row_lengths(found), found.index is not None or not dense

    def host_steps(self, raw: Mapping[str, Any]) -> np.ndarray:
        """Returns float32 of shape `(batch, steps, width)`; NaN where there is no value."""
        placed = self._entries(raw).placed(np.nan, np.float32)
        return placed if placed.ndim == 3 else placed[..., None]

    def sequence(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns floats of shape `(batch, steps, width)` inside a model_fn."""
        del trainable
        value = est.host_feature(SequenceValues(self, raw_paths(self, features)))
        missing = jnp.isnan(value)
        value = jnp.where(missing, self.default_value, value)
        if self.normalizer_fn is None:
            return value
        batch, steps, _ = shape = value.shape
        value = value.astype(jax.dtypes.canonicalize_dtype(self.dtype))
        made = jnp.asarray(self.normalizer_fn(value.reshape(batch, steps, *self.shape)))
        if made.size != value.size:
            raise ValueError(
                f"{self.where}: normalizer_fn made an array of shape {made.shape} of one of shape "
                f"{(batch, steps, *self.shape)}. It must keep the shape."
            )
        return jnp.where(missing, self.default_value, made.reshape(shape).astype(jnp.float32))

    @property
    def where(self) -> str:
        """What error messages call it."""
        return f"sequence_numeric_column({self.key})"

    def _entries(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the values by row and step, and by place in a step where it has several."""
        where = f'{self.where}: the feature "{self.key}"'
        value = raw[self.key]
        if isinstance(value, np.ndarray | jax.Array) and value.ndim > 3:
            value = np.asarray(value)
            if value.shape[2:] != self.shape:
                raise self._misfit(value.shape, where)
            value = value.reshape(*value.shape[:2], self.width)
        found = floats(entries(value, where), where)
        if not found.stored:
            found = found.kept(~np.isnan(found.values))
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

    dtype = np.dtype(np.float32)
    fill = np.nan

    @property
    def dims(self) -> tuple[str | int, ...]:  # type: ignore[override]
        """One row of steps for each example."""
        return ("batch", "length", self.column.width)

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns float32 of shape `(batch, steps, width)`; NaN where there is no value."""
        return np.asarray(self.column.host_steps(self.raw(features, labels)))


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
            of shape `(batch, steps, *shape)`; or a sparse one. `None` and NaN are missing.
        shape: the shape of one step.
        default_value: stands where there is no value: what is missing, and the steps after the end.
        dtype: the numpy dtype that the normalizer sees.
        normalizer_fn: a function of the traced array, of shape `(batch, steps, *shape)`, that keeps
            the shape.

    Raises:
        ValueError: if the key is no string, or the shape has a dimension below 1.
        TypeError: if the dtype is not one of numbers, or the normalizer cannot be called.
    """
    checked_key(key, "sequence_numeric_column")
    where = f"sequence_numeric_column({key})"
    return SequenceNumericColumn(
        key,
        checked_shape(shape, where),
        float(default_value),
        checked_number(dtype, where),
        checked_normalizer(normalizer_fn, where),
    )
