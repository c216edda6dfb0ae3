"""Loaded models: an export, asked without the code that made it.

    loaded = load("runs/iris/export/best/1700000000")
    loaded.signatures                           # ["predict", "serving_default"]
    loaded({"words": [["good", "food"]]})       # {"classes": ..., "scores": ...}

It needs jax, numpy and this package; strings, lists and gaps go in as they went into the model.
"""

import dataclasses
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from estimator import export_files, steps
from estimator.batches import Batch, to_device_dtype
from estimator.export_files import DamagedExportError, damaged
from estimator.host_features import HostCheck, HostRecipe, OutputRecipe
from estimator.manifest import reason_of
from estimator.messages import did_you_mean
from estimator.recipes import from_json, recipes_in

# Recipes are found by name in the modules that define them; none but these are ever imported.
_PACKAGES = ("estimator", "feature_columns", "canned")


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes:
        path: the keys that lead to it among the features; empty: it is all of them.
        dtype: what is computed with; None: the host makes ids of it.
        shape: its dimensions, None for those of any size; None: in any form that its column takes.
        needed: whether the model looks at it.
    """

    path: tuple[str, ...]
    dtype: str | None
    shape: tuple[int | None, ...] | None
    needed: bool

    @property
    def name(self) -> str:
        """How it is called in messages."""
        return "/".join(self.path) or "features"


class LoadedModel:
    """An export that was read; `load` makes it.

    Attributes:
        path: its directory.
        global_step: the training step it was exported at.
        inputs: what goes in.
        variables: the weights by name, numpy arrays.
    """

    def __init__(self, path: str, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.global_step = int(manifest["global_step"])
        self.inputs = [_input(entry) for entry in manifest["inputs"]]
        files = manifest["files"]
        found = export_files.weights_from_bytes(
            path, export_files.read_file(path, export_files.WEIGHTS, files)
        )
        self.variables = {name: found[name] for name in manifest["variables"]}
        self._manifest = manifest
        if not all(0 <= int(i) < len(self.inputs) for i in [*manifest["used"]]):
            raise ValueError(f"it uses the inputs {manifest['used']} of {len(self.inputs)}")
        self._used = [int(i) for i in manifest["used"]]
        self._host = [_recipe(data, HostRecipe) for data in manifest["host"]]
        self._checks = [(int(i), _recipe(data, HostCheck)) for i, data in manifest["checks"]]
        self._values = [jax.device_put(value) for value in self.variables.values()]
        self._calls: dict[str, Any] = {}
        self._outputs = {
            name: [_output(entry) for entry in signature["outputs"]]
            for name, signature in manifest["signatures"].items()
        }

    @property
    def signatures(self) -> list[str]:
        """The names of what it can be asked."""
        return sorted(self._outputs)

    def outputs(self, signature: str = "serving_default") -> list[str]:
        """Returns the names of the answers of a signature."""
        return [name for name, _, _ in self._signature(signature)]

    def method(self, signature: str = "serving_default") -> str:
        """Returns what kind of answers a signature gives: predict, classify or regress."""
        self._signature(signature)
        return str(self._manifest["signatures"][signature]["method"])

    def __call__(self, features: Any, signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Returns the answers for a batch.

        Args:
            features: as an input_fn gives them: a dict of arrays, lists, strings; or a list of
                rows, each a dict.
            signature: what is asked.

        Returns:
            Arrays by name.

        Raises:
            ValueError: if a feature is missing, or of another shape or kind.
        """
        outputs = self._signature(signature)
        batch = self._batch(features)
        leaves = self._run(signature, self._prepared(batch), batch)
        answers = {}
        for name, recipe, count in outputs:
            arrays, leaves = leaves[:count], leaves[count:]
            answers[name] = arrays[0] if recipe is None else recipe(*arrays)
        return answers

    def check(self) -> int:
        """Asks the examples that were exported with the model again; returns how many there are.

        Raises:
            ValueError: if an answer differs from the one of before by more than rounding.
        """
        files = self._manifest["files"]
        if export_files.EXAMPLES not in files:
            return 0
        data = export_files.read_file(self.path, export_files.EXAMPLES, files)
        examples = [from_json(example) for example in json.loads(data)]
        for example in examples:
            batch = self._batch(_lists(example["features"]))
            for signature, wanted in example["answers"].items():
                given = self._run(signature, self._prepared(batch), batch)
                for answer, before in zip(given, wanted, strict=True):
                    if not np.allclose(answer, before, rtol=1e-4, atol=1e-5, equal_nan=True):
                        raise ValueError(
                            f"{self.path}: the signature {signature!r} answers {answer}, and "
                            f"answered {before} when it was exported."
                        )
        return len(examples)

    def _signature(self, name: str) -> Any:
        if name not in self._outputs:
            raise ValueError(
                f"There is no signature {name!r}.{did_you_mean(name, self._outputs)} The export in "
                f"{self.path} has {self.signatures}."
            )
        return self._outputs[name]

    def _batch(self, features: Any) -> Batch:
        """Returns a batch that holds each leaf at its place."""
        if isinstance(features, list) and features and isinstance(features[0], Mapping):
            keys = {str(key) for row in features for key in row}
            features = {key: [row.get(key) for row in features] for key in keys}
        paths = [entry.path for entry in self.inputs]
        if paths == [()]:
            return Batch(features)
        if not isinstance(features, Mapping):
            raise ValueError(
                f"features must be a dict by name, or a list of such rows, got a "
                f"{type(features).__name__}. The model takes {[e.name for e in self.inputs]}."
            )
        known = sorted({path[0] for path in paths})
        for key in features:
            if key not in known:
                raise ValueError(
                    f"The model takes no feature {key!r}.{did_you_mean(str(key), known)} It takes "
                    f"{known}."
                )
        missing = [e.name for e in self.inputs if e.needed and e.path[0] not in features]
        if missing:
            raise ValueError(f"The features {missing} are missing; there are {sorted(features)}.")
        return Batch(features)

    def _prepared(self, batch: Batch) -> list[Any]:
        """Returns the arrays that the compiled functions take."""
        place = {path[1:]: i for i, path in enumerate(batch.raw_paths)}
        if not batch.lengths or min(batch.lengths) == 0:
            raise ValueError("The request is empty: give at least one row.")
        if len(batch.lengths) > 1:
            raise ValueError(
                f"All features of a request must have the same number of rows: {batch.describe()}."
            )
        for i, check in self._checks:
            if self.inputs[i].path in place:
                batch.check(place[self.inputs[i].path], check)
        arrays = [self._array(self.inputs[i], batch, place) for i in self._used]
        buckets = self._manifest["length_buckets"]
        return [*arrays, *(batch.host(recipe, buckets) for recipe in self._host)]

    def _array(self, wanted: Input, batch: Batch, place: Mapping[Any, int]) -> Any:
        if wanted.path not in place:
            raise ValueError(f"The feature {wanted.name} is missing.")
        given = batch.leaves[place[wanted.path]]
        array = np.asarray(given)
        dtype = np.dtype(jax.numpy.dtype(wanted.dtype))
        described = f"{wanted.dtype} of shape {[n or 'any' for n in wanted.shape or ()]}"
        kinds = {"f": "fiub", "V": "fiub", "c": "cfiub", "i": "iub", "u": "iub", "b": "b"}
        if array.dtype.kind not in kinds[dtype.kind] and array.dtype != dtype:
            raise ValueError(f"{wanted.name} must be {described}, got {_shown(given)}.")
        shape = wanted.shape or ()
        fits = array.ndim == len(shape) and all(
            size in (None, actual) for size, actual in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{wanted.name} must be {described}, got shape {list(array.shape)}.")
        narrow = to_device_dtype(array, wanted.name)
        made = narrow.astype(dtype)
        if dtype.kind in "iu" and not np.array_equal(made, array):
            raise ValueError(f"{wanted.name} must be {dtype}, which does not hold {_shown(given)}.")
        return made

    def _run(self, signature: str, inputs: list[Any], batch: Batch) -> list[np.ndarray]:
        modules = self._manifest["signatures"][signature]["modules"]
        if modules[0]["batch"] is None:
            return self._fetched(self._called(modules[0]["file"], inputs))
        return self._in_sizes(modules, inputs, max(batch.lengths))

    def _in_sizes(self, modules: Sequence[Any], inputs: list[Any], rows: int) -> list[np.ndarray]:
        """Runs a request through functions for a few sizes of the batch, filled up to the next."""
        sizes = {int(module["batch"]): module["file"] for module in modules}
        parts = []
        for start in range(0, rows, max(sizes)):
            count = min(max(sizes), rows - start)
            size = min(size for size in sizes if size >= count)
            index = np.minimum(np.arange(start, start + size), rows - 1)
            chosen = [x[index] if x.ndim and len(x) == rows else x for x in inputs]
            made = self._fetched(self._called(sizes[size], chosen))
            parts.append([x[:count] if x.ndim and len(x) == size else x for x in made])
        return [
            np.concatenate(part) if part[0].ndim else part[0] for part in zip(*parts, strict=True)
        ]

    def _called(self, file: str, inputs: list[Any]) -> Any:
        if file not in self._calls:
            data = export_files.read_file(self.path, file, self._manifest["files"])
            try:
                exported = jax.export.deserialize(bytearray(data))
            except Exception as error:
                raise ValueError(
                    f"{self.path}: {file} was written by jax {self._manifest['jax']}, and jax "
                    f"{jax.__version__} cannot read it: {reason_of(error)}. Use the jax that wrote "
                    "it, or export the model again."
                ) from error
            self._calls[file] = steps.compiled_export(exported)
        return self._calls[file](self._values, inputs)[0]

    def _fetched(self, leaves: Any) -> list[np.ndarray]:
        return [np.array(leaf) for leaf in jax.device_get(leaves)]


def load(path: str | os.PathLike[str]) -> LoadedModel:
    """Reads an export.

    Args:
        path: the directory that `export_saved_model` has written, or the directory that holds
            several such: then the latest is read.

    Returns:
        The model, which answers when it is called.

    Raises:
        DamagedExportError: if there is no export, or it is not as it was written.
    """
    path = os.path.abspath(os.fsdecode(path))
    if not os.path.exists(os.path.join(path, export_files.MANIFEST)) and os.path.isdir(path):
        times = [n for n in os.listdir(path) if n.isdecimal() and len(n) == 10]
        path = os.path.join(path, max(times, default="."))
    manifest = export_files.read_manifest(path)
    for name in manifest.get("modules", ()):
        if isinstance(name, str) and name.split(".")[0] in _PACKAGES and name.count(".") <= 1:
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # the recipe itself says which is missing
    try:
        return LoadedModel(path, manifest)
    except DamagedExportError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ValueError) and "recipe is registered" in str(error):
            raise
        raise damaged(path, export_files.MANIFEST, reason_of(error)) from error


def _input(entry: Mapping[str, Any]) -> Input:
    shape = entry.get("shape")
    return Input(
        path=tuple(entry["path"]),
        dtype=entry.get("dtype"),
        shape=None if shape is None else tuple(shape),
        needed=bool(entry["needed"]),
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


def _lists(features: Any) -> Any:
    """Returns features as lists where JSON had made tuples of them."""
    if isinstance(features, Mapping):
        return {key: _lists(leaf) for key, leaf in features.items()}
    return [_lists(item) for item in features] if isinstance(features, tuple) else features


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
