"""TensorFlow exports: an export becomes a SavedModel, which TensorFlow and its servers run.

    write_saved_model(load("runs/iris/export/best"), "runs/iris/saved_models")

Each signature is one graph: TensorFlow's ops in place of what the host does, the compiled function,
as StableHLO, and TensorFlow's ops in place of what the host makes of answers. Inputs are dense
tensors by name, where `""`, -1 and NaN are missing; or, where the model reads records, `examples`.

Source: https://github.com/jax-ml/jax/blob/main/jax/experimental/jax2tf/README.md
"""

import contextlib
import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from estimator.batches import Batch
from estimator.export_files import write_aside
from estimator.loaded_mode import RECORDS, Input, LoadedMode
from estimator.loaded_model import LoadedModel, Signature
from estimator.low_part import LowPart
from estimator.tensorflow_forms import Graph, tensorflow_form

# The modules that hold the forms of recipes of other packages.
_FORMS = ("feature_columns.columns_in_tensorflow", "canned.models_in_tensorflow")
PLATFORMS = ("cpu", "cuda", "tpu")
# What a tensor is filled up with where a row is shorter than the longest.
_FILL: dict[str, Any] = {"str": "", "int": -1, "float": float("nan"), "bool": False}


def write_saved_model(
    loaded: LoadedModel,
    export_dir_base: str | os.PathLike[str],
    assets_extra: Mapping[str, str] | None = None,
) -> str:
    """Writes an export as TensorFlow's SavedModel, and asks it the exported examples again.

    Args:
        loaded: the export.
        export_dir_base: the directory that gets a new one, named by the time in seconds.
        assets_extra: files to copy into `assets.extra`: their paths by the path they get.

    Returns:
        The path, which TensorFlow loads.

    Raises:
        ImportError: if TensorFlow is not installed.
        TypeError: if a recipe has no form in TensorFlow.
        ValueError: if TensorFlow cannot run it, answers something else, or the model was exported
            for a few sizes of the batch, or with labels.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "A SavedModel needs TensorFlow: pip install 'jax-estimator[tensorflow]'."
        ) from error

    def write(directory: str) -> None:
        with _quiet():
            _write(tf, loaded, directory)
            _check(tf, loaded, directory)

    return write_aside(export_dir_base, write, assets_extra)


def _write(tf: Any, loaded: LoadedModel, directory: str) -> None:
    for name in _FORMS:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    graph = Graph(tf)
    module = tf.Module()
    module.variables_by_name = {
        name: tf.Variable(value, name=name, trainable=False)
        for name, value in loaded.variables.items()
    }
    signatures = {}
    for name in loaded.signatures:
        if any(entry.part == "labels" for entry in loaded.inputs(name)):
            raise ValueError(
                f"The signature {name!r} takes labels; a SavedModel serves, and takes features "
                "only. Export the mode PREDICT."
            )
        made = _SignatureGraph(graph, name, loaded, module.variables_by_name)
        signatures[name] = tf.function(made, autograph=False).get_concrete_function(**made.specs())
    module.tables = graph.kept
    tf.saved_model.save(module, directory, signatures)


class _SignatureGraph:
    """What a signature computes, by TensorFlow's ops; it is traced by `tf.function`."""

    def __init__(
        self, graph: Graph, name: str, loaded: LoadedModel, variables: Mapping[str, Any]
    ) -> None:
        from jax.experimental import jax2tf

        self.__name__ = "serve"
        self._graph = graph
        self._name = name
        self._signature: Signature = loaded.signature(name)
        self._variables = [variables[name] for name in self._signature.mode.variables]
        if None not in self._signature.files:
            raise ValueError(
                f"The signature {name!r} was exported for batches of "
                f"{[*self._signature.files]} rows, since the model_fn computes in Python with "
                "sizes. TensorFlow can serve it where it computes with them by jax.numpy."
            )
        exported = loaded.function(self._signature.files[None]).exported
        shapes = [f"({', '.join(map(str, aval.shape))})" for aval in exported.in_avals]
        self._call = jax2tf.convert(
            exported.call,
            polymorphic_shapes=list(jax.tree.unflatten(exported.in_tree, shapes)[0]),
            with_gradient=False,
            native_serialization_platforms=PLATFORMS,
        )

    def specs(self) -> dict[str, Any]:
        """Returns what goes in, by name."""
        tf, mode = self._graph.tf, self._signature.mode
        if mode.parse is not None:
            return {RECORDS: tf.TensorSpec([None], tf.string, RECORDS)}
        return {
            entry.name: tf.TensorSpec(entry.shape, _dtype(tf, mode, entry), entry.name)
            for entry in mode.inputs
            if entry.needed
        }

    def __call__(self, **given: Any) -> dict[str, Any]:
        tf, mode = self._graph.tf, self._signature.mode
        if mode.parse is not None:
            given = self._parsed(given[RECORDS])
        for i, check in mode.checks:
            if mode.inputs[i].name in given:
                name = mode.inputs[i].name
                given[name] = tensorflow_form(check, self._graph, given[name])
        features = _nested(mode, given)
        arrays = [tf.cast(given[mode.inputs[i].name], mode.inputs[i].dtype) for i in mode.used]
        made = [tensorflow_form(recipe, self._graph, features, None) for recipe in mode.host]
        arrays += self._filled_up(made)
        leaves = self._call(self._variables, arrays)[0]
        answers = {}
        for name, recipe, count in mode.outputs[self._name]:
            parts, leaves = leaves[:count], leaves[count:]
            answers[name] = (
                parts[0] if recipe is None else tensorflow_form(recipe, self._graph, *parts)
            )
        return answers

    def _parsed(self, records: Any) -> dict[str, Any]:
        """Returns the features of serialised tf.train.Examples."""
        tf = self._graph.tf
        spec = {}
        for name, kind in (self._signature.mode.parse or {}).items():
            dtype = tf.string if kind.dtype.kind == "U" else tf.as_dtype(kind.dtype)
            if kind.shape is None:
                spec[name] = tf.io.VarLenFeature(dtype)
            else:
                spec[name] = tf.io.FixedLenFeature(kind.shape, dtype, kind.default_value)
        parsed = tf.io.parse_example(records, spec)
        for name, value in parsed.items():
            if isinstance(value, tf.SparseTensor):
                parsed[name] = tf.sparse.to_dense(value, default_value=_FILL[_kind(value.dtype)])
        return parsed

    def _filled_up(self, made: list[Any]) -> list[Any]:
        """Returns the arrays of host recipes with at least one step, and equally many of them."""
        tf, recipes = self._graph.tf, self._signature.mode.host
        lengths = [
            tf.shape(array)[axis]
            for recipe, array in zip(recipes, made, strict=True)
            for axis, dim in enumerate(recipe.dims)
            if dim == "length"
        ]
        longest = tf.reduce_max([1, *lengths])
        filled = []
        for recipe, array in zip(recipes, made, strict=True):
            sizes = tf.shape(array)
            wanted = [
                longest if dim == "length" else tf.maximum(sizes[axis], 1)
                for axis, dim in enumerate(recipe.dims)
            ]
            paddings = [[0, size - sizes[axis]] for axis, size in enumerate(wanted)]
            fill = tf.cast(0 if recipe.fill is None else recipe.fill, array.dtype)
            rank = [size if isinstance(size, int) else None for size in recipe.dims]
            filled.append(tf.ensure_shape(tf.pad(array, paddings, constant_values=fill), rank))
        return filled


def _dtype(tf: Any, mode: LoadedMode, entry: Input) -> Any:
    """Returns the dtype that TensorFlow's clients give an input in."""
    exact = any(isinstance(r, LowPart) and tuple(r.path) == entry.place for r in mode.host)
    if exact:
        return tf.float64
    kind = _kind(tf.as_dtype(entry.dtype)) if entry.like is None else entry.like
    if kind == "float" and entry.dtype is not None:
        return tf.as_dtype(entry.dtype)
    return {"str": tf.string, "int": tf.int64, "float": tf.float32, "bool": tf.bool}[kind]


def _kind(dtype: Any) -> str:
    """Returns `str`, `int`, `float` or `bool` for a dtype of TensorFlow's."""
    if dtype.is_bool:
        return "bool"
    return "int" if dtype.is_integer else "float" if dtype.is_floating else "str"


def _nested(mode: LoadedMode, given: Mapping[str, Any]) -> Any:
    """Returns features as the model was given them, of tensors by name."""
    features: Any = {}
    for entry in mode.inputs:
        if entry.name not in given:
            continue
        if not entry.path:
            return given[entry.name]
        inner = features
        for key in entry.path[:-1]:
            inner = inner.setdefault(key, {})
        inner[entry.path[-1]] = given[entry.name]
    return features


def _check(tf: Any, loaded: LoadedModel, directory: str) -> None:
    """Asks what was written for the examples of the export."""
    signatures = tf.saved_model.load(directory).signatures
    for example in loaded.examples:
        for name in example["answers"]:
            mode = loaded.signature(name).mode
            if mode.parse is not None:
                continue
            given = _tensors(tf, mode, example["features"])
            if given is None:
                continue
            try:
                answers = signatures[name](**given)
            except Exception as error:
                raise ValueError(
                    f"TensorFlow cannot run the signature {name!r}: {error} (It knows no "
                    "jax.lax.top_k, for example: jax.numpy.argsort does the same.)"
                ) from error
            for key, wanted in loaded(example["features"], name).items():
                if not _same(answers[key].numpy(), wanted):
                    raise ValueError(
                        f"TensorFlow answers {answers[key].numpy()} for {key} of the signature "
                        f"{name!r}, where {wanted} is wanted."
                    )


def _tensors(tf: Any, mode: LoadedMode, features: Any) -> dict[str, Any] | None:
    """Returns features as dense tensors by name; None where they are of another form."""
    batch = Batch(features, None)
    places = dict(zip(batch.raw_paths, batch.leaves, strict=True))
    given = {}
    for entry in mode.inputs:
        if not entry.needed or entry.place not in places:
            continue
        dtype = _dtype(tf, mode, entry)
        try:
            fill = _FILL[_kind(dtype)]
            given[entry.name] = tf.constant(_dense(places[entry.place], fill), dtype)
        except (TypeError, ValueError):
            return None
    return given


def _dense(leaf: Any, fill: Any) -> np.ndarray:
    """Returns rows filled up to the longest.

    >>> _dense([["a"], [], ["b", "c"]], "").tolist()
    [['a', ''], ['', ''], ['b', 'c']]
    """
    if isinstance(leaf, np.ndarray) and leaf.dtype != object:
        return leaf
    rows = leaf.tolist() if isinstance(leaf, np.ndarray) else list(leaf)
    shape: list[int] = []
    level: list[Any] = [rows]
    while any(isinstance(item, list | tuple) for item in level):
        level = [item for item in level if isinstance(item, list | tuple)]
        shape.append(max(map(len, level)))
        level = [item for part in level for item in part]
    made = np.full(shape, fill, object)

    def place(item: Any, index: tuple[int, ...]) -> None:
        if isinstance(item, list | tuple):
            for n, inner in enumerate(item):
                place(inner, (*index, n))
        elif item is not None:
            made[(*index, *[0] * (len(shape) - len(index)))] = item

    place(rows, ())
    return made


def _same(given: np.ndarray, wanted: np.ndarray) -> bool:
    if given.shape != wanted.shape:
        return False
    if wanted.dtype == object:
        texts = [x.decode() if isinstance(x, bytes) else x for x in given.ravel()]
        return texts == wanted.ravel().tolist()
    return bool(np.allclose(given, wanted, rtol=1e-4, atol=1e-5, equal_nan=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what TensorFlow logs of each save."""
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
