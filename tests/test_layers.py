"""Layers against what is written by hand, in TensorFlow's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from estimator import layers
from estimator.context import Frame
from estimator.variables import apply, get_variable, initialize, trace

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)

pytestmark = pytest.mark.usefixtures("strict_promotion")


def start(fn, *args):
    return initialize(trace(fn, *args)[0], 0)


def close(given, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(given, expected, rtol=rtol, atol=atol)


# dense.


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", [None, jax.nn.relu, jnp.tanh])
@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (0, 4)])
def test_dense_is_a_product_a_bias_and_an_activation(shape, activation, use_bias):
    def fn(x):
        return layers.dense(
            x, 3, activation, use_bias, bias_initializer=jax.nn.initializers.normal(1.0)
        )

    x = np.resize(X, shape)
    values = start(fn, x)
    assert values.keys() == ({"dense/kernel", "dense/bias"} if use_bias else {"dense/kernel"})
    expected = x @ values["dense/kernel"]
    if use_bias:
        expected = expected + values["dense/bias"]
    if activation is not None:
        expected = activation(expected)
    given = apply(fn, values)(x)[0]
    assert given.shape == (*shape[:-1], 3)
    close(given, expected)


def test_dense_starts_with_glorot_uniform_and_zeros():
    values = start(lambda x: layers.dense(x, 500), np.zeros((1, 100), np.float32))
    limit = np.sqrt(6 / 600)
    assert 0.99 * limit < np.abs(values["dense/kernel"]).max() <= limit
    assert not values["dense/bias"].any()


def test_dense_passes_on_initializers_and_trainable():
    ones = jax.nn.initializers.ones
    recipes, _ = trace(lambda: layers.dense(X, 3, None, True, ones, ones, False, name="a"))
    assert [r.trainable for r in recipes.variables.values()] == [False, False]
    assert all((value == 1).all() for value in initialize(recipes, 0).values())


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [("int32", "float32"), ("bool", "float32"), ("bfloat16", "bfloat16"), ("float32", "float32")],
)
def test_dense_computes_in_the_floating_dtype_of_its_inputs(dtype, computed):
    recipes, out = trace(lambda x: layers.dense(x, 3), jax.ShapeDtypeStruct((5, 4), dtype))
    assert out.dtype == computed
    assert {r.dtype.name for r in recipes.variables.values()} == {computed}


@pytest.mark.parametrize(
    ("inputs", "units", "message"),
    [
        (np.float32(1), 3, r"inputs of shape \(\) and units=3"),
        (X, 0, r"needs inputs of shape \(..., features\) and units >= 1.*units=0"),
        (X, -1, "units=-1"),
    ],
)
def test_dense_refuses_what_it_cannot_multiply(inputs, units, message):
    with pytest.raises(ValueError, match=message):
        trace(lambda: layers.dense(inputs, units))


# dropout.


def dropped(x, key=0, **settings):
    return apply(lambda x: layers.dropout(x, **settings), {}, jax.random.key(key))(x)[0]


def test_dropout_does_nothing_outside_training_or_at_rate_zero():
    close(dropped(X, rate=0.5), X)
    close(dropped(X, rate=0.0, training=True), X)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_a_part_and_keeps_the_mean(rate):
    x = np.ones((100, 100), np.float32)
    given = dropped(x, rate=rate, training=True)
    assert set(np.unique(given)) == {np.float32(0), np.float32(1) / np.float32(1 - rate)}
    assert abs((given == 0).mean() - rate) < 0.02


def test_two_dropouts_of_a_step_draw_different_masks():
    def fn(x):
        return layers.dropout(x, training=True), layers.dropout(x, training=True)

    one, other = apply(fn, {}, jax.random.key(0))(np.ones(100, np.float32))[0]
    assert (one != other).any()
    assert (dropped(X, 0, training=True) != dropped(X, 1, training=True)).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dropout_keeps_the_dtype(dtype):
    assert dropped(jnp.ones(3, dtype), training=True).dtype == dtype


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_dropout_refuses_a_rate_that_is_no_part(rate):
    with pytest.raises(ValueError, match=rf"rate must be in \[0, 1\), got {rate}"):
        trace(lambda: layers.dropout(X, rate))


# batch_normalization.

PREFIX = "batch_normalization/"


def random_statistics(size):
    draw = np.random.default_rng(1).uniform(0.5, 2, (4, size)).astype(np.float32)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return {PREFIX + name: value for name, value in zip(names, draw, strict=True)}


@pytest.mark.parametrize(("shape", "axis"), [((5, 4), -1), ((5, 4), 0), ((2, 4, 3, 2), 1)])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.5, "epsilon": 0.1}])
def test_batch_normalization_computes_the_formulas_of_tensorflow(shape, axis, settings):
    x = np.random.default_rng(2).normal(3, 2, shape).astype(np.float32)
    values = random_statistics(shape[axis])
    gamma, beta, mean, variance = (np.float64(value) for value in values.values())
    momentum, epsilon = settings.get("momentum", 0.99), settings.get("epsilon", 1e-3)
    rows = np.moveaxis(x, axis, -1).astype(np.float64)
    others = tuple(range(rows.ndim - 1))

    for training in (False, True):

        def fn(x, training=training):
            return layers.batch_normalization(x, axis, **settings, training=training)

        given, writes = apply(fn, values)(x)
        if training:
            batch_mean, batch_variance = rows.mean(others), rows.var(others)
            close(writes.pop(f"{PREFIX}moving_mean"), momentum * mean + (1 - momentum) * batch_mean)
            close(
                writes.pop(f"{PREFIX}moving_variance"),
                momentum * variance + (1 - momentum) * batch_variance,
            )
            mean, variance = batch_mean, batch_variance
        assert writes == {}
        expected = (rows - mean) / np.sqrt(variance + epsilon) * gamma + beta
        close(np.moveaxis(given, axis, -1), expected, rtol=1e-4, atol=1e-5)


def test_batch_normalization_starts_with_ones_and_zeros():
    recipes, _ = trace(lambda x: layers.batch_normalization(x), X)
    values = initialize(recipes, 0)
    assert {name.removeprefix(PREFIX): value.tolist() for name, value in values.items()} == {
        "gamma": [1] * 4,
        "beta": [0] * 4,
        "moving_mean": [0] * 4,
        "moving_variance": [1] * 4,
    }
    trained = [n for n, r in recipes.variables.items() if r.trainable]
    assert trained == [f"{PREFIX}gamma", f"{PREFIX}beta"]


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_batch_normalization_without_center_or_scale(center, scale):
    def fn(x):
        return layers.batch_normalization(x, center=center, scale=scale, training=True)

    values = start(fn, X)
    assert (f"{PREFIX}beta" in values, f"{PREFIX}gamma" in values) == (center, scale)
    close(apply(fn, values)(X)[0], (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-3), atol=1e-5)


def test_batch_normalization_without_trainable_trains_nothing():
    recipes, _ = trace(lambda x: layers.batch_normalization(x, trainable=False), X)
    assert not any(r.trainable for r in recipes.variables.values())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_batch_normalization_keeps_float32_statistics_of_half_floats(dtype):
    def fn(x):
        return layers.batch_normalization(x, training=True)

    x = jnp.asarray(X, dtype)
    recipes, out = trace(fn, x)
    assert out.dtype == dtype
    assert {r.dtype.name for r in recipes.variables.values()} == {"float32"}
    outputs, writes = apply(fn, initialize(recipes, 0))(x)
    close(writes[f"{PREFIX}moving_mean"], 0.01 * np.float32(x).mean(0), rtol=1e-4)
    close(np.float32(outputs), np.float32(fn_by_hand(np.float32(x))), atol=0.02)


def fn_by_hand(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)


def test_batch_normalization_takes_integers():
    def fn(x):
        return layers.batch_normalization(x, training=True)

    x = np.int32([[1, 5], [3, 5]])
    given = apply(fn, start(fn, x))(x)[0]
    assert given.dtype == np.float32
    close(given, fn_by_hand(np.float32(x)), atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "axis", "message"),
    [
        (X, 2, r"inputs of shape \(5, 4\) have no axis 2"),
        (X, -3, r"inputs of shape \(5, 4\) have no axis -3"),
        (np.float32(1), -1, r"inputs of shape \(\) have no axis -1"),
    ],
)
def test_batch_normalization_refuses_an_axis_that_is_not_there(inputs, axis, message):
    with pytest.raises(ValueError, match=message):
        trace(lambda: layers.batch_normalization(inputs, axis))


def test_the_gradient_flows_through_the_statistics_of_the_batch():
    def loss(gamma, x):
        values = {**start(layers.batch_normalization, X), f"{PREFIX}gamma": gamma}
        net = apply(lambda x: layers.batch_normalization(x, training=True), values)
        return jnp.sum(net(x)[0] ** 3)

    def by_hand(gamma, x):
        scaled = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-3) * gamma
        return jnp.sum(scaled**3)

    gamma = np.float32([1, 2, 3, 4])
    given, expected = (jax.grad(f, (0, 1))(gamma, X) for f in (loss, by_hand))
    jax.tree.map(lambda a, b: close(a, b, 1e-3, 1e-3), given, expected)


# Names.


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
