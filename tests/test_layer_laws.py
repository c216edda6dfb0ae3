"""Laws of all layers: Flax's answers and gradients on the same weights, whatever the batch is."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from estimator import layers
from estimator.context import fold_name
from estimator.variables import apply, initialize, trace, variable_scope

ROWS = 5
IMAGE = (7, 6, 3)  # no two sizes are equal, so that none is mistaken for another
FIRST = (3, 7, 6)
KEY = jax.random.key(3)

pytestmark = pytest.mark.usefixtures("strict_promotion")


class Case(NamedTuple):
    """A layer, what else computes it from (variables, inputs, key), and the shape of an example."""

    layer: Callable[[Any], Any]
    oracle: Callable[..., tuple[Any, dict[str, Any]]]
    shape: tuple[int, ...]


RENAMED = {
    "gamma": "scale",
    "beta": "bias",
    "embeddings": "embedding",
    "moving_mean": "mean",
    "moving_variance": "var",
}


def linen(module, first=False, activation=None):
    """Returns what a module of Flax answers, and what it makes of its statistics."""

    def oracle(values, x, key):
        tree = {"params": {}, "batch_stats": {}}
        for name, value in values.items():
            tree["batch_stats" if "moving" in name else "params"][RENAMED.get(name, name)] = value
        x = jnp.moveaxis(x, 1, -1) if first else x
        y, updated = module.apply(tree, x, mutable=["batch_stats"])
        y = y if activation is None else activation(y)
        return jnp.moveaxis(y, -1, 1) if first else y, updated.get("batch_stats", {})

    return oracle


def plain(fn, first=False):
    """Returns what a function without variables answers."""

    def oracle(values, x, key):
        y = fn(jnp.moveaxis(x, 1, -1) if first else x)
        return jnp.moveaxis(y, -1, 1) if first else y, {}

    return oracle


def masked(rate, broadcast=(), seed=None):
    """Returns what Flax's dropout answers, given the key that the layer draws."""

    def oracle(values, x, key):
        key = key if seed is None else jax.random.fold_in(key, seed)
        return nn.Dropout(rate, broadcast, deterministic=False).apply({}, x, rng=key), {}

    return oracle


def first(layer, *args, **settings):
    return lambda x: layer(x, *args, **settings, data_format="channels_first")


def embedded(values, ids, key):
    table = nn.Embed(*values["embeddings"].shape)
    rows = table.apply({"params": {"embedding": values["embeddings"]}}, jnp.maximum(ids, 0))
    return jnp.where((ids >= 0)[..., None], rows, jnp.zeros_like(rows)), {}


conv, bn, ln = layers.conv2d, layers.batch_normalization, layers.layer_normalization
average = partial(nn.avg_pool, count_include_pad=False)
biggest, averaged = layers.max_pooling2d, layers.average_pooling2d
flax_bn = partial(nn.BatchNorm, use_fast_variance=False, epsilon=1e-3)
flax_ln = partial(nn.LayerNorm, use_fast_variance=False, epsilon=1e-3)

CASES = {
    "dense": Case(lambda x: layers.dense(x, 3), linen(nn.Dense(3)), (4,)),
    "dense, no bias, tanh": Case(
        lambda x: layers.dense(x, 2, jnp.tanh, use_bias=False),
        linen(nn.Dense(2, use_bias=False), activation=jnp.tanh),
        (4,),
    ),
    "dense, more dimensions": Case(lambda x: layers.dense(x, 3), linen(nn.Dense(3)), (2, 3, 4)),
    "dropout": Case(lambda x: layers.dropout(x, 0.25), plain(lambda x: x), (4,)),
    "dropout, training": Case(
        lambda x: layers.dropout(x, 0.25, training=True), masked(0.25), (4, 6)
    ),
    "dropout, seed": Case(
        lambda x: layers.dropout(x, seed=7, training=True), masked(0.5, seed=7), (4, 6)
    ),
    "dropout, noise_shape": Case(
        lambda x: layers.dropout(x, 0.4, (None, 1, 6), training=True), masked(0.4, (1,)), (4, 6)
    ),
    "batch_normalization": Case(bn, linen(flax_bn(True)), (4,)),
    "batch_normalization, axis 1, training": Case(
        lambda x: bn(x, 1, 0.8, training=True), linen(flax_bn(False, axis=1, momentum=0.8)), FIRST
    ),
    "batch_normalization, training": Case(
        lambda x: bn(x, epsilon=0.1, center=False, training=True),
        linen(flax_bn(False, epsilon=0.1, use_bias=False, momentum=0.99)),
        (4,),
    ),
    "batch_normalization, no scale": Case(
        lambda x: bn(x, scale=False), linen(flax_bn(True, use_scale=False)), IMAGE
    ),
    "layer_normalization": Case(ln, linen(flax_ln()), (4,)),
    "layer_normalization, two axes": Case(
        lambda x: ln(x, (-1, 1)), linen(flax_ln(reduction_axes=(1, 3), feature_axes=(1, 3))), IMAGE
    ),
    "layer_normalization, axis 1": Case(
        lambda x: ln(x, 1, 0.1, center=False),
        linen(flax_ln(epsilon=0.1, use_bias=False, reduction_axes=1, feature_axes=1)),
        (4, 6),
    ),
    "layer_normalization, no scale": Case(
        lambda x: ln(x, [1, 2, 3], scale=False),
        linen(flax_ln(use_scale=False, reduction_axes=(1, 2, 3), feature_axes=(1, 2, 3))),
        IMAGE,
    ),
    "embedding": Case(lambda x: layers.embedding(x, 9, 3), embedded, ()),
    "embedding, more dimensions": Case(lambda x: layers.embedding(x, 9, 3), embedded, (4, 2)),
    "conv2d": Case(lambda x: conv(x, 4, 3), linen(nn.Conv(4, (3, 3), padding="VALID")), IMAGE),
    "conv2d, same": Case(
        lambda x: conv(x, 4, (3, 2), padding="same", activation=jax.nn.relu),
        linen(nn.Conv(4, (3, 2)), activation=jax.nn.relu),
        IMAGE,
    ),
    "conv2d, same, strides": Case(
        lambda x: conv(x, 4, (2, 3), (3, 2), "same"), linen(nn.Conv(4, (2, 3), (3, 2))), IMAGE
    ),
    "conv2d, valid, strides": Case(
        lambda x: conv(x, 4, (2, 3), 2, "VALID", use_bias=False),
        linen(nn.Conv(4, (2, 3), (2, 2), "VALID", use_bias=False)),
        IMAGE,
    ),
    "conv2d, dilation": Case(
        lambda x: conv(x, 4, (2, 3), dilation_rate=(3, 2)),
        linen(nn.Conv(4, (2, 3), padding="VALID", kernel_dilation=(3, 2))),
        IMAGE,
    ),
    "conv2d, same, dilation": Case(
        lambda x: conv(x, 4, 2, padding="same", dilation_rate=2),
        linen(nn.Conv(4, (2, 2), kernel_dilation=2)),
        IMAGE,
    ),
    "conv2d, channels first": Case(
        first(conv, 4, (2, 3), (2, 1), "same"), linen(nn.Conv(4, (2, 3), (2, 1)), True), FIRST
    ),
    "max_pooling2d": Case(
        lambda x: biggest(x, 2, 2), plain(lambda x: nn.max_pool(x, (2, 2), (2, 2))), IMAGE
    ),
    "max_pooling2d, same": Case(
        lambda x: biggest(x, (2, 3), (3, 1), "same"),
        plain(lambda x: nn.max_pool(x, (2, 3), (3, 1), "SAME")),
        IMAGE,
    ),
    "max_pooling2d, channels first": Case(
        first(biggest, 3, [2, 1]), plain(lambda x: nn.max_pool(x, (3, 3), (2, 1)), True), FIRST
    ),
    "average_pooling2d": Case(
        lambda x: averaged(x, (3, 2), 1), plain(lambda x: average(x, (3, 2), (1, 1))), IMAGE
    ),
    "average_pooling2d, same": Case(
        lambda x: averaged(x, (2, 3), 2, "same"),
        plain(lambda x: average(x, (2, 3), (2, 2), "SAME")),
        IMAGE,
    ),
    "average_pooling2d, channels first": Case(
        first(averaged, 3, (1, 2), "same"),
        plain(lambda x: average(x, (3, 3), (1, 2), "SAME"), True),
        FIRST,
    ),
    "flatten": Case(layers.flatten, plain(lambda x: x.reshape(len(x), 126)), IMAGE),
    "flatten, a value each": Case(layers.flatten, plain(lambda x: x[:, None]), ()),
    "flatten, channels first": Case(
        first(layers.flatten), plain(lambda x: jnp.moveaxis(x, 1, -1).reshape(len(x), 126)), FIRST
    ),
}
# A batch's mean and variance belong to all its rows.
ROWWISE = [n for n in CASES if not (n.startswith("batch_normalization") and "training" in n)]
TYPICAL = [name for name in CASES if name in layers.__all__] + ["dropout, training"]


def drawn(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs(rows=ROWS, seed=0):
    made = {n: drawn((rows, *case.shape), seed + i) for i, (n, case) in enumerate(CASES.items())}
    for name in CASES:
        if name.startswith("embedding"):
            made[name] = np.random.default_rng(seed).integers(-1, 9, made[name].shape, np.int32)
    return made


def net(x):
    """Runs each layer under the name of its case, so that one program holds them all."""
    outputs = {}
    for name in x:
        with variable_scope(name):
            outputs[name] = CASES[name].layer(x[name])
    return outputs


def flax_net(values, x):
    outputs, writes = {}, {}
    for name, case in CASES.items():
        own = {n.split("/")[2]: v for n, v in values.items() if n.startswith(f"{name}/")}
        key = fold_name(KEY, f"{name}/dropout#0")
        with jax.numpy_dtype_promotion("standard"):
            outputs[name], statistics = case.oracle(own, x[name], key)
        for ours, theirs in RENAMED.items():
            if theirs in statistics and "training" in name:
                writes[f"{name}/batch_normalization/{ours}"] = statistics[theirs]
    return outputs, writes


def own_net(values, x):
    return apply(net, values, KEY)(x)


@cache
def variables():
    """Returns values that are none of the defaults: kernels about 0, variances above it."""
    values = {}
    for index, (name, recipe) in enumerate(trace(net, inputs())[0].variables.items()):
        value = drawn(recipe.shape, 100 + index)
        values[name] = 0.5 + np.abs(value) if name.endswith("variance") else value
    return values


def graded(fn):
    """Returns a program for outputs, assignments, and gradients of a sum with uneven weights."""

    def loss(values, x):
        outputs, writes = fn(values, x)
        flat = [outputs[name].ravel() for name in CASES]
        return sum(y @ jnp.cos(jnp.arange(y.size, dtype=y.dtype)) for y in flat), (outputs, writes)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True, allow_int=True))


forward = jax.jit(own_net)
PROGRAMS = {"own": graded(own_net), "flax": graded(flax_net)}


@cache
def results(who):
    gradients, (outputs, writes) = jax.device_get(PROGRAMS[who](variables(), inputs()))
    return {"outputs": outputs, "writes": writes, "gradients": gradients}


def answers(x):
    return jax.device_get(PROGRAMS["own"](variables(), x))[1][0]


def both(kind):
    return results("own")[kind], results("flax")[kind]


def close(given, expected, tolerance=1e-4):
    assert given.shape == expected.shape
    np.testing.assert_allclose(given, expected, rtol=tolerance, atol=tolerance)


# Flax's answers.


def test_the_table_has_all_layers():
    named = {name.split(",")[0] for name in CASES}
    assert named == set(layers.__all__) - {"layer_scope"} == set(TYPICAL) - {"dropout, training"}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_answers_what_flax_answers(name):
    given, expected = both("outputs")
    assert given[name].dtype == expected[name].dtype
    close(given[name], expected[name], 1e-5)


def test_the_statistics_become_those_of_flax():
    given, expected = both("writes")
    assert len(given) == 4
    assert given.keys() == expected.keys()
    for name in given:
        close(given[name], expected[name], 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_gradients_are_those_of_flax(name):
    (given, x), (expected, flax_x) = both("gradients")
    for variable in (n for n in given if n.startswith(f"{name}/")):
        close(given[variable], expected[variable])
    if not name.startswith("embedding"):
        close(x[name], flax_x[name])


@pytest.mark.parametrize("name", TYPICAL)
def test_a_layer_computes_the_same_without_jit(name):
    given = apply(net, variables(), KEY)({name: inputs()[name]})[0][name]
    close(given, results("own")["outputs"][name], 1e-5)


# Batches.


def test_an_example_has_the_same_answer_in_any_company():
    x = inputs()
    others = inputs(ROWS - 1, seed=50)
    mixed = {name: np.insert(others[name], 2, x[name][2], axis=0) for name in CASES}
    given, expected = answers(mixed), answers(x)
    for name in ROWWISE:
        np.testing.assert_array_equal(given[name][2], expected[name][2], err_msg=name)
        if name not in ("embedding", "flatten, a value each"):
            assert (given[name][1] != expected[name][1]).any(), name


def test_an_example_has_the_same_answer_alone():
    given = forward(variables(), {name: x[:1] for name, x in inputs().items()})[0]
    for name in ROWWISE:
        close(given[name][0], results("own")["outputs"][name][0], 1e-5)


def test_a_batch_of_no_rows_has_an_answer_of_no_rows():
    given, _ = forward(variables(), inputs(0))
    for name, expected in results("own")["outputs"].items():
        assert given[name].shape == (0, *expected.shape[1:]), name


# Dtypes.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_floats_stay_half_floats_and_near_the_answer(dtype):
    def half(array):
        return jnp.asarray(array, dtype) if array.dtype == np.float32 else array

    x = {name: half(array) for name, array in inputs().items()}
    wanted = trace(net, x)[0].variables
    values = {n: np.asarray(v, wanted[n].dtype) for n, v in variables().items()}
    for name, recipe in wanted.items():
        full = any(s in name for s in ("normalization", "embedding"))
        assert recipe.dtype == ("float32" if full else dtype), name
    given = forward(values, x)[0]
    for name, expected in results("own")["outputs"].items():
        assert given[name].dtype == ("float32" if name.startswith("embedding") else dtype), name
        close(np.float32(given[name]), expected, 0.15 if dtype == "bfloat16" else 0.02)


def test_integers_are_computed_with_as_floats():
    x = {n: np.int32(3 * a) for n, a in inputs().items() if not n.startswith("dropout")}
    floats = {n: np.float32(a) for n, a in x.items() if not n.startswith("embedding")}
    given, expected = forward(variables(), x)[0], answers(inputs() | floats)
    for name in floats:
        kept = name.startswith(("max_pooling2d", "flatten"))
        assert given[name].dtype == ("int32" if kept else "float32"), name
        close(given[name], expected[name], 1e-5)


# Variables.


@pytest.mark.parametrize(
    ("layer", "shape", "scope", "leaves"),
    [
        (partial(layers.dense, units=3), (5, 4), "dense", {"kernel": (4, 3), "bias": (3,)}),
        (
            partial(conv, filters=8, kernel_size=(3, 2)),
            (5, *IMAGE),
            "conv2d",
            {"kernel": (3, 2, 3, 8), "bias": (8,)},
        ),
        (
            partial(conv, filters=8, kernel_size=4, data_format="channels_first", use_bias=False),
            (5, *FIRST),
            "conv2d",
            {"kernel": (4, 4, 3, 8)},
        ),
        (
            partial(layers.embedding, input_dim=9, output_dim=3),
            (5, 2),
            "embedding",
            {"embeddings": (9, 3)},
        ),
        (
            partial(ln, axis=(2, 1)),
            (5, 4, 6),
            "layer_normalization",
            {"gamma": (4, 6), "beta": (4, 6)},
        ),
        (
            bn,
            (5, 4),
            "batch_normalization",
            dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (4,)),
        ),
    ],
)
def test_variables_have_the_names_and_shapes_of_tensorflow(layer, shape, scope, leaves):
    x = np.zeros(shape, np.int32)
    found = trace(lambda: [layer(x), layer(x, trainable=False), layer(x, name="mine")])[0].variables
    scopes = (scope, f"{scope}_1", "mine")
    wanted = {f"{s}/{leaf}": size for s in scopes for leaf, size in leaves.items()}
    assert {name: recipe.shape for name, recipe in found.items()} == wanted
    assert {recipe.dtype.name for recipe in found.values()} == {"float32"}
    fixed = {n for n in found if "moving" in n or n.startswith(f"{scope}_1/")}
    assert {n for n, recipe in found.items() if not recipe.trainable} == fixed


def test_first_values_are_those_of_tensorflow():
    def fn():
        layers.conv2d(np.zeros((1, 9, 9, 10), np.float32), 40, (5, 3))
        layers.dense(np.zeros((1, 30), np.float32), 50)
        layers.embedding(np.zeros(1, np.int32), 300, 20)
        layers.layer_normalization(np.zeros((1, 30), np.float32))

    values = initialize(trace(fn)[0], 0)
    # Glorot's fans count the cells of a kernel: 5 * 3 * (10 + 40) and 30 + 50.
    limits = {"conv2d/kernel": (6 / 750) ** 0.5, "dense/kernel": (6 / 80) ** 0.5}
    for name, limit in (limits | {"embedding/embeddings": 0.05}).items():
        value = values.pop(name)
        assert -limit <= value.min() < -0.99 * limit, name
        assert 0.99 * limit < value.max() <= limit, name
        assert abs(value.mean()) < 0.05 * limit, name
        np.testing.assert_allclose(value.std(), limit / 3**0.5, rtol=0.05, err_msg=name)
    assert (values.pop("layer_normalization/gamma") == 1).all()
    assert values.keys() == {"conv2d/bias", "dense/bias", "layer_normalization/beta"}
    assert not any(value.any() for value in values.values())
