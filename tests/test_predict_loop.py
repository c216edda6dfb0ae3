"""Prediction: lazy, one example at a time, and never disturbed by what happens meanwhile."""

import contextlib

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import Notes, batches, endless, features_only, line, make

import estimator as est


@pytest.fixture
def estimator(model_dir):
    return make(line, model_dir).train(endless, steps=3)


def by_hand(estimator, data):
    kernel = estimator.get_variable_value("line/kernel")
    x = np.concatenate([features["x"] for features in data])
    return x @ kernel + estimator.get_variable_value("line/bias")


def spec_of(predictions):
    """Returns a model_fn that trains as `line` and predicts what the function makes of x."""

    def model_fn(features, labels, mode, params):
        spec = line(features, labels, mode, params)
        if mode == est.ModeKeys.PREDICT:
            return spec._replace(predictions=predictions(features["x"]))
        return spec

    return model_fn


def test_nothing_happens_before_the_first_next(model_dir):
    log = []

    def input_fn():
        log.append("input")
        return features_only(2)

    hook = Notes()
    answers = make(line, model_dir).predict(input_fn, hooks=[hook])
    assert log == hook.log == []
    next(answers)
    assert log == ["input"]
    assert hook.log[0] == ["A", "begin"]
    answers.close()


@pytest.mark.parametrize("keys", [None, ["y"], ("double", "y"), "y"])
def test_single_examples_are_dicts_of_the_keys_that_were_asked_for(estimator, keys):
    data = features_only(2) + features_only(1, rows=1)
    answers = list(estimator.predict(lambda: data, keys))
    wanted = by_hand(estimator, data)
    names = {"y", "double"} if keys is None else {keys} if isinstance(keys, str) else set(keys)
    assert len(answers) == 9
    for answer, y in zip(answers, wanted, strict=True):
        assert answer.keys() == names
        np.testing.assert_allclose(answer["y"], y, rtol=1e-6)
        assert isinstance(answer["y"], np.floating | np.ndarray)


def test_whole_batches_are_dicts_of_arrays(estimator):
    data = features_only(2) + features_only(1, rows=1)
    answers = list(estimator.predict(lambda: data, yield_single_examples=False))
    assert [answer["y"].shape for answer in answers] == [(4,), (4,), (1,)]
    y = np.concatenate([answer["y"] for answer in answers])
    np.testing.assert_allclose(y, by_hand(estimator, data), rtol=1e-6)


@pytest.mark.parametrize("single", [True, False])
def test_predictions_that_are_one_array_come_as_arrays(model_dir, single):
    estimator = make(spec_of(lambda x: x * 2), model_dir)
    data = features_only(2)
    answers = list(estimator.predict(lambda: data, yield_single_examples=single))
    wanted = [2 * features["x"] for features in data]
    np.testing.assert_allclose(answers, np.concatenate(wanted) if single else wanted)


def test_labels_are_dropped(estimator):
    with_labels = list(estimator.predict(lambda: batches(2)))
    without = list(estimator.predict(lambda: features_only(2)))
    assert with_labels == without


def test_an_empty_input_has_no_answers(estimator):
    assert list(estimator.predict(lambda: iter(()))) == []


def test_an_unknown_key_is_an_error_at_the_call(estimator):
    wanted = r"predicts \['double', 'y'\], not \['doubel'\]. Did you mean \"double\""
    with pytest.raises(ValueError, match=wanted):
        estimator.predict(lambda: features_only(1), ["y", "doubel"])


def test_keys_for_predictions_that_are_one_array_are_an_error_at_the_call(model_dir):
    estimator = make(spec_of(lambda x: x), model_dir)
    with pytest.raises(ValueError, match="predicts one array, not a dict"):
        estimator.predict(lambda: features_only(1), ["y"])


@pytest.mark.parametrize(
    ("predictions", "name"),
    [
        (lambda x: {"y": x, "total": jnp.sum(x)}, "total"),
        (lambda x: {"y": x, "mean": jnp.mean(x, 0)}, "mean"),
        (lambda x: jnp.sum(x), "predictions"),
    ],
)
def test_an_output_without_a_row_for_each_example_is_refused_by_name(model_dir, predictions, name):
    estimator = make(spec_of(predictions), model_dir)
    with pytest.raises(ValueError, match=f'"{name}" has shape .* but the batch has .4. examples'):
        list(estimator.predict(lambda: features_only(1)))
    (batch,) = estimator.predict(lambda: features_only(1), yield_single_examples=False)
    assert batch is not None
    if name == "total":
        assert len(list(estimator.predict(lambda: features_only(1), ["y"]))) == 4


def test_generators_can_be_read_in_turn(estimator):
    data = features_only(3)
    wanted = by_hand(estimator, data)
    one = estimator.predict(lambda: data, ["y"])
    two = estimator.predict(lambda: data)
    pairs = [(a["y"], b["y"]) for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(pairs, np.stack([wanted, wanted], 1), rtol=1e-6)


@pytest.mark.parametrize("loaded", [True, False])
def test_training_does_not_disturb_a_generator_that_is_half_read(estimator, loaded):
    """The variables are live, or were loaded; the step takes the memory of what it is given."""
    if loaded:
        estimator = make(line, estimator.model_dir)
    data = features_only(6)
    wanted = by_hand(estimator, data)
    answers = estimator.predict(lambda: data, ["y"])
    got = [next(answers)["y"]]
    estimator.train(endless, steps=3)
    got += [next(answers)["y"]]
    estimator.train(endless, steps=3)
    got += [answer["y"] for answer in answers]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    new = [answer["y"] for answer in estimator.predict(lambda: data)]
    np.testing.assert_allclose(new, by_hand(estimator, data), rtol=1e-6)


def test_a_generator_takes_the_variables_of_its_first_next(estimator):
    data = features_only(1)
    early = estimator.predict(lambda: data, ["y"])
    estimator.train(endless, steps=3)
    np.testing.assert_allclose(
        [answer["y"] for answer in early], by_hand(estimator, data), rtol=1e-6
    )


def test_answers_that_are_kept_do_not_change_when_training_goes_on(model_dir):
    """An answer that is a variable is not the memory that the next step takes."""

    def model_fn(features, labels, mode, params):
        spec = line(features, labels, mode, params)
        if mode == est.ModeKeys.PREDICT:
            kernel = est.get_variable("line/kernel", (2,))
            return spec._replace(predictions={"kernel": kernel})
        return spec

    estimator = make(model_fn, model_dir).train(endless, steps=1)
    (batch,) = estimator.predict(lambda: features_only(1), yield_single_examples=False)
    before = batch["kernel"].copy()
    estimator.train(endless, steps=5)
    np.testing.assert_array_equal(batch["kernel"], before)


def test_an_untrained_model_predicts_from_its_first_variables(model_dir):
    data = features_only(1)
    answers = [a["y"] for a in make(line, model_dir).predict(lambda: data)]
    np.testing.assert_allclose(answers, data[0]["x"] @ [0.5, -0.25], rtol=1e-6)


def test_any_checkpoint_can_be_asked(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=2).train(endless, steps=2)
    data = features_only(1)
    path = estimator.all_checkpoints()[0]
    answers = [a["y"] for a in estimator.predict(lambda: data, checkpoint_path=path)]
    np.testing.assert_allclose(answers, data[0]["x"] @ [0.5, -0.25], rtol=1e-6)


def test_the_input_is_closed_when_a_generator_is_closed(estimator):
    closed = []

    def input_fn():
        try:
            yield from features_only(9)
        finally:
            closed.append(True)

    answers = estimator.predict(input_fn)
    next(answers)
    answers.close()
    assert closed == [True]
    with contextlib.closing(estimator.predict(input_fn, ["y"])):
        pass
    assert closed == [True, True], "the generator was closed before it was started"


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_prefetching_changes_no_answer(model_dir, prefetch):
    estimator = make(line, model_dir, prefetch=prefetch).train(endless, steps=3)
    data = features_only(7)
    answers = [answer["y"] for answer in estimator.predict(lambda: data)]
    np.testing.assert_allclose(answers, by_hand(estimator, data), rtol=1e-6)


def test_hooks_of_the_spec_are_called_and_may_fetch_predictions(model_dir):
    hook = Notes(fetches={"mine": "y", "weights": "line/kernel"})

    def model_fn(features, labels, mode, params):
        return line(features, labels, mode, params)._replace(prediction_hooks=[hook])

    answers = list(make(model_fn, model_dir).predict(lambda: features_only(1)))
    (result,) = hook.results
    np.testing.assert_array_equal(result["mine"], [answer["y"] for answer in answers])
    assert result["weights"].shape == (2,)


def test_a_predict_without_predictions_says_what_is_missing(model_dir):
    def model_fn(features, labels, mode):
        return est.EstimatorSpec(mode, loss=jnp.sum(features["x"]), train_op=optax.sgd(0.1))

    with pytest.raises(ValueError, match="Missing predictions"):
        next(make(model_fn, model_dir).predict(lambda: features_only(1)))


def test_a_later_call_may_have_batches_of_another_size(model_dir):
    estimator = make(line, model_dir)
    for rows in (50, 3, 1):
        x = {"x": np.ones((rows, 2), np.float32)}
        assert len(list(estimator.predict(lambda x=x: x))) == rows


def test_rows_are_counted_in_every_batch(model_dir):
    def model_fn(features, mode):
        return est.EstimatorSpec(mode, predictions=np.zeros(4, np.float32) + features["x"][0])

    def input_fn():
        yield {"x": np.ones(4, np.float32)}
        yield {"x": np.ones(2, np.float32)}

    answers = est.Estimator(model_fn, model_dir).predict(input_fn)
    with pytest.raises(ValueError, match=r"shape \(4,\), but the batch has \[2\] examples"):
        list(answers)
