"""The numeric column: numbers as they are, or normalised.

    numeric_column("age", normalizer_fn=lambda x: (x - 40.0) / 12.0)

It works on the device: the normalizer is part of the compiled step.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from feature_columns.columns import DenseColumn, feature


@dataclasses.dataclass(frozen=True)
class NumericColumn(DenseColumn):
    """Numbers of a fixed shape for each example; made by `numeric_column`."""

    key: str
    shape: tuple[int, ...]
    default_value: float | tuple[Any, ...] | None
    dtype: np.dtype
    normalizer_fn: Callable[[Any], Any] | None

    @property
    def name(self) -> str:
        """The name of the feature."""
        return self.key

    def dense(self, features: Mapping[str, Any]) -> jax.Array:
        """Returns floats of shape `(batch, product of shape)`.

        Raises:
            ValueError: if the feature is missing, or an example has another number of values.
        """
        value = jnp.asarray(feature(features, self.key, f"numeric_column({self.key})"))
        width = math.prod(self.shape)
        batch = value.shape[0] if value.ndim else 1
        fitting = [(batch, *self.shape)] + ([(batch,)] if width == 1 else [])
        if value.shape not in fitting:
            raise ValueError(
                f"numeric_column({self.key}): the feature has shape {value.shape}, wanted "
                f"{('batch', *self.shape)}. Give the column shape={value.shape[1:]}, or reshape "
                "the feature."
            )
        value = value.reshape(batch, *self.shape)
        if self.default_value is not None:
            default = jnp.asarray(self.default_value, value.dtype)
            value = jnp.where(jnp.isnan(value), default, value)
        value = value.astype(jax.dtypes.canonicalize_dtype(self.dtype))
        if self.normalizer_fn is not None:
            value = self.normalizer_fn(value)
        return value.reshape(batch, width).astype(jnp.float32)


def numeric_column(
    key: str,
    shape: int | Sequence[int] = (1,),
    default_value: float | Sequence[Any] | None = None,
    dtype: Any = np.float32,
    normalizer_fn: Callable[[Any], Any] | None = None,
) -> NumericColumn:
    """Returns a column of numbers.

    >>> numeric_column("pixels", shape=[28, 28]).shape
    (28, 28)

    Args:
        key: the name of the feature.
        shape: the shape of one example.
        default_value: stands in for NaN: one number, or one for each value of the shape.
        dtype: the numpy dtype that the normalizer sees, float32 by default.
        normalizer_fn: a function of the traced array, of shape `(batch, *shape)`.

    Raises:
        ValueError: if the shape has a dimension below 1.
        TypeError: if the dtype is not one of numbers, or the normalizer cannot be called.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
    if any(size < 1 for size in sizes):
        raise ValueError(f"numeric_column({key}): shape must be positive, got {sizes}.")
    if not np.issubdtype(np.dtype(dtype), np.number):
        raise TypeError(f"numeric_column({key}): dtype must be one of numbers, got {dtype}.")
    if normalizer_fn is not None and not callable(normalizer_fn):
        raise TypeError(
            f"numeric_column({key}): normalizer_fn must be a function, got {normalizer_fn!r}."
        )
    default: Any = default_value
    if default is not None and not isinstance(default, int | float):
        default = tuple(np.asarray(default).tolist())
        if np.shape(default) != sizes:
            raise ValueError(
                f"numeric_column({key}): default_value has shape {np.shape(default)}, wanted a "
                f"number or the column's shape {sizes}."
            )
    return NumericColumn(key, sizes, default, np.dtype(dtype), normalizer_fn)
