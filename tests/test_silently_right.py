"""What went wrong without a word in prototypes, in batches and numbers: right, or an error."""

import dataclasses
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import Traced, batches, compiled_programs, line, make, steps_of
from resuming import assert_same
from train_process import content, make_net, net, shuffled, table

import estimator as est

# Arrays that are written again.


@dataclasses.dataclass(frozen=True)
class RowLengths(est.HostRecipe):
    """How long the strings are."""

    name = "lengths"
    dtype = np.dtype("int32")
    dims = ("batch",)

    def __call__(self, features, labels):
        return np.array([len(text) for text in features["text"]], np.int32)


@dataclasses.dataclass(frozen=True)
class Alias(est.HostRecipe):
    """The array of the batch itself, not a copy."""

    name = "alias"
    dtype = np.dtype("float32")
    dims = ("batch",)

    def __call__(self, features, labels):
        return features["x"]


def notebook(features, labels, mode):
    """Writes down what it is given at each step."""
    step = est.get_global_step()
    parts = {
        "x": features["x"][0],
        "labels": labels[0].astype(jnp.float32),
        "lengths": est.host_feature(RowLengths())[0].astype(jnp.float32),
        "alias": est.host_feature(Alias())[0],
    }
    for name, value in parts.items():
        seen = est.get_variable(name, (8,), 0.0, trainable=False)
        est.assign(name, seen.at[step].set(value))
    metrics = {name: est.metrics.mean(value * 10.0**step) for name, value in parts.items()}
    if mode == est.ModeKeys.EVAL:
        metrics = {name: est.metrics.mean(value**2) for name, value in parts.items()}
    return est.EstimatorSpec(mode, loss=parts["x"] + 0.0, eval_metric_ops=metrics)


def refilled(strings: Any) -> Any:
    """Returns an input_fn of eight batches that all are the same arrays."""

    def input_fn():
        x, labels = np.zeros(4, np.float32), np.zeros(4, np.int32)
        for i in range(1, 9):
            x[:], labels[:], strings[:] = i, i, "s" * i
            yield {"x": x, "text": strings}, labels
        x[:], labels[:], strings[:] = -1, -1, ""

    return input_fn


@pytest.mark.parametrize(
    ("prefetch", "block", "kind"), [(0, 1, object), (2, 1, "<U9"), (0, 4, "<U9"), (2, 4, object)]
)
def test_a_generator_that_refills_its_arrays_gives_the_batches_it_gave(
    model_dir, prefetch, block, kind
):
    input_fn = refilled(np.full(4, "", kind))
    settings = {"prefetch": prefetch, "steps_per_execution": block, "log_step_count_steps": None}
    estimator = make(notebook, model_dir, save_summary_steps=0, **settings)
    estimator.train(input_fn)
    for name in ("x", "labels", "lengths", "alias"):
        assert estimator.get_variable_value(name).tolist() == list(range(1, 9)), name
    results = estimator.evaluate(input_fn)
    for name in ("x", "labels", "lengths", "alias"):
        assert results[name] == np.float32(np.mean(np.arange(1, 9) ** 2)), name


@pytest.mark.parametrize("prefetch", [0, 2])
def test_predictions_for_a_generator_that_refills_its_arrays_are_right(model_dir, prefetch):
    def model_fn(features, mode):
        alias = est.host_feature(Alias())
        return est.EstimatorSpec(mode, predictions={"x": features["x"] * 1.0, "alias": alias})

    input_fn = refilled(np.full(4, "", object))
    estimator = make(model_fn, model_dir, prefetch=prefetch)
    answers = list(estimator.predict(lambda: (f for f, _ in input_fn())))
    assert [a["x"] for a in answers] == np.repeat(np.arange(1, 9), 4).tolist()
    assert [a["alias"] for a in answers] == np.repeat(np.arange(1, 9), 4).tolist()


def test_a_list_that_is_refilled_gives_the_batches_it_gave(model_dir):
    def model_fn(features, labels, mode):
        seen = est.get_variable("seen", (8,), 0.0, trainable=False)
        est.assign("seen", seen.at[est.get_global_step()].set(features["x"][0]))
        return est.EstimatorSpec(mode, loss=jnp.mean(features["x"]))

    def input_fn():
        x: list[float] = [0.0] * 4
        for i in range(1, 9):
            x[:] = [float(i)] * 4
            yield {"x": x}, [i] * 4

    estimator = make(model_fn, model_dir, prefetch=2, steps_per_execution=4)
    estimator.train(input_fn)
    assert estimator.get_variable_value("seen").tolist() == list(range(1, 9))


# Features that are not used.


def test_a_feature_that_is_not_used_never_compiles_anything_anew(model_dir):
    def input_fn():
        for i, (features, labels) in enumerate(batches(6, rows=8)):
            words = np.array(["w" * (i + 1)] * 8)
            wide = np.ones((8, i + 1), np.float64)
            ragged = [[1] * (j + i + 1) for j in range(8)]
            ids = np.full((8, 2), 2**40 + i)
            yield {**features, "words": words, "wide": wide, "ragged": ragged, "ids": ids}, labels

    traced = Traced()
    estimator = make(traced, model_dir, save_checkpoints_steps=1)
    estimator.train(lambda: list(input_fn())[:2])
    estimator.evaluate(lambda: list(input_fn())[:1])
    once, programs = dict(traced.counts), compiled_programs()
    estimator.train(input_fn)
    estimator.evaluate(input_fn)
    assert traced.counts == once
    assert compiled_programs() == programs


@pytest.mark.parametrize(
    "size",
    [
        lambda w: w.shape[0] + 10 * w.shape[1],
        lambda w: len(w) + 10 * jnp.shape(w)[1],
        lambda w: w.size // w.shape[1] + 10 * jnp.ones_like(w)[0].sum(),
        lambda w: (
            jax.tree.map(lambda x: x.shape[0], {"w": w})["w"] + 10 * w.reshape(-1, 2).shape[1]
        ),
    ],
    ids=["shape", "len", "ones_like", "tree"],
)
def test_a_feature_of_which_only_the_shape_counts_is_right_at_every_batch_size(model_dir, size):
    def model_fn(features, mode):
        return est.EstimatorSpec(mode, predictions=features["x"] * 0 + size(features["w"]))

    estimator = make(model_fn, model_dir)
    rows = (8, 5, 3, 8)
    answers = estimator.predict(
        lambda: ({"x": np.zeros(n, np.float32), "w": np.zeros((n, 2), np.float32)} for n in rows)
    )
    assert [float(a) for a in answers] == [float(20 + n) for n in rows for _ in range(n)]


def test_a_key_that_a_later_input_brings_is_seen(model_dir):
    def model_fn(features, labels, mode, params):
        weight = features["weight"] if "weight" in features else None  # noqa: SIM401
        spec = line({"x": features["x"]}, labels, mode, params)
        return spec._replace(eval_metric_ops={"mean": est.metrics.mean(labels, weight)})

    estimator = make(model_fn, model_dir)
    x, labels = np.zeros((4, 2), np.float32), np.array([0, 0, 2, 2])
    weight = np.array([1.0, 1, 3, 3], np.float32)
    estimator.train(lambda: ({"x": x}, labels), steps=1)
    for _ in range(2):
        assert estimator.evaluate(lambda: ({"x": x}, labels))["mean"] == 1
        assert estimator.evaluate(lambda: ({"x": x, "weight": weight}, labels))["mean"] == 1.5


def test_a_key_that_the_second_batch_brings_is_seen(model_dir):
    def model_fn(features, mode):
        extra = features["extra"] if "extra" in features else 0.0  # noqa: SIM401
        return est.EstimatorSpec(mode, predictions=features["x"] + extra)

    x = np.ones(2, np.float32)
    batches = [{"x": x}, {"x": x, "extra": x}, {"x": x}]
    for prefetch in (0, 2):
        answers = make(model_fn, model_dir, prefetch=prefetch).predict(lambda: iter(batches))
        assert [float(a) for a in answers] == [1, 1, 2, 2, 1, 1]


# Numbers that are not numbers.


@pytest.mark.parametrize("block", [1, 4])
def test_a_finite_loss_with_a_gradient_that_is_none_is_not_saved(model_dir, block):
    def model_fn(features, labels, mode):
        bent = est.get_variable("bent/kernel", (4,), 1.0)
        straight = est.get_variable("straight/kernel", (4,), 1.0)
        # The root of 0 is 0, its slope is not a number.
        loss = jnp.sqrt(jnp.sum((features["x"] * bent) ** 2)) + jnp.mean(straight**2)
        return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))

    def input_fn():
        yield from [{"x": np.ones((8, 4), np.float32)}] * 7
        yield {"x": np.zeros((8, 4), np.float32)}

    settings = {"save_checkpoints_steps": 4, "steps_per_execution": block}
    estimator = make(model_fn, model_dir, **settings, log_step_count_steps=None)
    message = r"Not a finite number: the variables \['bent/kernel'\]. Nothing is saved at step 8"
    with pytest.raises(est.NanLossDuringTrainingError, match=message):
        estimator.train(input_fn)
    assert steps_of(estimator) == [0, 4]
    assert np.isfinite(estimator.get_variable_value("bent/kernel")).all()
    estimator.train(lambda: [{"x": np.ones((8, 4), np.float32)}])
    assert steps_of(estimator) == [0, 4, 5]


def test_a_loss_that_was_no_number_once_between_two_saves_is_not_forgotten(model_dir):
    def model_fn(features, labels, mode):
        w = est.get_variable("w", (), 1.0)
        x = jnp.mean(features["x"])
        # The gradient stays a number.
        loss = w**2 + jax.lax.stop_gradient(jnp.log(x))
        return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))

    values = [1, 1, 1, 1, -1, 1, 1, 1, 1]
    estimator = make(model_fn, model_dir, save_checkpoints_steps=4, steps_per_execution=4)
    with pytest.raises(est.NanLossDuringTrainingError, match="the loss at step 5"):
        estimator.train(lambda: ({"x": np.full((2,), v, np.float32)} for v in values))
    assert steps_of(estimator) == [0, 4]


# Dtypes and sizes.


def trained_anew(estimator, x_dtype, label_dtype):
    """Returns what an Estimator without a model_dir makes of the table in these dtypes."""
    shutil.rmtree(estimator.model_dir, ignore_errors=True)
    features, labels = table(40)
    x, y = features["x"].astype(x_dtype), labels.astype(label_dtype)
    input_fn = est.numpy_input_fn({"x": x}, y, 8, num_epochs=2, shuffle=True, seed=1)
    results = estimator.train(input_fn).evaluate(input_fn)
    return {**content(estimator.model_dir), "position": None, **results}


def test_other_dtypes_give_the_same_numbers(model_dir):
    estimator = make_net(model_dir, steps_per_execution=4)
    wanted = trained_anew(estimator, "float32", "int32")
    for dtypes in (("float64", "int64"), ("float32", "uint8"), (">f8", ">i8")):
        assert_same(trained_anew(estimator, *dtypes), wanted)


def test_arrays_that_do_not_lie_in_order_give_the_same_numbers(model_dir):
    features, labels = table(8)
    x = features["x"]
    ways = [x, np.asfortranarray(x), np.repeat(x, 2, 0)[::2], x[::-1][::-1], jnp.asarray(x)]
    estimator = make_net(model_dir)
    results = [estimator.evaluate(lambda x=x: ({"x": x}, labels)) for x in ways]
    assert all(result == results[0] for result in results)


def measured(features, labels, mode):
    """The net, with means of what it is given."""
    spec = net(features, labels, mode)
    if mode == est.ModeKeys.PREDICT:
        return spec
    values = jnp.abs(features["x"])
    weights = 1.0 + features["x"][:, :1] ** 2
    more = {"mean": est.metrics.mean(values), "weighted": est.metrics.mean(values, weights)}
    return spec._replace(eval_metric_ops={**more, "accuracy": spec.eval_metric_ops["accuracy"]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> est.Estimator:
    return make(measured, str(tmp_path_factory.mktemp("trained"))).train(shuffled(), steps=10)


@pytest.mark.parametrize("batch_size", [1, 3, 42])
def test_metrics_and_answers_do_not_depend_on_the_batch_size(trained, batch_size):
    features, labels = table()
    x = features["x"].astype(np.float64)
    ordered = est.numpy_input_fn(features, labels, batch_size, shuffle=False)
    results = trained.evaluate(ordered)
    answers = list(trained.predict(ordered))
    weights = np.broadcast_to(1 + x[:, :1] ** 2, x.shape)
    classes = np.array([a["classes"] for a in answers])
    assert results["mean"] == pytest.approx(np.abs(x).mean(), rel=1e-6)
    assert results["weighted"] == pytest.approx(np.average(np.abs(x), weights=weights), rel=1e-6)
    assert results["accuracy"] == pytest.approx((classes == labels).mean(), rel=1e-6)
    whole = list(trained.predict(est.numpy_input_fn(features, None, 43, shuffle=False)))
    np.testing.assert_allclose(
        [a["probabilities"] for a in answers], [a["probabilities"] for a in whole], rtol=1e-5
    )


def test_a_short_last_batch_counts_for_what_it_is(model_dir):
    def input_fn():
        for n in (4, 4, 1):
            x = np.full((n, 2), n, np.float32)
            yield {"x": x}, np.zeros(n, np.float32)

    estimator = make(line, model_dir)
    errors = [abs(n * 0.25) for n in (4, 4, 1) for _ in range(n)]
    assert estimator.evaluate(input_fn)["error"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert len(list(estimator.predict(lambda: (f for f, _ in input_fn())))) == 9
    weights = {"k": np.array([0.5, -0.25]), "b": 0.0}
    estimator.train(input_fn)
    for n in (4, 4, 1):
        slope = 2 * (n * weights["k"].sum() + weights["b"])
        weights = {"k": weights["k"] - 0.1 * slope * n, "b": weights["b"] - 0.1 * slope}
    np.testing.assert_allclose(estimator.get_variable_value("line/kernel"), weights["k"], rtol=1e-4)


def test_a_model_fn_that_asks_what_a_feature_is_gets_the_same_answer_in_every_trace(model_dir):
    def model_fn(features, mode):
        shift = 100.0 if isinstance(features["other"], jax.Array) else 0.0
        return est.EstimatorSpec(mode, predictions=features["x"] + shift)

    x = np.zeros(3, np.float32)
    answers = make(model_fn, model_dir).predict(lambda: {"x": x, "other": x})
    assert [float(answer) for answer in answers] == [100.0, 100.0, 100.0]


class OneDict:
    """Gives new arrays, which it never writes again, in one dict."""

    fresh_batches = True

    def __init__(self):
        self.features = {}
        self.count = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.count += 1
        if self.count > 4:
            raise StopIteration
        self.features["x"] = np.full(2, self.count, np.float32)
        return self.features


def test_a_source_may_reuse_the_dict_that_its_new_arrays_come_in(model_dir):
    def model_fn(features, mode):
        return est.EstimatorSpec(mode, predictions=features["x"])

    answers = list(est.Estimator(model_fn, model_dir).predict(OneDict))
    assert answers == [1, 1, 2, 2, 3, 3, 4, 4]
