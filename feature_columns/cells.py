"""Cells: the values of a raw feature as strings, integers or floats, each read once a batch.

    raw_strings(["red", None, ""], where).values        # ["red", ""]
    raw_integers([3, None, -1], where).values           # array([3, -1])

`None` and NaN are left out, or are NaN among floats. Anything of another kind is refused by name.
"""

import numbers
from typing import Any

import numpy as np

import estimator as est
from feature_columns.entries import Entries, entries, is_missing

_STRINGS = {str, bytes}


def raw_entries(feature: Any, where: str) -> Entries:
    """Returns the entries of a raw feature, read once for all columns of a batch."""
    made: Entries = est.once_a_batch(feature, entries, lambda: entries(feature, where))
    return made


def raw_strings(feature: Any, where: str) -> Entries:
    """Returns the strings of a raw feature, `""` too, read once for all columns of a batch."""
    found = raw_entries(feature, where)
    made: Entries = est.once_a_batch(feature, strings, lambda: strings(found, where))
    return made


def raw_integers(feature: Any, where: str) -> Entries:
    """Returns the integers of a raw feature, -1 too, read once for all columns of a batch."""
    found = raw_entries(feature, where)
    made: Entries = est.once_a_batch(feature, integers, lambda: integers(found, where))
    return made


def strings(found: Entries, where: str) -> Entries:
    """Returns entries whose values are a list of `str` and `bytes`: `None` and NaN are left out.

    >>> strings(entries(["a", None, ""], "doc"), "doc").values
    ['a', '']

    Args:
        found: entries.
        where: the column and the feature, for error messages.

    Raises:
        TypeError: if a value is something else.
    """
    values = found.values
    if isinstance(values, np.ndarray):
        kind, values = values.dtype.kind, values.tolist()
        if kind == "U":
            return found.with_values(values)
        if kind not in "STO" and values:
            raise _not_strings(found.values.dtype, values[0], where)
    if not set(map(type, values)) <= _STRINGS:
        keep = np.fromiter((not is_missing(value) for value in values), bool, len(values))
        found = found.with_values(values).kept(keep)
        values = [_plain_string(value, where) for value in found.values]
    return found.with_values(values)


def integers(found: Entries, where: str) -> Entries:
    """Returns entries whose values are an int64 or uint64 array: `None` and NaN are left out.

    >>> integers(entries([3, None, -1], "doc"), "doc").values
    array([ 3, -1])

    Args:
        found: entries.
        where: the column and the feature, for error messages.

    Raises:
        TypeError: if a value is no integer.
        OverflowError: if a value needs more than 64 bits.
    """
    values = found.values
    array = np.asarray(values) if len(values) else np.zeros(0, np.int64)
    if array.dtype == object or (isinstance(values, list) and array.dtype.kind not in "iu"):
        keep = np.fromiter((not is_missing(value) for value in values), bool, len(values))
        found = found.kept(keep)
        array = _as_integers(list(found.values), where)
    if array.size and array.dtype.kind not in "iu":
        raise _not_integers(array.dtype, array[0], where)
    if array.dtype.kind != "u" or array.dtype.itemsize < 8:
        array = array.astype(np.int64)
    return found.with_values(array)


def are_there(found: Entries) -> np.ndarray | None:
    """Returns which strings or integers stand for a value: not `""` and -1, unless sparse.

    >>> are_there(strings(entries(["a", ""], "doc"), "doc")).tolist()
    [True, False]

    Returns:
        Bools of shape `(values,)`; None: all of them.
    """
    values = found.values
    if found.stored:
        return None
    if isinstance(values, np.ndarray):
        there = values != -1
        return None if there.all() else there
    return None if all(values) else np.fromiter(map(bool, values), bool, len(values))


def floats(found: Entries, where: str) -> Entries:
    """Returns entries whose values are a float32 array: what is missing is NaN.

    >>> floats(entries([3, None], "doc"), "doc").values
    array([ 3., nan], dtype=float32)

    Args:
        found: entries.
        where: the column and the feature, for error messages.

    Raises:
        TypeError: if a value is no number.
    """
    return found.with_values(as_float32(as_numbers(found.values, where)))


def as_numbers(values: Any, where: str) -> np.ndarray:
    """Returns numbers of any shape as an array, integers as they are: what is missing is NaN.

    >>> as_numbers([[1, None]], "doc").tolist()
    [[1.0, nan]]

    Raises:
        TypeError: if a value is no number.
        ValueError: if the rows differ in length.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(
            f"{where} has rows of different lengths; wanted is the same number of values in each."
        ) from None
    if array.dtype == object:
        flat = array.ravel().tolist()
        for value in flat:
            if not is_missing(value) and not isinstance(value, numbers.Real):
                raise TypeError(f"{where} holds {_shown(value)}; numbers are wanted.")
        numeric = [np.nan if is_missing(value) else float(value) for value in flat]
        array = np.array(numeric).reshape(array.shape)
    if array.dtype.kind not in "biufV":
        raise TypeError(
            f"{where} holds {array.dtype} values{_such_as(array)}; numbers are wanted. Convert "
            "them in input_fn, or use a categorical column."
        )
    return array


def as_float32(array: np.ndarray) -> np.ndarray:
    """Returns numbers as float32; what it cannot hold is infinite, as on the device.

    >>> as_float32(np.array([1, 1e300])).tolist()
    [1.0, inf]
    """
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def exact_float32(array: np.ndarray, where: str) -> np.ndarray:
    """Returns numbers as float32, for a function that takes them apart.

    Raises:
        OverflowError: if that changes an integer.
    """
    made = as_float32(array)
    changed = (made != array) & (array == np.rint(array)) & np.isfinite(made)
    if changed.any():
        raise OverflowError(
            f"{where} holds {array[changed][0]:.0f}, which float32 cannot hold: the normalizer "
            "would be given another number. Take the first steps in input_fn."
        )
    return made


def _plain_string(value: Any, where: str) -> str | bytes:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return bytes(value)
    raise _not_strings(type(value).__name__, value, where)


def _as_integers(values: list[Any], where: str) -> np.ndarray:
    for value in values:
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise _not_integers(type(value).__name__, value, where)
    made = np.array(values or [], np.int64 if not values else None)
    if made.dtype == object or made.dtype.kind == "f":
        raise OverflowError(f"{where} holds {max(values, key=abs)}, which int64 cannot hold.")
    return made


def _not_strings(kind: Any, example: Any, where: str) -> TypeError:
    return TypeError(
        f"{where} holds {kind} values, such as {_shown(example)}; the column's dtype is str. Give "
        "strings, or give the column dtype=np.int64 if they are integers."
    )


def _not_integers(kind: Any, example: Any, where: str) -> TypeError:
    return TypeError(
        f"{where} holds {kind} values, such as {_shown(example)}; integers are wanted. Convert "
        "them in input_fn, with -1 for what is missing (.fillna(-1).astype(int) in pandas), or use "
        "a column of strings."
    )


def _such_as(array: np.ndarray) -> str:
    return f", such as {_shown(array.flat[0])}" if array.size else ""


def _shown(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)
