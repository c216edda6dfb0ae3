"""NanTensorHook, and what the saver refuses: a number that is none ends the run, unsaved."""

import jax.numpy as jnp
import numpy as np
import pytest
from models import (
    Notes,
    endless,
    line,
    poisoned,
    quiet,
    steps_of,
    values_of,
)

import estimator as est


def poison(bad_at, count=8, value=np.nan):
    """Returns batches of which one, counted from 1, makes the loss and the weight NaN."""
    xs = [np.full((4, 2), value if i == bad_at else 0.1, np.float32) for i in range(1, count + 1)]
    return [({"x": x}, np.zeros(4, np.float32)) for x in xs]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("every", [1, 2, 100])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_no_number_raises_and_nothing_bad_is_saved(model_dir, every, k, value):
    estimator = quiet(
        model_dir, poisoned, save_checkpoints_steps=2, steps_per_execution=k, keep_checkpoint_max=0
    )
    hook = est.NanTensorHook(every_n_iter=every)
    with pytest.raises(est.NanLossDuringTrainingError, match="at step 5"):
        estimator.train(lambda: poison(5, value=value), [hook])
    assert steps_of(estimator) == [0, 2, 4]
    assert all(np.isfinite(value).all() for value in values_of(estimator).values())
    (answer,) = estimator.predict(lambda: {"x": np.ones((1, 1), np.float32)})
    assert np.isfinite(answer)
    estimator.train(lambda: poison(0, count=2))
    assert steps_of(estimator) == [0, 2, 4, 6]


@pytest.mark.parametrize("every", [1, 100])
def test_a_loss_that_is_no_number_may_just_end_the_run(model_dir, every, caplog):
    estimator = quiet(model_dir, poisoned, save_checkpoints_steps=2)
    hook, notes = est.NanTensorHook(fail_on_nan_loss=False, every_n_iter=every), Notes()
    estimator.train(lambda: poison(3), [hook, notes])
    assert steps_of(estimator) == [0, 2]
    assert notes.log[-1][:2] == ["A", "end"]
    assert notes.steps[-1] == (3 if every == 1 else 4)
    assert "step 3" in caplog.text
    assert np.isfinite(estimator.get_variable_value("weight"))


def test_without_a_saver_a_bad_loss_still_raises_at_the_end(model_dir):
    estimator = quiet(model_dir, poisoned, save_checkpoints_secs=None, save_checkpoints_steps=None)
    with pytest.raises(est.NanLossDuringTrainingError, match="at step 5"):
        estimator.train(lambda: poison(5))


def test_a_finite_loss_with_a_gradient_that_is_none_is_found_before_the_save(model_dir):
    def model_fn(features, labels, mode, params):
        weight = est.get_variable("weight", (), 0.0, np.float32)
        spec = line(features, labels, mode, params)
        return spec._replace(loss=spec.loss + jnp.sqrt(weight))  # infinite slope at 0

    estimator = quiet(model_dir, model_fn)
    with pytest.raises(est.NanLossDuringTrainingError, match=r"variables \['weight'\]"):
        estimator.train(endless, steps=1)
    assert steps_of(estimator) == [0]


def test_another_value_than_the_loss_can_be_watched(model_dir):
    estimator = quiet(model_dir, poisoned)
    hook = est.NanTensorHook("watched", every_n_iter=1)
    with pytest.raises(est.NanLossDuringTrainingError, match="watched was not a finite number"):
        estimator.train(lambda: poison(3), [hook])


def test_another_value_than_the_loss_is_looked_at_when_the_run_ends(model_dir):
    def model_fn(features, labels, mode, params):
        est.tag("watched", jnp.sqrt(features["x"][0, 0]))  # NaN, while the loss is finite
        return line(features, labels, mode, params)

    rows = [np.full((4, 2), value, np.float32) for value in (1.0, 1.0, -1.0)]
    data = [({"x": x}, np.zeros(4, np.float32)) for x in rows]
    hook = est.NanTensorHook("watched")
    with pytest.raises(est.NanLossDuringTrainingError, match="watched was not a finite number"):
        quiet(model_dir, model_fn).train(lambda: data, [hook])
