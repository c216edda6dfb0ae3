"""Columns: what every feature column can do.

    column.name                 # "age"; columns are concatenated in the order of their names
    column.dense(features)      # inside a model_fn: floats of shape (batch, width)
    column.ids(features)        # of a categorical column: int32 of shape (batch, count), -1: none

Law: strings and ids of raw values are the host's work, in numpy; numbers, and what is made of ids,
the device's. A column is data: frozen, comparable, and written to JSON unless it holds a function.
"""

import abc
import dataclasses
import functools
import hashlib
import itertools
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np

import estimator as est
from feature_columns.entries import Entries
from feature_columns.parse_spec import ParseSpec, merged_specs

Features = Mapping[str, Any]


class FeatureColumn(est.Recipe, abc.ABC):
    """What all columns have; subclasses are frozen dataclasses."""

    may_hold_functions = True

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name that orders the columns, and names their variables."""

    @property
    def scope(self) -> str:
        """What the scope of its variables is named after, inside that of the layer."""
        return self.name

    @property
    def where(self) -> str:
        """What error messages call it."""
        return f"{type(self).__name__}({self.name})"

    @property
    @abc.abstractmethod
    def keys(self) -> tuple[str, ...]:
        """The raw features that it reads."""

    @property
    @abc.abstractmethod
    def parse_spec(self) -> ParseSpec:
        """How its features are read from a `tf.train.Example`, by key."""

    @functools.cached_property
    def digest(self) -> str:
        """Short, the same for columns that are equal, and another for most that are not."""
        return hashlib.blake2b(_described(self).encode(), digest_size=6).hexdigest()

    def __deepcopy__(self, memo: Any) -> Self:
        # Frozen: each trace's copy of `params` keeps the columns, and the tables they have made.
        return self


class OneFeatureColumn(FeatureColumn):
    """A column that reads one feature, and is called like it."""

    key: str

    @property
    def name(self) -> str:
        """The name of the feature."""
        return self.key

    @property
    def keys(self) -> tuple[str, ...]:
        """The one feature that it reads."""
        return (self.key,)


class DenseColumn(FeatureColumn):
    """A column that gives floats; subclass it as a frozen dataclass."""

    @abc.abstractmethod
    def dense(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns the column's part of an input layer, which calls it in the column's scope.

        Args:
            features: the features of a batch by name.
            trainable: whether the optimizer updates the variables it may have.

        Returns:
            Floats of shape `(batch, width)`.
        """

    def variables(self, trainable: bool = True) -> list[jax.Array]:
        """Returns the variables that `dense` asks for, in the same scope; none by default."""
        del trainable
        return []


class CategoricalColumn(FeatureColumn):
    """A column that gives ids; subclass it as a frozen dataclass."""

    @property
    @abc.abstractmethod
    def num_buckets(self) -> int:
        """How many ids there are; they lie in `[0, num_buckets)`."""

    @abc.abstractmethod
    def host_ids(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the ids of a raw batch, int64, on the host; -1 is a value without an id.

        Args:
            raw: the raw features by key.
        """

    @property
    def may_be_out_of_range(self) -> bool:
        """Whether `host_ids` may give ids that there are not."""
        return False

    def in_range(self, found: Entries, strict: bool) -> Entries:
        """Returns ids that the column has, and -1 for others; by default there are no others.

        Args:
            found: what `host_ids` gave.
            strict: whether an id that is too large is an error.

        Raises:
            ValueError: if `strict`, and an id is too large.
        """
        del strict
        return found

    def ids(self, features: Features, strict: bool = False) -> jax.Array:
        """Returns ids inside a model_fn.

        Args:
            features: the features of a batch by name.
            strict: whether an id that the column does not have is an error, rather than none.

        Returns:
            int32 of shape `(batch, count)`; -1 is none.
        """
        paths = raw_paths(self.keys, features, self.where)
        return est.host_feature(CategoryIds(self, paths, strict and self.may_be_out_of_range))

    def weights(self, features: Features) -> jax.Array | None:
        """Returns float32 of the shape of the ids, or None where all ids weigh the same."""
        del features
        return None


class SequenceDenseColumn(FeatureColumn):
    """A column that gives floats for each step of a sequence; subclass as a frozen dataclass."""

    @property
    @abc.abstractmethod
    def source(self) -> "SequenceColumn":
        """The column that reads the raw sequence."""

    @property
    def padding(self) -> float:
        """What the steps after a sequence's end hold."""
        return 0.0

    @abc.abstractmethod
    def sequence(self, features: Features, trainable: bool = True) -> jax.Array:
        """Returns floats of shape `(batch, steps, width)`, called in the column's scope."""


class SequenceColumn(FeatureColumn):
    """A column that reads a raw sequence; subclass it as a frozen dataclass."""

    @abc.abstractmethod
    def host_lengths(self, raw: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many steps each row has, on the host, and where that is certain.

        It is not where a row of numbers may be padded: then it has so many steps at the most.

        Args:
            raw: the raw features by key.

        Returns:
            int32 and bool, both of shape `(batch,)`.
        """


@dataclasses.dataclass(frozen=True)
class ColumnRecipe(est.HostRecipe):
    """What a column makes on the host of the raw features at some paths."""

    may_hold_functions = True

    column: Any
    paths: Mapping[str, tuple[Any, ...]]

    @functools.cached_property
    def name(self) -> str:
        """Names the column, and tells it from others of its name."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["column"], fields["paths"]
        fields |= {key: path for key, path in self.paths.items() if path != ("features", key)}
        more = "".join(f", {key}={value!r}" for key, value in fields.items() if value)
        return f"{type(self).__name__}({self.column.name}-{self.column.digest}{more})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.column!r})"

    @property
    def reads(self) -> frozenset[tuple[Any, ...]]:
        """The paths of the features of the column."""
        return frozenset(map(tuple, self.paths.values()))

    def raw(self, features: Any, labels: Any) -> dict[str, Any]:
        """Returns the raw features by key."""
        return {key: est.raw_value(path, features, labels) for key, path in self.paths.items()}


@dataclasses.dataclass(frozen=True, repr=False)
class CategoryIds(ColumnRecipe):
    """The ids of a categorical column, one row for each example."""

    strict: bool
    dtype = np.dtype(np.int32)
    dims = ("batch", "count")
    fill = -1

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns int32 of shape `(batch, count)`; -1 is none."""
        found = self.column.host_ids(self.raw(features, labels))
        if len(found.shape) != 2:
            raise ValueError(
                f"{self.column.where}: the feature has shape {found.shape}, steps in each row and "
                "values in each step: give it to a sequence column."
            )
        return self.column.in_range(found, self.strict).placed(-1, np.int32)


def make_parse_example_spec(feature_columns: Iterable[FeatureColumn]) -> ParseSpec:
    """Returns how the features of columns are read from a serialised `tf.train.Example`.

    >>> from feature_columns import numeric_column
    >>> make_parse_example_spec([numeric_column("age")])
    {'age': FixedLenFeature(shape=(1,), dtype=dtype('float32'), default_value=None)}

    Args:
        feature_columns: columns.

    Returns:
        `FixedLenFeature`s and `VarLenFeature`s by key.

    Raises:
        ValueError: if two columns read one feature differently.
        TypeError: if one is no column.
    """
    columns = list(feature_columns)
    for column in columns:
        if not isinstance(column, FeatureColumn):
            raise TypeError(
                f"make_parse_example_spec: feature_columns must be feature columns, got {column!r}."
            )
    return merged_specs([column.parse_spec for column in columns], "make_parse_example_spec")


def feature(features: Features, key: str, column: str) -> Any:
    """Returns one feature of a batch.

    >>> feature({"age": 1}, "age", "numeric_column(age)")
    1

    Raises:
        TypeError: if the features are no dict.
        ValueError: if there is none of that name.
    """
    if not isinstance(features, Mapping):
        raise TypeError(
            f"{column}: features must be a dict by name, got one value. Let input_fn give "
            "{" + f'"{key}": ...' + "}: of a DataFrame, dict(frame), or use pandas_input_fn."
        )
    if key not in features:
        raise ValueError(
            f'{column}: no feature "{key}" among {sorted(map(str, features))}.'
            f"{est.did_you_mean(key, map(str, features))}"
        )
    return features[key]


def raw_paths(keys: Iterable[str], features: Features, where: str) -> dict[str, tuple[Any, ...]]:
    """Returns where in the raw batch features lie, by key, as a host recipe needs it.

    >>> where = {"city": ["Rome", "Oslo"]}
    >>> est.preview(lambda features: raw_paths(["city"], features, "doc"), where)[0]
    {'city': ('features', 'city')}

    Args:
        keys: the names of the features.
        features: the features of a batch by name, as the model_fn was given them.
        where: the column, for error messages.

    Raises:
        ValueError: if a feature is missing, or was computed in the model_fn.
    """
    paths = {}
    for key in keys:
        path = est.raw_path(feature(features, key, where))
        if path is None:
            raise ValueError(
                f'{where}: the feature "{key}" is no value of the batch that input_fn gave. Ids '
                "are made on the host, of raw values: what the model_fn computes has none, and a "
                "tuple is several values. Make the feature in input_fn, as an array or a list."
            )
        paths[key] = path
    return paths


def checked_key(key: Any, factory: str) -> str:
    """Returns the key of a feature.

    Raises:
        ValueError: if it is no str.
    """
    if not isinstance(key, str):
        raise ValueError(f"{factory}: key must be a string, the name of a feature, got {key!r}.")
    return key


def checked_count(value: Any, name: str, where: str, least: int = 1) -> int:
    """Returns an int that counts something.

    >>> checked_count(10, "num_buckets", "doc")
    10

    Raises:
        ValueError: if it is no int, less than `least`, or more than 32 bits can hold.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value < 2**31:
        raise ValueError(
            f"{where}: {name} must be an int of at least {least} and below 2**31, got {value!r}."
        )
    return int(value)


def safe_name(name: str) -> str:
    """Returns a name that can be the scope of variables, as in TensorFlow.

    >>> safe_name("a b_embedding"), safe_name("/user/age")
    ('a_b_embedding', 'user/age')
    """
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_.\\-/>") else "_" for c in name)
    return safe.strip("/") or "_"  # a leading slash would leave the layer's scope


def scopes_of(names: Iterable[str]) -> dict[str, str]:
    """Returns the scope for each name, in their order: no two share one, as in TensorFlow.

    >>> scopes_of(["a b", "a_b", "c"])
    {'a b': 'a_b', 'a_b': 'a_b_1', 'c': 'c'}
    """
    scopes: dict[str, str] = {}
    for name in names:
        base = safe_name(name)
        numbered = (f"{base}_{n}" if n else base for n in itertools.count())
        taken = set(scopes.values())
        if name not in scopes:
            scopes[name] = next(scope for scope in numbered if scope not in taken)
    return scopes


def _described(value: Any) -> str:
    """Returns a text that is the same for values that are equal."""
    if isinstance(value, est.Recipe) and dataclasses.is_dataclass(value):
        fields = [_described(getattr(value, f.name)) for f in dataclasses.fields(value)]
        return f"{value.recipe_name}({', '.join(fields)})"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"[{', '.join(map(_described, value))}]"
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return f"{_described(value.__code__)}{_described(cells)}{_described(value.__defaults__)}"
    if isinstance(value, types.CodeType):
        names = f"{value.co_qualname} {value.co_names} {value.co_code.hex()}"
        return names + _described(value.co_consts)
    try:
        return json.dumps(est.to_json(value))
    except TypeError:  # code, or what code refers to
        return str(getattr(value, "__qualname__", type(value).__qualname__))
