"""Metrics: sums that do not care how the rows were cut into batches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from estimator import Estimator, EstimatorSpec, layers, metrics, summary, tag
from estimator.metrics import Mean, Metric, to_host
from estimator.variables import trace

ROWS = 23
DRAW = np.random.default_rng(0)
VALUES = DRAW.normal(5, 3, ROWS).astype(np.float32)
WEIGHTS = DRAW.uniform(0, 2, ROWS).astype(np.float32)
LABELS = DRAW.integers(0, 3, ROWS).astype(np.int32)
PREDICTIONS = DRAW.integers(0, 3, ROWS).astype(np.int32)

pytestmark = pytest.mark.usefixtures("strict_promotion")


METRICS = {
    "mean": (lambda r: metrics.mean(VALUES[r]), VALUES.mean()),
    "weighted mean": (
        lambda r: metrics.mean(VALUES[r], WEIGHTS[r]),
        np.average(VALUES, weights=WEIGHTS),
    ),
    "accuracy": (
        lambda r: metrics.accuracy(LABELS[r], PREDICTIONS[r]),
        (LABELS == PREDICTIONS).mean(),
    ),
    "weighted accuracy": (
        lambda r: metrics.accuracy(LABELS[r], PREDICTIONS[r], WEIGHTS[r]),
        np.average(LABELS == PREDICTIONS, weights=WEIGHTS),
    ),
}
SPLITS = [[0, ROWS], [0, 1, ROWS], [0, 0, 7, 7, ROWS], [*range(ROWS + 1)]]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("cuts", SPLITS, ids=lambda cuts: f"{len(cuts) - 1} parts")
def test_merging_the_parts_of_any_split_gives_the_whole(name, cuts):
    make, expected = METRICS[name]
    rows = np.arange(ROWS)
    parts = [to_host(make(rows[a:b])) for a, b in itertools.pairwise(cuts)]
    for ordered in (parts, parts[::-1]):
        merged = ordered[0]
        for part in ordered[1:]:
            merged = merged.merge(part)
        np.testing.assert_allclose(merged.compute(), expected, rtol=1e-6)
    np.testing.assert_allclose(make(rows).compute(), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda: make(rows).compute())(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_nothing_counted_is_zero(name):
    empty = METRICS[name][0](np.arange(0))
    assert float(empty.compute()) == 0
    assert to_host(empty).compute() == 0
    assert float(jax.jit(lambda m: m.compute())(empty)) == 0
    weightless = metrics.mean(VALUES, np.zeros(ROWS))
    assert float(weightless.compute()) == to_host(weightless).compute() == 0


def test_the_gradient_of_a_mean_of_nothing_is_a_number():
    gradient = jax.grad(lambda x: metrics.mean(x, jnp.zeros(3)).compute())(jnp.ones(3))
    assert gradient.tolist() == [0, 0, 0]


def test_the_host_merges_in_float64():
    # In float32, 2**25 + 1 is 2**25.
    many, one = to_host(Mean(jnp.float32(2**25), jnp.float32(2**25))), to_host(metrics.mean([3.0]))
    for _ in range(1000):
        many = many.merge(one)
    assert many.total.dtype == np.float64
    assert (float(many.total), float(many.count)) == (2**25 + 3000, 2**25 + 1000)
    assert isinstance(many.compute(), np.float32)


def test_integers_merge_as_int64():
    merged = to_host(Mean(jnp.int32(2**31 - 1), jnp.int32(1)))
    assert int(merged.merge(merged).total) == 2**32 - 2


# Weights.


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([1, 2, 3], None, 2),
        ([1, 2, 3], 5, 2),
        ([1, 2, 3], 0, 0),
        ([1, 2, 3], [1, 0, 0], 1),
        ([1, 2, 3], [[1], [0], [3]], 2.5),
        ([1, 2, 3], [True, False, True], 2),
        ([[1, 2], [3, 5]], [1, 0], 1.5),
        ([[1, 2], [3, 5]], [[0], [1]], 4),
        ([[1, 2], [3, 5]], [[0, 1]], 3.5),
        ([[1, 2], [3, 5]], [[0, 1], [1, 0]], 2.5),
        ([[1], [3]], [1, 3], 2.5),
        ([1, 3], [-1, -1], 2),
        (4, None, 4),
        ([True, False], None, 0.5),
    ],
)
def test_weights_are_for_values_for_rows_or_for_all(values, weights, expected):
    np.testing.assert_allclose(metrics.mean(np.array(values), weights).compute(), expected)


@pytest.mark.parametrize(
    ("shape", "weights"),
    [((3,), (2,)), ((3, 2), (2,)), ((3, 2), (2, 2)), ((3,), (3, 2)), ((2, 3, 3), (3,)), ((), (3,))],
)
def test_weights_of_another_shape_are_an_error_that_shows_both(shape, weights):
    message = rf"weights have shape \({', '.join(map(str, weights))},?\), which does not broadcast"
    with pytest.raises(ValueError, match=message):
        metrics.mean(np.zeros(shape), np.ones(weights))


# Accuracy.


@pytest.mark.parametrize(
    ("labels", "predictions", "expected"),
    [
        ([1, 2, 0, 1], [1, 2, 2, 2], 0.5),
        ([[1], [2]], [1, 0], 0.5),
        ([1, 2], [[1], [2]], 1),
        ([[1, 2], [0, 0]], [[1, 0], [0, 0]], 0.75),
        ([True, False], [True, True], 0.5),
        ([0.5, 1.0], [0.5, 0.0], 0.5),
    ],
)
def test_accuracy_counts_equal_answers(labels, predictions, expected):
    given = metrics.accuracy(np.array(labels), np.array(predictions), name="ignored")
    assert float(given.compute()) == expected


def test_accuracy_of_logits_says_what_is_missing():
    with pytest.raises(ValueError, match=r"labels have shape \(4,\), predictions \(4, 3\).*argmax"):
        metrics.accuracy(np.zeros(4), np.zeros((4, 3)))


# A metric in place of TensorFlow's pair.


def test_both_parts_of_the_pair_are_the_value_on_this_batch():
    pair = metrics.accuracy(LABELS, PREDICTIONS)
    expected = np.float32((LABELS == PREDICTIONS).mean())
    value, update_op = pair
    for given in (value, update_op, pair[0], pair[1], pair[-1]):
        np.testing.assert_allclose(given, expected)
    with pytest.raises(IndexError):
        pair[2]


def test_a_metric_is_a_pytree_of_its_sums():
    doubled = jax.tree.map(lambda x: 2 * x, Mean(1.0, 2.0))
    assert doubled == Mean(2.0, 4.0)
    out = trace(lambda: metrics.mean(VALUES))[1]
    assert isinstance(out, Metric)
    assert out.total.shape == ()


def test_the_pair_works_inside_a_model_fn(model_dir):
    def model_fn(features, labels, mode):
        logits = layers.dense(features["x"], 2)
        accuracy = metrics.accuracy(labels, jnp.argmax(logits, -1))
        summary.scalar("accuracy", accuracy[1])
        summary.scalar("metric", accuracy)
        value, update = accuracy
        tag("twice", value + update)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return EstimatorSpec(
            mode, loss=loss, train_op=optax.sgd(0.0), eval_metric_ops={"accuracy": accuracy}
        )

    x = DRAW.normal(size=(ROWS, 4)).astype(np.float32)
    labels = LABELS % 2

    def batches():
        for rows in np.split(np.arange(ROWS), [2, 9]):
            yield {"x": x[rows]}, labels[rows]

    estimator = Estimator(model_fn, model_dir).train(lambda: ({"x": x}, labels), steps=1)
    logits = x @ estimator.get_variable_value("dense/kernel")
    result = estimator.evaluate(batches)
    np.testing.assert_allclose(result["accuracy"], (logits.argmax(-1) == labels).mean(), rtol=1e-6)
