"""Entries: the values of a raw feature and where they stand, whatever form the feature came in.

    found = entries([["red", "blue"], [], ["red"]])
    found.values        # ["red", "blue", "red"]
    found.index         # (array([0, 0, 2]), array([0, 1, 0])): their rows and columns
    found.shape         # (3, 2)

A feature may be a dense array, a list, lists of lists, an object array, a scipy.sparse matrix, or a
`SparseTensor`. `None` and NaN are missing. So are `""` among strings and -1 among integers, as in
TensorFlow, but for the last two forms, where they are values like others.
"""

import dataclasses
import itertools
import numbers
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import estimator as est

_STRINGS = {str, bytes}
_ROWS = (list, tuple, np.ndarray)


@dataclasses.dataclass(eq=False, slots=True)
class Entries:
    """Values and where they stand, in row-major order.

    Attributes:
        values: a list, or an array, of all values one after another.
        index: for each dimension the position of every value; None: they fill the whole shape.
        shape: `(batch, width)`, or `(batch, steps, width)`.
        stored: whether everything that is there is a value, as in a sparse feature.
    """

    values: Any
    index: tuple[np.ndarray, ...] | None
    shape: tuple[int, ...]
    stored: bool = False

    @property
    def positions(self) -> tuple[np.ndarray, ...]:
        """For each dimension the position of every value."""
        if self.index is not None:
            return self.index
        return tuple(axis.ravel() for axis in np.indices(self.shape))

    def kept(self, keep: np.ndarray | None) -> "Entries":
        """Returns the entries where `keep`, bools of shape `(values,)`, is True; None: all."""
        if keep is None or keep.all():
            return self
        index = tuple(axis[keep] for axis in self.positions)
        return Entries(self.values_where(keep), index, self.shape, self.stored)

    def values_where(self, keep: np.ndarray) -> Any:
        """Returns the values where `keep`, bools of shape `(values,)`, is True."""
        if isinstance(self.values, list):
            return list(itertools.compress(self.values, keep.tolist()))
        return self.values[keep]

    def with_values(self, values: Any) -> "Entries":
        """Returns other values in the same places."""
        return Entries(values, self.index, self.shape, self.stored)

    def placed(self, fill: Any, dtype: Any) -> np.ndarray:
        """Returns an array of the whole shape, `fill` where there is no value."""
        if self.index is None:
            return np.asarray(self.values, dtype).reshape(self.shape)
        made = np.full(self.shape, fill, dtype)
        made[self.index] = self.values
        return made


def entries(feature: Any, where: str) -> Entries:
    """Returns the entries of a raw feature, two-dimensional or, of sequences, three-dimensional.

    >>> entries(["a", "b"], "doc").shape, entries([["a"], ["b", "c"]], "doc").values
    ((2, 1), ['a', 'b', 'c'])

    Args:
        feature: what input_fn gave.
        where: the column and the feature, for error messages.

    Raises:
        ValueError: if the feature is a single value, has more than three dimensions, or is a
            SparseTensor whose parts do not fit together.
    """
    if isinstance(feature, est.SparseTensor):
        return _of_sparse_tensor(feature, where)
    if is_scipy_sparse(feature):
        if feature.ndim != 2:
            raise _rank_error(feature, where)
        matrix = feature.tocoo(copy=True)
        matrix.sum_duplicates()  # and sorts
        return _sorted(Entries(matrix.data, (matrix.row, matrix.col), matrix.shape, stored=True))
    if not isinstance(feature, list | tuple):
        feature = np.asarray(feature)
        if feature.dtype != object:
            return _of_array(feature, where)
        if feature.ndim != 1:
            if feature.ndim == 0:
                raise _rank_error(feature, where)
            return _of_array(feature, where)
        feature = feature.tolist()
    return _of_rows(list(feature), where)


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
    return found.with_values(as_floats(found.values, where))


def as_floats(values: Any, where: str) -> np.ndarray:
    """Returns numbers of any shape as float32: what is missing is NaN.

    >>> as_floats([[1, None]], "doc").tolist()
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
    with np.errstate(over="ignore"):  # to infinity, as on the device
        return array.astype(np.float32)


def row_lengths(found: Entries) -> np.ndarray:
    """Returns for each row the position of its last value plus one, int32 of shape `(batch,)`.

    >>> row_lengths(entries([["a", "b"], [], ["c"]], "doc")).tolist()
    [2, 0, 1]
    """
    if found.index is None:
        return np.full(found.shape[0], found.shape[1] if all(found.shape) else 0, np.int32)
    lengths = np.zeros(found.shape[0], np.int32)
    np.maximum.at(lengths, found.index[0], (found.index[1] + 1).astype(np.int32))
    return lengths


def is_missing(value: Any) -> bool:
    """Returns whether a value stands for none: `None`, NaN, or pandas' NA and NaT.

    >>> is_missing(None), is_missing(float("nan")), is_missing("")
    (True, True, False)
    """
    if value is None:
        return True
    if isinstance(value, str | bytes | int):
        return False
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    pandas = sys.modules.get("pandas")  # where it was not imported, none of its values exists
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def is_scipy_sparse(feature: Any) -> bool:
    """Returns whether a feature is a matrix of scipy.sparse.

    >>> is_scipy_sparse(np.zeros((2, 3)))
    False
    """
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(feature))


def _of_array(array: np.ndarray, where: str) -> Entries:
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim not in (2, 3):
        raise _rank_error(array, where)
    return Entries(array.ravel(), None, array.shape)


def _of_rows(rows: list[Any], where: str) -> Entries:
    """Returns the entries of a list: of values, of rows of values, or of rows of steps."""
    if not _has_rows(rows):
        return Entries(rows, None, (len(rows), 1))
    flat, lengths = _joined(rows)
    if not _has_rows(flat):
        return _of_ragged(flat, [lengths])
    values, widths = _joined(flat)
    if _has_rows(values):
        raise ValueError(
            f"{where} has lists inside lists inside lists; wanted are values, rows of values, or "
            "rows of steps of values."
        )
    return _of_ragged(values, [lengths, widths])


def _joined(rows: list[Any]) -> tuple[list[Any], list[int]]:
    """Returns the items of all rows, and how many each has; a missing row has none."""
    listed = [row if isinstance(row, list) else _as_list(row) for row in rows]
    return list(itertools.chain.from_iterable(listed)), [len(row) for row in listed]


def _of_ragged(values: list[Any], lengths: Sequence[Sequence[int]]) -> Entries:
    index = [np.repeat(np.arange(len(lengths[0])), lengths[0]), _counted_up(lengths[0])]
    shape = [len(lengths[0]), max(lengths[0], default=0)]
    for inner in lengths[1:]:
        index = [*(np.repeat(axis, inner) for axis in index), _counted_up(inner)]
        shape.append(max(inner, default=0))
    full = len(values) == np.prod(shape)
    return Entries(values, None if full else tuple(index), tuple(shape))


def _counted_up(lengths: Sequence[int]) -> np.ndarray:
    """Returns 0, 1, ... for each length: `[2, 3]` gives `[0, 1, 0, 1, 2]`."""
    ends = np.cumsum(np.asarray(lengths, np.int64))
    starts = ends - lengths
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(starts, lengths)


def _of_sparse_tensor(feature: est.SparseTensor, where: str) -> Entries:
    shape = tuple(int(size) for size in np.asarray(feature.dense_shape))
    values = feature.values
    values = values if isinstance(values, list) else np.asarray(values)
    index = np.asarray(feature.indices, np.int64)
    index = index.reshape(-1, len(shape)) if index.size == 0 else index
    if len(shape) not in (2, 3) or index.shape != (len(values), len(shape)):
        raise ValueError(
            f"{where} is a SparseTensor with indices of shape {index.shape}, {len(values)} values "
            f"and dense_shape {shape}; wanted are two or three dimensions, and one index for each "
            "value."
        )
    if len(values) and ((index < 0).any() or (index >= shape).any()):
        raise ValueError(
            f"{where} is a SparseTensor with an index {index.max(0).tolist()} outside its "
            f"dense_shape {shape}."
        )
    return _sorted(Entries(values, tuple(index.T), shape, stored=True))


def _sorted(found: Entries) -> Entries:
    """Returns the entries in row-major order."""
    assert found.index is not None
    order = np.lexsort(found.index[::-1])
    if (order == np.arange(len(order))).all():
        return found
    values = found.values
    values = [values[i] for i in order] if isinstance(values, list) else values[order]
    return dataclasses.replace(found, values=values, index=tuple(x[order] for x in found.index))


def _has_rows(values: list[Any]) -> bool:
    return any(issubclass(kind, _ROWS) for kind in set(map(type, values)))


def _as_list(row: Any) -> list[Any]:
    if isinstance(row, np.ndarray):
        return list(row.tolist()) if row.ndim == 1 else list(row)
    if isinstance(row, tuple):
        return list(row)
    return [] if is_missing(row) else [row]


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


def _rank_error(feature: Any, where: str) -> ValueError:
    return ValueError(
        f"{where} has shape {feature.shape}; wanted is (batch,), (batch, values), or "
        "(batch, steps, values) of sequences."
    )


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
