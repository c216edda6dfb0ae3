"""Early stopping: what evaluations call for, when, and what the hooks say no to."""

import pytest
from models import batches, endless, line, quiet

import estimator as est
from estimator.history import History


def noted(estimator, losses):
    """Writes evaluations into the history, as another process does."""
    for step, loss in losses.items():
        History(estimator.model_dir).add_evaluation(None, step, {"loss": loss})


def ends_at(estimator, hook, values, name=None):
    """Trains by one step between evaluations, and returns the step that the hook ends it at."""

    class Evaluations(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            step = run_context.session.global_step
            if step in values:
                estimator._history.add_evaluation(name, step, {"loss": values[step]})

    estimator.train(endless, [Evaluations(), hook], max_steps=9)
    return int(estimator.get_variable_value("global_step"))


NAN = float("nan")
FALLING = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6, 5: 0.5}


@pytest.mark.parametrize(
    ("make_hook", "settings", "values", "step"),
    [
        (est.stop_if_higher_hook, {"threshold": 0.75}, {1: 0.5, 2: 0.75, 3: 0.8}, 3),
        (est.stop_if_higher_hook, {"threshold": 0.8}, {1: 0.5, 2: 0.75, 3: 0.8}, 9),
        (est.stop_if_higher_hook, {"threshold": 0.5, "min_steps": 4}, FALLING, 4),
        (est.stop_if_lower_hook, {"threshold": 0.7}, FALLING, 4),
        (est.stop_if_lower_hook, {"threshold": 0.1}, FALLING, 9),
        (est.stop_if_lower_hook, {"threshold": 0.7, "min_steps": 5}, FALLING, 5),
        (est.stop_if_no_increase_hook, {"max_steps_without_increase": 2}, FALLING, 3),
        (
            est.stop_if_no_increase_hook,
            {"max_steps_without_increase": 3, "min_steps": 2},
            FALLING,
            5,
        ),
        (est.stop_if_no_decrease_hook, {"max_steps_without_decrease": 1}, FALLING, 9),
        (est.stop_if_no_decrease_hook, {"max_steps_without_decrease": 2}, {1: 1, 2: 1, 3: 1}, 3),
        (
            est.stop_if_no_decrease_hook,
            {"max_steps_without_decrease": 3},
            {2: 1.0, 4: 0.5, 6: 0.5, 7: 0.5},
            7,
        ),
        (
            est.stop_if_no_decrease_hook,
            {"max_steps_without_decrease": 3},
            {1: NAN, 2: 1.0, 4: 0.9, 6: 0.8},
            9,
        ),
        (est.stop_if_no_decrease_hook, {"max_steps_without_decrease": 3}, {1: NAN, 4: NAN}, 4),
    ],
)
def test_a_hook_ends_the_run_at_the_evaluation_that_calls_for_it(
    model_dir, make_hook, settings, values, step
):
    estimator = quiet(model_dir)
    assert ends_at(estimator, make_hook(estimator, "loss", **settings), values) == step


def test_only_the_evaluation_that_is_asked_for_counts(model_dir):
    estimator = quiet(model_dir)
    hook = est.stop_if_lower_hook(estimator, "loss", 0.7, eval_dir=estimator.eval_dir("far"))
    assert ends_at(estimator, hook, FALLING) == 9
    other = quiet(f"{model_dir}_1")
    hook = est.stop_if_lower_hook(other, "loss", 0.7, eval_dir=other.eval_dir("far") + "/")
    assert ends_at(other, hook, FALLING, name="far") == 4


def test_several_hooks_stop_by_whichever_comes_first(model_dir):
    estimator = quiet(model_dir)
    estimator.train(endless, steps=1)
    slow = est.stop_if_lower_hook(estimator, "loss", 0.55)
    fast = est.stop_if_lower_hook(estimator, "loss", 0.65)
    noted(estimator, {1: 0.6})
    estimator.train(endless, [slow], steps=1)
    estimator.train(endless, [slow, fast], steps=5)
    assert estimator.get_variable_value("global_step") == 2


def test_a_trained_model_takes_a_hook_and_one_that_has_stopped_stops_at_once(model_dir):
    estimator = quiet(model_dir)
    estimator.train(endless, max_steps=4)
    noted(estimator, {2: 0.5, 4: 0.6})
    hook = est.stop_if_no_decrease_hook(estimator, "loss", 2)
    estimator.train(endless, [hook], max_steps=8)
    assert estimator.get_variable_value("global_step") == 4
    patient = est.stop_if_no_decrease_hook(quiet(model_dir), "loss", 3)
    quiet(model_dir).train(endless, [patient], max_steps=8)
    assert estimator.get_variable_value("global_step") == 8


def test_evaluations_of_other_processes_are_looked_at_as_they_come(model_dir):
    estimator = quiet(model_dir)
    hook = est.stop_if_lower_hook(estimator, "loss", 0.7)

    class Other(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            if run_context.session.global_step == 2:
                noted(estimator, {2: 0.5})

    estimator.train(endless, [Other(), hook], max_steps=9)
    assert estimator.get_variable_value("global_step") == 2


def held_out():
    return batches(1, seed=1)


def test_an_unknown_metric_is_an_error_before_the_first_step(model_dir):
    estimator = quiet(model_dir, save_checkpoints_steps=2)
    hook = est.stop_if_lower_hook(estimator, "eror", 0.7)
    spec = est.EvalSpec(held_out)
    with pytest.raises(ValueError, match=r"no metric 'eror'. Did .*'error', 'global_step', 'loss'"):
        est.train_and_evaluate(estimator, est.TrainSpec(endless, 5, [hook]), spec)
    assert estimator.latest_checkpoint() is None
    with pytest.raises(ValueError, match="no metric 'eror'"):
        estimator.train(endless, [est.InMemoryEvaluatorHook(estimator, held_out), hook], steps=1)
    assert estimator.get_variable_value("global_step") == 0


def test_a_hook_for_an_evaluation_that_is_not_made_is_warned_of(model_dir, caplog):
    estimator = quiet(model_dir, save_checkpoints_steps=2)
    hook = est.stop_if_lower_hook(estimator, "loss", 0.7)
    spec = est.EvalSpec(held_out, name="far")
    est.train_and_evaluate(estimator, est.TrainSpec(endless, 2, [hook]), spec)
    assert "Give the hook eval_dir=estimator.eval_dir(name)" in caplog.text


def test_train_and_evaluate_stops_early_and_exports_the_last(model_dir):
    estimator = quiet(model_dir, params={"rate": 0.0})  # nothing is learnt
    hook = est.stop_if_no_decrease_hook(estimator, "loss", 4)
    metrics, _ = est.train_and_evaluate(
        estimator,
        est.TrainSpec(endless, 100, [hook]),
        est.EvalSpec(held_out, every_n_steps=2),
    )
    assert metrics["global_step"] == 6
    assert [r["global_step"] for r in estimator.history] == [2, 4, 6]


@pytest.mark.parametrize(("every", "steps"), [(1, 3), (3, 7), (4, 9)])
def test_a_function_of_ones_own_is_called_every_so_many_steps(model_dir, every, steps):
    estimator = quiet(model_dir)
    answers = iter([False, False, True])
    hook = est.make_early_stopping_hook(
        estimator, lambda: next(answers), run_every_secs=None, run_every_steps=every
    )
    estimator.train(endless, [hook], max_steps=20)
    assert estimator.get_variable_value("global_step") == steps


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda e: est.make_early_stopping_hook(line, bool), TypeError, "must be an Estimator"),
        (lambda e: est.make_early_stopping_hook(e, True), TypeError, "must be a function"),
        (
            lambda e: est.make_early_stopping_hook(e, bool, 60, 60),
            ValueError,
            "Exactly one of run_every_secs and run_every_steps",
        ),
        (
            lambda e: est.make_early_stopping_hook(e, bool, None),
            ValueError,
            "Exactly one of run_every_secs and run_every_steps",
        ),
        (lambda e: est.stop_if_lower_hook(line, "loss", 1), TypeError, "must be an Estimator"),
        (
            lambda e: est.stop_if_higher_hook(e, "loss", 1, run_every_steps=10),
            ValueError,
            "stop_if_higher_hook: Exactly one of run_every_secs and run_every_steps",
        ),
        (
            lambda e: est.stop_if_no_increase_hook(e, "loss", 1, eval_dir="/elsewhere/eval"),
            ValueError,
            "must be estimator.eval_dir",
        ),
        (lambda e: est.stop_if_lower_hook(e, "loss", "1"), TypeError, "threshold must be a number"),
        (
            lambda e: est.stop_if_no_increase_hook(e, "loss", None),
            TypeError,
            "max_steps_without_increase must be an int, got None",
        ),
        (
            lambda e: est.stop_if_no_decrease_hook(e, "loss", -5),
            ValueError,
            "max_steps_without_decrease > 0, given: -5",
        ),
        (
            lambda e: est.make_stop_at_checkpoint_step_hook(line, 4),
            TypeError,
            "must be an Estimator",
        ),
    ],
)
def test_hooks_say_no_to_what_cannot_be(model_dir, build, error, message):
    with pytest.raises(error, match=message):
        build(quiet(model_dir))


def test_a_hook_serves_the_directory_it_was_made_for(model_dir):
    estimator, twin, other = quiet(model_dir), quiet(model_dir), quiet(f"{model_dir}_1")
    hook = est.stop_if_lower_hook(twin, "loss", 0.7)
    assert ends_at(estimator, hook, FALLING) == 4
    with pytest.raises(ValueError, match="was made for the Estimator in"):
        other.train(endless, [hook], steps=1)


def test_evaluations_from_before_a_metric_was_there_are_passed_over(model_dir):
    estimator = quiet(model_dir)
    estimator.train(endless, steps=2)
    History(model_dir).add_evaluation(None, 1, {"other": 0.1})
    noted(estimator, {2: 0.9})
    hook = est.stop_if_lower_hook(estimator, "loss", 0.7)
    estimator.train(endless, [hook], steps=2)
    assert estimator.get_variable_value("global_step") == 4


def test_a_directory_of_a_name_with_a_slash_is_one_of_the_estimator(model_dir):
    estimator = quiet(model_dir)
    hook = est.stop_if_lower_hook(estimator, "loss", 1, eval_dir=estimator.eval_dir("a/b"))
    assert hook.eval_name == "a/b"


def test_a_run_stops_at_a_checkpoint_step(model_dir):
    estimator = quiet(model_dir)
    estimator.train(endless, [est.make_stop_at_checkpoint_step_hook(estimator, 4)], max_steps=9)
    assert estimator.get_variable_value("global_step") == 4
