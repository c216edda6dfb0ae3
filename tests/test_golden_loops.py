"""Loops: order of calls, steps, checkpoints and numbers are those that TensorFlow recorded."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import ListenerNotes, Notes, batches, features_only, line, make, steps_of

import estimator as est

GOLDEN = json.loads((Path(__file__).parent / "golden" / "loops.json").read_text())
TOLERANCE = 5e-5


def v1_adam(rate, b1=0.9, b2=0.999, epsilon=1e-8):
    """Adam as TensorFlow 1 has it: epsilon is added to the root of the uncorrected moment."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return jnp.int32(0), zeros, zeros

    def update(gradients, state, params=None):
        count, first, second = state
        count = count + 1
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, second, gradients)
        scale = rate * jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: -scale * m / (jnp.sqrt(v) + epsilon), first, second)
        return updates, (count, first, second)

    return optax.GradientTransformation(init, update)


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    # optax adds eps under the root where tf.v1 adds none: the smallest normal float is none.
    "adagrad": lambda: optax.adagrad(0.1, initial_accumulator_value=0.1, eps=1e-38),
    "adam": lambda: v1_adam(0.1),
}


def custom(features, labels, mode, params):
    net = est.layers.dense(features["x"], 10, jax.nn.relu, name="h1")
    net = est.layers.dense(net, 10, jax.nn.relu, name="h2")
    logits = est.layers.dense(net, 3, name="logits")
    classes = jnp.argmax(logits, -1)
    if mode == est.ModeKeys.PREDICT:
        answers = {
            "class_ids": classes[:, None],
            "probabilities": jax.nn.softmax(logits),
            "logits": logits,
        }
        return est.EstimatorSpec(mode, predictions=answers)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    metrics = {
        "accuracy": est.metrics.accuracy(labels, classes),
        "mean_logit": est.metrics.mean(logits),
    }
    train_op = OPTIMIZERS[params["optimizer"]]()
    return est.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics, train_op=train_op)


def custom_batches(size):
    x = np.array(GOLDEN["data"]["x"], np.float32)
    y = np.array(GOLDEN["data"]["y"], np.int64)
    return [({"x": x[i : i + size]}, y[i : i + size]) for i in range(0, len(x), size)]


@pytest.fixture(scope="module", params=list(OPTIMIZERS))
def trained(request, tmp_path_factory):
    wanted = GOLDEN["custom"][request.param]
    initial = {name: np.array(value, np.float32) for name, value in wanted["initial"].items()}
    model_dir = str(tmp_path_factory.mktemp("golden") / "model")
    estimator = make(
        custom, model_dir, params={"optimizer": request.param}, warm_start_from=initial
    )
    estimator.train(lambda: custom_batches(8) * 10, steps=12)
    return estimator, wanted


def close(actual, wanted):
    np.testing.assert_allclose(actual, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_variables_after_twelve_steps_are_those_of_tensorflow(trained):
    estimator, wanted = trained
    assert estimator.get_variable_names() == GOLDEN["variable_names"]
    for name, value in wanted["final"].items():
        close(estimator.get_variable_value(name), value)


@pytest.mark.parametrize(("key", "steps"), [("evaluate", None), ("evaluate_2_steps", 2)])
def test_evaluate_gives_the_numbers_of_tensorflow(trained, key, steps):
    estimator, wanted = trained
    results = estimator.evaluate(lambda: custom_batches(10), steps=steps)
    assert results.keys() == wanted[key].keys()
    for name, value in wanted[key].items():
        close(results[name], value)


def test_predict_gives_the_numbers_of_tensorflow(trained):
    estimator, wanted = trained
    answers = list(estimator.predict(lambda: custom_batches(10)))
    assert len(answers) == len(wanted["predictions"])
    for answer, row in zip(answers, wanted["predictions"], strict=True):
        assert answer.keys() == row.keys()
        for name, value in row.items():
            close(answer[name], value)


def test_train_calls_hooks_and_listeners_in_the_order_of_tensorflow(model_dir):
    log = []

    def model_fn(features, labels, mode, params):
        spec = line(features, labels, mode, params)
        return spec._replace(training_hooks=[Notes("spec_hook", log)])

    estimator = make(model_fn, model_dir, save_checkpoints_steps=2)
    estimator.train(
        lambda: batches(9),
        hooks=[Notes("A", log), Notes("B", log)],
        steps=5,
        saving_listeners=[ListenerNotes(log)],
    )
    assert log == GOLDEN["order_train"]


def without_the_last_before_run(order):
    """TensorFlow begins a step before it finds the input at its end."""
    assert order[-2] == ["A", "before_run"]
    return order[:-2] + order[-1:]


def test_evaluate_calls_hooks_in_the_order_of_tensorflow(model_dir):
    estimator = make(line, model_dir).train(lambda: batches(5), steps=5)
    hook = Notes()
    estimator.evaluate(lambda: batches(3), hooks=[hook])
    assert hook.log == without_the_last_before_run(GOLDEN["order_evaluate"])


def test_predict_calls_hooks_in_the_order_of_tensorflow(model_dir):
    estimator = make(line, model_dir).train(lambda: batches(5), steps=5)
    hook = Notes()
    list(estimator.predict(lambda: features_only(3), hooks=[hook]))
    assert hook.log == without_the_last_before_run(GOLDEN["order_predict"])


def test_successive_calls_make_the_steps_and_keep_the_checkpoints_of_tensorflow(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=3, keep_checkpoint_max=2)
    for call in GOLDEN["steps"]:
        rows = {"x": np.zeros((12, 2), np.float32)}
        labels = np.arange(12, dtype=np.float32)
        input_fn = est.numpy_input_fn(
            rows, labels, batch_size=4, num_epochs=call["epochs"], shuffle=False
        )
        estimator.train(input_fn, **call["kw"])
        assert int(estimator.get_variable_value("global_step")) == call["global_step"], call
        assert steps_of(estimator) == call["checkpoints"], call
