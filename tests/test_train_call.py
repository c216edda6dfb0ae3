"""One train call: arguments, steps, hooks and checkpoints."""

import os

import numpy as np
import pytest
from models import (
    ListenerNotes,
    Notes,
    assert_close,
    batches,
    endless,
    joined,
    line,
    make,
    noisy,
    steps_of,
    values_of,
)

import estimator as est

# train: arguments.


@pytest.mark.parametrize("name", ["steps", "max_steps"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [(0, ValueError, "> 0, given: 0"), (-1, ValueError, "> 0, given: -1")]
    + [(v, TypeError, "must be an int, got") for v in (1.5, "3", True)],
)
def test_train_refuses_a_number_of_steps_that_is_none(model_dir, name, value, error, message):
    with pytest.raises(error, match=f"train: .*{name} {message}"):
        make(line, model_dir).train(lambda: batches(1), **{name: value})


def test_train_refuses_steps_and_max_steps_together(model_dir):
    with pytest.raises(ValueError, match="can not provide both steps and max_steps, got 1 and 2"):
        make(line, model_dir).train(lambda: batches(1), steps=1, max_steps=2)


@pytest.mark.parametrize(
    ("argument", "kind"),
    [("hooks", "SessionRunHook"), ("saving_listeners", "CheckpointSaverListener")],
)
@pytest.mark.parametrize("given", [object(), Notes, ListenerNotes])
def test_train_refuses_hooks_and_listeners_of_another_type(model_dir, argument, kind, given):
    with pytest.raises(TypeError, match=f"train: {argument} must be {kind} objects, got"):
        make(line, model_dir).train(lambda: batches(1), **{argument: [given]})


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_evaluate_and_predict_refuse_hooks_of_another_type(model_dir, call):
    with pytest.raises(TypeError, match=f"{call}: hooks must be SessionRunHook objects, got"):
        getattr(make(line, model_dir), call)(lambda: batches(1), hooks=[ListenerNotes()])


@pytest.mark.parametrize("input_fn", [batches(1), None, {"x": np.ones(3)}])
def test_an_input_fn_that_is_no_function_is_refused(model_dir, input_fn):
    with pytest.raises(TypeError, match="input_fn"):
        make(line, model_dir).train(input_fn)
    with pytest.raises(TypeError, match="input_fn"):
        make(line, model_dir).predict(input_fn)


@pytest.mark.parametrize("names", ["", "mode", "params", "config", "mode, params, config"])
def test_input_fn_is_given_what_its_signature_names(model_dir, names):
    wanted = {"mode": "train", "params": {"rate": 0.5}}
    given = {}
    body = f"lambda {names}: take({', '.join(f'{n}={n}' for n in names.split(', ') if n)})"

    def take(**arguments):
        given.update(arguments)
        return batches(1)

    estimator = make(line, model_dir, params={"rate": 0.5})
    estimator.train(eval(body, {"take": take}))
    wanted["config"] = estimator.config
    assert given == {name: wanted[name] for name in names.split(", ") if name}


# train: steps.


def test_train_returns_the_estimator(model_dir):
    estimator = make(line, model_dir)
    assert estimator.train(lambda: batches(1)) is estimator


def test_steps_count_on_from_call_to_call_and_max_steps_does_not(model_dir):
    estimator = make(line, model_dir)
    steps = []
    for limits in ({"steps": 3}, {"steps": 2}, {"max_steps": 7}, {}):
        estimator.train(endless if limits else lambda: batches(2), **limits)
        steps.append(int(estimator.get_variable_value("global_step")))
    assert steps == [3, 5, 7, 9]


def test_another_estimator_goes_on_from_the_checkpoint_as_the_same_one_would(tmp_path):
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    one = make(noisy, first).train(endless, steps=3).train(endless, steps=3)
    make(noisy, second).train(endless, steps=3)
    two = make(noisy, second).train(endless, steps=3)
    assert_close(values_of(two), values_of(one))


def test_two_halves_are_one_whole_where_the_input_continues(tmp_path):
    x, y = joined(batches(5))
    input_fn = est.numpy_input_fn(x, y, batch_size=4, num_epochs=None, shuffle=True, seed=3)
    whole = make(noisy, str(tmp_path / "a")).train(input_fn, steps=8)
    halves = make(noisy, str(tmp_path / "b"), continue_input=True)
    halves.train(input_fn, steps=3).train(input_fn, steps=5)
    assert_close(values_of(halves), values_of(whole))


def test_max_steps_already_reached_makes_nothing_happen(model_dir):
    estimator = make(line, model_dir).train(lambda: batches(3))
    before = sorted(os.walk(model_dir))
    hook, listener = Notes(), ListenerNotes()

    def never():
        raise AssertionError("the input is not wanted")

    for max_steps in (1, 3):
        estimator.train(never, [hook], max_steps=max_steps, saving_listeners=[listener])
    assert hook.log == listener.log == []
    assert sorted(os.walk(model_dir)) == before


@pytest.mark.parametrize("limits", [{}, {"steps": 3}, {"max_steps": 3}])
def test_train_on_an_empty_input_is_an_error(model_dir, limits):
    with pytest.raises(ValueError, match="train: the input is empty"):
        make(line, model_dir).train(lambda: iter(()), **limits)


@pytest.mark.parametrize(("limits", "steps"), [({}, 1), ({"steps": 3}, 3), ({"max_steps": 4}, 4)])
def test_plain_arrays_are_one_batch_that_train_repeats_as_often_as_it_is_told(
    model_dir, limits, steps
):
    (batch,) = batches(1)
    estimator = make(line, model_dir).train(lambda: batch, **limits)
    assert estimator.get_variable_value("global_step") == steps
    again = make(line, model_dir + "-again").train(lambda: [batch] * steps)
    assert_close(values_of(estimator), values_of(again))


def test_plain_arrays_are_one_batch_for_evaluate_and_predict(model_dir):
    estimator, (batch,) = make(line, model_dir), batches(1)
    hook = Notes()
    estimator.evaluate(lambda: batch, hooks=[hook])
    assert len(hook.results) == 1
    assert len(list(estimator.predict(lambda: batch))) == len(batch[1])


def test_an_input_of_one_batch_more_than_steps_is_not_read_beyond(model_dir):
    taken = []

    def input_fn():
        for batch in batches(9):
            taken.append(batch)
            yield batch

    make(line, model_dir).train(input_fn, steps=3)
    assert len(taken) == 3


def test_an_error_of_the_input_is_raised_after_the_steps_before_it(model_dir):
    hook = Notes()

    def input_fn():
        yield from batches(2)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        make(line, model_dir).train(input_fn, hooks=[hook])
    assert hook.steps == [1, 2]


def test_a_generator_that_refills_its_arrays_trains_on_what_it_gave(tmp_path):
    made = batches(8)

    def refilling():
        x, y = np.zeros((4, 2), np.float32), np.zeros(4, np.float32)
        for features, labels in made:
            x[:], y[:] = features["x"], labels
            yield {"x": x}, y

    wanted = make(line, str(tmp_path / "a")).train(lambda: made)
    for i, prefetch in enumerate((0, 3)):
        for k in (1, 4):
            path = str(tmp_path / f"{i}{k}")
            estimator = make(line, path, prefetch=prefetch, steps_per_execution=k)
            assert_close(values_of(estimator.train(refilling)), values_of(wanted), 1e-6)


# train: checkpoints.


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [0, 5]),
        ({"save_checkpoints_steps": 2}, [0, 2, 4, 5]),
        ({"save_checkpoints_steps": 5}, [0, 5]),
        ({"save_checkpoints_steps": 1, "keep_checkpoint_max": 2}, [4, 5]),
        ({"save_checkpoints_steps": 1, "keep_checkpoint_max": None}, [0, 1, 2, 3, 4, 5]),
        ({"save_checkpoints_steps": None, "save_checkpoints_secs": None}, []),
    ],
)
def test_checkpoints_are_saved_when_the_config_says(model_dir, settings, steps):
    estimator = make(line, model_dir, **settings).train(lambda: batches(5))
    assert steps_of(estimator) == steps
    latest = estimator.latest_checkpoint()
    assert latest == (estimator.all_checkpoints()[-1] if steps else None)
    assert latest is None or latest == os.path.join(model_dir, "checkpoints", "5")


def test_the_first_save_of_a_second_call_is_counted_from_its_start(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=2, keep_checkpoint_max=None)
    estimator.train(lambda: batches(3)).train(lambda: batches(5))
    assert steps_of(estimator) == [0, 2, 3, 5, 7, 8]


def test_saving_listeners_without_a_saver_are_an_error(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=None, save_checkpoints_secs=None)
    with pytest.raises(ValueError, match="saving_listeners are called around saves, but no"):
        estimator.train(lambda: batches(1), saving_listeners=[ListenerNotes()])


def test_a_saver_among_the_hooks_replaces_the_default_one(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=1)
    listener = ListenerNotes()
    saver = est.CheckpointSaverHook(model_dir, save_steps=2)
    for _ in range(2):
        estimator.train(lambda: batches(3), [saver], saving_listeners=[listener])
    assert steps_of(estimator) == [0, 2, 3, 5, 6]
    assert listener.log.count(["listener", "after_save", 3]) == 2, "the start is announced, too"
    assert listener.log.count(["listener", "end", 6]) == 1


def test_a_listener_that_asks_to_stop_ends_the_run(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=2)
    listener = ListenerNotes(stop_at=4)
    estimator.train(endless, steps=100, saving_listeners=[listener])
    assert steps_of(estimator) == [0, 2, 4]
    assert listener.log[-1] == ["listener", "end", 4]


def test_a_listener_may_evaluate_the_checkpoint_that_was_just_saved(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=2)
    seen = []

    class Evaluates(est.CheckpointSaverListener):
        def after_save(self, session, global_step_value):
            seen.append(estimator.evaluate(lambda: batches(2)))

    estimator.train(lambda: batches(4), saving_listeners=[Evaluates()])
    assert [results["global_step"] for results in seen] == [0, 2, 4]
    assert seen[0]["loss"] > seen[1]["loss"] > seen[2]["loss"]
    assert estimator.evaluate(lambda: batches(2)) == seen[2]


@pytest.mark.parametrize("hooks", [100, 2.5, "hooks", np.zeros(3), est.StopAtStepHook(1)])
def test_hooks_that_are_no_list_are_named(hooks, model_dir):
    with pytest.raises(TypeError, match="train: hooks must be a list of SessionRunHook objects"):
        make(line, model_dir).train(endless, hooks)
    with pytest.raises(TypeError, match="Did you mean steps=100"):
        make(line, model_dir).train(endless, 100)
