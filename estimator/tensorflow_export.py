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

from estimator import export_files
from estimator.export_files import write_aside
from estimator.loaded_mode import RECORDS, Input, LoadedMode
from estimator.loaded_model import LoadedModel
from estimator.tensorflow_forms import Graph, tensorflow_form
from estimator.tensorflow_requests import (
    check_saved_model,
    fill_of,
    nested,
    tensor_names,
    tensor_specs,
)

# The modules that hold the forms of recipes of other packages.
_FORMS = ("feature_columns.columns_in_tensorflow", "canned.models_in_tensorflow")


def write_saved_model(
    loaded: LoadedModel,
    export_dir_base: str | os.PathLike[str],
    assets_extra: Mapping[str, str] | None = None,
) -> str:
    """Writes an export as TensorFlow's SavedModel, and asks it what the export was asked.

    Args:
        loaded: the export.
        export_dir_base: the directory that gets a new one, named by the time in seconds.
        assets_extra: files to copy into `assets.extra`: their paths by the path they get; None:
            those of the export.

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
            check_saved_model(tf, loaded, directory)

    assets = export_files.assets_of(loaded.path) if assets_extra is None else assets_extra
    return write_aside(export_dir_base, write, assets)


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
        signatures[name] = made.traced()
    module.tables = graph.kept
    tf.saved_model.save(module, directory, signatures)


class _SignatureGraph:
    """What a signature computes, by TensorFlow's ops; it is traced by `tf.function`."""

    def __init__(
        self, graph: Graph, name: str, loaded: LoadedModel, variables: Mapping[str, Any]
    ) -> None:
        from jax.experimental import jax2tf

        self._graph = graph
        self._name = name
        self.mode = loaded.signature(name).mode
        self._variables = [variables[name] for name in self.mode.variables]
        files = loaded.signature(name).files
        if None not in files:
            raise ValueError(
                f"The signature {name!r} was exported for batches of {[*files]} rows, since the "
                "model_fn computes in Python with sizes. TensorFlow can serve it where it computes "
                "with them by jax.numpy."
            )
        exported = loaded.function(files[None]).exported
        shapes = [f"({', '.join(map(str, aval.shape))})" for aval in exported.in_avals]
        self._call = jax2tf.convert(
            exported.call,
            polymorphic_shapes=list(jax.tree.unflatten(exported.in_tree, shapes)[0]),
            with_gradient=False,
            native_serialization_platforms=exported.platforms,
        )

    def traced(self) -> Any:
        """Returns the function of tensors by name."""
        tf = self._graph.tf
        made = tf.function(lambda **named: self._answers(named), autograph=False)
        return made.get_concrete_function(**tensor_specs(tf, self.mode))

    def _answers(self, named: Mapping[str, Any]) -> dict[str, Any]:
        mode, tf = self.mode, self._graph.tf
        given = self._parsed(named[RECORDS]) if mode.parse is not None else _placed(mode, named)
        for place, value in given.items():
            given[place] = self._graph.checked(value, tf.shape(value)[:1] > 0, "There are no rows.")
        for i, check in mode.checks:
            place = mode.inputs[i].place
            if place in given:
                given[place] = tensorflow_form(check, self._graph, given[place])
        features = nested(given)
        arrays = [self._cast(given[mode.inputs[i].place], mode.inputs[i]) for i in mode.used]
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

    def _cast(self, value: Any, wanted: Input) -> Any:
        """Returns a tensor of the dtype that the function takes."""
        dtype = self._graph.tf.as_dtype(wanted.dtype)
        if dtype.is_integer and not value.dtype.is_bool:
            return self._graph.whole_numbers(value, dtype, wanted.name)
        return self._graph.tf.cast(value, dtype)

    def _parsed(self, records: Any) -> dict[Any, Any]:
        """Returns the features of serialised tf.train.Examples, by their places."""
        tf = self._graph.tf
        spec = {}
        for name, kind in (self.mode.parse or {}).items():
            dtype = tf.string if kind.dtype.kind == "U" else tf.as_dtype(kind.dtype)
            if kind.shape is None:
                spec[name] = tf.io.VarLenFeature(dtype)
            else:
                spec[name] = tf.io.FixedLenFeature(kind.shape, dtype, kind.default_value)
        parsed = {}
        for name, value in tf.io.parse_example(records, spec).items():
            if isinstance(value, tf.SparseTensor):
                value = tf.sparse.to_dense(value, default_value=fill_of(value.dtype))
            parsed["features", name] = value
        return parsed

    def _filled_up(self, made: list[Any]) -> list[Any]:
        """Returns the arrays of host recipes with at least one step, and equally many of them."""
        tf, recipes = self._graph.tf, self.mode.host
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
            least = {"length": longest, "count": 1}
            wanted = [
                tf.maximum(sizes[axis], least.get(dim, 0)) for axis, dim in enumerate(recipe.dims)
            ]
            paddings = [[0, size - sizes[axis]] for axis, size in enumerate(wanted)]
            fill = tf.cast(0 if recipe.fill is None else recipe.fill, array.dtype)
            rank = [size if isinstance(size, int) else None for size in recipe.dims]
            filled.append(tf.ensure_shape(tf.pad(array, paddings, constant_values=fill), rank))
        return filled


def _placed(mode: LoadedMode, named: Mapping[str, Any]) -> dict[Any, Any]:
    """Returns tensors by their places in a batch."""
    return {place: named[name] for place, name in tensor_names(mode).items()}


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
