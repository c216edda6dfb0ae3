"""Whatever an input_fn returns becomes one iterator of batches that may know its position.

    returned = call_input_fn(input_fn, mode="train", params={}, config=None)
    source = open_source(returned, repeat=True)
    while (batch := source.next()) is not None:
        features, labels = batch
        position = source.get_state()  # None where the user's iterator has no position
    source.close()

Batches are handed on as they are; nothing is copied or converted here.
"""

from __future__ import annotations

import base64
import copy
import functools
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import GeneratorType
from typing import Any, Protocol, final, runtime_checkable

import numpy as np

from estimator.sparse_tensor import SparseTensor

Pair = tuple[Any, Any]

_BYTES_TAG = "__base64__"
_WANTED = (
    "plain arrays, (features, labels) or features alone, where features is a dict or an array; "
    "or an iterable of such batches (a generator, a dataset, a data loader)"
)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@runtime_checkable
class Resumable(Protocol):
    """An iterator that tells its position and goes to one, as grain's and `ArrayBatches` do."""

    def get_state(self) -> Any:
        """Gives the position after the last batch given: something for JSON, or bytes."""

    def set_state(self, state: Any) -> None:
        """Goes to a position that `get_state` gave."""


@runtime_checkable
class Fingerprinted(Protocol):
    """An iterator that says in a JSON-able dict what decides its batches: sizes, order, seed."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides the batches; it does not change with the position."""


@runtime_checkable
class FreshBatches(Protocol):
    """An iterator that says, with True, that arrays and states it gave are never changed again."""

    fresh_batches: bool


@runtime_checkable
class Blocks(Protocol):
    """An iterator whose batches are all of one kind, and that can give several at once."""

    def next_block(self, count: int) -> Any:
        """Gives `count` full batches stacked along a new first axis, or None if there are fewer."""


@final
class Source:
    """One iterator of `(features, labels)`; made by `open_source`.

    >>> import numpy as np
    >>> source = open_source(({"age": np.array([20, 30])}, np.array([0, 1])), repeat=False)
    >>> source.next()
    ({'age': array([20, 30])}, array([0, 1]))
    >>> source.next() is None
    True

    Attributes:
        fresh: arrays that were given are never written again, so that a step may read them later
            without a copy.
        resumable: `get_state` and `set_state` work.
        constant: every batch is the same one.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._positioned = iterator if isinstance(iterator, Resumable) else None
        self._blocks = iterator if isinstance(iterator, Blocks) else None
        self.fresh: bool = isinstance(iterator, FreshBatches) and iterator.fresh_batches is True
        self.resumable: bool = self._positioned is not None
        self.constant: bool = isinstance(iterator, ConstantBatch)
        self._given = 0
        self._ended = False

    def next(self) -> Pair | None:
        """Gives the next batch, or None at the end and ever after.

        Raises:
            TypeError: a batch is neither arrays nor a dict of them.
            ValueError: a batch is a tuple or list that is not of length 2.
            Exception: whatever the user's iterator raises, unchanged.
        """
        if self._ended:
            return None
        try:
            element = next(self._iterator)
        except StopIteration:
            self._ended = True
            return None
        self._given += 1
        return _as_batch(element, self._given)

    def next_block(self, count: int) -> Pair | None:
        """Gives `count` full batches stacked along a new first axis.

        None where the iterator cannot, or has fewer left; then `next` gives what there is.
        """
        if self._blocks is None or self._ended:
            return None
        block = self._blocks.next_block(count)
        if block is None:
            return None
        self._given += count
        return _as_batch(block, self._given)

    def get_state(self) -> Any:
        """Gives the position after the last batch given, fit for JSON; None where there is none."""
        if self._positioned is None:
            return None
        state = self._positioned.get_state()
        if isinstance(state, bytes):
            return {_BYTES_TAG: base64.b64encode(state).decode("ascii")}
        # An iterator may hand out the very dict that it changes when it reads ahead.
        return state if self.fresh else copy.deepcopy(state)

    def set_state(self, state: Any) -> None:
        """Goes to a position that `get_state` gave, here or in a source of the same fingerprint.

        Raises:
            ValueError: the iterator has no position.
        """
        if self._positioned is None:
            raise ValueError(
                f"{_kind(self._iterator)} cannot be set to {state!r}: it wants the methods "
                "get_state and set_state, as numpy_input_fn, pandas_input_fn and grain have them."
            )
        if isinstance(state, Mapping) and state.keys() == {_BYTES_TAG}:
            state = base64.b64decode(state[_BYTES_TAG])
        self._positioned.set_state(state)
        self._ended = False

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The iterator's kind and what it says of itself; where equal, a position may be shared."""
        kind = {"kind": _kind(self._iterator)}
        if not isinstance(self._iterator, Fingerprinted):
            return kind
        told = self._iterator.fingerprint
        if not isinstance(told, Mapping):
            raise TypeError(
                f"{kind['kind']}.fingerprint is of type {type(told).__name__}: "
                "wants a property that gives a dict."
            )
        try:
            # As JSON gives it back: it is compared with one that was stored.
            return {**kind, **json.loads(json.dumps(told))}
        except TypeError as error:
            raise TypeError(
                f"{kind['kind']}.fingerprint is {told!r}, which JSON cannot hold: {error}. Give a "
                "dict of numbers, strings, lists and dicts."
            ) from error

    def close(self) -> None:
        """Ends the source, and the generator where the iterator is one; may be called twice."""
        self._ended = True
        # A generator that another thread still waits in cannot be closed from here.
        if isinstance(self._iterator, GeneratorType) and not self._iterator.gi_running:
            self._iterator.close()


@final
class ConstantBatch:
    """An iterator of one batch, given once or forever.

    >>> import numpy as np
    >>> list(ConstantBatch((np.array([1]), None), repeat=False))
    [(array([1]), None)]

    Args:
        batch: `(features, labels)`.
        repeat: whether to give it forever.
    """

    fresh_batches = True

    def __init__(self, batch: Pair, repeat: bool) -> None:
        self._batch = batch
        self._repeat = repeat
        self._spent = False

    def __iter__(self) -> ConstantBatch:
        return self

    def __next__(self) -> Pair:
        if self._spent:
            raise StopIteration
        self._spent = not self._repeat
        return self._batch

    def get_state(self) -> dict[str, bool]:
        """Says whether the batch has been given for the last time."""
        return {"spent": self._spent}

    def set_state(self, state: Mapping[str, bool]) -> None:
        """Goes to a position that `get_state` gave."""
        self._spent = state["spent"]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Whether the batch repeats."""
        return {"repeat": self._repeat}


def call_input_fn(
    input_fn: Callable[..., Any], *, mode: Any, params: Any, config: Any, input_context: Any = None
) -> Any:
    """Calls an input_fn with those of the four arguments that its signature names.

    >>> call_input_fn(lambda params: params["rows"], mode="train", params={"rows": 3}, config=None)
    3

    Args:
        input_fn: a function, partial, bound method or callable object. `**kwargs` get everything
            but an `input_context` of None. What a partial binds by keyword stays as it is.
        mode: "train", "eval" or "infer".
        params: the hyperparameters.
        config: the run configuration.
        input_context: which part of the input this process reads, or None.

    Returns:
        What input_fn returns.

    Raises:
        TypeError: input_fn is not callable.
        ValueError: it requires a parameter of another name, or has no signature to look at.
    """
    if not callable(input_fn):
        raise TypeError(
            f"input_fn is of type {type(input_fn).__name__}, which cannot be called: wants a "
            f"function that returns {_WANTED}. Pass `lambda: data` for data you have already, and "
            "a function itself, without () behind it."
        )
    offered = {"mode": mode, "params": params, "config": config, "input_context": input_context}
    parameters = _parameters(input_fn)
    names = {name for name in offered if name in parameters and parameters[name].kind in _BY_NAME}
    missing = [
        str(parameter)
        for name, parameter in parameters.items()
        if name not in names and parameter.default is parameter.empty
        if parameter.kind not in _VARIADIC
    ]
    if missing:
        raise ValueError(
            f"input_fn {input_fn!r} requires {missing}, but is called with some of "
            f"{list(offered)}, by name. Bind the rest: functools.partial(input_fn, name=value)."
        )
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        names |= {name for name in offered if name != "input_context" or input_context is not None}
    bound = input_fn.keywords if isinstance(input_fn, functools.partial) else {}
    return input_fn(**{name: offered[name] for name in names if name not in bound})


def open_source(returned: Any, *, repeat: bool) -> Source:
    """Makes one source of batches of what an input_fn returned.

    >>> import numpy as np
    >>> source = open_source([{"age": np.array([20])}, {"age": np.array([30])}], repeat=True)
    >>> source.next(), source.next(), source.next()
    (({'age': array([20])}, None), ({'age': array([30])}, None), None)

    Args:
        returned: plain arrays, which are one batch: a tuple `(features, labels)`, a dict of
            features, one array, a scipy.sparse matrix or a `SparseTensor`; or an iterable of
            batches. A list of tuples or of dicts is an iterable of batches; any other list is
            `(features, labels)`.
        repeat: whether plain arrays are given forever, or once. Iterables are never repeated.

    Returns:
        A `Source`.

    Raises:
        TypeError: returned is none of these.
        ValueError: a tuple or list of plain arrays is not of length 2.
    """
    if _is_features(returned):
        return Source(ConstantBatch((returned, None), repeat))
    if isinstance(returned, list) and (_all_are(returned, tuple) or _all_are(returned, Mapping)):
        return Source(iter(returned))
    if isinstance(returned, tuple | list):
        return Source(ConstantBatch(_pair(returned, "input_fn should return"), repeat))
    if isinstance(returned, Iterable) and not isinstance(returned, str | bytes):
        return Source(iter(returned))
    hint = ""
    if returned is None:
        hint = " Is a `return` missing?"
    elif callable(returned):
        hint = " Return what it gives, not the function."
    raise TypeError(f"input_fn returned {_show(returned)}: wants {_WANTED}.{hint}")


@runtime_checkable
class _SupportsArray(Protocol):
    def __array__(self) -> Any: ...


@runtime_checkable
class _SupportsCoo(Protocol):
    # scipy's sparse matrices and arrays, without importing scipy.
    def tocoo(self) -> Any: ...


def _parameters(input_fn: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(input_fn).parameters
    except ValueError as error:
        raise ValueError(
            f"input_fn {input_fn!r} has no signature to look at. Pass a lambda that calls it."
        ) from error


def _is_features(value: Any) -> bool:
    # The frequent ones first: looking for a method takes microseconds.
    return isinstance(value, (SparseTensor, Mapping, np.ndarray, _SupportsArray, _SupportsCoo))


def _all_are(elements: list[Any], kind: type[Any]) -> bool:
    return all(isinstance(element, kind) for element in elements)


def _as_batch(element: Any, number: int) -> Pair:
    if isinstance(element, (tuple, list)) and not isinstance(element, SparseTensor):
        return _pair(element, f"batch {number} of input_fn should be")
    if _is_features(element):
        return element, None
    raise TypeError(
        f"batch {number} of input_fn is {_show(element)}: "
        "wants (features, labels), a dict of features or an array."
    )


def _pair(elements: tuple[Any, ...] | list[Any], wanted: str) -> Pair:
    if len(elements) != 2:
        kinds = [type(element).__name__ for element in elements[:5]]
        raise ValueError(
            f"{wanted} (features, labels) as a tuple of length 2, got length {len(elements)}: "
            f"{', '.join(kinds)}{', ...' if len(elements) > 5 else ''}. Put several features into "
            "one dict; give several batches as a list of tuples or from a generator."
        )
    return elements[0], elements[1]


def _show(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _kind(iterator: Iterator[Any]) -> str:
    return f"{type(iterator).__module__}.{type(iterator).__qualname__}"
