"""Scaffold: first values chosen from data, once, from batches that are trained on afterwards."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from models import Notes, batches, endless, joined, line, make, steps_of, values_of

import estimator as est


def model_of(init_fn):
    """Returns `line` with a scaffold, and a variable that adds up the labels it is trained on."""

    def model_fn(features, labels, mode, params):
        center = est.get_variable("center", (2,), needs_init=True, trainable=False)
        total = est.get_variable("total", (), 0.0, trainable=False)
        if mode == est.ModeKeys.TRAIN:
            est.assign("total", total + jnp.sum(labels))
        est.tag("center_now", center)
        spec = line(features, labels, mode, params)
        return spec._replace(scaffold=est.Scaffold(init_fn))

    return model_fn


DATA = batches(6)
TOTAL = float(sum(labels.sum() for _, labels in DATA))


def rewinding():
    x, y = joined(DATA)
    return est.numpy_input_fn(x, y, batch_size=4, num_epochs=1, shuffle=False)()


def generator():
    yield from DATA


def refilling():
    x, y = np.zeros((4, 2), np.float32), np.zeros(4, np.float32)
    for features, labels in DATA:
        x[:], y[:] = features["x"], labels
        yield {"x": x}, y


@pytest.mark.parametrize("source", [rewinding, generator, refilling])
@pytest.mark.parametrize("settings", [{}, {"prefetch": 2, "steps_per_execution": 4}])
@pytest.mark.parametrize("looked_at", [0, 2, 6])
def test_batches_that_were_looked_at_are_trained_on(model_dir, source, settings, looked_at):
    shown = []

    def init_fn(variables, data):
        for _ in range(looked_at):
            features, labels = next(data)
            shown.append((np.array(features["x"]), np.array(labels)))
        return {**variables, "center": jnp.ones(2)}

    estimator = make(model_of(init_fn), model_dir, **settings).train(source)
    for (x, y), (features, labels) in zip(shown, DATA, strict=False):
        np.testing.assert_array_equal(x, features["x"])
        np.testing.assert_array_equal(y, labels)
    assert estimator.get_variable_value("global_step") == 6
    np.testing.assert_allclose(estimator.get_variable_value("total"), TOTAL, rtol=1e-5)


def test_the_end_of_the_input_ends_the_batches(model_dir):
    def init_fn(variables, data):
        assert len(list(data)) == 6
        return variables

    estimator = make(model_of(init_fn), model_dir).train(generator)
    assert estimator.get_variable_value("global_step") == 6


def test_values_are_chosen_before_step_0_is_saved_and_only_once(model_dir):
    calls = []

    def init_fn(variables, data):
        calls.append(sorted(variables))
        features, _ = next(data)
        return {**variables, "center": features["x"][0]}

    estimator = make(model_of(init_fn), model_dir)
    hook = Notes(fetches="center_now")
    estimator.train(generator, [hook])
    np.testing.assert_array_equal(hook.results[0], DATA[0][0]["x"][0])
    value = est.load_variable(estimator.all_checkpoints()[0], "center")
    np.testing.assert_array_equal(value, DATA[0][0]["x"][0])
    estimator.train(generator)
    make(model_of(init_fn), model_dir).train(generator)
    assert calls == [["center", "line/bias", "line/kernel", "total"]]


def test_evaluate_and_predict_do_not_run_it(model_dir):
    def never(variables, data):
        raise AssertionError("not in TRAIN")

    estimator = make(model_of(never), model_dir, warm_start_from={"center": np.ones(2)})
    estimator.evaluate(generator)
    list(estimator.predict(generator))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {"center": v["center"]}, r"returned the variables \['center'\], but the model"),
        (lambda v: {**v, "more": 1.0}, "returned the variables .*more"),
        (lambda v: {**v, "center": np.ones(3, np.float32)}, r"gave center the shape \(3,\)"),
        (
            lambda v: {**v, "center": np.ones(2, np.int32)},
            "gave center .* dtype int32, but the model's has .* float32",
        ),
        (lambda v: {**v, "total": jnp.bfloat16(1)}, "gave total .* dtype bfloat16, but"),
    ],
)
def test_names_shapes_and_dtypes_may_not_change(model_dir, change, message):
    estimator = make(model_of(lambda variables, data: change(variables)), model_dir)
    with pytest.raises(ValueError, match=f"Scaffold: init_fn {message}"):
        estimator.train(generator)
    assert steps_of(estimator) == []


def test_a_warm_start_wins_by_name(model_dir):
    def init_fn(variables, data):
        return {**variables, "center": jnp.ones(2), "line/bias": jnp.float32(5)}

    warm = {"center": np.array([7.0, 8.0])}
    estimator = make(model_of(init_fn), model_dir, warm_start_from=warm).train(endless, steps=1)
    first = estimator.all_checkpoints()[0]
    assert est.load_variable(first, "center").tolist() == [7, 8]
    assert est.load_variable(first, "line/bias") == 5


def test_an_error_of_init_fn_is_raised_as_it_is_and_the_next_call_begins_anew(model_dir):
    fail = [True]

    def init_fn(variables, data):
        next(data)
        if fail:
            raise ArithmeticError("enough")
        return variables

    estimator = make(model_of(init_fn), model_dir)
    with pytest.raises(ArithmeticError, match="enough"):
        estimator.train(generator)
    fail.clear()
    estimator.train(generator)
    np.testing.assert_allclose(estimator.get_variable_value("total"), TOTAL, rtol=1e-5)


def test_without_an_init_fn_a_scaffold_does_nothing(model_dir):
    estimator = make(model_of(None), model_dir).train(generator)
    assert estimator.get_variable_value("global_step") == 6


def test_a_scaffold_chooses_the_same_on_a_mesh(tmp_path):
    def init_fn(variables, data):
        features, _ = next(data)
        return {**variables, "center": jnp.mean(features["x"], 0)}

    runs = [
        make(model_of(init_fn), str(tmp_path / str(k)), train_distribute=distribute).train(
            generator
        )
        for k, distribute in enumerate((None, est.DataParallel()))
    ]
    one, four = map(values_of, runs)
    for name in one:
        np.testing.assert_allclose(four[name], one[name], rtol=1e-5, atol=1e-6)


# scaffold_apply.


@dataclasses.dataclass(frozen=True)
class LengthsSeen(est.HostRecipe):
    """How many letters a text has."""

    key: str
    dtype = np.dtype("float32")
    dims = ("batch",)

    def __call__(self, features, labels):
        return np.array([len(text) for text in features[self.key]], np.float32)


def test_scaffold_apply_asks_for_variables_and_what_the_host_made(model_dir):
    looked = []

    def net(features, labels):
        kernel = est.get_variable("line/kernel", (2,))
        return features["x"] @ kernel + est.host_feature(LengthsSeen("town"))

    def init_fn(variables, data):
        batch = next(data)
        looked.append(est.scaffold_apply(net, variables, batch))
        return {**variables, "center": looked[0][:2]}

    def model_fn(features, labels, mode, params):
        est.get_variable("center", (2,), needs_init=True, trainable=False)
        spec = line(features, labels, mode, params)
        loss = spec.loss + 0 * jnp.sum(net(features, labels))
        return spec._replace(loss=loss, scaffold=est.Scaffold(init_fn))

    towns = ["Rome", "Oslo", "Lima", "Bonn!"]
    data = [({**features, "town": towns}, labels) for features, labels in DATA]
    estimator = make(model_fn, model_dir).train(lambda: data)
    wanted = DATA[0][0]["x"] @ [0.5, -0.25] + [4, 4, 4, 5]
    np.testing.assert_allclose(looked[0], wanted, rtol=1e-6)
    np.testing.assert_allclose(estimator.get_variable_value("center"), wanted[:2], rtol=1e-6)


def test_scaffold_apply_wants_a_whole_batch(model_dir):
    def init_fn(variables, data):
        features, labels = next(data)
        est.scaffold_apply(lambda features, labels: features["x"], variables, (features, labels))

    with pytest.raises(TypeError, match="the batch must be one that Scaffold's init_fn was given"):
        make(model_of(init_fn), model_dir).train(generator)
