"""Entries: the values of a raw feature and where they stand, whatever form the feature came in.

    found = entries([["red", "blue"], [], ["red"]], where="tags")
    found.values        # ["red", "blue", "red"]
    found.index         # (array([0, 0, 2]), array([0, 1, 0])): their rows and columns
    found.shape         # (3, 2)

A feature may be a dense array, a list, lists of lists, an object array, a scipy.sparse matrix, or a
`SparseTensor`. `None` and NaN are missing. So are `""` among strings and -1 among integers, as in
TensorFlow, but for the last two forms, where they are values like others.
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import estimator as est

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
        matrix.sum_duplicates()
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
    found = _sorted(Entries(values, tuple(index.T), shape, stored=True))
    assert found.index is not None
    twice = np.all([axis[1:] == axis[:-1] for axis in found.index], axis=0)
    if twice.any():
        place = [int(axis[1:][twice][0]) for axis in found.index]
        raise ValueError(
            f"{where} is a SparseTensor with two values at {place}; a place holds one."
        )
    return found


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


def _rank_error(feature: Any, where: str) -> ValueError:
    return ValueError(
        f"{where} has shape {feature.shape}; wanted is (batch,), (batch, values), or "
        "(batch, steps, values) of sequences."
    )
