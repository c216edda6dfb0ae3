"""Metrics: sums that do not care how the rows were cut into batches."""

import itertools
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics as sk

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
def test_merging_the_parts_of_any_split_gives_the_whole(name):
    make, expected = METRICS[name]
    rows = np.arange(ROWS)
    for cuts in SPLITS:
        parts = [to_host(make(rows[a:b])) for a, b in itertools.pairwise(cuts)]
        for ordered in (parts, parts[::-1]):
            merged = reduce(lambda a, b: a.merge(b), ordered)
            np.testing.assert_allclose(merged.compute(), expected, rtol=1e-6, err_msg=cuts)
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


# Known values.

TRUTH, SCORES = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
CAREFUL = "careful_interpolation"


@pytest.mark.parametrize(
    ("name", "args", "settings", "expected"),
    [
        ("auc", (TRUTH, SCORES), {}, 0.75),
        ("auc", (TRUTH, SCORES), {"curve": "PR"}, 0.797267),
        ("auc", (TRUTH, SCORES), {"curve": "pr", "summation_method": CAREFUL}, 0.797267),
        ("auc", (TRUTH, SCORES), {"thresholds": [0.5]}, 0.75),
        ("auc", ([1, 1], [0.2, 0.9]), {}, 0),
        ("auc", ([0, 0], [0.2, 0.9]), {}, 0),
        ("auc", ([0, 0], [0.2, 0.9]), {"curve": "PR"}, 0),
        ("auc", (TRUTH, [0.5] * 4), {}, 0.5),
        ("auc", (TRUTH, [0.0, 0.0, 1.0, 1.0]), {}, 1),
        ("auc", (TRUTH, [1.0, 1.0, 0.0, 0.0]), {}, 0),
        ("mean_iou", (TRUTH, [0, 1, 1, 1], 9), {}, (1 / 2 + 2 / 3) / 2),
        ("mean_per_class_accuracy", (TRUTH, [0, 1, 1, 2], 9), {}, 0.5),
        ("recall_at_k", ([2, 0], [[1.0, 1, 1], [1, 1, 1]], 1), {}, 0.5),
        ("recall_at_k", ([[1, 1, -1]], [[0.1, 0.8, 0.1]], 1), {}, 1),
        ("recall_at_k", ([[-1, -1]], [[0.1, 0.8]], 2), {}, 0),
        ("precision_at_k", ([[-1, -1]], [[0.1, 0.8]], 2), {}, 0),
        ("precision", ([0, 1], [0, 0]), {}, 0),
        ("recall", ([0, 0], [0, 1]), {}, 0),
        ("r2", ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]), {}, 0),
        ("r2", ([2.0, 2.0], [2.0, 2.0]), {}, 1),
        ("r2", ([0.1] * 7, [0.3] * 7), {}, 0),
        ("sensitivity_at_specificity", (TRUTH, SCORES, 1.0), {}, 0.5),
        ("precision_at_recall", ([0, 0], [0.2, 0.9], 0.5), {}, 0),
    ],
)
def test_values_that_are_known(name, args, settings, expected):
    metric = getattr(metrics, name)(*args, **settings)
    np.testing.assert_allclose(to_host(metric).compute(), expected, atol=1e-6)


@pytest.mark.parametrize("edge", [0.1, 0.25, 0.7, 1.0])
def test_a_prediction_at_a_threshold_is_not_above_it(edge):
    beyond = np.nextafter(np.float32(edge), np.float32(0))
    for given, expected in ((edge, 0), (beyond, 1)):
        found = metrics.recall_at_thresholds([1], [edge], [given])
        assert to_host(found).compute().tolist() == [expected]
    assert to_host(metrics.auc([0, 1], [0.0, edge], thresholds=[edge])).compute() == 0.5


def test_the_areas_are_near_those_of_scores_that_are_not_cut():
    labels = np.random.default_rng(1).integers(0, 2, 500)
    noise = np.random.default_rng(2).normal(size=500)
    scores = (1 / (1 + np.exp(-(labels - 0.5 + noise)))).astype(np.float32)
    found = [to_host(metrics.auc(labels, scores, curve=c)).compute() for c in ("ROC", "PR")]
    np.testing.assert_allclose(found[0], sk.roc_auc_score(labels, scores), atol=1e-3)
    np.testing.assert_allclose(found[1], sk.average_precision_score(labels, scores), atol=5e-3)


# r2.


@pytest.mark.parametrize("size", [1, 7, 20, 60])
@pytest.mark.parametrize("far", [0, 1e4, -3e5])
def test_labels_far_from_zero_cost_r2_no_digits(far, size):
    draw = np.random.default_rng(3)
    labels = (far + draw.normal(size=60)).astype(np.float32)
    predictions = (labels + draw.normal(scale=0.5, size=60)).astype(np.float32)
    weights = draw.uniform(0.1, 2, 60).astype(np.float32)
    parts = [
        to_host(metrics.r2(*(x[a : a + size] for x in (labels, predictions, weights))))
        for a in range(0, 60, size)
    ]
    expected = sk.r2_score(*np.float64([labels, predictions]), sample_weight=np.float64(weights))
    merged = reduce(lambda a, b: a.merge(b), parts)
    np.testing.assert_allclose(merged.compute(), expected, rtol=1e-5)


def test_a_label_without_weight_does_not_cost_r2_any_digits():
    labels = np.array([1, 2, 4, 1e6], np.float32)
    found = metrics.r2(labels, labels + np.float32(0.5), [1, 1, 1, 0])
    expected = metrics.r2(labels[:3], labels[:3] + np.float32(0.5))
    np.testing.assert_allclose(to_host(found).compute(), to_host(expected).compute(), rtol=1e-5)


# What all metrics of labels and predictions have in common.

PROBABLE = {
    "auc": metrics.auc,
    "precision_at_thresholds": partial(metrics.precision_at_thresholds, thresholds=[0.4, 0.6]),
    "recall_at_thresholds": partial(metrics.recall_at_thresholds, thresholds=[0.4]),
    "sensitivity_at_specificity": partial(metrics.sensitivity_at_specificity, specificity=0.5),
    "specificity_at_sensitivity": partial(metrics.specificity_at_sensitivity, sensitivity=0.5),
    "precision_at_recall": partial(metrics.precision_at_recall, recall=0.5),
}
BINARY = {
    "precision": metrics.precision,
    "recall": metrics.recall,
    "true_positives": metrics.true_positives,
    "false_positives": metrics.false_positives,
    "true_negatives": metrics.true_negatives,
    "false_negatives": metrics.false_negatives,
}
CLASSES = {
    "mean_iou": partial(metrics.mean_iou, num_classes=2),
    "mean_per_class_accuracy": partial(metrics.mean_per_class_accuracy, num_classes=2),
}
UNLIKE = {
    "mean_relative_error": partial(metrics.mean_relative_error, normalizer=2.0),
    "mean_cosine_distance": partial(metrics.mean_cosine_distance, dim=0),
}
ERRORS = {
    "accuracy": metrics.accuracy,
    "mean_squared_error": metrics.mean_squared_error,
    "root_mean_squared_error": metrics.root_mean_squared_error,
    "mean_absolute_error": metrics.mean_absolute_error,
    "r2": metrics.r2,
}
ALL = ERRORS | UNLIKE | CLASSES | BINARY | PROBABLE


@pytest.mark.parametrize("name", ALL)
def test_labels_and_predictions_of_two_shapes_are_an_error_that_shows_both(name):
    message = rf"metrics.{name}: labels have shape \(4,\), predictions \(4, 3\)"
    with pytest.raises(ValueError, match=message):
        ALL[name](np.zeros(4), np.zeros((4, 3)))


@pytest.mark.parametrize("name", [n for n in ALL if n not in UNLIKE])
def test_weights_are_for_rows_and_a_last_dimension_of_one_is_dropped(name):
    labels, answers = np.int32([[0, 1], [1, 1]]), np.int32([[0, 1], [1, 0]])
    by_row = ALL[name](labels, answers, weights=[1.0, 3.0])
    flat = ALL[name](labels.reshape(4, 1), answers.ravel(), weights=[1.0, 1.0, 3.0, 3.0])
    np.testing.assert_array_equal(to_host(by_row).compute(), to_host(flat).compute())
    with pytest.raises(ValueError, match=r"weights have shape \(3,\), which does not broadcast"):
        ALL[name](labels.ravel(), answers.ravel(), weights=[1.0, 2.0, 3.0])


WRONG = (
    [(n, TRUTH, [0, 0.5, 1, 1], "must be 0 or 1, or bool.*given 1 that") for n in BINARY]
    + [(n, [0, 2, 1, -1], TRUTH, "must be 0 or 1, or bool.*given 2 that") for n in BINARY]
    + [(n, TRUTH, [-1.5, 0.5, 2.5, 7], r"probabilities in \[0, 1\].*sigmoid") for n in PROBABLE]
    + [(n, TRUTH, [0.1, np.nan, 0.2, 1], "probabilities.*given 1 that") for n in PROBABLE]
    + [(n, [0, 1, 2, 1], SCORES, "labels must be 0 or 1.*given 1 that") for n in PROBABLE]
    + [(n, [0, 1, 2, -1], TRUTH, r"classes in \[0, 2\).*given 2 that") for n in CLASSES]
    + [(n, TRUTH, [0, 1, 2, 2], r"classes in \[0, 2\).*given 2 that") for n in CLASSES]
    + [(n, TRUTH, [0.0, 0.7, 1.0, 0.2], r"classes in .*given 2 that") for n in CLASSES]
)


@pytest.mark.parametrize(("name", "labels", "predictions", "message"), WRONG)
def test_what_cannot_be_counted_is_an_error_on_the_host_but_not_without_weight(
    name, labels, predictions, message
):
    labels, predictions = np.array(labels), np.array(predictions, np.float32)
    strays = to_host(ALL[name](labels, predictions))
    fine = to_host(ALL[name](np.array(TRUTH), np.array(TRUTH)))
    for metric in (strays, strays.merge(fine), fine.merge(strays)):
        with pytest.raises(ValueError, match=message):
            metric.compute()
    right = to_host(ALL[name](labels, predictions, weights=np.zeros(4))).compute()
    assert not np.any(right)


def test_inside_a_trace_nothing_is_raised_but_the_value_is_no_number():
    def traced(labels, predictions):
        return metrics.auc(labels, predictions).compute(), metrics.recall(labels, predictions)[0]

    labels, probabilities = np.int32([0, 1, 1]), np.float32([0, 1, 1])
    assert np.isfinite(jax.jit(traced)(labels, probabilities)).all()
    assert np.isnan(jax.jit(traced)(np.int32([0, 1, 2]), np.float32([-3, 0.5, 9]))).all()


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [
        (np.array([True, False]), np.int32([1, 1])),
        (np.int32([1, 0]), np.float32([1, 1])),
        (np.int32([7, 2049]), np.float16([7, 2048])),
        (np.uint8([255, 1]), np.int8([-1, 1])),
    ],
)
def test_accuracy_compares_numbers_of_two_dtypes(labels, predictions):
    assert to_host(metrics.accuracy(labels, predictions)).compute() == 0.5


# Settings that cannot be.


@pytest.mark.parametrize(
    ("name", "args", "settings", "message"),
    [
        ("auc", (TRUTH, SCORES), {"curve": "RCO"}, "curve must be .*got 'RCO'"),
        (
            "auc",
            (TRUTH, SCORES),
            {"summation_method": "trapezodial"},
            "summation_method must be one of .*'trapezodial'. Did you mean \"trapezoidal\"",
        ),
        ("auc", (TRUTH, SCORES), {"summation_method": CAREFUL}, f"'ROC', got '{CAREFUL}'"),
        ("auc", (TRUTH, SCORES), {"num_thresholds": 1}, "num_thresholds must be >= 2, got 1"),
        ("auc", (TRUTH, SCORES), {"thresholds": []}, r"thresholds must be .*got \[\]"),
        ("precision_at_thresholds", (TRUTH, SCORES, [0.5, 1.5]), {}, r"must be .*got \[0.5, 1.5\]"),
        (
            "recall_at_thresholds",
            (TRUTH, SCORES, [np.nan]),
            {},
            r"thresholds must be .*got \[nan\]",
        ),
        ("sensitivity_at_specificity", (TRUTH, SCORES, 1.5), {}, "specificity must be .*got 1.5"),
        ("specificity_at_sensitivity", (TRUTH, SCORES, -0.1), {}, "sensitivity must .*got -0.1"),
        ("precision_at_recall", (TRUTH, SCORES, np.nan), {}, r"recall must be in .*got nan"),
        ("precision_at_recall", (TRUTH, SCORES, 0.5, None, 0), {}, "num_thresholds .*got 0"),
        ("recall_at_k", ([0], [[0.1, 0.2]], 3), {}, "k is 3, but there are 2 classes"),
        ("precision_at_k", ([0], [[0.1, 0.2]], 0), {}, "k is 0, but there are 2 classes"),
        ("recall_at_k", ([0, 1], [[0.1, 0.2]], 1), {}, r"\(2, 1\), predictions \(1, 2\)"),
        ("precision_at_k", ([[0, 1]], [0.1, 0.2], 1), {}, r"\(1, 2\), predictions \(2,\)"),
        ("mean_relative_error", ([1, 2], [1, 2], [1, 2, 3]), {}, r"shape \(3,\).* \(2,\)"),
        ("mean_cosine_distance", (np.ones((2, 3)), np.ones((2, 4)), 1), {}, r"\(2, 3\).*\(2, 4\)"),
    ],
)
def test_a_setting_that_cannot_be_is_an_error_that_names_it(name, args, settings, message):
    with pytest.raises(ValueError, match=f"metrics.{name}: .*{message}"):
        getattr(metrics, name)(*args, **settings)


def test_weights_of_vectors_have_no_number_for_each_coordinate():
    vectors = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"weights have shape \(2, 3\), which does not broadcast"):
        metrics.mean_cosine_distance(vectors, vectors, 1, vectors)


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


@pytest.mark.parametrize("seed", range(20))
def test_r2_of_equal_labels_is_one_for_no_error_and_zero_for_any_whatever_the_weights(seed):
    draw = np.random.default_rng(seed)
    labels, weights = np.full(100, 0.3, np.float32), draw.uniform(0, 1, 100).astype(np.float32)
    wrong = labels + np.float32(0.5) * (np.arange(100) == 0)
    for predictions, wanted in ((labels, 1), (wrong, 0)):
        whole = to_host(metrics.r2(labels, predictions, weights))
        halves = [
            to_host(metrics.r2(*(x[i::2] for x in (labels, predictions, weights)))) for i in (0, 1)
        ]
        assert whole.compute() == halves[0].merge(halves[1]).compute() == wanted


def test_a_recall_that_just_misses_its_constraint_misses_it():
    def counted(labels, predictions):
        return to_host(metrics.precision_at_recall(labels, predictions, recall=1.0))

    found = jax.tree.map(lambda count: count * 3_000_000, counted([1, 0], [0.9, 0.5]))
    missed = counted([1], [0.001])
    assert found.compute() == 1.0
    assert found.merge(missed).compute() == pytest.approx(0.5, abs=1e-6)
