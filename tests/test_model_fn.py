"""The contract: what an EstimatorSpec checks, and how a model_fn is inspected and called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from estimator import (
    Estimator,
    EstimatorSpec,
    Lookup,
    ModeKeys,
    Scaffold,
    SessionRunHook,
    get_variable,
    host_output,
    layers,
    metrics,
)
from estimator.batches import Batch
from estimator.binding import discover
from estimator.mode_keys import MODES
from estimator.model_fn import ModelFn

TRAIN, EVAL, PREDICT = ModeKeys.TRAIN, ModeKeys.EVAL, ModeKeys.PREDICT
LOSS = np.float32(1)
ANSWER = {"y": np.zeros(3)}
X = np.ones((4, 2), np.float32)


# What an EstimatorSpec needs.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": TRAIN}, r"Missing loss: .*mode 'train'.*given only \['mode'\]"),
        ({"mode": TRAIN, "predictions": ANSWER}, r"Missing loss: .*\['mode', 'predictions'\]"),
        ({"mode": EVAL}, "Missing loss: .*mode 'eval' needs `loss`"),
        ({"mode": PREDICT}, "Missing predictions: .*mode 'infer' needs `predictions`"),
        ({"mode": PREDICT, "loss": LOSS}, r"Missing predictions.*\['mode', 'loss'\]"),
        ({"mode": "training", "loss": LOSS}, "mode is 'training'. Give ModeKeys.TRAIN.*pass on"),
        ({"mode": None}, "mode is None"),
    ],
)
def test_what_a_mode_needs_must_be_there(given, message):
    with pytest.raises(ValueError, match=message):
        EstimatorSpec(**given)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_fields_that_a_mode_does_not_need_are_allowed(mode):
    spec = EstimatorSpec(
        mode,
        predictions=ANSWER,
        loss=LOSS,
        train_op=optax.sgd(0.1),
        eval_metric_ops={"mean": metrics.mean(np.ones(2))},
        export_outputs={"serving_default": ANSWER},
        training_hooks=[SessionRunHook()],
        evaluation_hooks=[SessionRunHook()],
        scaffold=Scaffold(),
    )
    assert spec.mode == mode


@pytest.mark.parametrize("loss", [1.0, np.float64(1), np.ones(1), np.ones((1, 1)), jnp.float32(1)])
def test_a_loss_of_one_element_becomes_a_scalar(loss):
    loss = EstimatorSpec(TRAIN, loss=loss).loss
    assert (loss.shape, loss.dtype, float(loss)) == ((), np.float32, 1)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (np.ones(2), ValueError, r"Loss must be a single number.*shape \(2,\). Take its mean"),
        (np.ones((4, 1)), ValueError, r"single number, got an array of shape \(4, 1\)"),
        (np.ones(0), ValueError, r"single number, got an array of shape \(0,\)"),
        (1, TypeError, "Loss must be a floating number, got dtype int32"),
        (True, TypeError, "Loss must be a floating number, got dtype bool"),
        (np.complex64(1), TypeError, "Loss must be a floating number, got dtype complex64"),
    ],
)
def test_a_loss_that_is_no_number_is_refused(loss, error, message):
    with pytest.raises(error, match=message):
        EstimatorSpec(TRAIN, loss=loss)


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ({"y": "Rome"}, r'predictions\["y"\] must be an array or a host_output, got \'Rome\''),
        ({"y": [1, 2]}, r'predictions\["y"\] must be an array.*got \[1, 2\]'),
        ({"y": {"z": np.zeros(3)}}, r'predictions\["y"\] must be an array'),
        ({"y": 3.0}, r'predictions\["y"\] must be an array or a host_output, got 3.0'),
        ([np.zeros(3)], r"predictions must be an array or a host_output, got \["),
        ("Rome", "predictions must be an array or a host_output, got 'Rome'"),
        (optax.sgd(0.1), "predictions must be an array"),
    ],
)
def test_predictions_must_be_arrays(predictions, message, mode):
    with pytest.raises(TypeError, match=message):
        EstimatorSpec(mode, predictions=predictions, loss=LOSS)


@pytest.mark.parametrize("strings", [np.array(["Rome"]), np.array(["Rome"], object)])
def test_an_array_of_strings_is_no_prediction(strings):
    with pytest.raises(TypeError, match=r'predictions\["y"\] must be an array or a host_output'):
        EstimatorSpec(PREDICT, predictions={"y": strings})


@pytest.mark.parametrize(
    "predictions",
    [
        np.zeros(3),
        jnp.zeros(3),
        {"a": np.zeros(3), "b": jnp.zeros(3, jnp.bfloat16)},
        {"name": host_output(Lookup(("a",)), np.zeros(3))},
        host_output(Lookup(("a",)), np.zeros(3)),
        jax.ShapeDtypeStruct((3,), np.float32),
    ],
)
def test_predictions_may_be_an_array_or_a_dict_of_arrays(predictions):
    given = EstimatorSpec(PREDICT, predictions=predictions).predictions
    assert given is predictions or given == predictions


def test_the_dicts_of_the_user_are_not_kept():
    predictions, ops = dict(ANSWER), {"mean": metrics.mean(np.ones(2))}
    spec = EstimatorSpec(EVAL, loss=LOSS, predictions=predictions, eval_metric_ops=ops)
    predictions["more"] = ops["more"] = None
    assert (list(spec.predictions), list(spec.eval_metric_ops)) == (["y"], ["mean"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([metrics.mean([1.0])], TypeError, "must be a dict of metrics by name, got"),
        ({"a": np.float32(1)}, TypeError, r'eval_metric_ops\["a"\] must be a metric such as'),
        ({"a": (1, 2)}, TypeError, r'eval_metric_ops\["a"\] must be a metric.*got \(1, 2\)'),
        ({"loss": metrics.mean([1.0])}, ValueError, 'Metric with name "loss" is not allowed'),
        ({"global_step": metrics.mean([1.0])}, ValueError, 'name "global_step" is not allowed'),
    ],
)
def test_eval_metric_ops_must_be_metrics_by_name(given, error, message):
    with pytest.raises(error, match=message):
        EstimatorSpec(EVAL, loss=LOSS, eval_metric_ops=given)


@pytest.mark.parametrize("outputs", [{"serving_default": "Rome"}, [np.zeros(3)], "Rome"])
def test_export_outputs_must_be_arrays_by_name(outputs):
    with pytest.raises(TypeError, match="export_outputs"):
        EstimatorSpec(PREDICT, predictions=ANSWER, export_outputs=outputs)


@pytest.mark.parametrize("train_op", [0.1, "sgd", optax.sgd, lambda x: x, {"init": 1}])
def test_a_train_op_has_init_and_update(train_op):
    with pytest.raises(TypeError, match=r"train_op must be an optax transformation.*optax.adagrad"):
        EstimatorSpec(TRAIN, loss=LOSS, train_op=train_op)


HOOK_FIELDS = (
    "training_chief_hooks",
    "training_hooks",
    "evaluation_hooks",
    "prediction_hooks",
)


@pytest.mark.parametrize("field", HOOK_FIELDS)
def test_hooks_must_be_session_run_hooks(field):
    with pytest.raises(TypeError, match=f"EstimatorSpec: {field} must be SessionRunHook obj.*'a'"):
        EstimatorSpec(TRAIN, loss=LOSS, **{field: [SessionRunHook(), "a"]})
    hook = SessionRunHook()
    assert getattr(EstimatorSpec(TRAIN, loss=LOSS, **{field: [hook]}), field) == (hook,)
    assert getattr(EstimatorSpec(TRAIN, loss=LOSS), field) == ()


def test_a_scaffold_must_be_one():
    with pytest.raises(TypeError, match="scaffold must be a Scaffold, got <function"):
        EstimatorSpec(TRAIN, loss=LOSS, scaffold=lambda variables, batches: variables)


def test_replace_changes_a_field_but_never_the_mode():
    spec = EstimatorSpec(TRAIN, loss=LOSS)
    assert float(spec._replace(loss=np.float32(2), mode=TRAIN).loss) == 2
    assert float(spec.loss) == 1
    with pytest.raises(ValueError, match="mode cannot be changed from 'train' to 'eval'"):
        spec._replace(mode=EVAL)
    with pytest.raises(ValueError, match="Missing loss"):
        spec._replace(loss=None)
    with pytest.raises(AttributeError):
        spec.loss = LOSS


def test_a_spec_is_a_pytree_of_its_arrays():
    train_op = optax.sgd(0.1)
    ops = {"mean": metrics.mean(np.ones(2))}
    spec = EstimatorSpec(TRAIN, ANSWER, LOSS, train_op, ops)
    assert len(jax.tree.leaves(spec)) == 4
    doubled = jax.tree.map(lambda x: 2 * x, spec)
    assert float(doubled.loss) == 2
    assert doubled.train_op is train_op
    assert jax.eval_shape(lambda s: s, spec).loss == jax.ShapeDtypeStruct((), np.float32)


# What a model_fn takes.


class Model:
    def __call__(self, features, mode):
        return EstimatorSpec(mode, predictions={"y": features}, loss=LOSS)

    def method(self, features, mode):
        return self(features, mode)


def extra(features, mode, units, rate=0.5):
    return EstimatorSpec(mode, predictions={"y": features * units * rate}, loss=LOSS)


@pytest.mark.parametrize(
    "fn",
    [
        Model(),
        Model().method,
        functools.partial(extra, units=2),
        lambda features, mode: Model()(features, mode),
        lambda mode, features: Model()(features, mode),
        lambda features, **others: Model()(features, others["mode"]),
        lambda *, features, mode, labels=None, rate=0.5: Model()(features, mode),
    ],
)
def test_functions_methods_partials_and_objects_are_called_by_name(fn):
    spec = ModelFn(fn, None, None)(X, None, PREDICT)
    np.testing.assert_array_equal(spec.predictions["y"], X)


def test_a_model_fn_with_any_keyword_is_given_everything():
    seen = {}

    def fn(features, **given):
        seen.update(given)
        return EstimatorSpec(given["mode"], loss=LOSS)

    ModelFn(fn, {"a": 1}, "config")(X, X, EVAL)
    assert seen.keys() == {"labels", "mode", "params", "config"}
    assert (seen["params"], seen["config"]) == ({"a": 1}, "config")
    ModelFn(fn, None, "config")(X, X, EVAL, config="other")
    assert seen["config"] == "other"


@pytest.mark.parametrize(
    ("fn", "params", "error", "message"),
    [
        ("model", None, TypeError, "model_fn must be a function, got 'model'"),
        (None, None, TypeError, "model_fn must be a function, got None"),
        (lambda x, mode: 0, None, ValueError, r"takes \['x', 'mode'\]: .* named `features`"),
        (lambda: 0, None, ValueError, r"takes \[\]: it must have an argument named `features`"),
        (
            lambda features, lables: 0,
            None,
            ValueError,
            r"takes \['lables'\], which no Estimator gives. Did you mean \"labels\"",
        ),
        (lambda features, units: 0, None, ValueError, r"\['units'\].*put the rest into `params`"),
        (
            lambda features, mode: 0,
            {"a": 1},
            ValueError,
            r"without `params`, but the Estimator was given params",
        ),
    ],
)
def test_a_model_fn_with_other_arguments_is_refused_when_it_is_given(fn, params, error, message):
    with pytest.raises(error, match=message):
        ModelFn(fn, params, None)


def test_the_constructor_of_an_estimator_inspects_the_model_fn(model_dir):
    with pytest.raises(ValueError, match="Did you mean"):
        Estimator(lambda features, lables: 0, model_dir)


def test_params_that_nobody_gave_are_an_empty_dict():
    ModelFn(lambda features, mode, params: check_empty(params, mode), None, None)(X, None, EVAL)


def check_empty(params, mode):
    assert params == {}
    return EstimatorSpec(mode, loss=LOSS)


# What a model_fn returns.


@pytest.mark.parametrize("returned", [None, LOSS, {"loss": LOSS}, (LOSS, ANSWER)])
def test_a_model_fn_returns_an_estimator_spec(returned):
    with pytest.raises(TypeError, match="should return an EstimatorSpec, got"):
        ModelFn(lambda features: returned, None, None)(X, None, TRAIN)


def test_a_model_fn_returns_a_spec_of_the_mode_it_is_called_with():
    model_fn = ModelFn(lambda features: EstimatorSpec(TRAIN, loss=LOSS), None, None)
    with pytest.raises(ValueError, match=r"called with mode 'eval' but returned.*mode 'train'"):
        model_fn(X, None, EVAL)


def test_a_model_fn_without_labels_refuses_labels():
    model_fn = ModelFn(lambda features, mode: EstimatorSpec(mode, loss=LOSS), None, None)
    with pytest.raises(ValueError, match="takes no `labels`, but input_fn gives labels"):
        model_fn(X, X, TRAIN)


# Params.


def test_each_trace_gets_its_own_copy_of_params(model_dir):
    seen = []

    def fn(features, mode, params):
        seen.append(list(params["units"]))
        params["units"].append(99)
        params["new"] = 1
        net = layers.dense(features, params["units"][0])
        return EstimatorSpec(mode, predictions=net, loss=jnp.mean(net**2), train_op=optax.sgd(0.1))

    params = {"units": [3]}
    estimator = Estimator(fn, model_dir, params=params)
    params["units"].append(7)
    estimator.train(lambda: X, steps=1)
    estimator.evaluate(lambda: X)
    list(estimator.predict(lambda: X))
    estimator.params["units"].append(5)
    assert len(seen) >= 6
    assert all(units == [3] for units in seen)
    assert params == {"units": [3, 7]}


# What is checked when a model_fn is first traced.


def found(fn, mode=TRAIN, features=X):
    return discover(ModelFn(fn, None, None), mode, Batch(features))


def test_a_trainable_model_needs_a_train_op():
    def fn(features, mode):
        return EstimatorSpec(mode, loss=jnp.mean(layers.dense(features, 1)))

    with pytest.raises(
        ValueError, match=r"Missing train_op: .*\['dense/bias', 'dense/kernel'\].*optax.adam"
    ):
        found(fn)
    assert found(fn, EVAL).recipes.variables.keys() == {"dense/kernel", "dense/bias"}


def test_a_model_without_trainable_variables_needs_no_train_op():
    def fn(features, mode):
        return EstimatorSpec(mode, loss=get_variable("m", (), trainable=False) * features.sum())

    assert found(fn).trainable == []


def test_the_checks_of_a_spec_name_shapes_inside_a_trace():
    with pytest.raises(ValueError, match=r"single number, got an array of shape \(4, 2\)"):
        found(lambda features, mode: EstimatorSpec(mode, loss=features))


@pytest.mark.parametrize("name", ["loss", "global_step"])
def test_a_variable_may_not_be_called_like_an_output_of_the_step(name):
    def fn(features, mode):
        return EstimatorSpec(mode, loss=get_variable(name, (), trainable=False) * features.sum())

    with pytest.raises(ValueError, match=rf"\['{name}'\] for a variable and for an output"):
        found(fn)
