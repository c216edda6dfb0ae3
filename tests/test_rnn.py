"""Recurrent models answer the same whatever form, order, padding or device a batch has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import estimator as est
import feature_columns as fc
from canned import (
    BinaryClassHead,
    GRUCell,
    LSTMCell,
    MultiClassHead,
    RegressionHead,
    RNNCell,
    RNNClassifier,
    RNNEstimator,
    SequentialHeadWrapper,
    StackedRNNCells,
)

QUIET = est.RunConfig(save_summary_steps=None, log_step_count_steps=None, random_seed=0)
WORDS = [["a", "b", "a"], ["c"], [], ["b", "a"], ["c", "c", "a", "b"], ["a"], ["b"], ["d", "c"]]
LABELS = np.array([0, 1, 0, 1, 1, 0, 0, 1])
WORD = fc.sequence_categorical_column_with_vocabulary_list("w", ["a", "b", "c"], num_oov_buckets=1)
NUMBER = fc.sequence_numeric_column("x")
LETTERS = fc.embedding_column(WORD, 3)
NUMBERS = [[float(ord(word)) - 97 for word in row] for row in WORDS]


def dense(rows, width, fill):
    return np.array([row + [fill] * (width - len(row)) for row in rows])


def sparse(rows):
    index = [(i, j) for i, row in enumerate(rows) for j in range(len(row))]
    values = np.array([value for row in rows for value in row])
    return est.SparseTensor(np.array(index), values, (len(rows), max(map(len, rows))))


def objects(rows):
    made = np.empty(len(rows), object)
    made[:] = rows
    return made


def untrained(columns=LETTERS, config=QUIET, **args):
    args = {"units": [4], "cell_type": "lstm", "optimizer": optax.sgd(0.5), **args}
    return RNNClassifier(columns, config=config, **args)


def trained(features, labels=LABELS, steps=3, **args):
    return untrained(**args).train(lambda: (features, labels), steps=steps)


@pytest.fixture(scope="module")
def model():
    """A model of words that was trained with dropout, for tests that look at it."""
    return trained({"w": WORDS}, dropout=0.5)


def variables_of(features, **args):
    """Returns the first values of all variables of a model by name."""
    predicted = est.ModeKeys.PREDICT
    model_fn = untrained(**args).model_fn
    return est.preview(lambda raw: model_fn(raw, None, predicted).predictions, features)[1]


def logits_of(model, features):
    return np.array([answer["logits"] for answer in model.predict(lambda: features)])


# The same numbers.


def test_words_may_come_in_any_form(model):
    forms = [objects(WORDS), sparse(WORDS), dense(WORDS, 4, ""), dense(WORDS, 9, "")]
    lists, *others = [logits_of(model, {"w": words}) for words in (WORDS, *forms)]
    for other in others:
        np.testing.assert_allclose(other, lists, atol=1e-6)


@pytest.mark.parametrize(
    ("cell_type", "pooling"), [("lstm", "last"), ("gru", "mean"), ("simple_rnn", "max")]
)
def test_padding_and_order_and_company_change_no_answer(cell_type, pooling):
    args = {"cell_type": cell_type, "pooling": pooling, "bidirectional": True}
    model = untrained(NUMBER, **args)
    logits = logits_of(model, {"x": NUMBERS})
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    shuffled = logits_of(model, {"x": [NUMBERS[i] for i in order]})
    np.testing.assert_allclose(shuffled, logits[order], atol=1e-6)
    batches = [{"x": [row]} for row in NUMBERS]
    alone = [answer["logits"] for answer in model.predict(lambda: batches)]
    np.testing.assert_allclose(alone, logits, atol=1e-6)
    longer = [*NUMBERS, [1.0] * 20]
    np.testing.assert_allclose(logits_of(model, {"x": longer})[:-1], logits, atol=1e-6)


def test_an_empty_sequence_is_answered_by_the_bias(model):
    bias = model.get_variable_value("rnn_model/logits/bias")
    np.testing.assert_allclose(logits_of(model, {"w": WORDS})[2], bias, atol=1e-6)


@pytest.mark.parametrize("return_sequences", [False, True])
def test_training_does_not_depend_on_the_devices_or_on_padding(return_sequences):
    labels = [[len(word) for word in row] for row in WORDS] if return_sequences else LABELS
    several_and_wide = QUIET.replace(
        train_distribute=est.DataParallel(jax.devices()[:4]),
        eval_distribute=est.DataParallel(jax.devices()[:4]),
        length_buckets=[64],
    )
    one, other = (
        trained({"w": WORDS}, labels, config=config, return_sequences=return_sequences, steps=4)
        for config in (QUIET, several_and_wide)
    )
    for name in one.get_variable_names():
        value, wanted = other.get_variable_value(name), one.get_variable_value(name)
        np.testing.assert_allclose(value, wanted, atol=1e-5, err_msg=name)
    results = [model.evaluate(lambda: ({"w": WORDS}, labels)) for model in (one, other)]
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_an_evaluation_does_not_depend_on_the_size_of_batches(model):
    whole = model.evaluate(lambda: ({"w": WORDS}, LABELS))
    parts = [({"w": WORDS[i : i + 3]}, LABELS[i : i + 3]) for i in (0, 3, 6)]
    split = model.evaluate(lambda: parts)
    for name in ("average_loss", "accuracy", "auc", "precision", "recall"):
        assert split[name] == pytest.approx(whole[name], rel=1e-5)


# Steps.


def test_answers_for_steps_end_where_the_longest_sequence_ends():
    names = [["no" if word == "a" else "yes" for word in row] for row in WORDS]
    model = trained(
        {"w": WORDS},
        names,
        return_sequences=True,
        label_vocabulary=["no", "yes"],
        steps=150,
        cell_type="gru",
        optimizer="Adam",
    )
    answers = list(model.predict(lambda: {"w": WORDS}))
    for answer, row in zip(answers, names, strict=True):
        assert answer["logits"].shape == (4, 1)
        assert answer["sequence_mask"].tolist() == [True] * len(row) + [False] * (4 - len(row))
        assert answer["classes"][: len(row), 0].tolist() == row


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((8, 3), np.int64), "row 4 has 3 labels or weights, but its sequence has 4 steps"),
        ([[0] * max(1, len(row)) for row in WORDS], "row 2 has 1 labels"),
    ],
)
def test_labels_that_do_not_fit_the_steps_are_an_error(labels, message):
    with pytest.raises(ValueError, match=message):
        trained({"w": WORDS}, labels, return_sequences=True)


def test_a_mask_that_is_given_says_which_steps_count():
    labels = np.zeros((8, 4), np.int64)
    labels[:, 0] = 1
    mask = np.zeros((8, 4), bool)
    mask[[0, 1, 3, 4, 5, 6, 7], 0] = True
    features = {"w": WORDS, "sequence_mask": mask}
    model = untrained(return_sequences=True)
    results = model.evaluate(lambda: (features, labels))
    assert results["label/mean"] == 1


# What a model is made of.


@dataclasses.dataclass(frozen=True)
class Counter(RNNCell):
    """Adds up what it is shown."""

    units: int
    scope = "counter"

    def weights(self, input_size):
        return est.get_variable("kernel", (input_size, self.units), np.ones((input_size, 1)))

    def zero_state(self, batch):
        return jnp.zeros((batch, self.units))

    def step(self, weights, inputs, state):
        state = state + inputs @ weights
        return state, state


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ({"units": [4], "cell_type": GRUCell}, ["rnn/gru_cell"]),
        ({"units": 4, "cell_type": "lstm"}, ["lstm/lstm_cell"]),
        ({"units": 4, "cell_type": None}, ["simple_rnn/simple_rnn_cell"]),
        (
            {
                "units": None,
                "cell_type": None,
                "rnn_cell_fn": lambda: StackedRNNCells([LSTMCell(3), Counter(1)]),
            },
            ["rnn/stacked_rnn_cells/lstm_cell", "rnn/stacked_rnn_cells/counter"],
        ),
        (
            {"units": [2], "cell_type": "gru", "bidirectional": True},
            ["bidirectional/forward_rnn/gru_cell", "bidirectional/backward_rnn/gru_cell"],
        ),
    ],
    ids=["class", "int", "default", "function", "both ways"],
)
def test_variables_are_named_by_the_cells(args, names):
    found = {
        name.removeprefix("rnn_model/").rpartition("/")[0]
        for name in variables_of({"x": NUMBERS}, columns=NUMBER, **args)
    }
    assert found == {*names, "logits"}


def test_a_cell_of_ones_own_counts():
    head = RegressionHead()
    model = RNNEstimator(head, NUMBER, rnn_cell_fn=lambda: Counter(1), config=QUIET)
    model.train(lambda: ({"x": NUMBERS}, np.float32(LABELS)), steps=1)
    kernel = model.get_variable_value("rnn_model/rnn/counter/kernel")[0, 0]
    scale, bias = (model.get_variable_value(f"rnn_model/logits/{n}") for n in ("kernel", "bias"))
    found = [answer["predictions"] for answer in model.predict(lambda: {"x": NUMBERS})]
    wanted = np.array([[sum(row) * kernel] for row in NUMBERS]) @ scale + bias
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_default_optimizer_clips_each_variable_by_itself():
    model = trained({"w": WORDS}, optimizer="Adagrad", loss_reduction="sum", steps=1)
    first, last = (
        est.load_variable(path, "rnn_model/logits/kernel") for path in model.all_checkpoints()
    )
    moved = last - first
    assert 0 < np.linalg.norm(moved) < 0.05 * 5 / np.sqrt(0.1)


def test_dropout_is_for_training_only(model):
    one, two = (logits_of(model, {"w": WORDS}) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_context_is_given_to_each_step():
    context = fc.numeric_column("age")
    features = {"w": WORDS, "age": np.arange(8, dtype=np.float32)}
    variables = variables_of(features, context_feature_columns=context)
    assert variables["rnn_model/rnn/lstm_cell/kernel"].shape == (3 + 1, 16)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "units and rnn_cell_fn are both None"),
        ({"units": [4], "rnn_cell_fn": lambda: LSTMCell(4)}, "must not be specified when using"),
        ({"rnn_cell_fn": lambda: object()}, "must make cells of a subclass of canned.RNNCell"),
        ({"units": [4], "cell_type": "lstn"}, 'Did you mean "lstm"'),
        ({"units": [4], "cell_type": 3}, "must be a name or a class of cells"),
        ({"units": 4, "cell_type": LSTMCell}, "goes with the name of a cell_type"),
        ({"units": []}, "units must be a list of whole numbers"),
        ({"units": [0]}, "units must be a whole number of at least 1"),
        ({"units": ["4"]}, "units must be a list of whole numbers"),
        ({"units": [4], "pooling": "sum"}, "pooling must be one of"),
        ({"units": [4], "pooling": "max", "return_sequences": True}, "pooling must be one of"),
        ({"units": [4], "dropout": 1.0}, "dropout must be a part"),
        ({"units": [4], "n_classes": 1}, "n_classes must be a whole number of at least 2"),
        ({"units": [4], "optimizer": "adagrad"}, 'Did you mean "Adagrad"'),
        ({"units": [4], "sequence_feature_columns": []}, "must hold at least one column"),
        (
            {
                "units": [4],
                "return_sequences": True,
                "weight_column": fc.numeric_column("w"),
            },
            "weight_column must be the name of a feature",
        ),
    ],
)
def test_a_wrong_argument_is_an_error_at_the_call(args, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RNNClassifier(**{"sequence_feature_columns": [LETTERS], **args})


@pytest.mark.parametrize(
    ("head", "sequences"),
    [(MultiClassHead(3), True), (SequentialHeadWrapper(BinaryClassHead()), False)],
)
def test_a_head_and_return_sequences_go_together(head, sequences):
    with pytest.raises(ValueError, match="return_sequences=True and a SequentialHeadWrapper"):
        RNNEstimator(head, [LETTERS], units=[4], return_sequences=sequences)


def test_features_that_are_no_dict_are_an_error():
    with pytest.raises(ValueError, match="features must be a dict by the names of the columns"):
        trained(np.ones((8, 2), np.float32))


# More metrics.


def test_more_metrics_can_be_added_to_a_model_that_is_there(model):

    def more(labels, predictions):
        return {
            "hits": est.metrics.sum(predictions["class_ids"][:, 0] == labels),
            "accuracy": est.metrics.mean(predictions["logistic"] * 0 + 7),
        }

    results = est.add_metrics(model, more).evaluate(lambda: ({"w": WORDS}, LABELS))
    before = model.evaluate(lambda: ({"w": WORDS}, LABELS))
    assert results["hits"] == pytest.approx(8 * before["accuracy"])
    assert results["accuracy"] == 7
    assert results["auc"] == before["auc"]


@pytest.mark.parametrize(
    ("metric_fn", "message"),
    [(lambda label: {}, 'Did you mean "labels"'), ("auc", "metric_fn must be a function")],
)
def test_a_wrong_metric_fn_is_an_error_at_the_call(metric_fn, message):
    with pytest.raises((ValueError, TypeError), match=message):
        est.add_metrics(est.Estimator(lambda features: None), metric_fn)
