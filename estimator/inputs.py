"""Arrays in memory become batches whose position is two numbers.

    input_fn = numpy_input_fn({"age": ages, "town": towns}, labels, num_epochs=None, shuffle=True)
    for features, labels in input_fn():
        ...

The order of an epoch is a function of (seed, epoch) alone. So a position is the count of rows given
and the seed, and going back to it replays nothing. Batches cross the borders of epochs; only the
very last one may be short.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeGuard, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from estimator.sparse_tensor import SparseTensor

Array = NDArray[Any]
Arrays = Array | dict[Any, Array]


@dataclass(frozen=True)
class BatchSettings:
    """How a table of rows is cut into batches.

    >>> BatchSettings(batch_size=0, shuffle=True)
    Traceback (most recent call last):
    ValueError: batch_size=0: wants a whole number greater than 0.

    Attributes:
        batch_size: rows in a batch; the last batch of all may have fewer.
        num_epochs: how often every row is given; None: forever.
        shuffle: whether each epoch has an order of its own; has to be given.
        seed: makes that order repeatable; None: drawn anew for every iterator.
    """

    batch_size: int = 128
    num_epochs: int | None = 1
    shuffle: bool | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.shuffle, bool):
            raise ValueError(
                "shuffle must be provided and explicitly set as boolean (True is recommended for "
                f"training, False for evaluation and prediction); got {self.shuffle!r}."
            )
        wanted = "wants a whole number greater than 0"
        if not _is_whole(self.batch_size, at_least=1):
            raise ValueError(f"batch_size={self.batch_size!r}: {wanted}.")
        if self.num_epochs is not None and not _is_whole(self.num_epochs, at_least=1):
            raise ValueError(f"num_epochs={self.num_epochs!r}: {wanted}, or None to go on forever.")
        if self.seed is not None and not _is_whole(self.seed, at_least=0):
            raise ValueError(f"seed={self.seed!r}: wants a whole number from 0 on, or None.")


@final
class ArrayBatches:
    """An iterator of batches of rows that knows its position and can be set to another.

    >>> settings = BatchSettings(batch_size=3, num_epochs=2, shuffle=False)
    >>> batches = ArrayBatches(np.arange(5), None, settings)
    >>> next(batches)
    array([0, 1, 2])
    >>> position = batches.get_state()
    >>> [batch.tolist() for batch in batches]
    [[3, 4, 0], [1, 2, 3], [4]]
    >>> batches.set_state(position)
    >>> next(batches)
    array([3, 4, 0])

    A batch is `features` where `labels` is None, else `(features, labels)`. An array of a batch is
    a read-only view of the given array where its rows lie side by side, and a new array otherwise.

    Args:
        features: an array or a dict of arrays, `(rows, ...)` each.
        labels: the same, or None.
        settings: how to cut them into batches.

    Attributes:
        fresh_batches: True; arrays that were given are never written again.

    Raises:
        TypeError: something is not an array.
        ValueError: there are no rows, or the numbers of rows differ.
    """

    fresh_batches = True

    def __init__(self, features: Any, labels: Any, settings: BatchSettings) -> None:
        self._settings = settings
        self._features, self._labels = _table(features, labels)
        self._rows = _count_rows(self._features, self._labels)
        self._batch_size = int(settings.batch_size)
        self._total = None if settings.num_epochs is None else self._rows * int(settings.num_epochs)
        self._examples = 0
        self._seed: int | None = None
        if settings.shuffle:
            self._seed = secrets.randbits(32) if settings.seed is None else int(settings.seed)
        self._order: tuple[int, Array] | None = None

    def __iter__(self) -> ArrayBatches:
        return self

    def __next__(self) -> Any:
        start = self._examples
        stop = start + self._batch_size
        if self._total is not None and stop > self._total:
            stop = self._total
            if start >= stop:
                raise StopIteration
        return self._give(start, stop)

    def next_block(self, count: int) -> Any:
        """Gives the next `count` batches at once, stacked along a new first axis.

        >>> settings = BatchSettings(batch_size=2, num_epochs=1, shuffle=False)
        >>> ArrayBatches(np.arange(5), None, settings).next_block(2).tolist()
        [[0, 1], [2, 3]]

        Returns:
            The stacked batches, or None where fewer than `count` full ones are left.
        """
        stop = self._examples + count * self._batch_size
        if self._total is not None and stop > self._total:
            return None
        return self._give(self._examples, stop, (count, self._batch_size))

    def get_state(self) -> dict[str, int | None]:
        """Says where the next batch begins, as a small dict that JSON can hold."""
        return {"examples": self._examples, "seed": self._seed}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that `get_state` told, here or in another iterator over the same rows.

        Raises:
            ValueError: the position is not one of this iterator.
        """
        examples, seed = state.get("examples"), state.get("seed")
        if not _is_whole(examples, at_least=0) or (self._total or examples) < examples:
            end = "" if self._total is None else f" to {self._total}"
            raise ValueError(
                f"set_state({dict(state)}): wants `examples` to be a number from 0{end}. "
                "Was the position told by an iterator over other rows?"
            )
        if _is_whole(seed, at_least=0) != self._settings.shuffle:
            wanted = "a number" if self._settings.shuffle else "None"
            raise ValueError(
                f"set_state({dict(state)}): wants `seed` to be {wanted}. "
                "Was the position told by an iterator with another `shuffle`?"
            )
        self._examples = int(examples)
        self._seed = int(seed) if _is_whole(seed, at_least=0) else None
        self._order = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the batches, for telling whether a stored position belongs to this input."""
        return {
            "kind": f"{type(self).__module__}.{type(self).__qualname__}",
            "examples": self._rows,
            "features": _describe(self._features),
            "labels": None if self._labels is None else _describe(self._labels),
            **{name: _plain(value) for name, value in asdict(self._settings).items()},
        }

    def _give(self, start: int, stop: int, shape: tuple[int, ...] = ()) -> Any:
        epoch, first = divmod(start, self._rows)
        last = first + stop - start
        if self._seed is None and last <= self._rows:
            rows: Array | slice = slice(first, last)
        elif self._seed is None:
            rows = np.arange(start, stop) % self._rows
        else:
            rows = self._shuffled(epoch, first, last)
        features = _pick(self._features, rows, shape)
        batch = features if self._labels is None else (features, _pick(self._labels, rows, shape))
        self._examples = stop
        return batch

    def _shuffled(self, epoch: int, first: int, last: int) -> Array:
        # Places are counted from the start of the epoch; those past its end lie in later epochs.
        if last <= self._rows:
            return self._order_of(epoch)[first:last]
        parts = []
        while last > 0:
            parts.append(self._order_of(epoch)[first : min(last, self._rows)])
            epoch, first, last = epoch + 1, 0, last - self._rows
        return np.concatenate(parts)

    def _order_of(self, epoch: int) -> Array:
        if self._order is None or self._order[0] != epoch:
            stream = np.random.SeedSequence(self._seed, spawn_key=(epoch,))
            self._order = (epoch, np.random.default_rng(stream).permutation(self._rows))
        return self._order[1]


def numpy_input_fn(
    x: Any,
    y: Any = None,
    batch_size: int = 128,
    num_epochs: int | None = 1,
    shuffle: bool | None = None,
    queue_capacity: int | None = 1000,
    num_threads: int = 1,
    seed: int | None = None,
) -> Callable[[], ArrayBatches]:
    """Makes an input_fn that gives the rows of arrays in batches.

    >>> input_fn = numpy_input_fn({"age": [20, 30, 40]}, y=[0, 1, 0], batch_size=2, shuffle=False)
    >>> for features, labels in input_fn():
    ...     print(features["age"], labels)
    [20 30] [0 1]
    [40] [0]

    Args:
        x: an array or a dict of arrays, `(rows, ...)` each. Lists are converted, rows of different
            lengths into an array of lists; arrays are not copied, so leave them as they are.
        y: the labels: an array, a dict of arrays, or None.
        batch_size: rows in a batch. 5 rows, 2 epochs and 3 in a batch give 3, 3, 3, 1.
        num_epochs: how often every row is given; None: forever, and never a short batch.
        shuffle: whether each epoch has an order of its own; has to be given.
        queue_capacity: accepted, because tf.estimator has it, and ignored: there is no queue.
        num_threads: accepted and ignored as well.
        seed: makes the shuffled order repeatable; None: every call of input_fn draws one.

    Returns:
        A function of no arguments. Each call gives a fresh `ArrayBatches` of `features`, or of
        `(features, labels)` where `y` is given. Dicts have their keys in sorted order.

    Raises:
        TypeError: something is not an array.
        ValueError: shuffle, batch_size, num_epochs or seed is not what it has to be; there are no
            rows; the numbers of rows differ; x and y have a key in common.
    """
    del queue_capacity, num_threads
    settings = BatchSettings(batch_size, num_epochs, shuffle, seed)
    if isinstance(x, Mapping) and isinstance(y, Mapping):
        shared = sorted(x.keys() & y.keys(), key=str)
        if shared:
            raise ValueError(
                f"{len(shared)} duplicate keys are found in both x and y: {shared}. "
                "Rename them in one of the two."
            )
    features, labels = _table(x, y)
    return lambda: ArrayBatches(features, labels, settings)


def pandas_input_fn(
    x: Any,
    y: Any = None,
    batch_size: int = 128,
    num_epochs: int | None = 1,
    shuffle: bool | None = None,
    queue_capacity: int | None = 1000,
    num_threads: int = 1,
    target_column: str = "target",
    seed: int | None = None,
) -> Callable[[], ArrayBatches]:
    """Makes an input_fn that gives the rows of a DataFrame in batches, as a dict of columns.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"age": [20, 30, 40]})
    >>> input_fn = pandas_input_fn(frame, pd.Series([0, 1, 0]), batch_size=2, shuffle=False)
    >>> next(input_fn())
    ({'age': array([20, 30])}, array([0, 1]))

    Args:
        x: a `pandas.DataFrame`; it is copied. A column is an array `(batch,)` of a batch.
        y: the labels, with the index of `x`: a Series (labels are an array), a DataFrame (a dict of
            arrays) or None.
        batch_size: rows in a batch.
        num_epochs: how often every row is given; None: forever, and never a short batch.
        shuffle: whether each epoch has an order of its own; has to be given.
        queue_capacity: accepted, because tf.estimator has it, and ignored: there is no queue.
        num_threads: accepted and ignored as well.
        target_column: a name for the labels, which no column of `x` may have.
        seed: makes the shuffled order repeatable; None: every call of input_fn draws one.

    Returns:
        A function of no arguments. Each call gives a fresh `ArrayBatches`.

    Raises:
        ImportError: pandas is not installed.
        TypeError: x or y is no pandas object of the kinds above.
        ValueError: as in `numpy_input_fn`; the indexes of x and y differ; x has a column
            `target_column`; a column is there twice.
    """
    del queue_capacity, num_threads
    settings = BatchSettings(batch_size, num_epochs, shuffle, seed)
    features, labels = _table(*_pandas_arrays(x, y, target_column))
    return lambda: ArrayBatches(features, labels, settings)


@runtime_checkable
class _SupportsArray(Protocol):
    def __array__(self) -> Array: ...


def _pandas_arrays(x: Any, y: Any, target_column: str) -> tuple[Arrays, Arrays | None]:
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("pandas_input_fn wants pandas: `pip install pandas`.") from error
    if not isinstance(x, pd.DataFrame):
        raise TypeError(
            f"x is of type {type(x).__name__}: pandas_input_fn wants a pandas.DataFrame. "
            "For arrays there is numpy_input_fn."
        )
    if not isinstance(target_column, str):
        raise TypeError(f"target_column={target_column!r}: wants a str.")
    if y is None:
        return _columns("x", x), None
    if not isinstance(y, pd.Series | pd.DataFrame):
        raise TypeError(
            f"y is of type {type(y).__name__}: wants a pandas.Series or DataFrame with x's index."
        )
    if target_column in x:
        raise ValueError(
            f"Cannot use name {target_column!r} for target column: DataFrame already has a column "
            f"with that name: {list(x.columns)}. Pass another target_column."
        )
    if not x.index.equals(y.index):
        raise ValueError(
            f"Index for x and y are mismatched.\nIndex for x: {x.index}\nIndex for y: {y.index}\n"
            "Where the rows belong together as they stand, call reset_index(drop=True) on both."
        )
    return _columns("x", x), _columns("y", y) if isinstance(y, pd.DataFrame) else np.array(y)


def _columns(name: str, frame: Any) -> dict[Any, Array]:
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()].unique().tolist()
        raise ValueError(f"{name} has more than one column named {twice}: rename them.")
    return {column: _values(frame[column]) for column in frame.columns}


def _values(series: Any) -> Array:
    """Returns a column as an array; integers with gaps stay integers, in an array of objects."""
    array = np.array(series)
    if array.dtype.kind == "f" and series.dtype.kind in "iu":
        return np.array(series.array, object)
    return array


def _table(x: Any, y: Any) -> tuple[Arrays, Arrays | None]:
    features = _arrays("x", x)
    labels = None if y is None else _arrays("y", y)
    _count_rows(features, labels)
    return features, labels


def _arrays(name: str, value: Any) -> Arrays:
    if not isinstance(value, Mapping):
        return _array(name, value, "a dict or array")
    if not value:
        hint = "use None instead" if name == "y" else "wants at least one array"
        raise ValueError(f"{name} cannot be an empty dict: {hint}.")
    return {
        key: _array(f"{name}[{key!r}]", value[key], "an array") for key in sorted(value, key=str)
    }


def _array(name: str, value: Any, wanted: str) -> Array:
    if not isinstance(value, list | tuple | _SupportsArray) or isinstance(value, SparseTensor):
        raise TypeError(
            f"{name} must be {wanted}; got {type(value).__name__}. (Rows of different lengths may "
            "be lists; sparse batches come from an input_fn of your own.)"
        )
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        if not isinstance(value, list | tuple):
            raise
        array = np.fromiter(value, object, len(value))
    if array.dtype.kind in "US" and isinstance(value, list | tuple):
        # numpy makes a string of anything among strings, "nan" of a missing one.
        objects = np.array(value, object)
        if not all(isinstance(item, str | bytes) for item in objects.flat):
            array = objects
    if array.ndim == 0:
        raise ValueError(f"{name} is a single {array.dtype}: wants an array of shape (rows, ...).")
    # A view, so that the user's array stays writable while no batch can change later epochs.
    array = array.view()
    array.flags.writeable = False
    return array


def _count_rows(features: Arrays, labels: Arrays | None) -> int:
    lengths = _lengths("x", features) | ({} if labels is None else _lengths("y", labels))
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "Length of tensors in x and y is mismatched. All elements in x and y must have the "
            f"same length; got {', '.join(f'{name}: {rows}' for name, rows in lengths.items())}."
        )
    rows = next(iter(lengths.values()))
    if rows == 0:
        raise ValueError(f"x cannot be an empty array: no rows in {', '.join(lengths)}.")
    return rows


def _lengths(name: str, arrays: Arrays) -> dict[str, int]:
    if isinstance(arrays, dict):
        return {f"{name}[{key!r}]": len(array) for key, array in arrays.items()}
    return {name: len(arrays)}


def _pick(arrays: Arrays, rows: Array | slice, shape: tuple[int, ...]) -> Arrays:
    if isinstance(arrays, dict):
        return {key: _pick_one(array, rows, shape) for key, array in arrays.items()}
    return _pick_one(arrays, rows, shape)


def _pick_one(array: Array, rows: Array | slice, shape: tuple[int, ...]) -> Array:
    # `take` is several times faster than indexing by an array.
    picked = array[rows] if isinstance(rows, slice) else array.take(rows, 0)
    return picked.reshape(*shape, *array.shape[1:]) if shape else picked


def _describe(arrays: Arrays) -> dict[str, Any]:
    if isinstance(arrays, dict):
        return {str(key): _describe(array) for key, array in arrays.items()}
    return {"dtype": str(arrays.dtype), "shape": list(arrays.shape[1:])}


def _is_whole(value: Any, at_least: int) -> TypeGuard[int]:
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_int and bool(value >= at_least)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, np.integer) else value
