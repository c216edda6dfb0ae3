"""Heads of steps, several heads on one model, and heads in an Estimator."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import nn

import estimator as est
import feature_columns as fc
from canned import (
    BinaryClassHead,
    LogisticRegressionHead,
    MultiClassHead,
    MultiHead,
    MultiLabelHead,
    PoissonRegressionHead,
    RegressionHead,
    SequentialHeadWrapper,
)
from estimator import layers
from estimator.metric_base import to_host

PETS = ["cat", "dog", "owl"]
MASK = np.array([[True, True, False], [True, True, True], [False, False, False]])
IDS = np.array([[2, 0, 0], [1, 1, 2], [0, 0, 0]])
LOGITS = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)


def seen(head, logits, labels, features=None, more=None):
    """Returns the loss of a batch, and the metrics as evaluate reports them."""

    def fn(given, labels):
        loss = head.loss(labels, given["logits"], given, est.ModeKeys.EVAL, more)
        return loss, head.metrics(labels, given["logits"], given, more)

    given = {"logits": logits, **(features or {})}
    loss, metrics = est.preview(fn, given, labels)[0]
    return float(loss), {name: float(to_host(m).compute()) for name, m in metrics.items()}


def steps_seen(head, labels, mask=MASK, logits=LOGITS, **features):
    """Returns what is seen of steps; the head has as many logits as it wants of these."""
    logits = logits[..., : head.logits_dimension]
    return seen(
        SequentialHeadWrapper(head), logits, labels, {"sequence_length_mask": mask, **features}
    )


def loss_of_steps(labels, mask=MASK, head=None, **features):
    head = head or SequentialHeadWrapper(MultiClassHead(3))
    features = {"logits": LOGITS, "sequence_length_mask": mask, **features}
    return float(est.preview(lambda x, y: head.loss(y, x["logits"], x), features, labels)[0])


HEADS = [
    BinaryClassHead("w", thresholds=[0.4], name="one"),
    MultiClassHead(3, "w"),
    MultiClassHead(3, "w", loss_reduction="sum"),
    RegressionHead(1, "w"),
    RegressionHead(1, fc.numeric_column("w", normalizer_fn=lambda w: w + 1)),
    RegressionHead(loss_fn=lambda labels, logits: jnp.abs(labels - logits)),
    PoissonRegressionHead(),
    LogisticRegressionHead(),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_steps_are_the_examples_of_the_other_head(head):
    most = 2 if isinstance(head, MultiClassHead | PoissonRegressionHead) else 1
    labels, logits = np.minimum(IDS, most), LOGITS[..., : head.logits_dimension]
    weights = np.float32([[1, 2, 9], [0.5, 0, 3], [9, 9, 9]])
    found = steps_seen(head, labels, w=weights)
    loss, metrics = seen(head, logits[MASK], labels[MASK], {"w": weights[MASK]})
    assert found == (pytest.approx(loss, rel=1e-5), pytest.approx(metrics, rel=1e-5))


@pytest.mark.parametrize("head", HEADS[:2], ids=lambda head: type(head).__name__)
def test_padding_changes_nothing(head):
    labels, width = np.minimum(IDS, 1), ((0, 0), (0, 6))
    weights = np.float32([[1, 2, 9], [0.5, 0, 3], [9, 9, 9]])
    loss, metrics = steps_seen(head, labels, w=weights)
    wide = {
        "labels": np.where(np.pad(MASK, width), np.pad(labels, width), -1),
        "logits": np.pad(LOGITS, (*width, (0, 0)), constant_values=50),
        "mask": np.pad(MASK, width),
        "w": np.pad(weights, width, constant_values=np.nan),
    }
    same = (pytest.approx(loss, rel=1e-6), pytest.approx(metrics, rel=1e-6))
    assert steps_seen(head, **wide) == same


def test_labels_weights_masks_and_logits_may_be_padded_to_different_widths():
    head, weights = SequentialHeadWrapper(MultiClassHead(3, "w")), np.float32(IDS + 1)
    loss = loss_of_steps(IDS, head=head, w=weights)
    for more in ((0, 5, 2), (1, 0, 0), (0, 0, 3), (4, 2, 1)):
        labels, mask, w = (
            np.pad(x, ((0, 0), (0, n))) for x, n in zip((IDS, MASK, weights), more, strict=True)
        )
        assert loss_of_steps(labels, mask, head, w=w) == pytest.approx(loss)


NAMED = [["owl", "cat"], ["dog", "dog", "owl"], []]


@pytest.mark.parametrize(
    ("labels", "vocabulary"),
    [
        (IDS[..., None], None),
        ([[2, 0], [1, 1, 2], []], None),
        (np.where(MASK, IDS, -1), None),
        (est.SparseTensor([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]], [2, 0, 1, 1, 2], (3, 3)), None),
        (est.SparseTensor([[1, 0], [1, 1], [1, 2], [0, 0], [0, 1]], [1, 1, 2, 2, 0], (3, 9)), None),
        (NAMED, PETS),
        ([[name.encode() for name in row] for row in NAMED], PETS),
        (np.array([["owl", "cat", ""], ["dog", "dog", "owl"], ["", "", "?"]]), PETS),
        (
            est.SparseTensor(
                [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]], [*NAMED[0], *NAMED[1]], (3, 3)
            ),
            PETS,
        ),
    ],
)
def test_labels_of_steps_may_be_padded_lists_sparse_and_names(labels, vocabulary):
    head = SequentialHeadWrapper(MultiClassHead(3, label_vocabulary=vocabulary))
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS[MASK], IDS[MASK]).mean()
    assert loss_of_steps(labels, head=head) == pytest.approx(float(expected))


def test_a_batch_without_steps_has_a_loss_of_nothing():
    empty = est.SparseTensor([], [], (3, 0))
    for labels in ([[], [], []], empty, IDS):
        assert loss_of_steps(labels, np.zeros((3, 3), bool)) == 0


@pytest.mark.parametrize(
    ("labels", "mask", "error", "message"),
    [
        (IDS[:, :2], MASK, ValueError, "row 1 has 2 labels or weights, but its sequence has 3 st"),
        ([[2, 0], [1, 1], []], MASK, ValueError, "row 1 has 2 labels"),
        ([[2], [1, 1, 2], []], MASK, ValueError, "row 0 has 1 labels"),
        ([[2, 0, 1], [1, 1, 2], []], MASK, ValueError, "row 0 has 3 labels.* has 2 steps"),
        (est.SparseTensor([[0, 0]], [1], (3, 3)), MASK, ValueError, "row 0 has 1 labels"),
        (None, MASK, ValueError, "there are no labels"),
        (np.where(MASK, 3, 0), MASK, ValueError, "between 0 and 2, got 3"),
        (IDS / 2, MASK, ValueError, "must be whole numbers, got float64"),
        (NAMED, MASK, ValueError, "must be numbers, got 'owl'. Names need label_vocabulary"),
        (IDS, MASK[0], ValueError, r"must have the shape \(batch, steps\), got \(3,\)"),
        (IDS, MASK[..., None], ValueError, r"shape \(batch, steps\), got \(3, 3, 1\)"),
    ],
)
def test_labels_and_masks_that_do_not_fit_are_errors_in_words(labels, mask, error, message):
    head = SequentialHeadWrapper(MultiClassHead(3))

    def fn(given, labels=None):
        return head.loss(labels, given["logits"], given)

    with pytest.raises(error, match=message):
        est.preview(fn, {"logits": LOGITS, "sequence_length_mask": mask}, labels)


@dataclasses.dataclass(frozen=True)
class WordsOfRows(est.HostRecipe):
    """How many words each row has."""

    dtype = np.dtype(np.int32)
    dims = ("batch",)

    def __call__(self, features, labels):
        return np.array([len(row) for row in features["words"]], np.int32)


def test_labels_are_compared_with_lengths_where_the_mask_is_computed():
    head = SequentialHeadWrapper(MultiClassHead(3)).with_lengths(WordsOfRows())

    def fn(given, labels):
        lengths = est.host_feature(WordsOfRows())
        given = {**given, "sequence_length_mask": jnp.arange(3) < lengths[:, None]}
        return head.loss(labels, given["logits"], given)

    features = {"logits": LOGITS, "words": [["a", "b"], ["c", "d", "e"], []]}
    found = est.preview(fn, features, np.where(MASK, IDS, -1))[0]
    assert float(found) == pytest.approx(loss_of_steps(IDS))
    with pytest.raises(ValueError, match="row 1 has 2 labels"):
        est.preview(fn, features, IDS[:, :2])
    with pytest.raises(ValueError, match=r"row 0 has 3 labels.* 2 steps"):
        est.preview(fn, features, [[2, 0, 1], [1, 1, 2], []])


@pytest.mark.parametrize(
    "weights",
    [
        [1, 3, 5],
        np.float32([[1], [3], [5]]),
        np.float32([[1, 1, 0], [3, 3, 3], [0, 0, 0]]),
        [[1.0, 1.0], [3.0, 3.0, 3.0], []],
        est.SparseTensor([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]], [1, 1, 3, 3, 3], (3, 3)),
    ],
)
def test_a_weight_may_be_of_a_step_or_of_a_sequence(weights):
    loss, metrics = steps_seen(MultiClassHead(3, "w"), IDS, w=weights)
    losses = optax.softmax_cross_entropy_with_integer_labels(LOGITS[MASK], IDS[MASK])
    total = float(losses[:2].sum() + 3 * losses[2:].sum())
    assert loss == pytest.approx(total / 5)
    assert metrics["average_loss"] == pytest.approx(total / 11)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, r'weight_column is "w", but the features are \[.logits'),
        ({"w": np.ones((3, 2))}, "weights.*row 1 has 2 labels or weights"),
        ({"w": [[1.0], [1.0, 1.0, 1.0], []]}, "weights.*row 0 has 1 labels or weights"),
    ],
)
def test_weights_that_do_not_fit_are_errors_in_words(weights, message):
    head = SequentialHeadWrapper(MultiClassHead(3, "w"))
    with pytest.raises(ValueError, match=message):
        loss_of_steps(IDS, head=head, **weights)


@pytest.mark.parametrize(
    ("logits", "features", "message"),
    [
        (LOGITS, {}, r'sequence_length_mask is "there", but the features are \[.logits.\]'),
        (LOGITS[0], {"there": MASK}, r"logits must have the shape \(batch, steps, 3\), got \(3, 3"),
    ],
)
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_missing_mask_and_flat_logits_are_errors_in_every_mode(logits, features, message, mode):
    head = SequentialHeadWrapper(MultiClassHead(3), "there")

    def fn(given, labels):
        spec = head.create_estimator_spec(given, mode, given["logits"], labels, optax.sgd(0.1))
        return spec.loss

    with pytest.raises(ValueError, match=message):
        est.preview(fn, {"logits": logits, **features}, IDS)


@pytest.mark.parametrize("width", [3, 8])
def test_answers_end_where_the_longest_sequence_does_and_tell_the_steps(width):
    head = SequentialHeadWrapper(MultiClassHead(3, label_vocabulary=PETS), "there")
    mask = np.zeros((3, width), np.int32)
    mask[0, 0], mask[1, :2] = 1, 1
    logits = np.pad(LOGITS, ((0, 0), (0, width - 3), (0, 0)))

    def fn(given):
        return head.create_estimator_spec(given, "infer", given["logits"])

    spec = est.preview(fn, {"logits": logits, "there": mask})[0]
    made = {k: v.finish() if hasattr(v, "finish") else v for k, v in spec.predictions.items()}
    np.testing.assert_array_equal(made["logits"], LOGITS[:, :2])
    assert made["there"].tolist() == [[True, False], [True, True], [False, False]]
    assert made["class_ids"].tolist() == LOGITS[:, :2].argmax(-1)[..., None].tolist()
    assert made["classes"][1, 1, 0] == PETS[LOGITS[1, 1].argmax()]
    assert made["class_ids"].dtype == np.int64
    assert made["probabilities"].shape == (3, 2, 3)
    assert made["all_classes"].tolist() == [PETS] * 3
    assert spec.export_outputs.keys() == {"serving_default", "classification", "predict"}
    assert "there" in spec.export_outputs["predict"]


HEADS_OF_MANY = [
    RegressionHead(name="age"),
    BinaryClassHead("w", name="left"),
    MultiClassHead(3, name="pet"),
]
MANY = MultiHead(HEADS_OF_MANY, [1.0, 0.5, 2.0])
MANY_LABELS = {"age": [1.0, 2.0, 3.0], "left": [0, 1, 1], "pet": [2, 0, 1]}
PARTS = {"age": LOGITS[0, :, :1], "left": LOGITS[1, :, :1], "pet": LOGITS[2]}
WHOLE = np.concatenate([*PARTS.values()], -1)


def test_the_loss_of_several_heads_is_their_weighted_sum():
    features, more = {"w": [1, 2, 3]}, [jnp.float32(0.5)]
    loss, metrics = seen(MANY, WHOLE, MANY_LABELS, features, more)
    expected, losses = {"regularization_loss": 0.5}, []
    for head in HEADS_OF_MANY:
        one, own = seen(head, PARTS[head.name], MANY_LABELS[head.name], features)
        expected |= own | {f"loss/{head.name}": one}
        losses.append(one)
    assert loss == pytest.approx(np.dot(losses, [1.0, 0.5, 2.0]) + 0.5)
    assert metrics == pytest.approx(expected)
    assert {"average_loss/age", "accuracy/left", "accuracy/pet", "loss/pet"} <= metrics.keys()

    def plain(given, labels):
        return MultiHead(HEADS_OF_MANY).loss(labels, given["logits"], given)

    found = est.preview(plain, {"logits": PARTS, **features}, MANY_LABELS)[0]
    assert float(found) == pytest.approx(sum(losses))


def test_the_answers_of_several_heads_go_by_pairs_of_names():
    def fn(x, keys=None):
        return MANY.predictions(x, keys), MANY.create_estimator_spec({}, "infer", x).export_outputs

    made, outputs = est.preview(fn, WHOLE)[0]
    assert [key for key in made if key[0] == "age"] == [("age", "predictions")]
    assert {("left", "logistic"), ("left", "classes"), ("pet", "class_ids")} <= made.keys()
    np.testing.assert_array_equal(made["pet", "logits"], PARTS["pet"])
    assert outputs.keys() == {
        "serving_default",
        "predict",
        *("age", "age/regression", "age/predict"),
        *("left", "left/classification", "left/regression", "left/predict"),
        *("pet", "pet/classification", "pet/predict"),
    }
    default = outputs["serving_default"]
    assert default.answers().keys() == outputs["age"].answers().keys() == {"outputs"}
    assert {"age/predictions", "left/classes", "pet/logits"} <= outputs["predict"].keys()
    wanted = [("pet", "classes")]
    assert est.preview(lambda x: fn(x, wanted)[0], WHOLE)[0].keys() == {*wanted}
    with pytest.raises(ValueError, match=r"no prediction \[\('pet', 'clases'\)\].*Did you mean"):
        est.preview(lambda x: fn(x, [("pet", "clases")]), WHOLE)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (WHOLE, [1.0, 2.0, 3.0], r"labels must be a dict .*'age', 'left', 'pet'.*no dict"),
        (
            WHOLE,
            {"age": [1.0, 2, 3], "pet": [0, 1, 2]},
            r"\['left'\] are missing, there are \['age",
        ),
        ({"age": PARTS["age"]}, MANY_LABELS, r"\['left', 'pet'\] are missing; there are \['age'\]"),
        (WHOLE[:, :4], MANY_LABELS, r"logits must have the shape \(batch, 5\), got \(3, 4\)"),
        (PARTS | {"pet": WHOLE}, MANY_LABELS, r"MultiClassHead .pet.: logits must have.* \(3, 5\)"),
    ],
)
def test_labels_and_logits_of_several_heads_must_be_there(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        seen(MANY, logits, labels, {"w": [1, 2, 3]})


X = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
SIGN, SORT, TOTAL = np.int32(X[:, 0] > 0), X.argmax(1), X.sum(1)
NO_YES = BinaryClassHead(label_vocabulary=["no", "yes"])
TWO_HEADS = MultiHead([MultiClassHead(3, name="a"), RegressionHead(name="b")])
SQUARES = float(np.square(TOTAL).mean())


@pytest.mark.parametrize(
    ("head", "labels", "first", "answer", "metric"),
    [
        (NO_YES, np.array(["no", "yes"])[SIGN], np.log(2), "classes", "accuracy"),
        (
            TWO_HEADS,
            {"a": SORT, "b": TOTAL},
            np.log(3) + SQUARES,
            ("a", "class_ids"),
            "accuracy/a",
        ),
        (SequentialHeadWrapper(MultiClassHead(3)), SORT, np.log(3), "class_ids", "accuracy"),
    ],
    ids=["binary", "several", "steps"],
)
def test_a_model_with_a_head_is_trained_evaluated_and_asked(head, labels, first, answer, metric):
    def model_fn(features, labels, mode):
        zeros = nn.initializers.zeros
        logits = layers.dense(features["x"], head.logits_dimension, kernel_initializer=zeros)
        return head.create_estimator_spec(features, mode, logits, labels, optax.adagrad(0.5))

    features, given = {"x": X}, labels
    if isinstance(head, SequentialHeadWrapper):
        mask = np.tile([True, False], (20, 1))
        features = {"x": np.stack([X, -X], 1), "sequence_length_mask": mask}
        given = np.stack([labels, labels], 1)
    config = est.RunConfig(save_summary_steps=None, log_step_count_steps=None)
    estimator = est.Estimator(model_fn, config=config).train(lambda: (features, given), steps=2)
    results = estimator.evaluate(lambda: (features, given))
    assert results["global_step"] == 2
    assert results["loss"] < 0.9 * first
    answers = np.ravel([row[answer] for row in estimator.predict(lambda: features)])
    wanted = labels["a"] if isinstance(labels, dict) else labels
    assert results[metric] == pytest.approx((answers == wanted).mean())
    if head is TWO_HEADS:
        errors = [row["b", "predictions"][0] for row in estimator.predict(lambda: features)] - TOTAL
        assert results["average_loss/b"] == pytest.approx(np.square(errors).mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RegressionHead(loss_fn=lambda labels: labels), ValueError, r"takes \['labels'\]"),
        (lambda: RegressionHead(loss_fn=lambda y, z: z), ValueError, r"takes \['y', 'z'\]"),
        (lambda: MultiClassHead(3, loss_fn=lambda labels, logits, mode: 0), ValueError, "'mode'"),
        (lambda: BinaryClassHead(loss_fn="mse"), TypeError, "must be a function, got 'mse'"),
        (lambda: BinaryClassHead(loss_reduction="none"), ValueError, "one of .*got 'none'"),
        (lambda: RegressionHead(loss_reduction="mean"), ValueError, "one of .*got 'mean'"),
        (lambda: RegressionHead(0), ValueError, "label_dimension must be .*got 0"),
        (lambda: MultiClassHead(2), ValueError, "above 2, got 2.*BinaryClassHead"),
        (lambda: MultiLabelHead(1), ValueError, "at least 2, got 1"),
        (lambda: BinaryClassHead(7), TypeError, "weight_column must be the name"),
        (lambda: BinaryClassHead(thresholds=[0.5, 1.0]), ValueError, "between 0 and 1, got 1.0"),
        (lambda: MultiClassHead(3, None, "abc"), ValueError, "must be a list of strings"),
        (lambda: MultiClassHead(3, None, ["a", "b", "b"]), ValueError, "2 different names"),
        (lambda: MultiLabelHead(3, classes_for_class_based_metrics=[3]), ValueError, "got 3"),
        (lambda: MultiLabelHead(3, classes_for_class_based_metrics=["x"]), ValueError, "got 'x'"),
        (lambda: SequentialHeadWrapper(MultiLabelHead(3)), TypeError, "one label for each"),
        (lambda: SequentialHeadWrapper(MANY), TypeError, "one label for each example"),
        (
            lambda: SequentialHeadWrapper(MultiClassHead(3), 3),
            TypeError,
            "name of a feature, got 3",
        ),
        (lambda: MultiHead([]), ValueError, "at least one head"),
        (lambda: MultiHead([RegressionHead()]), ValueError, "its own name, got .None"),
        (lambda: MultiHead([RegressionHead(name="a")] * 2), ValueError, "got .'a', 'a'"),
        (lambda: MultiHead([RegressionHead(name="a")], [1, 2]), ValueError, "but 2 head_weights"),
    ],
)
def test_a_head_says_at_once_what_is_wrong_with_its_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.usefixtures("strict_promotion")
def test_heads_say_which_dtype_they_mean():
    for head in (HEADS[0], HEADS[1], HEADS[4], HEADS[6]):
        loss, metrics = steps_seen(head, np.minimum(IDS, 1), w=IDS)
        assert loss > 0
        assert all(np.isfinite(value) for value in metrics.values())
    assert seen(MultiLabelHead(3), LOGITS[0], [[0], [], [1, 2]])[0] > 0


def test_a_mask_with_holes_asks_for_no_labels_there():
    head = SequentialHeadWrapper(BinaryClassHead())
    logits = np.float32([[[1.0], [9.0], [-2.0]], [[0.5], [9.0], [9.0]]])
    mask = np.array([[1, 0, 1], [1, 0, 0]])

    def fn(given, labels):
        return head.loss(labels, given["logits"], given)

    given = {"logits": logits, "sequence_length_mask": mask}
    dense = np.array([[0, -1, 1], [1, -1, -1]])
    short = est.SparseTensor(
        np.array([[0, 0], [0, 1], [1, 0]]), np.array([0, 1, 1]), np.array([2, 2])
    )
    wanted = np.mean([np.log1p(np.exp(1.0)), np.log1p(np.exp(2.0)), np.log1p(np.exp(-0.5))])
    for labels in (dense, short):
        assert est.preview(fn, given, labels)[0] == pytest.approx(wanted, rel=1e-5)
