"""Warm start: which first values come from elsewhere, by what name, and when."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import batches, endless, line, make, steps_of, values_of

import estimator as est
from estimator import WarmStartSettings

NAMES = ["enc/w", "enc/b", "dec/w", "enc/count"]


def model_of(*names, shapes=None, value=0.0):
    """Returns a model_fn with these variables, all of one value; `count` is not trained."""
    shapes = shapes or {}

    def model_fn(features, labels, mode):
        total = jnp.sum(features["x"]) * 0
        for name in names:
            trainable = not name.endswith("count")
            shape = shapes.get(name, (2,))
            fill = np.full(shape, value, np.float32)
            total += jnp.sum(est.get_variable(name, shape, fill, trainable=trainable))
        if mode == est.ModeKeys.PREDICT:
            return est.EstimatorSpec(mode, predictions=features["x"][:, 0] * 0 + total)
        loss = total + (0 if labels is None else 0 * jnp.sum(labels))
        return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.0))

    return model_fn


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The directory of a model whose variables are all 7."""
    path = str(tmp_path_factory.mktemp("before") / "model")
    make(model_of(*NAMES, value=7.0), path).train(endless, steps=2)
    return path


def taken(model_dir, warm_start_from, names=NAMES, **kwargs):
    """Returns the names of the variables whose first value came from the warm start."""
    estimator = make(model_of(*names, **kwargs), model_dir, warm_start_from=warm_start_from)
    estimator.train(endless, steps=1)
    assert estimator.get_variable_value("global_step") == 1, "the step count is not taken"
    return {name for name, value in values_of(estimator).items() if (value == 7).all()}


TRAINABLE = {"enc/w", "enc/b", "dec/w"}


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (".*", TRAINABLE),
        ("enc", {"enc/w", "enc/b"}),
        ("enc/w", {"enc/w"}),
        (".*w$", {"enc/w", "dec/w"}),
        (["enc/.*"], {"enc/w", "enc/b", "enc/count"}),
        ([".*"], {*TRAINABLE, "enc/count"}),
        (["dec/w", "enc/b"], {"dec/w", "enc/b"}),
    ],
)
def test_patterns_choose_variables_and_a_list_those_that_are_not_trained_too(
    model_dir, before, patterns, wanted
):
    assert taken(model_dir, WarmStartSettings(before, patterns)) == wanted


def test_a_path_takes_all_trainable_variables(model_dir, before, tmp_path):
    assert taken(model_dir, before) == TRAINABLE
    checkpoint = make(line, before).latest_checkpoint()
    assert taken(str(tmp_path / "b"), checkpoint) == TRAINABLE


def test_names_can_be_mapped(model_dir, before):
    settings = WarmStartSettings(before, var_name_to_prev_var_name={"new": "enc/w"})
    assert taken(model_dir, settings, ["new", "other"]) == {"new"}


def test_without_patterns_only_mapped_names_are_taken(model_dir, before):
    settings = WarmStartSettings(before, None, var_name_to_prev_var_name={"enc/b": "dec/w"})
    assert taken(model_dir, settings) == {"enc/b"}


def test_arrays_are_taken_by_name(model_dir, caplog):
    arrays = {"enc/w": np.full(2, 7.0), "enc/count": [7, 7], "global_step": 9, "enc/x": 1.0}
    with caplog.at_level("INFO", "estimator"):
        assert taken(model_dir, arrays) == {"enc/w", "enc/count"}
    assert "no such variables: ['enc/x']. Did you mean \"enc/" in caplog.text
    assert "global_step" not in caplog.text.split("no such variables")[1].splitlines()[0]


def test_what_was_taken_is_logged_as_a_table(model_dir, before, caplog):
    with caplog.at_level("INFO", "estimator"):
        taken(model_dir, WarmStartSettings(before, "enc"))
    (table,) = [r.getMessage() for r in caplog.records if "Warm start from" in r.getMessage()]
    rows = dict(line.split() for line in table.splitlines()[1:])
    assert rows == {"dec/w": "left", "enc/b": "taken", "enc/count": "left", "enc/w": "taken"}


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_evaluate_and_predict_of_an_untrained_model_use_the_warm_start(model_dir, before, call):
    estimator = make(model_of(*NAMES), model_dir, warm_start_from=before)
    if call == "evaluate":
        results = estimator.evaluate(lambda: batches(1))
        assert (results["loss"], results["global_step"]) == (7 * 6, 0)
    else:
        assert next(estimator.predict(lambda: batches(1))) == 7 * 6
    assert steps_of(estimator) == []


def test_a_checkpoint_in_the_model_dir_wins(model_dir, before):
    make(model_of(*NAMES, value=3.0), model_dir).train(endless, steps=1)
    estimator = make(model_of(*NAMES), model_dir, warm_start_from=before)
    assert estimator.evaluate(lambda: batches(1))["loss"] == 3 * 8
    estimator.train(endless, steps=1)
    assert (estimator.get_variable_value("enc/w") == 3).all()
    assert estimator.get_variable_value("global_step") == 2


def test_the_optimizers_state_is_not_taken(model_dir, tmp_path):
    def momentum(rate):
        def model_fn(features, labels, mode, params):
            return line(features, labels, mode, params)._replace(train_op=optax.sgd(rate, 0.9))

        return model_fn

    first = make(momentum(0.1), str(tmp_path / "a")).train(endless, steps=3)
    values = {n: v for n, v in values_of(first).items() if n != "global_step"}
    runs = [
        make(momentum(0.1), str(tmp_path / name), warm_start_from=origin).train(endless, steps=2)
        for name, origin in (("b", first.model_dir), ("c", values))
    ]
    one, two = (run.get_variable_value("line/kernel") for run in runs)
    np.testing.assert_array_equal(one, two)


def test_arrays_that_change_later_or_that_training_updates_do_not_matter(model_dir):
    kernel = np.array([7.0, 7.0], np.float32)
    estimator = make(line, model_dir, warm_start_from={"line/kernel": kernel})
    kernel[:] = 0
    loss = estimator.evaluate(lambda: batches(1))["loss"]
    estimator.train(endless, steps=2)
    fresh = make(line, model_dir + "2", warm_start_from={"line/kernel": np.full(2, 7.0)})
    assert fresh.evaluate(lambda: batches(1))["loss"] == loss


@pytest.mark.parametrize(
    ("settings", "names", "kwargs", "message"),
    [
        (
            {"var_name_to_prev_var_name": {"enc/W": "enc/w"}},
            NAMES,
            {},
            r"names \['enc/W'\], which the model does not have. Did you mean \"enc/w\"",
        ),
        (
            {"var_name_to_prev_var_name": {"enc/w": "enc/W"}},
            NAMES,
            {},
            r'has no "enc/W" for "enc/w". Did you mean "enc/w"',
        ),
        (
            {"var_name_to_prev_var_name": {"new": "enc/w"}},
            ["new"],
            {"shapes": {"new": (3,)}},
            r'"new" has shape \(3,\) in the model and \(2,\)',
        ),
        (
            {"vars_to_warm_start": "dec", "var_name_to_prev_var_name": {"enc/w": "enc/b"}},
            NAMES,
            {},
            r"names \['enc/w'\], which vars_to_warm_start='dec' leaves out",
        ),
        ({}, ["a", "b"], {}, r"nothing of .* fits the model's variables \['a', 'b'\]"),
        ({"vars_to_warm_start": "nothing"}, NAMES, {}, "nothing of .* fits"),
    ],
)
def test_what_cannot_be_taken_is_an_error(model_dir, before, settings, names, kwargs, message):
    with pytest.raises(ValueError, match=message):
        taken(model_dir, WarmStartSettings(before, **settings), names, **kwargs)


def test_a_shape_that_differs_is_left_and_named(model_dir, before, caplog):
    assert taken(model_dir, before, shapes={"enc/w": (3,)}) == {"enc/b", "dec/w"}
    assert "enc/w" in caplog.text
    assert "[3] here, [2] there" in caplog.text


def test_an_array_of_another_shape_is_an_error(model_dir):
    with pytest.raises(ValueError, match=r'"enc/w" has shape \(2,\) in the model and \(3,\)'):
        taken(model_dir, {"enc/w": np.zeros(3)})


def test_a_path_without_a_checkpoint_is_an_error(model_dir, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        taken(model_dir, str(tmp_path / "nowhere"))


def test_a_failed_warm_start_leaves_no_checkpoint(model_dir):
    estimator = make(model_of(*NAMES), model_dir, warm_start_from={"enc/w": np.zeros(3)})
    with pytest.raises(ValueError, match="has shape"):
        estimator.train(endless, steps=1)
    assert steps_of(estimator) == []
