"""Loaded modes: requests to an export become the arrays that its functions take.

    mode = LoadedMode(manifest["modes"]["infer"])
    arrays, rows = mode.prepared(mode.batch(features))

What is wrong with a request is said by name; nothing of it runs before.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from estimator.batches import Batch, to_device_dtype
from estimator.host_features import HostCheck, HostRecipe, OutputRecipe
from estimator.messages import did_you_mean, shown
from estimator.recipes import from_json, recipes_in
from estimator.request_sizes import check_size
from estimator.tf_example import parse_examples

# The name of the input that takes serialised tf.train.Examples.
RECORDS = "examples"
# The kinds of dtypes that become another without a loss that anybody would mind.
_TAKEN = {"f": "fiub", "V": "fiub", "c": "cfiub", "i": "iub", "u": "iub", "b": "b"}


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes:
        part: "features" or "labels".
        path: the keys that lead to it among these; empty: it is all of them.
        dtype: what is computed with; None: the host makes ids of it.
        shape: its dimensions, None for those of any size; None: in any form that its column takes.
        needed: whether the model looks at it.
        like: what it held when the model was exported: str, int, float or bool; None: unknown.
    """

    part: str
    path: tuple[str | int, ...]
    dtype: str | None
    shape: tuple[int | None, ...] | None
    needed: bool
    like: str | None = None

    @property
    def name(self) -> str:
        """How it is called in messages."""
        return "/".join(map(str, self.path)) or self.part

    @property
    def described(self) -> str:
        """What it must be, in messages."""
        return f"{self.dtype} of shape {shape_text(self.shape or ())}"

    @property
    def place(self) -> tuple[str | int, ...]:
        """Where it lies in a batch."""
        return (self.part, *self.path)


@dataclasses.dataclass(frozen=True)
class Parsed:
    """How a feature is read from records; a shape of None: any number of values."""

    dtype: np.dtype
    shape: tuple[int, ...] | None
    default_value: Any

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Parsed":
        shape = entry["shape"]
        return cls(
            np.dtype(entry["dtype"]), None if shape is None else tuple(shape), entry["default"]
        )


class LoadedMode:
    """One mode of an export.

    Args:
        entry: what the manifest says of it.

    Attributes:
        inputs: what goes in.
        outputs: by signature: name, recipe and number of arrays of each answer.
        variables: the names of the weights, in the order its functions take them.
        used: the inputs that its functions take, by their places among all.
        host: the host recipes, whose arrays they take behind those.
        checks: what is looked at of inputs, by their places.
        parse: how features are read from records; None: they come as they are.
        takes_rows: whether each array that goes in has a row for each row of the request.

    Raises:
        LookupError, TypeError, ValueError: if the manifest cannot be true.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.inputs = [_input(given) for given in entry["inputs"]]
        self._places = {entry.place for entry in self.inputs}
        self._keys = {
            part: {str(e.path[0]): e.path[0] for e in self.inputs if e.part == part and e.path}
            for part in ("features", "labels")
        }
        self.variables = [str(name) for name in entry["variables"]]
        looked_at = [*entry["used"], *(i for i, _ in entry["checks"])]
        if not all(0 <= int(i) < len(self.inputs) for i in looked_at):
            raise ValueError(f"it looks at the inputs {looked_at} of {len(self.inputs)}")
        self.used = [int(i) for i in entry["used"]]
        self.host = [_recipe(data, HostRecipe) for data in entry["host"]]
        shapes = [self.inputs[i].shape or () for i in self.used]
        self.takes_rows = all(shape[:1] == (None,) for shape in shapes) and all(
            recipe.dims[:1] == ("batch",) for recipe in self.host
        )
        self.checks = [(int(i), _recipe(data, HostCheck)) for i, data in entry["checks"]]
        self._length_buckets = entry["length_buckets"]
        parse = entry["parse"]
        self.parse = None if parse is None else {n: Parsed.of(e) for n, e in parse.items()}
        self.outputs = {
            name: [_output(given) for given in signature["outputs"]]
            for name, signature in entry["signatures"].items()
        }

    def batch(self, features: Any, labels: Any = None, most_values: int | None = None) -> Batch:
        """Returns a batch that holds each leaf at its place.

        Args:
            features: as an input_fn gives them; or a list of rows, each a dict.
            labels: likewise; None where the mode takes none.
            most_values: how many values, or characters, a feature may have once its rows are filled
                up to the longest; None: any number.

        Raises:
            ValueError: if one is missing, there is one too many, or one is too large.
        """
        if isinstance(features, list) and not features:
            raise ValueError("The request is empty: give at least one row.")
        if isinstance(features, list) and isinstance(features[0], Mapping):
            if not all(isinstance(row, Mapping) for row in features):
                raise ValueError("Some rows of the request are dicts, and some are not.")
            features = self._columns(features)
        elif isinstance(features, list | np.ndarray | jax.Array):
            features = self._named(features)
        if self.parse is not None and isinstance(features, Mapping) and [*features] == [RECORDS]:
            features = parse_examples(features[RECORDS], self.parse)
        features, labels = self._keyed("features", features), self._keyed("labels", labels)
        self._check_keys("features", features)
        self._check_keys("labels", labels)
        if most_values is not None:
            check_size("features", features, most_values)
        return Batch(features, labels)

    def _named(self, values: Any) -> Any:
        """Returns values without a name by the name of the only input; records are one."""
        if self.parse is not None:
            return {RECORDS: values}
        entries = [entry for entry in self.inputs if entry.part == "features"]
        wanted = [entry for entry in entries if entry.needed] or entries
        single = len(wanted) == 1 and len(wanted[0].path) == 1
        return {wanted[0].path[0]: values} if single else values

    def _columns(self, rows: list[Any]) -> dict[Any, Any]:
        """Returns rows as columns by name."""
        names = dict.fromkeys(name for row in rows for name in row)
        if len(names) > len(self.inputs) + 10:  # many rows of many names would fill the memory
            self._check_keys("features", self._keyed("features", names))
            raise ValueError(f"The rows have {len(names)} names, such as {shown([*names][-1])}.")
        columns: dict[Any, Any] = {}
        for name in names:
            column = [row.get(name) for row in rows]
            nested = all(isinstance(value, Mapping) for value in column)
            columns[name] = self._columns(column) if nested else column
        return columns

    def _keyed(self, part: str, given: Any) -> Any:
        """Returns what is given by the keys that the model_fn knows: in JSON an int is a text."""
        if not isinstance(given, Mapping):
            return given
        keys = self._keys[part]
        return {keys.get(str(key), key): leaf for key, leaf in given.items()}

    def _check_keys(self, part: str, given: Any) -> None:
        """Checks that a request holds the leaves that are needed, and no others."""
        entries = [entry for entry in self.inputs if entry.part == part]
        if not entries:
            if given is not None:
                raise ValueError(f"The signature takes no {part}.")
            return
        if given is None and any(entry.needed for entry in entries):
            raise ValueError(f"The signature needs {part}: {[entry.name for entry in entries]}.")
        if given is None:
            return
        if [entry.path for entry in entries] == [()]:
            if isinstance(given, Mapping):
                raise ValueError(f"{part} must be one array, without names, got {[*given][:9]}.")
            return
        if not isinstance(given, Mapping):
            raise ValueError(
                f"{part} must be a dict by name, or a list of such rows, got a "
                f"{type(given).__name__} (of a DataFrame: dict(frame)). The model takes "
                f"{[entry.name for entry in entries]}."
            )
        known, one = self._keys[part], part.removesuffix("s")
        for key in given:
            if str(key) not in known:
                raise ValueError(
                    f"The model takes no {one} {shown(key)}.{did_you_mean(str(key), known)} "
                    f"It takes {sorted(known)}."
                )
        missing = [e.name for e in entries if e.needed and e.path[0] not in given]
        if missing:
            raise ValueError(
                f"The {part} {missing} are missing; there are {sorted(given, key=str)}."
            )

    def prepared(self, batch: Batch, most_values: int | None = None) -> tuple[list[Any], int]:
        """Returns the arrays that the compiled functions take, and how many rows they are of.

        Args:
            batch: what `batch` made.
            most_values: how many values the arrays of host recipes may have together. Counts are
                then filled up to the largest, if that has room: so whoever asks can make but few
                programs compile. None: any number, and counts as they are.

        Raises:
            ValueError: if a leaf has another shape or kind, or another number of rows, or there are
                too many values.
        """
        place = {path: i for i, path in enumerate(batch.raw_paths)}
        if unknown := [path for path in place if path not in self._places]:
            name = "/".join(map(str, unknown[0][1:]))
            raise ValueError(f"The model takes no {unknown[0][0].removesuffix('s')} {shown(name)}.")
        lengths = batch.lengths
        if not lengths:
            raise ValueError("The request has no rows. A single row goes into a list: [{...}].")
        if min(lengths) == 0:
            raise ValueError("The request is empty: give at least one row.")
        if len(lengths) > 1:
            raise ValueError(
                f"All features of a request must have the same number of rows: {batch.describe()}."
            )
        for i, check in self.checks:
            if self.inputs[i].place in place:
                batch.check(place[self.inputs[i].place], check)
        arrays = [self._array(self.inputs[i], batch, place) for i in self.used]
        made: list[np.ndarray] = []
        for recipe in self.host:
            made.append(batch.host(recipe, self._length_buckets))
            size = sum(array.size for array in made)
            if most_values is not None and size > most_values:
                raise ValueError(
                    f"The features would have {size} values, once all rows are as long as the "
                    f"longest, and may have {most_values}. Ask for fewer rows at once."
                )
        if most_values is not None:
            made = self._equally_wide(made, most_values)
        return [*arrays, *made], max(lengths)

    def _equally_wide(self, made: list[np.ndarray], most_values: int) -> list[np.ndarray]:
        """Returns arrays of host recipes with equal counts, where their dimensions are alike."""
        widest: dict[Any, int] = {}
        for recipe, array in zip(self.host, made, strict=True):
            if recipe.dims[-1:] == ("count",) and recipe.fill is not None:
                widest[recipe.dims] = max(widest.get(recipe.dims, 0), array.shape[-1])
        wide = [
            widest.get(recipe.dims, array.shape[-1]) if recipe.fill is not None else array.shape[-1]
            for recipe, array in zip(self.host, made, strict=True)
        ]
        sizes = [
            array.size // max(array.shape[-1], 1) * width
            for array, width in zip(made, wide, strict=True)
        ]
        if sum(sizes) > most_values:
            return made
        filled = []
        for recipe, array, width in zip(self.host, made, wide, strict=True):
            pads = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
            wider = width > array.shape[-1]
            filled.append(np.pad(array, pads, constant_values=recipe.fill) if wider else array)
        return filled

    def _array(self, wanted: Input, batch: Batch, place: Mapping[Any, int]) -> Any:
        if wanted.place not in place:
            raise ValueError(f"{wanted.name} is missing.")
        given = batch.leaves[place[wanted.place]]
        array = _array_of(given, wanted)
        dtype, shape = np.dtype(jax.numpy.dtype(wanted.dtype)), wanted.shape or ()
        if array.dtype.kind not in _TAKEN[dtype.kind] and array.dtype != dtype:
            raise ValueError(f"{wanted.name} must be {wanted.described}, got {shown(given)}.")
        fits = array.ndim == len(shape) and all(
            size in (None, actual) for size, actual in zip(shape, array.shape, strict=True)
        )
        if not fits:
            hint = " A single row goes into a list: [{...}]." if array.ndim == 0 else ""
            raise ValueError(
                f"{wanted.name} must be {wanted.described}, got shape {list(array.shape)}.{hint}"
            )
        narrow = to_device_dtype(array, wanted.name)
        made = narrow.astype(dtype)
        if dtype.kind in "iu" and not np.array_equal(made, array):
            raise ValueError(f"{wanted.name} must be {dtype}, which does not hold {shown(given)}.")
        return made


def shape_text(shape: Sequence[int | None]) -> str:
    """Returns a shape as messages have it.

    >>> shape_text((None, 2))
    '(any, 2)'
    """
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def _array_of(given: Any, wanted: Input) -> np.ndarray:
    """Returns an array of what was given; an error says where a row or a value does not fit."""
    try:
        array = np.asarray(given)
    except ValueError:
        raise ValueError(
            f"{wanted.name} must be {wanted.described}, got rows of different lengths."
        ) from None
    if array.dtype == object and array.ndim:
        for row, value in enumerate(array):
            if value is None or (isinstance(value, np.ndarray) and None in value.ravel().tolist()):
                raise ValueError(
                    f"{wanted.name} must be {wanted.described}; row {row} lacks a value, and the "
                    "model has nothing that stands in for it."
                )
    return array


def _input(entry: Mapping[str, Any]) -> Input:
    shape = entry.get("shape")
    return Input(
        part=str(entry["part"]),
        path=tuple(entry["path"]),
        dtype=entry.get("dtype"),
        shape=None if shape is None else tuple(shape),
        needed=bool(entry["needed"]),
        like=entry.get("like"),
    )


def _output(entry: Mapping[str, Any]) -> tuple[str, OutputRecipe | None, int]:
    """Returns name, recipe, and how many arrays it takes, of an answer."""
    recipe = entry["recipe"]
    made = None if recipe is None else _recipe(recipe, OutputRecipe)
    return str(entry["name"]), made, int(entry["arrays"])


def _recipe(data: Any, kind: type) -> Any:
    """Returns a recipe of that kind; a TypeError if it is another thing, or would read files."""
    made = from_json(data)
    if not isinstance(made, kind) or any(part.reads_files for part in recipes_in(made)):
        raise TypeError(f"{type(made).__name__} is no {kind.__name__} that an export may hold")
    return made
