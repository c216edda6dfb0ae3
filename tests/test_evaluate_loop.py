"""Evaluation: what evaluate answers, from which variables, and what it writes."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import Notes, assert_close, batches, endless, line, make, scalars, steps_of, values_of

import estimator as est


def by_hand(estimator, data):
    """Returns loss and error, computed in numpy."""
    if estimator.latest_checkpoint() is None:
        kernel, bias = np.array([0.5, -0.25]), 0.0
    else:
        kernel = estimator.get_variable_value("line/kernel").astype(np.float64)
        bias = estimator.get_variable_value("line/bias")
    errors = [features["x"] @ kernel + bias - labels for features, labels in data]
    loss = np.mean([np.mean(error**2) for error in errors])
    return loss, np.mean(np.abs(np.concatenate(errors)))


UNEVEN = batches(3) + batches(1, rows=1, seed=5)


@pytest.mark.parametrize("steps", [None, 1, 3, 9])
@pytest.mark.parametrize("trained", [True, False])
def test_loss_is_the_mean_over_batches_and_a_metric_that_over_examples(model_dir, steps, trained):
    estimator = make(line, model_dir)
    if trained:
        estimator.train(endless, steps=3)
    results = estimator.evaluate(lambda: UNEVEN, steps=steps)
    loss, error = by_hand(estimator, UNEVEN[:steps])
    assert results.keys() == {"loss", "error", "global_step"}
    np.testing.assert_allclose([results["loss"], results["error"]], [loss, error], rtol=1e-5)
    assert results["global_step"] == (3 if trained else 0)
    assert results["loss"].dtype == np.float32
    assert results["global_step"].dtype == np.int64


def test_evaluating_an_untrained_model_makes_no_checkpoint(model_dir):
    estimator = make(line, model_dir)
    estimator.evaluate(lambda: batches(1))
    assert steps_of(estimator) == []
    assert estimator.latest_checkpoint() is None


def test_an_untrained_model_without_a_seed_has_the_same_variables_in_every_call(model_dir):
    def model_fn(features, labels, mode):
        predicted = est.layers.dense(features["x"], 1)[:, 0]
        if mode == est.ModeKeys.PREDICT:
            return est.EstimatorSpec(mode, predictions=predicted)
        loss = jnp.mean((predicted - labels) ** 2)
        return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.0))

    estimator = make(model_fn, model_dir, random_seed=None)
    first = estimator.evaluate(lambda: batches(2))["loss"]
    assert estimator.evaluate(lambda: batches(2))["loss"] == first
    assert estimator.train(endless, steps=1).evaluate(lambda: batches(2))["loss"] == first


def test_a_model_that_needs_its_variables_chosen_is_not_evaluated_untrained(model_dir):
    def model_fn(features, labels, mode, params):
        est.get_variable("centers", (2,), needs_init=True, trainable=False)
        return line(features, labels, mode, params)

    for warm_start in (None, {"line/bias": 1.0}):
        estimator = make(model_fn, model_dir, warm_start_from=warm_start)
        with pytest.raises(ValueError, match=r"is not trained: \['centers'\] have no values yet"):
            estimator.evaluate(lambda: batches(1))
        with pytest.raises(ValueError, match=r"is not trained: \['centers'\] have no values yet"):
            list(estimator.predict(lambda: batches(1)))
    estimator = make(model_fn, model_dir, warm_start_from={"centers": np.ones(2)})
    assert estimator.evaluate(lambda: batches(1))["global_step"] == 0


def test_any_checkpoint_can_be_evaluated(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=2).train(endless, steps=4)
    losses = {}
    for path in estimator.all_checkpoints():
        results = estimator.evaluate(lambda: batches(2), checkpoint_path=path)
        losses[int(results["global_step"])] = results["loss"]
    assert list(losses) == [0, 2, 4]
    assert losses[0] > losses[2] > losses[4]
    assert estimator.evaluate(lambda: batches(2))["loss"] == losses[4]


@pytest.mark.parametrize("path", ["nowhere", "", "checkpoints/17", "."])
@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_a_checkpoint_path_without_a_checkpoint_is_refused_at_the_call(model_dir, call, path):
    estimator = make(line, model_dir).train(endless, steps=1)
    with pytest.raises(ValueError, match=r"checkpoint_path is not a valid checkpoint: .*Give one"):
        getattr(estimator, call)(lambda: batches(1), checkpoint_path=os.path.join(model_dir, path))


@pytest.mark.parametrize("empty", [lambda: iter(()), lambda: []])
def test_evaluating_an_empty_input_is_an_error(model_dir, empty):
    with pytest.raises((ValueError, TypeError), match=r"empty|length 2"):
        make(line, model_dir).evaluate(empty)


@pytest.mark.parametrize("steps", [0, -3])
def test_evaluate_refuses_steps_that_are_none(model_dir, steps):
    with pytest.raises(ValueError, match=f"evaluate: must specify steps > 0, given: {steps}"):
        make(line, model_dir).evaluate(lambda: batches(1), steps=steps)


@pytest.mark.parametrize("name", ["loss", "global_step"])
def test_a_metric_may_not_have_the_name_of_what_is_reported_anyway(model_dir, name):
    def model_fn(features, labels, mode, params):
        spec = line(features, labels, mode, params)
        return spec._replace(eval_metric_ops={name: est.metrics.mean(labels)})

    with pytest.raises(ValueError, match=f'Metric with name "{name}" is not allowed'):
        make(model_fn, model_dir).evaluate(lambda: batches(1))


def test_metrics_are_merged_in_float64(model_dir):
    """In float32, a sum that has reached 2**24 no longer grows by one."""

    def model_fn(features, labels, mode):
        metric = est.metrics.mean(features["x"])
        return est.EstimatorSpec(mode, loss=jnp.sum(labels) * 0, eval_metric_ops={"m": metric})

    labels = np.zeros(1, np.float32)
    data = [({"x": np.array([x], np.float32)}, labels) for x in [2.0**24] + [1.0] * 300]
    results = make(model_fn, model_dir).evaluate(lambda: data)
    np.testing.assert_allclose(results["m"], (2.0**24 + 300) / 301, rtol=1e-7)


def test_results_are_written_where_the_name_says(model_dir):
    estimator = make(line, model_dir).train(endless, steps=3)
    for name, directory in ((None, "eval"), ("test", "eval_test")):
        path = os.path.join(model_dir, directory)
        assert estimator.eval_dir(name) == path
        results = estimator.evaluate(lambda: batches(2), name=name)
        found = scalars(path)
        assert found.keys() == {"loss", "error"}
        assert found["loss"] == [(3, pytest.approx(results["loss"]))]
        assert found["error"] == [(3, pytest.approx(results["error"]))]
        (event_file,) = os.listdir(path)
        with open(os.path.join(path, event_file), "rb") as file:
            assert estimator.latest_checkpoint().encode() in file.read()


def test_results_of_one_directory_are_collected(model_dir):
    estimator = make(line, model_dir)
    for _ in range(2):
        estimator.train(endless, steps=2).evaluate(lambda: batches(1))
    assert [step for step, _ in scalars(estimator.eval_dir())["loss"]] == [2, 4]


def test_results_and_progress_are_logged(model_dir, caplog):
    with caplog.at_level("INFO", "estimator"):
        make(line, model_dir).evaluate(lambda: batches(3), steps=3)
    assert "Saving dict for global step 0: error = " in caplog.text
    assert "Evaluation [2/3]" in caplog.text


def test_evaluate_changes_nothing_in_the_model(model_dir):
    def model_fn(features, labels, mode, params):
        count = est.get_variable("count", (), 0, np.int32, trainable=False)
        est.assign("count", count + 1)
        return line(features, labels, mode, params)

    estimator = make(model_fn, model_dir).train(endless, steps=2)
    before = values_of(estimator)
    estimator.evaluate(lambda: batches(3))
    assert steps_of(estimator) == [0, 2]
    assert_close(values_of(estimator), before)
    assert estimator.train(endless, steps=1).get_variable_value("count") == 3


def test_a_hook_may_stop_an_evaluation(model_dir):
    class Stops(Notes):
        def after_run(self, run_context, run_values):
            super().after_run(run_context, run_values)
            if len(self.results) == 2:
                run_context.request_stop()

    hook = Stops(fetches="loss")
    results = make(line, model_dir).evaluate(lambda: batches(5), hooks=[hook])
    assert len(hook.results) == 2
    assert hook.log[-1] == ["A", "end", 0]
    np.testing.assert_allclose(results["loss"], np.mean(hook.results), rtol=1e-6)


def test_hooks_of_the_spec_are_called_in_evaluate(model_dir):
    hook = Notes()

    def model_fn(features, labels, mode, params):
        return line(features, labels, mode, params)._replace(evaluation_hooks=[hook])

    make(model_fn, model_dir).evaluate(lambda: batches(2))
    assert [name for _, name, *_ in hook.log] == [
        "begin",
        "after_create_session",
        *(["before_run", "after_run"] * 2),
        "end",
    ]


def test_a_layer_that_evaluation_skips_is_warned_of(model_dir):
    def model_fn(features, labels, mode):
        net = features["x"]
        if mode == est.ModeKeys.TRAIN:
            net = est.layers.dense(net, 2)
        loss = jnp.mean(est.layers.dense(net, 2)) + 0 * jnp.sum(labels)
        return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))

    estimator = make(model_fn, model_dir).train(endless, steps=1)
    with pytest.warns(UserWarning, match="does not ask for .*dense_1/kernel.* in mode 'eval'"):
        estimator.evaluate(lambda: batches(1))


def test_a_variable_that_the_checkpoint_lacks_is_an_error_that_lists_both_sides(model_dir):
    def model_fn(features, labels, mode, params):
        if mode != est.ModeKeys.TRAIN:
            est.get_variable("extra", ())
        return line(features, labels, mode, params)

    estimator = make(model_fn, model_dir).train(endless, steps=1)
    wanted = r"missing \['extra'\].*has \['line/bias', 'line/kernel'\].*asks for \['extra', 'line"
    with pytest.raises(ValueError, match=wanted):
        estimator.evaluate(lambda: batches(1))
    with pytest.raises(ValueError, match=wanted):
        list(estimator.predict(lambda: batches(1)))


def test_evaluation_draws_other_random_numbers_for_each_batch_and_the_same_in_each_call(model_dir):
    def model_fn(features, labels, mode):
        drawn = est.get_variable("w", ()) * 0 + jnp.sum(labels) * 0
        drawn += jnp.float32(est.next_rng_key().dtype is None) + _uniform(est.next_rng_key())
        return est.EstimatorSpec(mode, loss=drawn, train_op=optax.sgd(0.1))

    estimator = make(model_fn, model_dir)
    hooks = [Notes(fetches="loss") for _ in range(2)]
    for hook in hooks:
        estimator.evaluate(lambda: batches(3), hooks=[hook])
    first, second = ([float(x) for x in hook.results] for hook in hooks)
    assert first == second
    assert len(set(first)) == 3


def _uniform(key):
    import jax

    return jax.random.uniform(key)


def test_an_error_of_a_metric_names_its_key(model_dir):
    def model_fn(features, labels, mode, params):
        spec = line(features, labels, mode, params)
        auc = est.metrics.auc(labels > 0, features["x"][:, 0] * 100)
        return spec._replace(eval_metric_ops={"area": auc})

    with pytest.raises(ValueError, match=r"jax\.nn\.sigmoid") as raised:
        make(model_fn, model_dir).evaluate(lambda: batches(1))
    assert raised.value.__notes__ == ['This is eval_metric_ops["area"].']


class Unregistered(est.metrics.Metric):
    """What is forgotten most easily of a metric of one's own."""

    def compute(self):
        return 0.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Named(est.metrics.Metric):
    total: Any
    name: str

    def compute(self):
        return self.total


@pytest.mark.parametrize("metric", [Unregistered(), Named(1.0, "mine")], ids=["alone", "named"])
def test_a_metric_that_is_no_pytree_of_sums_is_refused(model_dir, metric):
    def model_fn(features, labels, mode, params):
        spec = line(features, labels, mode, params)
        return spec._replace(eval_metric_ops={"mine": metric})

    message = r'eval_metric_ops\["mine"\]: \w+ must be a pytree of sums. Write @jax'
    with pytest.raises(TypeError, match=message):
        make(model_fn, model_dir).evaluate(lambda: batches(1))
