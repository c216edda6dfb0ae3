"""Parse specs: how the features of columns are read from a serialised `tf.train.Example`.

    {"age": FixedLenFeature((1,), np.float32), "city": VarLenFeature(np.dtype(str))}

`make_parse_example_spec` in `columns.py` puts those of several columns together.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class FixedLenFeature:
    """As many values as the shape has, in each example.

    Attributes:
        shape: the shape of one example.
        dtype: the numpy dtype of its values.
        default_value: stands in where an example lacks the feature; None: it must not.
    """

    shape: tuple[int, ...]
    dtype: Any
    default_value: Any = None


@dataclasses.dataclass(frozen=True)
class VarLenFeature:
    """Any number of values in each example.

    Attributes:
        dtype: the numpy dtype of the values.
    """

    dtype: Any


ParseSpec = dict[str, FixedLenFeature | VarLenFeature]


def merged_specs(specs: Iterable[ParseSpec], where: str) -> ParseSpec:
    """Returns several specs as one.

    >>> merged_specs([{"a": VarLenFeature(np.int64)}, {"b": VarLenFeature(np.int64)}], "doc").keys()
    dict_keys(['a', 'b'])

    Raises:
        ValueError: if two of them read one feature differently.
    """
    merged: ParseSpec = {}
    for spec in specs:
        for key, value in spec.items():
            known = merged.setdefault(key, value)
            if known != value:
                raise ValueError(
                    f'{where}: the columns read the feature "{key}" in different ways: {known} and '
                    f"{value}. Give one of the columns another key."
                )
    return merged


def string_or_integer(dtype: Any, where: str) -> np.dtype:
    """Returns the dtype of a categorical column: that of str, or of the integers it was given.

    >>> string_or_integer("string", "doc"), string_or_integer(np.int32, "doc")
    (dtype('<U'), dtype('int32'))

    Raises:
        ValueError: if it is neither.
    """
    if dtype == "string":
        return np.dtype(str)
    try:
        made = np.dtype(dtype)
    except TypeError:
        made = np.dtype(float)
    if made.kind in "USO":
        return np.dtype(str)
    if made.kind not in "iu":
        raise ValueError(f"{where}: dtype must be string or integer, got {dtype!r}.")
    return made


def checked_number(dtype: Any, where: str) -> np.dtype:
    """Returns a dtype of numbers.

    >>> checked_number(np.int64, "doc")
    dtype('int64')

    Raises:
        TypeError: if it is another.
    """
    try:
        made = np.dtype(dtype)
    except TypeError:
        made = np.dtype(object)
    if made.kind not in "biuf":
        raise TypeError(
            f"{where}: dtype must be one of numbers, convertible to float, got {dtype!r}."
        )
    return made
