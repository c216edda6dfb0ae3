"""Layers against what is written by hand, in TensorFlow's formulas."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from estimator import layers
from estimator.variables import apply, initialize, trace

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)

pytestmark = pytest.mark.usefixtures("strict_promotion")


def start(fn, *args):
    return initialize(trace(fn, *args)[0], 0)


def close(given, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(given, expected, rtol=rtol, atol=atol)


# dense.


@pytest.mark.parametrize(("activation", "use_bias"), [(None, False), (jax.nn.relu, True)])
@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (0, 4)])
def test_dense_is_a_product_a_bias_and_an_activation(shape, activation, use_bias):
    def fn(x):
        return layers.dense(x, 3, activation, use_bias, bias_initializer=jax.nn.initializers.ones)

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


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_dropout_refuses_a_rate_that_is_no_part(rate):
    with pytest.raises(ValueError, match=rf"rate must be in \[0, 1\), got {rate}"):
        trace(lambda: layers.dropout(X, rate))


@pytest.mark.parametrize(
    ("noise_shape", "shape"),
    [(None, (5, 4)), ((5, 4), (5, 4)), ((None, 1), (5, 1)), ([1, None], (1, 4)), ((1, 1), (1, 1))],
)
def test_dropout_drops_what_its_noise_shape_holds_together(noise_shape, shape):
    ones = np.ones((5, 4), np.float32)
    kept = dropped(ones, noise_shape=noise_shape, training=True) != 0
    first = kept[: shape[0], : shape[1]]
    np.testing.assert_array_equal(kept, np.broadcast_to(first, kept.shape))
    if first.size > 1:
        assert len(np.unique(first)) == 2


def test_dropout_with_another_seed_draws_another_mask():
    ones = np.ones(100, np.float32)
    masks = [dropped(ones, seed=seed, training=True) for seed in (None, 1, 1, 2)]
    assert (masks[1] == masks[2]).all()
    assert all((masks[1] != masks[i]).any() for i in (0, 3))
    assert (dropped(ones, key=1, seed=1, training=True) != masks[1]).any()


@pytest.mark.parametrize("training", [True, False])
def test_dropout_of_integers_gives_floats(training):
    assert dropped(np.int32([1, 2, 3]), training=training).dtype == np.float32


@pytest.mark.parametrize("noise_shape", [(5,), (5, 4, 1), (1, 3), (2, 4)])
def test_dropout_refuses_a_noise_shape_that_does_not_broadcast(noise_shape):
    message = rf"noise_shape {re.escape(str(noise_shape))} does not broadcast to .*\(5, 4\)"
    with pytest.raises(ValueError, match=message):
        trace(lambda: layers.dropout(X, noise_shape=noise_shape))


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


def test_batch_normalization_passes_on_its_initializers():
    names = ("beta", "gamma", "moving_mean", "moving_variance")
    given = {
        f"{name}_initializer": jax.nn.initializers.constant(float(value))
        for value, name in enumerate(names, 2)
    }
    values = start(lambda x: layers.batch_normalization(x, **given), X)
    assert {name.removeprefix(PREFIX): value.tolist() for name, value in values.items()} == {
        name: [value] * 4 for value, name in enumerate(names, 2)
    }


def test_a_batch_of_no_rows_leaves_the_moving_averages_alone():
    values = random_statistics(4)
    outputs, writes = apply(lambda x: layers.batch_normalization(x, training=True), values)(X[:0])
    assert outputs.shape == (0, 4)
    for name, value in writes.items():
        np.testing.assert_array_equal(value, values[name], err_msg=name)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_batch_normalization_without_center_or_scale(center, scale):
    def fn(x):
        return layers.batch_normalization(x, center=center, scale=scale, training=True)

    values = start(fn, X)
    assert (f"{PREFIX}beta" in values, f"{PREFIX}gamma" in values) == (center, scale)
    close(apply(fn, values)(X)[0], (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-3), atol=1e-5)


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


# layer_normalization.


def test_layer_normalization_passes_on_its_initializers():
    twos, threes = (jax.nn.initializers.constant(n) for n in (2.0, 3.0))

    def fn(x):
        return layers.layer_normalization(x, beta_initializer=twos, gamma_initializer=threes)

    values = {name: value.tolist() for name, value in start(fn, X).items()}
    assert values == {"layer_normalization/beta": [2] * 4, "layer_normalization/gamma": [3] * 4}


@pytest.mark.parametrize("axis", [2, -3, (0, 2)])
def test_layer_normalization_refuses_an_axis_that_is_not_there(axis):
    with pytest.raises(ValueError, match=r"layers.layer_normalization: .*\(5, 4\) have no axis"):
        trace(lambda: layers.layer_normalization(X, axis))


# embedding.

TABLE = {"embedding/embeddings": np.arange(1, 601, dtype=np.float32).reshape(300, 2)}


def looked_up(ids, values=TABLE):
    return apply(lambda ids: layers.embedding(ids, 300, 2), values)(ids)[0]


def test_an_id_that_the_table_lacks_is_nan_and_a_missing_one_zeros():
    given = looked_up(np.int32([[0, 299, -1], [300, -2, -300], [-301, 2**31 - 1, -(2**31)]]))
    assert given.shape == (3, 3, 2)
    assert given[0].tolist() == [[1, 2], [599, 600], [0, 0]]
    assert np.isnan(given[1:]).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "uint32"])
def test_ids_may_be_of_any_integer_dtype(dtype):
    assert looked_up(np.array([0, 127], dtype)).tolist() == [[1, 2], [255, 256]]
    if dtype.startswith("int"):
        assert looked_up(np.array([-1], dtype)).tolist() == [[0, 0]]


def test_the_gradient_of_a_row_is_the_sum_over_its_ids_and_others_have_none():
    ids, weights = np.int32([4, -1, 4, 0, 300, -2]), np.float32([[1], [2], [3], [4], [5], [6]])

    def loss(table):
        return (looked_up(ids, {"embedding/embeddings": table}) * weights).sum()

    expected = np.zeros((300, 2), np.float32)
    expected[4], expected[0] = 4, 4
    np.testing.assert_array_equal(jax.grad(loss)(TABLE["embedding/embeddings"]), expected)


@pytest.mark.parametrize("ids", [X, np.array([True]), np.zeros(3, np.float16)])
def test_embedding_refuses_ids_that_are_no_integers(ids):
    with pytest.raises(TypeError, match=rf"ids must be integers, got {ids.dtype} of shape"):
        trace(lambda: layers.embedding(ids, 3, 2))


@pytest.mark.parametrize("sizes", [(0, 2), (3, 0), (-1, 2)])
def test_embedding_refuses_an_empty_table(sizes):
    message = f"needs .*got input_dim={sizes[0]} and output_dim={sizes[1]}"
    with pytest.raises(ValueError, match=message):
        trace(lambda: layers.embedding(np.int32([0]), *sizes))


# Images.

IMAGES = np.random.default_rng(3).uniform(0, 400, (2, 20, 20, 1)).astype(np.float32)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_average_of_half_floats_neither_overflows_nor_stops_counting(dtype, padding):
    images = jnp.asarray(IMAGES, dtype)
    given = layers.average_pooling2d(images, 20, 20, padding)
    assert given.dtype == dtype
    # 400 values of about 200: their sum is no float16, and bfloat16 cannot count past 256.
    close(np.float32(given).ravel(), np.float32(images).mean((1, 2)).ravel(), rtol=0.01)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float16"])
def test_the_largest_value_may_be_negative_and_keeps_its_dtype(dtype):
    least = np.iinfo(dtype).min if "int" in dtype else -3
    given = layers.max_pooling2d(np.full((1, 3, 3, 1), least, dtype), 2, 2, "same")
    assert given.dtype == dtype
    assert (given == least).all()


def test_sizes_may_be_integers_of_numpy():
    two = np.int64(2)
    assert layers.max_pooling2d(IMAGES, two, two).shape == (2, 10, 10, 1)
    _, out = trace(lambda: layers.conv2d(IMAGES, two, two, strides=two, dilation_rate=two))
    assert out.shape == (2, 9, 9, 2)


IMAGE_LAYERS = {
    "conv2d": functools.partial(layers.conv2d, filters=3),
    "max_pooling2d": layers.max_pooling2d,
    "average_pooling2d": layers.average_pooling2d,
}


@pytest.mark.parametrize("layer", IMAGE_LAYERS)
@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((5, 4, 4), {}, r"needs images of shape .*got shape \(5, 4, 4\).*reshape to"),
        ((5, 4, 3, 1), {"size": 4}, r'images of 4 x 3 .*window of 4 x 4.*padding="same"'),
        (
            (5, 1, 4, 3),
            {"size": (5, 2), "data_format": "channels_first"},
            "images of 4 x 3 are smaller than the window of 5 x 2",
        ),
        ((5, 4, 4, 1), {"padding": "full"}, "padding must be .*got 'full'"),
        ((5, 4, 4, 1), {"data_format": "NHWC"}, "data_format must be one of .*got 'NHWC'"),
        ((5, 4, 4, 1), {"size": 0}, "_size must be one or two numbers >= 1, got 0"),
        ((5, 4, 4, 1), {"size": (2, 2, 2)}, r"_size must be one .*got \(2, 2, 2\)"),
        ((5, 4, 4, 1), {"strides": (1, 0)}, r"strides must be one .*got \(1, 0\)"),
    ],
)
def test_an_image_layer_refuses_what_it_cannot_slide_over(layer, shape, settings, message):
    named = {"strides": 1, "size": 2} | settings
    named["kernel_size" if layer == "conv2d" else "pool_size"] = named.pop("size")
    with pytest.raises(ValueError, match=f"layers.{layer}: .*{message}"):
        trace(lambda: IMAGE_LAYERS[layer](np.zeros(shape, np.float32), **named))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": 0}, "filters must be >= 1, got 0"),
        ({"dilation_rate": -1}, "dilation_rate must be one or two numbers >= 1, got -1"),
        ({"dilation_rate": (1, 10)}, "images of 20 x 20 are smaller than the window of 3 x 21"),
    ],
)
def test_conv2d_refuses_what_it_cannot_slide_over(settings, message):
    with pytest.raises(ValueError, match=f"layers.conv2d: {message}"):
        trace(lambda: layers.conv2d(IMAGES, **({"filters": 3, "kernel_size": 3} | settings)))


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        (np.float32(1), {}, r"got shape \(\) and 'channels_last'"),
        (X, {"data_format": "NCHW"}, r"got shape \(5, 4\) and 'NCHW'"),
    ],
)
def test_flatten_refuses_what_has_no_rows(inputs, settings, message):
    with pytest.raises(ValueError, match=f"layers.flatten: needs inputs .*{message}"):
        layers.flatten(inputs, **settings)


def test_no_id_is_missing_where_there_is_no_sign():
    table = np.arange(256, dtype=np.float32)[:, None]
    net = apply(lambda ids: layers.embedding(ids, 256, 1), {"embedding/embeddings": table})
    assert net(np.uint8([255, 3]))[0].ravel().tolist() == [255, 3]
