"""Feature columns: numbers become the dense input of a model."""

import dataclasses

import jax
import numpy as np
import pytest

import estimator as est
import feature_columns as fc
from estimator import variables


def layer(features, columns):
    """Returns what the columns make of the features."""
    return np.asarray(variables.apply(lambda f: fc.input_layer(f, columns), {})(features)[0])


def test_columns_stand_side_by_side_in_the_order_of_their_names():
    features = {"b": np.float32([1, 2]), "a": np.float32([[3, 4], [5, 6]])}
    columns = [fc.numeric_column("b"), fc.numeric_column("a", shape=2)]
    assert layer(features, columns).tolist() == [[3, 4, 1], [5, 6, 2]]
    assert layer(features, columns[::-1]).tolist() == [[3, 4, 1], [5, 6, 2]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_a_default_stands_in_for_what_is_missing(dtype):
    column = fc.numeric_column("a", default_value=7, dtype=dtype)
    assert layer({"a": np.float32([1, np.nan])}, [column]).tolist() == [[1], [7]]


def test_a_normalizer_sees_the_columns_own_shape():
    seen = []
    column = fc.numeric_column("a", (2, 2), normalizer_fn=lambda x: seen.append(x.shape) or x * 2)
    assert layer({"a": np.ones((3, 2, 2))}, column).shape == (3, 4)
    assert seen == [(3, 2, 2)]


def test_columns_are_frozen_comparable_and_printable():
    column = fc.numeric_column("a", shape=[2])
    assert column == fc.numeric_column("a", (2,))
    assert "shape=(2,)" in repr(column)
    assert est.from_json(est.to_json(column)) == column
    with pytest.raises(dataclasses.FrozenInstanceError):
        column.key = "b"
    with pytest.raises(TypeError, match="function"):
        est.to_json(fc.numeric_column("a", normalizer_fn=jax.nn.relu))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fc.numeric_column("a", shape=0), "shape must be positive, got"),
        (lambda: fc.numeric_column("a", dtype=np.str_), "dtype must be one of numbers"),
        (lambda: fc.numeric_column("a", normalizer_fn=3), "must be a function, got 3"),
        (lambda: fc.numeric_column("a", 2, default_value=[1, 2, 3]), r"shape \(3,\), wanted"),
        (lambda: layer({"age": np.ones(2)}, fc.numeric_column("agee")), 'Did you mean "age"'),
        (lambda: layer({"a": np.ones((2, 3))}, fc.numeric_column("a")), r"shape \(2, 3\), wanted"),
        (lambda: layer({"a": np.float32(1)}, fc.numeric_column("a", 2)), r"shape \(\); wanted"),
        (lambda: layer({"a": np.ones(2)}, [fc.numeric_column("a")] * 2), "one column stands twice"),
        (lambda: layer({"a": np.ones(2)}, []), "at least one"),
        (lambda: layer({"a": np.ones(2)}, ["a"]), "must be dense columns"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


class Learnt(fc.DenseColumn):
    """A column with a variable of its own."""

    name, keys, parse_spec = "learnt", ("a",), {}

    def dense(self, features, trainable=True):
        return est.get_variable("w", (1, 1)) * features["a"][:, None]


def test_a_second_input_layer_has_variables_of_its_own():
    def two(features):
        return fc.input_layer(features, Learnt()) + fc.input_layer(features, Learnt())

    names = variables.trace(two, {"a": np.ones(2, np.float32)})[0].variables
    assert list(names) == ["input_layer/learnt/w", "input_layer_1/learnt/w"]


def test_a_cross_of_more_combinations_than_memory_holds_is_an_error():
    column = fc.crossed_column(["a", "b"], 100)
    many = [["x"] * 4000] * 2
    with pytest.raises(ValueError, match="have 32000000 combinations, rows filled up"):
        column.host_ids({"a": many, "b": many})
