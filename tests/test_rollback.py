"""RunConfig(nan_policy=...): what happens when a number is none, and how a run goes back."""

import logging

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import Notes, quiet, steps_of

import estimator as est


def seen_by(features, labels, mode):
    """Adds up what it sees in `sum`; the loss is NaN where a batch holds NaN."""
    weight = est.get_variable("weight", (), 1.0, np.float32)
    total = est.get_variable("sum", (), 0.0, np.float32, trainable=False)
    x = jnp.mean(features["x"])
    est.assign("sum", total + x)
    return est.EstimatorSpec(mode, loss=x * weight, train_op=optax.sgd(0.0))


def powers(bad, count=10):
    """Returns the rows 1, 2, 4, ..., so that a sum tells which were seen; `bad` ones are NaN."""
    rows = np.array([2.0**i for i in range(count)], np.float32)
    rows[[i - 1 for i in bad]] = np.nan
    return {"x": rows}


def repositioned(bad, **settings):
    return est.numpy_input_fn(powers(bad), batch_size=1, num_epochs=1, shuffle=False, **settings)


def running_on(bad):
    rows = powers(bad)["x"]
    return lambda: ({"x": rows[i : i + 1]} for i in range(len(rows)))


def train(model_dir, input_fn, every=100, hooks=None, **settings):
    estimator = quiet(model_dir, seen_by, nan_policy="rollback", **settings)
    estimator.train(input_fn, hooks)
    total = int(estimator.get_variable_value("sum"))
    seen = [i + 1 for i in range(total.bit_length()) if total >> i & 1]
    return estimator, seen


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(
    ("bad", "seen"),
    [
        ([], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ([4], [1, 2, 5, 6, 7, 8, 9, 10]),
        ([3, 4], [1, 2, 5, 6, 7, 8, 9, 10]),
        ([2, 6], [3, 4, 7, 8, 9, 10]),
        ([10], [1, 2, 3, 4, 5, 6, 7, 8]),
        ([1, 3], [4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_an_input_that_knows_its_position_leaves_out_the_batches_up_to_the_bad_one(
    model_dir, bad, seen, k, prefetch
):
    estimator, found = train(
        model_dir,
        repositioned(bad),
        save_checkpoints_steps=2,
        steps_per_execution=k,
        prefetch=prefetch,
    )
    assert found == seen
    assert estimator.get_variable_value("global_step") == len(seen)


def test_another_input_goes_on_from_where_it_is(model_dir):
    estimator, seen = train(model_dir, running_on([3]), save_checkpoints_steps=4)
    # At step 4 the saver looks: 1 to 4 are undone, and 5 comes next.
    assert seen == [5, 6, 7, 8, 9, 10]
    assert estimator.get_variable_value("global_step") == 6


def test_a_run_goes_back_at_its_end_too_and_says_so(model_dir, caplog):
    caplog.set_level(logging.WARNING)
    estimator, seen = train(model_dir, repositioned([9]), save_checkpoints_steps=7)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 10]
    assert steps_of(estimator) == [0, 7, 8]
    assert "Going back from step 10 to 7, without the 2 batches since (1 of 5 times)" in caplog.text
    assert "the loss at step 9" in caplog.text


def test_the_steps_that_are_asked_for_are_made_all_the_same(model_dir):
    estimator = quiet(model_dir, seen_by, nan_policy="rollback", save_checkpoints_steps=3)
    notes = Notes()
    estimator.train(repositioned([2]), [notes], max_steps=6)
    assert notes.steps == [1, 2, 3, 1, 2, 3, 4, 5, 6]
    assert steps_of(estimator) == [0, 3, 6]
    assert estimator.get_variable_value("sum") == sum(2**i for i in (2, 3, 4, 5, 6, 7))


def test_a_position_of_an_earlier_call_is_not_taken_for_one_of_this(model_dir):
    settings = {"nan_policy": "rollback", "save_checkpoints_steps": 100}
    quiet(model_dir, seen_by, **settings).train(repositioned([]), steps=4)
    estimator = quiet(model_dir, seen_by, **settings)
    estimator.train(repositioned([2]))  # begins its input anew, at step 4
    assert estimator.get_variable_value("global_step") == 4 + 8
    assert estimator.get_variable_value("sum") == 15 + sum(2**i for i in range(2, 10))


def test_the_history_holds_no_step_that_was_undone(model_dir):
    settings = {"nan_policy": "rollback", "save_checkpoints_steps": 4}
    estimator = quiet(model_dir, seen_by, log_step_count_steps=3, **settings)
    estimator.train(repositioned([7]))
    noted = [(r["global_step"], r["loss"]) for r in estimator.history]
    assert noted == [(1, 1.0), (4, 8.0), (7, 512.0)]


@pytest.mark.parametrize("every", [2, 3])
def test_a_timer_of_ones_own_counts_from_the_step_gone_back_to(model_dir, every):
    class Ticks(est.SessionRunHook):
        def __init__(self):
            self.timer, self.steps = est.SecondOrStepTimer(every_steps=every), []

        def after_run(self, run_context, run_values):
            step = run_context.session.global_step
            if self.timer.should_trigger_for_step(step):
                self.timer.update_last_triggered_step(step)
                self.steps.append(step)

    ticks = Ticks()
    train(model_dir, repositioned([6]), hooks=[ticks], save_checkpoints_steps=100)
    # Back from 10 to 0: 4 batches are left.
    assert ticks.steps == {2: [1, 3, 5, 7, 9, 3], 3: [1, 4, 7, 10, 4]}[every]


def test_a_hook_that_raises_and_a_run_that_goes_back_contradict(model_dir):
    estimator = quiet(model_dir, seen_by, nan_policy="rollback", save_checkpoints_steps=2)
    with pytest.raises(ValueError, match="goes back where a NanTensorHook raises"):
        estimator.train(repositioned([]), [est.NanTensorHook()])
    estimator.train(repositioned([3]), [est.NanTensorHook(fail_on_nan_loss=False)])
    assert estimator.get_variable_value("global_step") == 9


def test_what_helps_nothing_five_times_is_an_error(model_dir):
    estimator = quiet(model_dir, seen_by, nan_policy="rollback", save_checkpoints_steps=1)
    rows = np.full(12, np.nan, np.float32)
    input_fn = est.numpy_input_fn({"x": rows}, batch_size=1, num_epochs=1, shuffle=False)
    message = "went back to step 0 5 times"
    with pytest.raises(est.NanLossDuringTrainingError, match=message):
        estimator.train(input_fn)
    assert steps_of(estimator) == [0]


def test_evaluations_of_steps_that_are_undone_are_forgotten(model_dir):
    estimator = quiet(model_dir, seen_by, nan_policy="rollback", save_checkpoints_steps=100)
    hook = est.InMemoryEvaluatorHook(estimator, lambda: powers([]), every_n_iter=2)
    estimator.train(repositioned([5]), [hook], max_steps=5)
    assert [record["global_step"] for record in estimator.history] == [0, 2, 4, 5]


def test_a_run_may_stop_where_a_number_is_none(model_dir):
    estimator = quiet(model_dir, seen_by, nan_policy="stop", save_checkpoints_steps=2)
    estimator.train(repositioned([5]))
    assert steps_of(estimator) == [0, 2, 4]


def test_going_back_needs_checkpoints(model_dir):
    off = {"save_checkpoints_steps": None, "save_checkpoints_secs": None}
    estimator = quiet(model_dir, seen_by, nan_policy="rollback", **off)
    with pytest.raises(ValueError, match="goes back to checkpoints, but none is ever saved"):
        estimator.train(repositioned([]))


def test_a_policy_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"nan_policy must be one of .*'rollback'\), got 'back'"):
        est.RunConfig(nan_policy="back")
