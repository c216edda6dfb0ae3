"""Export batches: what an export is traced with, seen or made up.

sample = sample_of(receiver_fn, seen, ModeKeys.PREDICT)
batch, binding = in_any_form(sample.batch, bindings)
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from estimator.batches import Batch
from estimator.binding import Binding
from estimator.context import RawPath
from estimator.host_features import HostRecipe
from estimator.mode_keys import ModeKeys
from estimator.model import ModeBindings
from estimator.receivers import (
    ParsingInputReceiver,
    ServingInputReceiver,
    SupervisedInputReceiver,
)
from estimator.sparse_tensor import SparseTensor

_EXAMPLE_ROWS = 3
_MOST_TRIES = 16


class Sample(NamedTuple):
    """What a mode is traced with, and how it is asked.

    Attributes:
        batch: a batch to trace with.
        is_real: whether it was seen, or is made up.
        parse: by name how features are read from records; None: they come as they are.
        alternatives: other ways to ask: the features of each by its name.
    """

    batch: Batch
    is_real: bool
    parse: Mapping[str, Any] | None = None
    alternatives: Mapping[str, Any] | None = None


def sample_of(receiver_fn: Any, seen: Batch | None, mode: str) -> Sample:
    """Returns what a mode is traced with, and how it is asked.

    Args:
        receiver_fn: gives a receiver; None: inputs are as in the batch that was seen.
        seen: the last batch.
        mode: one of `ModeKeys`.

    Raises:
        TypeError: if the function gives no receiver.
        ValueError: if there is no function, and no batch was seen.
    """
    if receiver_fn is None:
        if seen is None:
            raise ValueError(
                "export_saved_model: this Estimator has seen no batch yet that would tell what the "
                "inputs are. Call train, evaluate or predict before, or give a "
                "serving_input_receiver_fn such as "
                "estimator.export.build_raw_serving_input_receiver_fn(...)."
            )
        labels = None if mode == ModeKeys.PREDICT else seen.labels
        rows = first_rows(seen.features, _EXAMPLE_ROWS)
        if rows is seen.features:
            return Sample(Batch(rows, labels), is_real=True)
        labels = None if labels is None else first_rows(labels, _EXAMPLE_ROWS)
        return Sample(Batch(rows, labels), is_real=True)
    receiver = receiver_fn() if callable(receiver_fn) else receiver_fn
    wanted = ServingInputReceiver if mode == ModeKeys.PREDICT else SupervisedInputReceiver
    if not isinstance(receiver, wanted):
        raise TypeError(
            f"An input receiver function for {mode!r} must return a {wanted.__name__}, got "
            f"{receiver!r}."
        )
    if isinstance(receiver, SupervisedInputReceiver):
        return Sample(Batch(receiver.example(), receiver.example_labels()), is_real=False)
    parse = None
    if isinstance(receiver, ParsingInputReceiver):
        parse = {name: _parse_entry(kind) for name, kind in receiver.features.items()}
    alternatives = receiver.receiver_tensors_alternatives
    return Sample(Batch(receiver.example()), False, parse, alternatives)


def in_any_form(batch: Batch, bindings: ModeBindings) -> tuple[Batch, Binding]:
    """Returns a batch whose numbers may come in any form in a request, and its binding.

    A numeric column takes floats for integers, and gaps, if its feature is looked at on the host.
    Which features are, depends on the batch that was seen; so those that can be, are. Finding out
    takes a trace for each feature, so it is done once for each kind of batch.
    """
    if batch.layout not in bindings.loose:
        bindings.loose[batch.layout] = _loose_keys(batch, bindings)
    batch = _loosened(batch, bindings.loose[batch.layout])
    return batch, bindings.discover(batch)


def _loose_keys(batch: Batch, bindings: ModeBindings) -> list[Any]:
    """Returns the features that the model_fn takes in any form."""
    binding = bindings.discover(batch)
    if not isinstance(batch.features, Mapping):
        return []
    paths = batch.raw_paths
    keys = [paths[i][1] for i in binding.used if paths[i][0] == "features" and len(paths[i]) == 2]
    if _is_taken(batch, keys, bindings):
        return keys
    loose: list[Any] = []
    for key in keys[:_MOST_TRIES] if len(keys) > 1 else []:
        if _is_taken(batch, [*loose, key], bindings):
            loose.append(key)
    return loose


def _is_taken(batch: Batch, keys: list[Any], bindings: ModeBindings) -> bool:
    try:
        bindings.discover(_loosened(batch, keys))
    except Exception:  # the model_fn computes with the array itself
        return False
    return True


def _loosened(batch: Batch, keys: list[Any]) -> Batch:
    """Returns a batch some of whose features are arrays of objects."""
    if not keys:
        return batch
    loose = {key: np.asarray(batch.features[key]).astype(object) for key in keys}
    return Batch({**batch.features, **loose}, batch.labels)


def first_rows(features: Any, count: int) -> Any:
    """Returns the first rows of a batch; the batch itself where that is not plain to see.

    >>> first_rows({"x": np.arange(9), "city": ["Rome", "Oslo"]}, 1)
    {'x': array([0]), 'city': ['Rome']}
    """
    leaves = list(features.values()) if isinstance(features, Mapping) else [features]
    if not all(isinstance(leaf, list | np.ndarray | jax.Array) for leaf in leaves):
        return features
    if isinstance(features, Mapping):
        return {key: leaf[:count] for key, leaf in features.items()}
    return features[:count]


def read_by_recipes(batch: Batch, recipes: Iterable[HostRecipe]) -> set[RawPath]:
    """Returns the paths of the leaves of a batch that host recipes look at."""
    recipes = list(recipes)
    features, labels = _watched(batch.features), _watched(batch.labels)
    for recipe in recipes:
        recipe(features, labels)
    read = set()
    for path in batch.raw_paths:
        part = features if path[0] == "features" else labels
        # What is no dict tells nothing: any recipe may have read it.
        if path[1] in part.read if isinstance(part, _Watched) else bool(recipes):
            read.add(path)
    return read


def kind_of_values(leaf: Any) -> str | None:
    """Returns what a leaf of a batch holds: `str`, `int`, `float` or `bool`; None: nothing.

    >>> kind_of_values([["a"], []]), kind_of_values(np.array([3, None])), kind_of_values([[]])
    ('str', 'int', None)
    """
    if isinstance(leaf, SparseTensor):
        return kind_of_values(leaf.values)
    if getattr(leaf, "size", 1) == 0:
        return None
    dtype = getattr(leaf, "dtype", None)  # scipy's matrices have one, too
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        kinds = {"b": "bool", "i": "int", "u": "int", "U": "str", "S": "str", "T": "str"}
        return kinds.get(dtype.kind, "float")
    rows, level = (list, tuple, np.ndarray), list(leaf)
    while any(isinstance(item, rows) for item in level):
        level = [item for part in level if isinstance(part, rows) for item in part]
    for item in level:
        if isinstance(item, bool | np.bool):
            return "bool"
        if isinstance(item, str | bytes):
            return "str"
    ints = [isinstance(item, int | np.integer) for item in level if not _is_gap(item)]
    return None if not ints else "int" if all(ints) else "float"


def _is_gap(item: Any) -> bool:
    return item is None or (isinstance(item, float | np.floating) and bool(np.isnan(item)))


def plain(features: Any) -> Any:
    """Returns features as recipes can write them down."""
    if isinstance(features, Mapping):
        return {key: plain(leaf) for key, leaf in features.items()}
    if isinstance(features, jax.Array):
        return np.asarray(features)
    if isinstance(features, np.ndarray) and features.dtype.kind in "OUS":
        return _tuples(features.tolist())
    return _tuples(features)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


class _Watched(dict[Any, Any]):
    """A dict that notes which of its keys are read."""

    def __init__(self, items: Mapping[Any, Any]) -> None:
        super().__init__(items)
        self.read: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def items(self) -> Any:
        self.read.update(self)
        return super().items()

    def values(self) -> Any:
        self.read.update(self)
        return super().values()


def _watched(part: Any) -> Any:
    return _Watched(part) if isinstance(part, Mapping) else part


def _parse_entry(kind: Any) -> dict[str, Any]:
    """Returns how a feature is read from records as JSON has it."""
    dtype, shape = np.dtype(kind.dtype), getattr(kind, "shape", None)
    default = getattr(kind, "default_value", None)
    return {
        "dtype": "str" if dtype.kind in "USO" else dtype.name,
        "shape": None if shape is None else list(shape),
        "default": None if default is None else np.asarray(default).tolist(),
    }
