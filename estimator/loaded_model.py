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
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from estimator import export_files, steps
from estimator.export_directories import newest
from estimator.export_files import DamagedExportError, damaged
from estimator.loaded_mode import Input, LoadedMode
from estimator.made_up import same_but_for_rounding
from estimator.manifest import reason_of
from estimator.messages import did_you_mean, shown
from estimator.recipes import from_json

# Recipes are found by name in the modules that define them; none but these are ever imported.
_PACKAGES = ("estimator", "feature_columns", "canned")


class LoadedModel:
    """An export that was read; `load` makes it.

    Attributes:
        path: its directory.
        global_step: the training step it was exported at.
        variables: the weights by name, numpy arrays.
        examples: batches that were exported with it: their features, labels and answers.
    """

    def __init__(self, path: str, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.global_step = int(manifest["global_step"])
        self._jax = str(manifest["jax"])
        self._files = manifest["files"]
        data = export_files.read_file(path, export_files.WEIGHTS, self._files)
        self.variables = export_files.weights_from_bytes(path, data)
        values = {name: jax.device_put(value) for name, value in self.variables.items()}
        self._modules: dict[Any, bytes] = {}  # exports may be deleted while they are asked
        self._signatures: dict[str, Signature] = {}
        for entry in manifest["modes"].values():
            mode = LoadedMode(entry)
            weights = [values[name] for name in mode.variables]
            for name, described in entry["signatures"].items():
                modules = described["modules"]
                sizes = {m["batch"] and int(m["batch"]): m["file"] for m in modules}
                if not sizes:
                    raise ValueError(f"the signature {name!r} has no function")
                method = str(described["method"])
                by_rows = mode.takes_rows and all(m["by_rows"] for m in modules)
                for file in sizes.values():
                    if file not in self._modules:
                        self._modules[file] = export_files.read_file(path, file, self._files)
                self._signatures[name] = Signature(mode, method, sizes, weights, by_rows)
        self.examples = self._read_examples()
        self._functions: dict[Any, Function] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LoadedModel {self.path}, step {self.global_step}: {self.signatures}>"

    @property
    def signatures(self) -> list[str]:
        """The names of what it can be asked."""
        return sorted(self._signatures)

    def outputs(self, signature: str = "serving_default") -> list[str]:
        """Returns the names of the answers of a signature."""
        return [name for name, _, _ in self.signature(signature).mode.outputs[signature]]

    def output_types(self, signature: str = "serving_default") -> dict[str, "OutputType"]:
        """Returns dtype and shape of each answer of a signature."""
        found = self.signature(signature)
        types = list(self.function(next(iter(found.files.values()))).types)
        described = {}
        for name, recipe, count in found.mode.outputs[signature]:
            made, types = types[:count], types[count:]
            if recipe is None:
                (answer_type,) = made
                if None not in found.files:  # whatever its size, any number of rows goes in
                    answer_type = OutputType(answer_type.dtype, (None, *answer_type.shape[1:]))
                described[name] = answer_type
            else:  # what it makes of arrays of the same kind; their sizes may be others
                zeros = [np.zeros([size or 1 for size in t.shape], t.dtype) for t in made]
                answer = recipe(*zeros)
                described[name] = OutputType(answer.dtype, (None,) * answer.ndim)
        return described

    def inputs(self, signature: str = "serving_default") -> list[Input]:
        """Returns what goes into a signature."""
        return self.signature(signature).mode.inputs

    def takes_records(self, signature: str = "serving_default") -> bool:
        """Returns whether a signature takes serialised tf.train.Examples, as `examples`, too."""
        return self.signature(signature).mode.parse is not None

    def method(self, signature: str = "serving_default") -> str:
        """Returns what kind of answers a signature gives: predict, classify or regress."""
        return self.signature(signature).method

    def __call__(
        self, features: Any, signature: str = "serving_default", labels: Any = None
    ) -> dict[str, np.ndarray]:
        """Returns the answers for a batch.

        Args:
            features: as an input_fn gives them: a dict of arrays, lists, strings; or a list of
                rows, each a dict.
            signature: what is asked.
            labels: as an input_fn gives them, for `train` and `eval`.

        Returns:
            Arrays by name.

        Raises:
            ValueError: if a feature is missing, or of another shape or kind.
        """
        request = self.request(features, signature, labels)
        return self.finished(request, self.run(request))

    def request(
        self,
        features: Any,
        signature: str = "serving_default",
        labels: Any = None,
        most_values: int | None = None,
    ) -> "Request":
        """Returns a batch as its function takes it, the first of the three parts of a call.

        Args:
            features, signature, labels: as for a call.
            most_values: where strangers ask, how many values, or characters, a feature may have
                once its rows are as long as the longest, and all arrays together; None: any number.

        Raises:
            ValueError: if a feature is missing, of another shape or kind, or too large.
        """
        mode = self.signature(signature).mode
        batch = mode.batch(features, labels, most_values)
        inputs, rows = mode.prepared(batch, most_values)
        return Request(signature, inputs, rows)

    def run(self, request: "Request") -> list[np.ndarray]:
        """Returns the arrays that the function makes of a request, the second part of a call."""
        signature = self.signature(request.signature)
        if None in signature.files:
            leaves = self.function(signature.files[None])(signature.weights, request.inputs)
        else:
            leaves = self._in_sizes(signature, request)
        wanted = sum(count for _, _, count in signature.mode.outputs[request.signature])
        if len(leaves) != wanted:
            raise damaged(
                self.path,
                request.signature,
                f"it answers {len(leaves)} arrays in place of {wanted}",
            )
        return leaves

    def finished(self, request: "Request", leaves: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the answers, made on the host of those arrays, the third part of a call."""
        answers = {}
        for name, recipe, count in self.signature(request.signature).mode.outputs[
            request.signature
        ]:
            arrays, leaves = leaves[:count], leaves[count:]
            answers[name] = arrays[0] if recipe is None else recipe(*arrays)
        return answers

    def check(self) -> int:
        """Asks the examples that were exported with the model again; returns how many there are.

        Raises:
            ValueError: if an answer differs from the one of before by more than rounding.
        """
        for example in self.examples:
            for signature, wanted in example["answers"].items():
                request = self.request(example["features"], signature, example["labels"])
                for answer, before in zip(self.run(request), wanted, strict=True):
                    if not same_but_for_rounding(answer, before):
                        raise ValueError(
                            f"{self.path}: the signature {signature!r} answers {answer}, and "
                            f"answered {before} when it was exported."
                        )
        return len(self.examples)

    def _read_examples(self) -> list[dict[str, Any]]:
        if export_files.EXAMPLES not in self._files:
            return []
        data = export_files.read_file(self.path, export_files.EXAMPLES, self._files)
        examples = [from_json(example) for example in json.loads(data)]
        return [
            {
                "features": _lists(example["features"]),
                "labels": _lists(example["labels"]),
                "answers": dict(example["answers"]),
            }
            for example in examples
        ]

    def signature(self, name: str) -> "Signature":
        """Returns what a signature consists of."""
        if name not in self._signatures:
            raise ValueError(
                f"There is no signature {shown(name)}.{did_you_mean(name, self._signatures)} "
                f"There are {self.signatures}."
            )
        return self._signatures[name]

    def _in_sizes(self, signature: "Signature", request: "Request") -> list[np.ndarray]:
        """Runs a request through functions for a few sizes of the batch, filled up to the next."""
        sizes = sorted(size for size in signature.files if size is not None)
        parts = []
        for start in range(0, request.rows, sizes[-1]):
            count = min(sizes[-1], request.rows - start)
            size = next(size for size in sizes if size >= count)
            index = np.minimum(np.arange(start, start + size), request.rows - 1)
            chosen = [array[index] for array in request.inputs]
            made = self.function(signature.files[size])(signature.weights, chosen)
            parts.append([array[:count] for array in made])
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def function(self, file: Any) -> "Function":
        """Returns the function of a file; it is deserialized when it is first asked for."""
        with self._lock:
            if file not in self._functions:
                try:
                    exported = jax.export.deserialize(bytearray(self._modules[file]))
                except Exception as error:
                    raise ValueError(
                        f"{self.path}: {file} was written by jax {self._jax}, and jax "
                        f"{jax.__version__} cannot read it: {reason_of(error)}. Use the jax that "
                        "wrote it, or export the model again."
                    ) from error
                self._functions[file] = Function(exported)
            return self._functions[file]


@dataclasses.dataclass(frozen=True)
class OutputType:
    """What an answer is.

    Attributes:
        dtype: a numpy dtype; object: strings.
        shape: its dimensions, None for those of any size.
    """

    dtype: np.dtype
    shape: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Request:
    """A batch as the function of a signature takes it.

    Attributes:
        signature: what is asked.
        inputs: the arrays that go in.
        rows: how many rows were given.
    """

    signature: str
    inputs: list[Any]
    rows: int


class Function:
    """A function that was exported; it compiles when it is first called with new sizes.

    Attributes:
        exported: as JAX reads it.
        inputs: the shapes and dtypes of what it takes, besides the weights.
        types: what it answers.
    """

    def __init__(self, exported: Any) -> None:
        self.exported = exported
        (_, self.inputs), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        self._is_away = jax.default_backend() != "cpu"
        self._call = steps.compiled_export(exported)
        self.types = [
            OutputType(aval.dtype, tuple(n if isinstance(n, int) else None for n in aval.shape))
            for aval in exported.out_avals
        ]

    def __call__(self, weights: list[Any], inputs: list[Any]) -> list[np.ndarray]:
        (leaves,) = self._call(weights, inputs)
        if self._is_away:
            leaves = jax.device_get(leaves)  # all of them at once
        return [np.array(leaf) for leaf in leaves]


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a signature consists of.

    Attributes:
        mode: reads requests, and describes the answers.
        method: what kind of answers it gives.
        files: its functions, by the number of rows they take; None: any.
        weights: what the functions take besides the inputs.
        by_rows: whether each array that goes in, or comes out, has a row for each of the batch.
    """

    mode: LoadedMode
    method: str
    files: dict[int | None, Any]
    weights: list[Any]
    by_rows: bool


def load(path: str | bytes | os.PathLike[str]) -> LoadedModel:
    """Reads an export.

    Args:
        path: the directory that `export_saved_model` has written, or the directory that holds
            several such: then the latest is read.

    Returns:
        The model, which answers when it is called.

    Raises:
        DamagedExportError: if there is no export, or it is not as it was written.
    """
    path = newest(path)
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


def _lists(features: Any) -> Any:
    """Returns features as lists where JSON had made tuples of them."""
    if isinstance(features, Mapping):
        return {key: _lists(leaf) for key, leaf in features.items()}
    return [_lists(item) for item in features] if isinstance(features, tuple) else features
