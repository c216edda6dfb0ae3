"""Heads make of logits what TensorFlow's make: losses, answers, metrics; and say what is wrong."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sk

import estimator as est
import feature_columns as fc
from canned import (
    BinaryClassHead,
    LogisticRegressionHead,
    MultiClassHead,
    MultiLabelHead,
    PoissonRegressionHead,
    RegressionHead,
)
from estimator.metric_base import to_host

PETS = ["cat", "dog", "owl"]
TWO = [[2.0], [-1.0], [0.0], [0.5]], [1, 0, 1, 0]
THREE = np.float32([[0, 2, 1], [3, 0, 0], [1, 1, 0]])


def seen(head, logits, labels, features=None, more=None):
    """Returns the loss of a batch, and the metrics as evaluate reports them."""

    def fn(given, labels):
        logits = given["logits"]
        loss = head.loss(labels, logits, given, est.ModeKeys.EVAL, more)
        return loss, head.metrics(labels, logits, given, more)

    given = {"logits": logits, **(features or {})}
    loss, metrics = est.preview(fn, given, labels)[0]
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    return float(loss), {name: float(to_host(m).compute()) for name, m in metrics.items()}


def loss_of(head, logits, labels, features=None):
    given = {"logits": logits, **(features or {})}
    return float(est.preview(lambda x, y: head.loss(y, x["logits"], x), given, labels)[0])


def answers_of(head, logits, keys=None):
    """Returns the answers as predict gives them."""
    made = est.preview(lambda x: head.predictions(x, keys), np.float32(logits))[0]
    return {k: v.finish() if hasattr(v, "finish") else np.asarray(v) for k, v in made.items()}


REGRESSED = [[1.0], [2.0], [3.0]], [1.5, 2.0, 0.0]
GRID = [[1.0, 2.0], [3.0, 4.0]], np.zeros((2, 2))
MULTI = [[-1.0, 1.0], [-1.5, 1.5]], np.array([[1, 0], [1, 1]])
TOLD = """
average_loss=0.526853 auc=0.75 auc_precision_recall=0.797267 prediction/mean=0.568049
label/mean=0.5 accuracy=0.5 accuracy_baseline=0.5 precision=0.5 recall=0.5
accuracy/positive_threshold_0.5=0.5 precision/positive_threshold_0.5=0.5
recall/positive_threshold_0.5=0.5 accuracy/positive_threshold_0.7=0.75
precision/positive_threshold_0.7=1 recall/positive_threshold_0.7=0.5"""  # 0.5 is not above 0.5
WEIGHTED = "average_loss=0.472149 accuracy=0.5 accuracy_baseline=0.666667 precision=1 recall=0.25"
MEANS = "average_loss=3.083333 prediction/mean=2 label/mean=1.166667"
RANKED = "average_loss=1.132338 auc=0.333333 auc_precision_recall=0.768951"


# The losses, and what is not counted by hand, are what TensorFlow answered.
@pytest.mark.parametrize(
    ("head", "batch", "weights", "loss", "metrics"),
    [
        (BinaryClassHead(thresholds=[0.5, 0.7]), TWO, None, 0.526853, TOLD),
        (BinaryClassHead("w"), TWO, [1, 2, 3, 0], 0.708223, WEIGHTED),
        (BinaryClassHead("w", loss_reduction="sum"), TWO, [1, 2, 3, 0], 2.832893, WEIGHTED),
        (RegressionHead(), REGRESSED, None, 3.083333, MEANS),
        (RegressionHead(1, "w"), REGRESSED, [1, 0, 2], 6.083333, "average_loss=6.083333"),
        (RegressionHead(2, "w"), GRID, [1.0, 3.0], 20.0, "average_loss=10"),
        (PoissonRegressionHead(), ([[0.0], [1.0]], [1, 3]), None, 1.241182, "label/mean=2"),
        (
            PoissonRegressionHead(1, None, "sum_over_batch_size", False),
            ([[0.0], [1.0]], [1, 3]),
            None,
            0.359141,
            "average_loss=0.359141",
        ),
        (MultiLabelHead(2), MULTI, None, 1.132338, RANKED),
        (MultiLabelHead(2, "w"), MULTI, [1, 3], 2.083751, "average_loss=1.041875"),
    ],
)
def test_losses_and_metrics_are_those_of_tensorflow(head, batch, weights, loss, metrics):
    features = {} if weights is None else {"w": weights}
    found, reported = seen(head, *batch, features)
    expected = {key: float(value) for key, value in (x.split("=") for x in metrics.split())}
    assert found == pytest.approx(loss, abs=2e-6)
    assert {key: reported[key] for key in expected} == pytest.approx(expected, abs=2e-6)


BINARY_KEYS = {x.split("=")[0] for x in TOLD.split() if "threshold" not in x}
REGRESSION_KEYS = {"average_loss", "label/mean", "prediction/mean"}
AT_THRESHOLD = {f"{x}/positive_threshold_0.25" for x in ("accuracy", "precision", "recall")}
SUMS = {"average_loss", "auc", "auc_precision_recall"}
BY_CLASS = ("probability_mean", "auc", "auc_precision_recall")


@pytest.mark.parametrize(
    ("head", "labels", "keys"),
    [
        (BinaryClassHead(), [0, 1], BINARY_KEYS),
        (BinaryClassHead(thresholds=[0.25]), [0, 1], BINARY_KEYS | AT_THRESHOLD),
        (MultiClassHead(np.int64(3)), [0, 1], {"accuracy", "average_loss"}),
        (RegressionHead(), [0, 1], REGRESSION_KEYS),
        (PoissonRegressionHead(), [0, 1], REGRESSION_KEYS),
        (LogisticRegressionHead(), [0, 1], REGRESSION_KEYS),
        (MultiLabelHead(3, thresholds=np.array([0.25])), [[0], [1, 2]], SUMS | AT_THRESHOLD),
        (
            MultiLabelHead(3, classes_for_class_based_metrics=[2]),
            [[0], [1, 2]],
            SUMS | {f"{key}/class2" for key in BY_CLASS},
        ),
        (
            MultiLabelHead(3, label_vocabulary=PETS, classes_for_class_based_metrics=["dog", 2]),
            [["cat"], ["dog", "owl"]],
            SUMS | {f"{key}/{name}" for key in BY_CLASS for name in ("dog", "owl")},
        ),
    ],
)
def test_each_head_reports_its_metrics_by_name(head, labels, keys):
    logits = np.zeros((2, head.logits_dimension))
    more = [jnp.float32(0.25), jnp.float32(0.5)]
    plain = loss_of(head, logits, labels)
    head.name = "one"
    loss, metrics = seen(head, logits, labels, more=more)
    head.name = None
    assert metrics.keys() == {f"{key}/one" for key in keys | {"regularization_loss"}}
    assert metrics["regularization_loss/one"] == 0.75
    assert metrics["average_loss/one"] == pytest.approx(plain)
    assert loss == pytest.approx(plain + 0.75)


def test_metrics_of_single_classes_are_those_of_their_columns():
    head = MultiLabelHead(2, label_vocabulary=["a", "b"], classes_for_class_based_metrics=["b"])
    logits, labels = [[0.0, 1.0], [0.0, -1.0], [0.0, 0.5]], np.array([[1, 1], [0, 0], [0, 0]])
    metrics = seen(head, logits, labels)[1]
    likely = 1 / (1 + np.exp([-1.0, 1.0, -0.5]))
    assert metrics["probability_mean/b"] == pytest.approx(likely.mean())
    assert metrics["auc/b"] == metrics["auc_precision_recall/b"] == pytest.approx(1.0)


def test_a_weighted_binary_batch_is_told_of_as_by_scikit_learn():
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(400, 1)), rng.integers(0, 2, 400)
    w = rng.uniform(0, 2, 400)
    p, found = 1 / (1 + np.exp(-logits[:, 0])), logits[:, 0] > 0
    head = BinaryClassHead("w", thresholds=[0.6])
    loss, metrics = seen(head, np.float32(logits), y, {"w": w})
    average = sk.log_loss(y, p, sample_weight=w)
    share = np.average(y, weights=w)
    expected = {
        "average_loss": average,
        "accuracy": sk.accuracy_score(y, found, sample_weight=w),
        "accuracy_baseline": max(share, 1 - share),
        "precision": sk.precision_score(y, found, sample_weight=w),
        "recall": sk.recall_score(y, found, sample_weight=w),
        "label/mean": share,
        "prediction/mean": np.average(p, weights=w),
        "accuracy/positive_threshold_0.6": sk.accuracy_score(y, p > 0.6, sample_weight=w),
        "precision/positive_threshold_0.6": sk.precision_score(y, p > 0.6, sample_weight=w),
        "recall/positive_threshold_0.6": sk.recall_score(y, p > 0.6, sample_weight=w),
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert loss == pytest.approx(average * w.sum() / 400, rel=1e-5)
    # Both areas are approximated at 200 thresholds.
    assert metrics["auc"] == pytest.approx(sk.roc_auc_score(y, p, sample_weight=w), abs=2e-3)
    area = sk.average_precision_score(y, p, sample_weight=w)
    assert metrics["auc_precision_recall"] == pytest.approx(area, abs=1e-2)


def test_a_weighted_batch_of_many_classes_is_told_of_as_by_scikit_learn():
    rng = np.random.default_rng(0)
    logits, y = np.float32(rng.normal(size=(100, 4))), rng.integers(0, 4, 100)
    w = rng.uniform(0, 2, 100)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss, metrics = seen(MultiClassHead(4, "w", loss_reduction="sum"), logits, y, {"w": w})
    average = sk.log_loss(y, p, sample_weight=w)
    accuracy = sk.accuracy_score(y, logits.argmax(1), sample_weight=w)
    assert metrics == pytest.approx({"average_loss": average, "accuracy": accuracy}, rel=1e-5)
    assert loss == pytest.approx(average * w.sum(), rel=1e-5)


def test_labels_may_be_probabilities_and_are_evaluated_as_the_likelier_class():
    logits, soft = TWO[0], [0.9, 0.1, 0.9, 0.1]
    likely = 1 / (1 + np.exp(-np.ravel(logits)))
    losses = -(soft * np.log(likely) + np.subtract(1, soft) * np.log(1 - likely))
    means = {"average_loss": losses.mean(), "label/mean": 0.5, "prediction/mean": likely.mean()}
    assert seen(LogisticRegressionHead(), logits, soft)[1] == pytest.approx(means)
    hard = seen(BinaryClassHead(thresholds=[0.7]), *TWO)[1]
    loss, metrics = seen(BinaryClassHead(thresholds=[0.7]), logits, soft)
    assert loss == pytest.approx(losses.mean())
    assert metrics == pytest.approx(hard | means)


DTYPES = {"class_ids": np.int64, "all_class_ids": np.int32}
BINARY_ANSWERS = {
    "logits": [[0], [2]],
    "logistic": [[0.5], [0.880797]],
    "probabilities": [[0.5, 0.5], [0.119203, 0.880797]],
    "class_ids": [[0], [1]],
    "classes": [["0"], ["1"]],
    "all_class_ids": [[0, 1]] * 2,
    "all_classes": [["0", "1"]] * 2,
}
CLASS_ANSWERS = {
    "logits": [[0, 2, 0], [1, 1, 1]],
    "probabilities": [[0.106507, 0.786986, 0.106507], [1 / 3] * 3],
    "class_ids": [[1], [0]],
    "classes": [["dog"], ["cat"]],
    "all_class_ids": [[0, 1, 2]] * 2,
    "all_classes": [PETS] * 2,
}
MULTI_ANSWERS = {
    "logits": [[0, 2]],
    "probabilities": [[0.5, 0.880797]],
    "classes": [["a", "b"]],
    "all_class_ids": [[0, 1]],
    "all_classes": [["a", "b"]],
}


@pytest.mark.parametrize(
    ("head", "answers"),
    [
        (BinaryClassHead(), BINARY_ANSWERS),
        (MultiClassHead(3, label_vocabulary=PETS), CLASS_ANSWERS),
        (MultiLabelHead(2, label_vocabulary=["a", "b"]), MULTI_ANSWERS),
        (RegressionHead(2), {"predictions": [[1, 2]]}),
        (RegressionHead(inverse_link_fn=jnp.square), {"logits": [[3]], "predictions": [[9]]}),
        (PoissonRegressionHead(), {"logits": [[1]], "predictions": [[2.718282]]}),
        (LogisticRegressionHead(), {"logits": [[0]], "predictions": [[0.5]]}),
    ],
)
def test_answers_have_their_names_shapes_and_dtypes(head, answers):
    logits = answers.get("logits", answers.get("predictions"))
    found = answers_of(head, logits)
    assert found.keys() == answers.keys()
    for name, values in answers.items():
        assert found[name].dtype == DTYPES.get(name, object if "classes" in name else np.float32)
        if found[name].dtype == object:
            assert found[name].tolist() == values
            assert all(type(value) is str for value in found[name].ravel())
        else:
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
    assert answers_of(head, logits, [*answers][-1:]).keys() == {*[*answers][-1:]}


@pytest.mark.parametrize(
    ("head", "keys"),
    [
        (BinaryClassHead(), {"classification", "regression"}),
        (MultiClassHead(3), {"classification"}),
        (MultiLabelHead(3), {"classification"}),
        (RegressionHead(), {"regression"}),
        (PoissonRegressionHead(), {"regression"}),
        (LogisticRegressionHead(), {"regression"}),
    ],
)
def test_an_exported_model_has_the_signatures_of_its_head(head, keys):
    logits = np.zeros((2, head.logits_dimension))
    spec = est.preview(lambda x: head.create_estimator_spec(x, "infer", x), logits)[0]
    outputs = spec.export_outputs
    assert outputs.keys() == {"serving_default", "predict", *keys}
    assert outputs["predict"].keys() == spec.predictions.keys()
    default, classifies = outputs["serving_default"], "classification" in keys
    assert default.answers().keys() == ({"scores", "classes"} if classifies else {"outputs"})


NAMES = BinaryClassHead(label_vocabulary=["no", "yes"])
YES = ["yes", "no", "yes", "no"]


@pytest.mark.parametrize(
    ("head", "logits", "labels", "same", "ids"),
    [
        (NAMES, TWO[0], YES, BinaryClassHead(), [1, 0, 1, 0]),
        (NAMES, TWO[0], np.array(YES).reshape(4, 1), BinaryClassHead(), [1, 0, 1, 0]),
        (NAMES, TWO[0], [name.encode() for name in YES], BinaryClassHead(), [1, 0, 1, 0]),
        (NAMES, TWO[0], np.array(YES, "S"), BinaryClassHead(), [1, 0, 1, 0]),
        (NAMES, TWO[0], np.array(YES, object), BinaryClassHead(), [1, 0, 1, 0]),
        (
            BinaryClassHead(),
            TWO[0],
            np.array([True, False, True, False]),
            BinaryClassHead(),
            TWO[1],
        ),
        (BinaryClassHead(), TWO[0], np.array([[1], [0], [1], [0]]), BinaryClassHead(), TWO[1]),
        (MultiClassHead(3, None, PETS), THREE, ["owl", "cat", "dog"], MultiClassHead(3), [2, 0, 1]),
        (MultiClassHead(3), THREE, np.uint8([[2], [0], [1]]), MultiClassHead(3), [2, 0, 1]),
    ],
)
def test_labels_may_be_names_bytes_and_columns(head, logits, labels, same, ids):
    assert loss_of(head, logits, labels) == loss_of(same, logits, ids)


HOT = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("vocabulary", "labels"),
    [
        (None, HOT.tolist()),
        (None, HOT.astype(bool)),
        (PETS, HOT),
        (None, [[0, 2], [], [1]]),
        (PETS, [[0, 2], [], [1]]),
        (None, [[2, 0], None, 1]),
        (PETS, [["owl", "cat"], [], ["dog"]]),
        (PETS, [[b"owl", b"cat"], [], [b"dog"]]),
        (None, est.SparseTensor([[0, 0], [0, 1], [2, 0]], [2, 0, 1], (3, 2))),
        (PETS, est.SparseTensor([[0, 0], [0, 1], [2, 5]], ["owl", "cat", "dog"], (3, 6))),
    ],
)
def test_many_labels_may_be_arrays_lists_names_and_sparse(vocabulary, labels):
    head = MultiLabelHead(3, label_vocabulary=vocabulary)
    expected = optax.sigmoid_binary_cross_entropy(THREE, jnp.asarray(HOT, jnp.float32)).mean()
    assert loss_of(head, THREE, labels) == pytest.approx(float(expected))


def test_lists_of_classes_may_happen_to_be_of_one_length():
    head, logits = MultiLabelHead(3), THREE[:2]
    for labels, hot in (([[2, 0], [0, 1]], [[1, 0, 1], [1, 1, 0]]), ([[1], [2]], np.eye(3)[1:])):
        assert loss_of(head, logits, labels) == loss_of(head, logits, np.array(hot))


PAIR = np.zeros((2, 1))
SPARSE = est.SparseTensor([[0, 0], [1, 0]], ["cat", "dog"], (2, 2))


@pytest.mark.parametrize(
    ("head", "labels", "features", "message"),
    [
        (BinaryClassHead(), None, {}, "there are no labels"),
        (BinaryClassHead(), ["yes", "no"], {}, "given with label_vocabulary"),
        (BinaryClassHead(), [0, 2], {}, "must lie between 0 and 1, got 2"),
        (BinaryClassHead(), [0.0, np.nan], {}, "must lie between 0 and 1, got nan"),
        (BinaryClassHead(), np.zeros((2, 2)), {}, r"labels must have the shape \(2, 1\).*\(2, 2\)"),
        (LogisticRegressionHead(), [0, -0.5], {}, "must lie between 0 and 1, got -0.5"),
        (NAMES, ["yes", "maybe"], {}, r"'maybe' is not in label_vocabulary: \['no', 'yes'\]"),
        (NAMES, [1, 0], {}, "the label 1 is not in label_vocabulary"),
        (NAMES, ["yes", None], {}, "the label None is not in label_vocabulary"),
        (NAMES, [["yes"], ["no", "yes"]], {}, "one label for each row, got 3 labels"),
        (NAMES, [["yes", "no"]] * 2, {}, "one label for each row"),
        (NAMES, SPARSE, {}, "one label for each row"),
        (BinaryClassHead(), SPARSE, {}, "labels are no array of numbers"),
        (MultiClassHead(3), [0.0, 1.0], {}, "must be whole numbers, got float32"),
        (MultiClassHead(3), [0, 3], {}, "must lie between 0 and 2, got 3.*one more than"),
        (MultiClassHead(3), [-1, 0], {}, "must lie between 0 and 2, got -1"),
        (RegressionHead(2), [0.0, 1.0], {}, r"labels must have the shape \(2, 2\).*got \(2,\)"),
        (RegressionHead(), [[[0.0]], [[1.0]]], {}, r"labels must have the shape \(2, 1\)"),
        (MultiLabelHead(3), [[0], [3, 1]], {}, "classes from 0 to 2, got 3"),
        (MultiLabelHead(3), [[0], [-1, 1]], {}, "classes from 0 to 2, got -1"),
        (MultiLabelHead(3), [[0.5], []], {}, "classes from 0 to 2, got 0.5"),
        (MultiLabelHead(3), [["cat"], []], {}, "got 'cat'. Names need label_vocabulary"),
        (MultiLabelHead(3, None, None, PETS), [["cow"], []], {}, "'cow' is not in label_vocab"),
        (MultiLabelHead(3), np.eye(2), {}, r"must have the shape \(batch, 3\), got \(2, 2\)"),
        (MultiLabelHead(3), [[1, 0, 2], [0, 0, 0]], {}, "must lie between 0 and 1, got 2"),
        (BinaryClassHead("w"), [0, 1], {}, r'weight_column is "w", but the features are \[.logits'),
        (BinaryClassHead("w"), [0, 1], {"w": [[1.0, 2.0]] * 2}, r"weights must have the shape"),
        (MultiLabelHead(2, "w"), np.eye(2), {"w": np.ones((2, 2))}, r"weights must have.*\(2, 1\)"),
    ],
)
def test_labels_and_weights_that_do_not_fit_are_errors_in_words(head, labels, features, message):
    def fn(given, labels=None):
        return head.loss(labels, jnp.zeros((2, head.logits_dimension)), given)

    with pytest.raises(ValueError, match=message):
        est.preview(fn, {"logits": PAIR, **features}, labels)


def test_logits_of_another_width_are_an_error():
    for head in (BinaryClassHead(), MultiClassHead(3), RegressionHead(1)):
        with pytest.raises(ValueError, match=r"logits must have the shape .*got \(2, 2\)"):
            est.preview(lambda x, head=head: head.predictions(x), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r'no prediction .*"classes"'):
        est.preview(lambda x: BinaryClassHead().predictions(x, ["clases"]), PAIR)


@pytest.mark.parametrize(
    ("weights", "head"),
    [
        ([1.0, 3.0], RegressionHead(2, "w")),
        ([[1.0], [3.0]], RegressionHead(2, "w")),
        ([[1.0, 1.0], [3.0, 3.0]], RegressionHead(2, "w")),
        (np.array([1, 3]), RegressionHead(2, "w")),
        ([2.0, 6.0], RegressionHead(2, fc.numeric_column("w", normalizer_fn=lambda x: x / 2))),
    ],
)
def test_weights_may_have_many_shapes(weights, head):
    loss, metrics = seen(head, [[1.0, 2.0], [3.0, 4.0]], np.zeros((2, 2)), {"w": weights})
    assert (loss, metrics["average_loss"]) == (20.0, 10.0)


def test_each_number_may_have_a_weight_of_its_own():
    features, labels = {"w": [[1.0, 0.0], [0.0, 2.0]]}, np.zeros((2, 2))
    loss, metrics = seen(RegressionHead(2, "w"), [[1.0, 2.0], [3.0, 4.0]], labels, features)
    assert (loss, metrics["average_loss"]) == (8.25, 11.0)


def double(labels, logits):
    return 2 * jnp.abs(logits - labels)


def with_all(labels, logits, features, loss_reduction, *, power=1):
    assert loss_reduction == "sum"
    return features["scale"] * jnp.abs(logits - labels) ** power


def flat(labels, logits):
    return jnp.abs(logits - labels)[:, 0]


@pytest.mark.parametrize(
    ("loss_fn", "loss"),
    [(double, 8.0), (with_all, 30.0), (functools.partial(with_all, power=2), 90.0), (flat, 4.0)],
)
def test_a_loss_of_your_own_takes_what_it_names(loss_fn, loss):
    features = {"scale": np.array([[0.0], [10.0]]), "w": [1.0, 1.0]}
    args = {"weight_column": "w", "loss_reduction": "sum", "loss_fn": loss_fn}
    batch = [[2.0], [-3.0]], [1, 0], features
    found, metrics = seen(RegressionHead(**args), *batch)
    assert (found, metrics["average_loss"]) == (loss, loss / 2)
    assert loss_of(BinaryClassHead(**args), *batch) == loss


@pytest.mark.parametrize("wrong", [lambda labels, logits: 0.0, lambda labels, logits: logits.T])
def test_a_loss_of_another_shape_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"losses must have the shape \(4, 1\)"):
        loss_of(BinaryClassHead(loss_fn=wrong), *TWO)
    one = RegressionHead(2, loss_fn=lambda labels, logits: jnp.mean(logits, 1, keepdims=True))
    with pytest.raises(ValueError, match=r"losses must have the shape \(2, 2\)"):
        loss_of(one, np.eye(2), np.eye(2))


def test_the_baseline_is_of_all_batches_and_can_be_asked_for_inside_a_model_fn():
    def fn(x, y):
        metric = BinaryClassHead().metrics(y, x)["accuracy_baseline"]
        return metric, metric.compute()

    (one, share), (other, _) = (est.preview(fn, PAIR, y)[0] for y in ([0, 0], [1, 0]))
    assert share == 1.0
    assert to_host(one).merge(to_host(other)).compute() == 0.75
