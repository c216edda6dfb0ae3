"""Export batches: what an export is traced with, seen or made up.

batch, is_real, parse = example_batch(receiver_fn, seen, ModeKeys.PREDICT)
batch, binding = in_any_form(batch, discover)
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from estimator.batches import Batch
from estimator.binding import Binding
from estimator.mode_keys import ModeKeys
from estimator.receivers import (
    ParsingInputReceiver,
    ServingInputReceiver,
    SupervisedInputReceiver,
)

_EXAMPLE_ROWS = 3
_MOST_TRIES = 16


def example_batch(receiver_fn: Any, seen: Batch | None, mode: str) -> tuple[Batch, bool, Any]:
    """Returns a batch to trace a mode with, whether it is a real one, and how records are read.

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
            return Batch(rows, labels), True, None
        labels = None if labels is None else first_rows(labels, _EXAMPLE_ROWS)
        return Batch(rows, labels), True, None
    receiver = receiver_fn() if callable(receiver_fn) else receiver_fn
    wanted = ServingInputReceiver if mode == ModeKeys.PREDICT else SupervisedInputReceiver
    if not isinstance(receiver, wanted):
        raise TypeError(
            f"An input receiver function for {mode!r} must return a {wanted.__name__}, got "
            f"{receiver!r}."
        )
    features, labels = receiver.example(), None
    if isinstance(receiver, SupervisedInputReceiver):
        labels = receiver.example_labels()
    parse = None
    if isinstance(receiver, ParsingInputReceiver):
        parse = {name: _parse_entry(kind) for name, kind in receiver.features.items()}
    return Batch(features, labels), False, parse


def in_any_form(batch: Batch, discover: Callable[[Batch], Binding]) -> tuple[Batch, Binding]:
    """Returns a batch whose numbers may come in any form in a request, and its binding.

    A numeric column takes floats for integers, and gaps, if its feature is looked at on the host.
    Which features are, depends on the batch that was seen; so those that can be, are.
    """
    binding = discover(batch)
    features = batch.features
    if not isinstance(features, Mapping):
        return batch, binding
    paths = batch.raw_paths
    keys = [paths[i][1] for i in binding.used if paths[i][0] == "features" and len(paths[i]) == 2]
    groups = [keys, *([key] for key in keys[:_MOST_TRIES])] if len(keys) > 1 else [keys]
    for group in groups:
        if not group:
            continue
        loose = {key: np.asarray(features[key]).astype(object) for key in group}
        try:
            candidate = Batch({**batch.features, **loose}, batch.labels)
            binding = discover(candidate)
        except Exception:  # the model_fn computes with the array itself
            continue
        batch = candidate
        if group is keys:
            break
    return batch, binding


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


def _parse_entry(kind: Any) -> dict[str, Any]:
    """Returns how a feature is read from records as JSON has it."""
    dtype, shape = np.dtype(kind.dtype), getattr(kind, "shape", None)
    default = getattr(kind, "default_value", None)
    return {
        "dtype": "str" if dtype.kind in "USO" else dtype.name,
        "shape": None if shape is None else list(shape),
        "default": None if default is None else np.asarray(default).tolist(),
    }
