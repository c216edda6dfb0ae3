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
        name: taken for the sake of TensorFlow's signature: requests go by the feature's name.
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


@dataclasses.dataclass(frozen=True)
class SupervisedInputReceiver(ServingInputReceiver):
    """What an exported model is trained or evaluated with.

    Attributes:
        labels: `TensorSpec`s, or example arrays, by name; or one alone.
    """

    labels: Any = None

    def example(self) -> Any:
        """Returns features of a batch that is made up."""
        return super().example() if isinstance(self.features, Mapping) else _example(self.features)

    def example_labels(self) -> Any:
        """Returns the labels of that batch."""
        if isinstance(self.labels, Mapping):
            return {name: _example(spec) for name, spec in self.labels.items()}
        return _example(self.labels)


@dataclasses.dataclass(frozen=True)
class ParsingInputReceiver(ServingInputReceiver):
    """What an exported model is asked with: serialised `tf.train.Example`s, as `examples`.

    `features` holds by name how they are read, see `estimator.tf_example`.
    """

    def example(self) -> Any:
        """Returns features of a batch that is made up."""
        made = {}
        for name, kind in self.features.items():
            shape = getattr(kind, "shape", None)
            spec = TensorSpec((None, None) if shape is None else (None, *shape), kind.dtype)
            example = spec.example()
            made[name] = np.asarray(example).tolist() if shape is None else example
        return made


def build_parsing_serving_input_receiver_fn(
    feature_spec: Mapping[str, Any], default_batch_size: int | None = None
) -> Callable[[], ParsingInputReceiver]:
    """Returns a receiver function for requests of serialised `tf.train.Example`s.

    >>> from feature_columns import VarLenFeature
    >>> receive = build_parsing_serving_input_receiver_fn({"city": VarLenFeature(np.dtype(str))})
    >>> list(receive().example())
    ['city']

    Args:
        feature_spec: by name how a feature is read, as `make_parse_example_spec` gives it.
        default_batch_size: the number of records of each request; None: any.
    """
    del default_batch_size
    return lambda: ParsingInputReceiver(dict(feature_spec))


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

    specs = {
        name: _spec_of("build_raw_serving_input_receiver_fn", name, given, default_batch_size)
        for name, given in features.items()
    }
    return lambda: ServingInputReceiver(specs, specs)


def build_raw_supervised_input_receiver_fn(
    features: Any, labels: Any, default_batch_size: int | None = None
) -> Callable[[], SupervisedInputReceiver]:
    """Returns a receiver function for features and labels as they are, to export TRAIN or EVAL.

    >>> receive = build_raw_supervised_input_receiver_fn({"x": np.zeros((1, 4))}, np.zeros(1))
    >>> receive().labels
    TensorSpec(shape=(None,), dtype=dtype('float64'), name=None)

    Args:
        features: `TensorSpec`s, or example arrays whose first dimension is the batch, by name; or
            one alone.
        labels: likewise.
        default_batch_size: the number of rows of each request; None: any.

    Raises:
        TypeError: if one is neither.
        ValueError: if features and labels share a name.
    """
    where = "build_raw_supervised_input_receiver_fn"

    def specs_of(part: str, given: Any) -> Any:
        if isinstance(given, Mapping):
            return {n: _spec_of(where, n, one, default_batch_size) for n, one in given.items()}
        return _spec_of(where, part, given, default_batch_size)

    if isinstance(features, Mapping) and isinstance(labels, Mapping):
        both = sorted(features.keys() & labels.keys())
        if both:
            raise ValueError(f"{where}: {both} are names of features and of labels.")
    made = specs_of("features", features), specs_of("labels", labels)
    return lambda: SupervisedInputReceiver(made[0], made, labels=made[1])


def _spec_of(where: str, name: str, given: Any, batch_size: int | None) -> TensorSpec:
    if isinstance(given, TensorSpec):
        shape, dtype = given.shape, given.dtype
    else:
        array = np.asarray(given)
        shape, dtype = array.shape, array.dtype
    if not shape:
        raise TypeError(
            f"{where}: {name!r} must be a TensorSpec, or an array with one row for each example, "
            f"got {given!r}."
        )
    return TensorSpec((batch_size, *shape[1:]), dtype)


def _example(spec: Any) -> Any:
    return spec.example() if isinstance(spec, TensorSpec) else spec
