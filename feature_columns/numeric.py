"""The numeric column: numbers as they are, or normalised.

    numeric_column("age", normalizer_fn=lambda x: (x - 40.0) / 12.0)

It works on the device: the normalizer is part of the compiled step. What is missing, `None` or NaN,
is the default value, or is refused.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
from feature_columns.cells import as_float32, as_numbers, exact_float32
from feature_columns.columns import (
    ColumnRecipe,
    DenseColumn,
    Features,
    OneFeatureColumn,
    checked_key,
    feature,
    raw_paths,
)
from feature_columns.entries import is_scipy_sparse
from feature_columns.parse_spec import FixedLenFeature, ParseSpec, checked_number

Normalizer = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class NumericColumn(OneFeatureColumn, DenseColumn):
    """Numbers of a fixed shape for each example; made by `numeric_column`."""

    key: str
    shape: tuple[int, ...]
    default_value: float | tuple[Any, ...] | None
    dtype: np.dtype
    normalizer_fn: Normalizer | None

    @property
    def width(self) -> int:
        """How many values each example has."""
        return math.prod(self.shape)

    @property
    def parse_spec(self) -> ParseSpec:
        """As many values as the shape has."""
        return {self.key: FixedLenFeature(self.shape, self.dtype, self.default_value)}

    def dense(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns floats of shape `(batch, product of shape)`.

        Raises:
            ValueError: if the feature is missing, or an example has another number of values.
        """
        del trainable
        value = feature(features, self.key, self.where)
        if est.raw_path(value) is None or isinstance(value, jax.Array):
            if self.default_value is None:
                est.host_check(value, NoMissingNumbers(self.key))
            value = self._shaped(jnp.asarray(value))
            if self.default_value is not None and jnp.issubdtype(value.dtype, jnp.floating):
                default = jnp.asarray(self.default_value, value.dtype)
                value = jnp.where(jnp.isnan(value), default, value)
        else:
            exact = self.normalizer_fn is not None
            column = dataclasses.replace(self, normalizer_fn=None)
            paths = raw_paths(self.keys, features, self.where)
            value = est.host_feature(NumericValues(column, paths, exact))
        return self._normalized(value, jnp)

    def host_dense(self, raw: Mapping[str, Any]) -> np.ndarray:
        """Returns floats of shape `(batch, product of shape)` of a raw batch, on the host."""
        values = self.host_values(raw)
        if values.dtype.kind == "f":  # as on the device
            exact = self.normalizer_fn is not None
            values = exact_float32(values, self.where) if exact else as_float32(values)
        return self._normalized(values, np)

    def host_values(self, raw: Mapping[str, Any]) -> np.ndarray:
        """Returns the raw numbers, floats or integers of shape `(batch, *shape)`, on the host.

        Raises:
            ValueError: if the feature is sparse, a value is missing, or there are not as many in
                each example as the shape has.
            TypeError: if a value is no number.
        """
        where = f'{self.where}: the feature "{self.key}"'
        value = raw[self.key]
        if isinstance(value, est.SparseTensor):
            raise ValueError(
                f"{where} is a SparseTensor; wanted is a dense array. A sequence of numbers goes "
                "into sequence_numeric_column."
            )
        if is_scipy_sparse(value):
            value = value.toarray()
        values = self._shaped(as_numbers(value, where))
        if self.default_value is None:
            NoMissingNumbers(self.key)(values)
            return values
        if values.dtype.kind in "biu":
            return values
        return np.where(np.isnan(values), np.asarray(self.default_value, values.dtype), values)

    @property
    def where(self) -> str:
        """What error messages call it."""
        return f"numeric_column({self.key})"

    def _shaped(self, value: Any) -> Any:
        """Returns values as `(batch, *shape)`, whatever shape of that size each example has."""
        if value.ndim == 0:
            raise ValueError(
                f"{self.where}: the feature is a single number, of shape (); wanted is one value "
                "for each example: [3.0], not 3.0."
            )
        if math.prod(value.shape[1:]) != self.width:
            raise ValueError(
                f"{self.where}: the feature has shape {value.shape}, wanted "
                f"{('batch', *self.shape)}. Give the column shape={value.shape[1:]}, or reshape "
                "the feature."
            )
        return value.reshape(value.shape[0], *self.shape)

    def _normalized(self, value: Any, xp: Any) -> Any:
        """Returns rows of what the normalizer makes of values; `xp`: numpy or jax.numpy."""
        rows = value.shape[0]
        if self.normalizer_fn is not None:
            value = xp.asarray(normalized(self.normalizer_fn, value, self.where))
        return value.reshape(rows, self.width).astype(xp.float32)


@dataclasses.dataclass(frozen=True, repr=False)
class NumericValues(ColumnRecipe):
    """The numbers of a feature that holds no plain array, one row for each example."""

    exact: bool
    dtype = np.dtype(np.float32)
    takes_floats = True

    @property
    def dims(self) -> tuple[str | int, ...]:  # type: ignore[override]
        """One row of the column's shape for each example."""
        return ("batch", *self.column.shape)

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns float32 of shape `(batch, *shape)`.

        Raises:
            OverflowError: if `exact`, and float32 cannot hold an integer.
        """
        values = self.column.host_values(self.raw(features, labels))
        return exact_float32(values, self.column.where) if self.exact else as_float32(values)


@dataclasses.dataclass(frozen=True)
class NoMissingNumbers(est.HostCheck):
    """Refuses NaN in a feature whose column has no default value."""

    key: str

    def __call__(self, values: np.ndarray) -> None:
        """Raises a ValueError that names the feature and the place."""
        if values.dtype.kind == "f" and values.size and np.isnan(values.min()):
            place = tuple(int(i) for i in np.argwhere(np.isnan(values))[0])
            raise ValueError(
                f'numeric_column({self.key}): the feature "{self.key}" has a missing value, None '
                f"or NaN, at {place}. Give the column a default_value, or fill it in input_fn."
            )


def numeric_column(
    key: str,
    shape: int | Sequence[int] = (1,),
    default_value: float | Sequence[Any] | None = None,
    dtype: Any = np.float32,
    normalizer_fn: Normalizer | None = None,
) -> NumericColumn:
    """Returns a column of numbers.

    >>> numeric_column("pixels", shape=[28, 28]).shape
    (28, 28)

    Args:
        key: the name of the feature.
        shape: the shape of one example.
        default_value: stands in for what is missing: one number, or one for each value of the
            shape; None: a missing value is an error (in an array of JAX's it is not looked for).
        dtype: the numpy dtype of the feature in a serialised example.
        normalizer_fn: a function of the traced array, of shape `(batch, *shape)`, that keeps the
            shape; inside a cross it is given a numpy array.

    Raises:
        ValueError: if the key is no string, or the shape has a dimension below 1.
        TypeError: if the dtype is not one of numbers, or the normalizer cannot be called.
    """
    checked_key(key, "numeric_column")
    where = f"numeric_column({key})"
    sizes = checked_shape(shape, where)
    return NumericColumn(
        key,
        sizes,
        checked_default(default_value, sizes, where),
        checked_number(dtype, where),
        checked_normalizer(normalizer_fn, where),
    )


def checked_default(default: Any, sizes: tuple[int, ...], where: str) -> Any:
    """Returns a default value as data: None, a number, or tuples of numbers of the shape.

    >>> checked_default([1, 2], (2,), "doc"), checked_default(0.5, (2,), "doc")
    ((1, 2), 0.5)

    Raises:
        TypeError: if it is no number.
        ValueError: if it has another shape.
    """
    if default is None:
        return None
    array = np.asarray(default)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{where}: default_value must be a number, or numbers of the column's shape {sizes}, "
            f"got {default!r}."
        )
    if array.shape not in ((), sizes):
        raise ValueError(
            f"{where}: default_value has shape {array.shape}, wanted a number or the column's "
            f"shape {sizes}."
        )
    return _as_tuples(array.tolist())


def _as_tuples(values: Any) -> Any:
    return tuple(map(_as_tuples, values)) if isinstance(values, list) else values


def checked_shape(shape: Any, where: str) -> tuple[int, ...]:
    """Returns the shape of one example.

    >>> checked_shape(3, "doc"), checked_shape([2, 2], "doc")
    ((3,), (2, 2))

    Raises:
        TypeError: if it holds something else than ints.
        ValueError: if a dimension is below 1.
    """
    sizes = tuple(shape) if isinstance(shape, Sequence | np.ndarray) else (shape,)
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in sizes):
        raise TypeError(f"{where}: shape must be an int, or a tuple of ints, got {shape!r}.")
    if any(size < 1 for size in sizes):
        raise ValueError(f"{where}: shape must be positive, got {sizes}.")
    return tuple(int(size) for size in sizes)


def normalized(normalizer_fn: Normalizer, value: Any, where: str) -> Any:
    """Returns what a normalizer makes of an array; where it uses numpy, the error says so.

    Raises:
        ValueError: if it makes another number of values.
    """
    try:
        made = normalizer_fn(value)
    except jax.errors.JAXTypeError as error:
        error.add_note(
            f"{where}: normalizer_fn is given a traced array. Use jax.numpy in it, jnp.log1p for "
            "example, in place of numpy and Python's own functions."
        )
        raise
    if np.size(made) != value.size:
        raise ValueError(
            f"{where}: normalizer_fn made an array of shape {np.shape(made)} of one of shape "
            f"{value.shape}. It must keep the shape."
        )
    return made


def checked_normalizer(normalizer_fn: Any, where: str) -> Normalizer | None:
    """Returns a normalizer that can be called, or None.

    Raises:
        TypeError: if it cannot be.
    """
    if normalizer_fn is not None and not callable(normalizer_fn):
        raise TypeError(f"{where}: normalizer_fn must be a function, got {normalizer_fn!r}.")
    return normalizer_fn
