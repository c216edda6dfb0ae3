"""Receivers: the inputs of an exported model, described by shape and dtype.

    est.export.build_raw_serving_input_receiver_fn({
        "age": TensorSpec((None,), np.float32),
        "words": TensorSpec((None, None), str),
    })

None is a dimension that differs from request to request; the first one is the batch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# What stands for a dimension of any size where a batch is made up.
_ROWS, _ANY = 2, 3


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """The shape and dtype of an input.

    >>> TensorSpec((None, 4), np.float32).example().shape
    (2, 4)

    Attributes:
        shape: its dimensions; None: of any size.
        dtype: a numpy dtype, or str for strings.
        name: the name it goes by in requests; None: that of the feature.
    """

    shape: tuple[int | None, ...]
    dtype: Any = np.float32
    name: str | None = None

    def example(self) -> Any:
        """Returns an array of this kind, of zeros or empty strings."""
        first = [_ROWS if size is None else size for size in self.shape[:1]]
        shape = (*first, *(_ANY if size is None else size for size in self.shape[1:]))
        dtype = np.dtype(self.dtype)
        if dtype.kind in "OUS":
            return np.full(shape, "", object).tolist()
        return np.zeros(shape, dtype)


@dataclasses.dataclass(frozen=True)
class ServingInputReceiver:
    """What an exported model is asked with.

    Attributes:
        features: `TensorSpec`s, or example arrays, by name; one alone is called `feature`.
        receiver_tensors: what arrives, which is the features.
        receiver_tensors_alternatives: other forms of it; not here.
    """

    features: Any
    receiver_tensors: Any = None
    receiver_tensors_alternatives: None = None

    def example(self) -> Any:
        """Returns features of a batch that is made up."""
        if isinstance(self.features, Mapping):
            return {name: _example(spec) for name, spec in self.features.items()}
        return {"feature": _example(self.features)}


@dataclasses.dataclass(frozen=True)
class TensorServingInputReceiver(ServingInputReceiver):
    """The same for a model whose features are one array, and no dict."""

    def example(self) -> Any:
        """Returns features of a batch that is made up."""
        return _example(self.features)


def build_raw_serving_input_receiver_fn(
    features: Mapping[str, Any], default_batch_size: int | None = None
) -> Callable[[], ServingInputReceiver]:
    """Returns a receiver function for requests that hold the features as they are.

    >>> receive = build_raw_serving_input_receiver_fn({"x": np.zeros((1, 4), np.float32)})
    >>> receive().features
    {'x': TensorSpec(shape=(None, 4), dtype=dtype('float32'), name=None)}

    Args:
        features: `TensorSpec`s, or example arrays whose first dimension is the batch, by name.
        default_batch_size: the number of rows of each request; None: any.

    Raises:
        TypeError: if a feature is neither.
    """

    def spec_of(name: str, given: Any) -> TensorSpec:
        if isinstance(given, TensorSpec):
            shape, dtype = given.shape, given.dtype
        else:
            array = np.asarray(given)
            shape, dtype = array.shape, array.dtype
        if not shape:
            raise TypeError(
                f"build_raw_serving_input_receiver_fn: feature {name!r} must be a TensorSpec or an "
                f"array with one row for each example, got {given!r}."
            )
        return TensorSpec((default_batch_size, *shape[1:]), dtype)

    specs = {name: spec_of(name, given) for name, given in features.items()}
    return lambda: ServingInputReceiver(specs, specs)


def _example(spec: Any) -> Any:
    return spec.example() if isinstance(spec, TensorSpec) else spec
