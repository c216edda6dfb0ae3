"""Layer scopes: how layers are numbered and named, and their activations."""

import numpy as np
import pytest

from estimator import layers
from estimator.context import Frame
from estimator.variables import get_variable, trace

X = np.ones((5, 4), np.float32)


def test_a_layer_of_ones_own_is_numbered_like_the_others():
    def scale(x, name=None):
        with layers.layer_scope("scale", name) as scope:
            get_variable("factor", ())
            return scope

    assert trace_result(lambda: [scale(X), scale(X), scale(X, "mine"), scale(X)]) == [
        "scale",
        "scale_1",
        "mine",
        "scale_2",
    ]


def trace_result(fn):
    found = []
    trace(lambda: found.extend(fn()), frame=Frame())
    return found


def test_a_layer_is_numbered_also_where_it_does_nothing():
    def fn(training):
        layers.dropout(X, training=training)
        with layers.layer_scope("dropout", None) as scope:
            return [scope]

    assert trace_result(lambda: fn(True)) == trace_result(lambda: fn(False)) == ["dropout_1"]


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: layers.dense(x, 3, "relu"),
        lambda x: layers.conv2d(x[None, :, :, None], 3, 1, activation="relu"),
    ],
)
def test_an_activation_is_a_function(layer):
    with pytest.raises(TypeError, match=r"must be a function such as jax\.nn\.relu, got"):
        trace(layer, X)
