"""TensorFlow forms: what recipes compute, said once more by TensorFlow's ops.

    @tensorflow_form.register
    def _(recipe: Length, graph: Graph, features: Any, labels: Any) -> Any:
        return graph.tf.strings.length(raw_value(recipe.path, features))

A host recipe is given the features, a check the leaf that it looks at, an output recipe its arrays;
all of them tensors. Features are dense: `""`, -1 and NaN are missing. Only a SavedModel needs these
forms, so TensorFlow is handed in, and never imported here.
"""

import functools
from collections.abc import Sequence
from typing import Any

from estimator.host_features import Int64, Lookup, Trim, raw_value
from estimator.low_part import LowPart


class Graph:
    """What a form is built with.

    Args:
        tf: the module tensorflow.

    Attributes:
        tf: likewise.
        kept: the tables that were made, which a SavedModel must hold.
    """

    def __init__(self, tf: Any) -> None:
        self.tf = tf
        self.kept: list[Any] = []

    def places(self, words: Sequence[Any], values: Any) -> Any:
        """Returns for each value its place among the words, int64; -1 where it is none of them."""
        tf = self.tf
        with tf.init_scope():
            keys = tf.constant(list(words), values.dtype)
            ids = tf.range(len(words), dtype=tf.int64)
            filled = tf.lookup.KeyValueTensorInitializer(keys, ids)
            table = tf.lookup.StaticHashTable(filled, default_value=-1)
        self.kept.append(table)
        return table.lookup(values)

    def checked(self, value: Any, holds: Any, message: str) -> Any:
        """Returns a value, once it is certain that something holds for all of a tensor of bools."""
        tf = self.tf
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(holds), [message])]):
            return tf.identity(value)

    def whole_numbers(self, value: Any, dtype: Any, name: str) -> Any:
        """Returns numbers as integers of a dtype that holds them."""
        tf = self.tf
        made = tf.cast(value, dtype)
        message = f"{name} must be {tf.as_dtype(dtype).name}, which does not hold a value."
        return self.checked(made, tf.cast(made, value.dtype) == value, message)


@functools.singledispatch
def tensorflow_form(recipe: Any, graph: Graph, *inputs: Any) -> Any:
    """Returns what a recipe makes of tensors, in TensorFlow's ops.

    Args:
        recipe: a host recipe, a check, or an output recipe.
        graph: what to build with.
        *inputs: features and labels, a leaf, or arrays.

    Raises:
        TypeError: if it has no such form.
    """
    raise TypeError(
        f"{type(recipe).__name__} has no form in TensorFlow. Register one: "
        f"@estimator.export.tensorflow_form.register, for a function of ({type(recipe).__name__}, "
        "graph, ...)."
    )


@tensorflow_form.register
def _(recipe: Lookup, graph: Graph, ids: Any) -> Any:
    tf = graph.tf
    count = len(recipe.vocabulary)
    known = (ids >= 0) & (ids < count)
    names = tf.constant([*recipe.vocabulary, recipe.default])
    return tf.gather(names, tf.where(known, ids, count))


@tensorflow_form.register
def _(recipe: Int64, graph: Graph, ids: Any) -> Any:
    return graph.tf.cast(ids, graph.tf.int64)


@tensorflow_form.register
def _(recipe: Trim, graph: Graph, values: Any, lengths: Any) -> Any:
    tf = graph.tf
    stop = tf.maximum(tf.reduce_max(lengths), 0)  # the largest of none is the smallest number
    return tf.gather(values, tf.range(stop), axis=recipe.axis)


@tensorflow_form.register
def _(recipe: LowPart, graph: Graph, features: Any, labels: Any) -> Any:
    tf = graph.tf
    exact = raw_value(recipe.path, features, labels)
    high = tf.cast(exact, tf.float32)
    low = tf.cast(exact - tf.cast(high, exact.dtype), tf.float32)
    return tf.where(tf.math.is_finite(high), low, tf.zeros_like(low))
