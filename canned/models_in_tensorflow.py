"""TensorFlow forms of what the canned models ask of the host, for a SavedModel."""

from typing import Any

import estimator as est
from canned.baseline import NothingOfRows
from canned.cluster_reports import PointCheck
from canned.sequential_head import RawMask, Until


@est.export.tensorflow_form.register
def _(recipe: NothingOfRows, graph: est.export.Graph, features: Any, labels: Any) -> Any:
    first = next(iter(features.values()))
    return graph.tf.zeros([graph.tf.shape(first)[0], 1])


@est.export.tensorflow_form.register
def _(recipe: RawMask, graph: est.export.Graph, features: Any, labels: Any) -> Any:
    return graph.tf.cast(est.raw_value(recipe.path, features, labels), graph.tf.bool)


@est.export.tensorflow_form.register
def _(recipe: Until, graph: est.export.Graph, *arrays: Any) -> Any:
    *given, lengths = arrays
    answer = (
        given[0]
        if recipe.inner is None
        else est.export.tensorflow_form(recipe.inner, graph, *given)
    )
    return est.export.tensorflow_form(est.Trim(), graph, answer, lengths)


@est.export.tensorflow_form.register
def _(check: PointCheck, graph: est.export.Graph, value: Any) -> Any:
    good = value >= 0 if check.is_weight else graph.tf.math.is_finite(value)
    wanted = "at least 0" if check.is_weight else "finite"
    return graph.checked(value, good, f"KMeans: {check.name} must be {wanted}.")
