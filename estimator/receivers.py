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

from estimator.sparse_tensor import SparseTensor

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

    >>> spec = TensorSpec((None,), np.float32)
    >>> ServingInputReceiver(spec).features == {"feature": spec}
    True

    Attributes:
        features: `TensorSpec`s, or example arrays, by name; one alone is called `feature`.
        receiver_tensors: what arrives, which is the features; one alone is called `input`.
        receiver_tensors_alternatives: by the name of an alternative, the features that it takes in
            their place: those that the model looks at, or all. Each signature `s` is there as
            `<alternative>:s`, too. For a receiver of records it says that features may come
            themselves.

    Raises:
        ValueError: if there are no features, if a name is no text and no int, or if what arrives,
            or an alternative, is no feature: a receiver computes nothing here.
        TypeError: if a feature is no `TensorSpec` and no array, or something else is no mapping.
    """

    features: Any
    receiver_tensors: Any = None
    receiver_tensors_alternatives: Mapping[str, Mapping[Any, Any]] | None = None

    def __post_init__(self) -> None:
        where = type(self).__name__
        features = _specs(where, "feature", self.features, "feature")
        arriving = self._arriving(features)
        given = arriving if self.receiver_tensors is None else self.receiver_tensors
        given = _specs(where, "receiver tensor", given, "input")
        _check_arriving(where, given, arriving)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "receiver_tensors", given)
        if self.receiver_tensors_alternatives is not None:
            _check_alternatives(where, self.receiver_tensors_alternatives, features)

    def _arriving(self, features: dict[Any, Any]) -> dict[Any, Any]:
        """Returns what arrives, by name."""
        return features

    def example(self) -> Any:
        """Returns features of a batch that is made up."""
        return {name: _example(spec) for name, spec in self.features.items()}


@dataclasses.dataclass(frozen=True)
class TensorServingInputReceiver(ServingInputReceiver):
    """The same for a model whose features are one array, and no dict."""

    def __post_init__(self) -> None:
        if isinstance(self.features, Mapping):
            raise TypeError(
                f"TensorServingInputReceiver: features must be one TensorSpec or array, got "
                f"{self.features!r}. ServingInputReceiver takes a dict."
            )
        super().__post_init__()
        object.__setattr__(self, "features", self.features["feature"])

    def example(self) -> Any:
        """Returns features of a batch that is made up."""
        return _example(self.features)


@dataclasses.dataclass(frozen=True)
class ParsingInputReceiver(ServingInputReceiver):
    """What an exported model is asked with: serialised `tf.train.Example`s, as `examples`.

    `features` holds by name how they are read, see `estimator.tf_example`.
    """

    def _arriving(self, features: dict[Any, Any]) -> dict[Any, Any]:
        """Returns what arrives, by name."""
        return {"examples": TensorSpec((None,), str)}

    def example(self) -> Any:
        """Returns features of a batch that is made up."""
        made = {}
        for name, kind in self.features.items():
            shape = getattr(kind, "shape", None)
            spec = TensorSpec((None, None) if shape is None else (None, *shape), kind.dtype)
            example = spec.example()
            if shape is None:  # "" would be missing, and its row shorter than others
                array = np.asarray(example)
                strings = array.dtype.kind == "U"
                example = (np.full_like(array, "a", "U1") if strings else array).tolist()
            made[name] = example
        return made


@dataclasses.dataclass(frozen=True)
class SupervisedInputReceiver:
    """What an exported model is trained or evaluated with.

    Attributes:
        features: `TensorSpec`s, or example arrays, by name; or one alone.
        labels: likewise; None: the model takes none.
        receiver_tensors: what arrives, which is features and labels; those that are alone are
            called `input` and `label`.

    Raises:
        ValueError, TypeError: as for `ServingInputReceiver`.
    """

    features: Any
    labels: Any = None
    receiver_tensors: Any = None

    def __post_init__(self) -> None:
        where = type(self).__name__
        arriving = _specs(where, "feature", self.features, "input")
        if self.labels is not None:
            arriving = arriving | _specs(where, "label", self.labels, "label")
        given = arriving if self.receiver_tensors is None else self.receiver_tensors
        given = _specs(where, "receiver tensor", given, "input")
        _check_arriving(where, given, arriving)
        object.__setattr__(self, "receiver_tensors", given)

    def example(self) -> Any:
        """Returns features of a batch that is made up."""
        return _examples(self.features)

    def example_labels(self) -> Any:
        """Returns the labels of that batch."""
        return _examples(self.labels)


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
    records = {"examples": TensorSpec((default_batch_size,), str)}
    return lambda: ParsingInputReceiver(dict(feature_spec), records)


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
    return lambda: ServingInputReceiver(specs)


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
    return lambda: SupervisedInputReceiver(*made)


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


def _examples(specs: Any) -> Any:
    if isinstance(specs, Mapping):
        return {name: _example(spec) for name, spec in specs.items()}
    return _example(specs)


def _specs(where: str, part: str, given: Any, alone: str) -> dict[Any, Any]:
    """Returns specs by name; one alone gets a name.

    Raises:
        ValueError: if there are none, or a name is of another kind.
        TypeError: if one is no spec.
    """
    if given is None:
        raise ValueError(f"{where}: {part}s must be given, got None.")
    named = dict(given) if isinstance(given, Mapping) else {alone: given}
    for name, spec in named.items():
        if not isinstance(name, str | int):
            raise ValueError(
                f"{where}: the name of a {part} must be a str or an int, got {name!r}."
            )
        # How a feature is read from records has a dtype, too.
        if getattr(spec, "dtype", None) is None and not isinstance(spec, list | SparseTensor):
            raise TypeError(
                f"{where}: the {part} {name!r} must be a TensorSpec or an array, got {spec!r}."
            )
    return named


def _check_arriving(where: str, given: Mapping[Any, Any], arriving: Mapping[Any, Any]) -> None:
    is_alone = len(arriving) == 1 and [*given] == ["input"]
    if {*map(str, given)} != {*map(str, arriving)} and not is_alone:
        raise ValueError(
            f"{where}: a receiver computes nothing here, so what arrives is {[*arriving]}; got the "
            f"receiver tensors {[*given]}. Leave them out; or, if features are read from records, "
            "use build_parsing_serving_input_receiver_fn."
        )


def _check_alternatives(where: str, given: Any, features: Mapping[Any, Any]) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{where}: receiver_tensors_alternatives must be a dict of features by name, by the "
            f"name of the alternative, got {given!r}."
        )
    for name, specs in given.items():
        if not isinstance(name, str) or not isinstance(specs, Mapping):
            raise TypeError(
                f"{where}: an alternative must have a str for its name and be a dict of features "
                f"by name, got {name!r}: {specs!r}."
            )
        lacking = sorted(_specs(where, "feature", specs, "feature").keys() - features, key=str)
        if lacking:
            raise ValueError(
                f"{where}: a receiver computes nothing here, so the alternative {name!r} must be "
                f"made of features of the receiver, {[*features]}, which lacks {lacking}."
            )
