"""The saver: when it saves, whom it tells, and what stays when something fails."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from models import (
    ListenerNotes,
    Notes,
    batches,
    endless,
    features_only,
    line,
    lines_of,
    make,
    poisoned,
    quiet,
    steps_of,
)
from test_timers import UNSAVED, Clock

import estimator as est

BEGIN = ["listener", "begin"]


def save(step):
    """Returns what a listener notes of a save."""
    return [["listener", "before_save", step], ["listener", "after_save", step]]


def saved_in(directory):
    """Returns the steps of the checkpoints in a directory, read without the package's help."""
    names = os.listdir(os.path.join(directory, "checkpoints"))
    return sorted(int(name) for name in names if name.isdecimal())


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """An estimator that deletes no checkpoint; without a saver of the test it saves none."""
    path = str(tmp_path_factory.mktemp("lines") / "model")
    return quiet(path, keep_checkpoint_max=None, **UNSAVED)


# What it is made of.


@pytest.mark.parametrize("given", [{}, {"save_secs": 1, "save_steps": 1}])
def test_a_saver_needs_exactly_one_cadence(model_dir, given):
    with pytest.raises(ValueError, match="Exactly one of"):
        est.CheckpointSaverHook(model_dir, **given)


def test_a_saver_refuses_listeners_of_another_type(model_dir):
    with pytest.raises(TypeError, match="listeners must be CheckpointSaverListener objects"):
        est.CheckpointSaverHook(model_dir, save_steps=1, listeners=[Notes()])


def test_a_saver_refuses_a_listener_that_stands_alone(model_dir):
    with pytest.raises(TypeError, match="listeners must be a list of CheckpointSaverListener"):
        est.CheckpointSaverHook(model_dir, save_steps=1, listeners=ListenerNotes())


# When it saves.


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"save_steps": 2}, [0, 2, 4, 5]),
        ({"save_steps": 5}, [0, 5]),
        ({"save_steps": 100}, [0, 5]),
        ({"save_secs": 1e6}, [0, 5]),
        ({"save_secs": 0}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_saver_saves_the_first_step_its_cadence_and_the_last(lines, tmp_path, given, steps):
    lines.train(endless, [est.CheckpointSaverHook(str(tmp_path), **given)], steps=5)
    assert saved_in(tmp_path) == steps


@pytest.mark.parametrize(
    ("times", "steps"),
    [
        ([0.0, 0.5, 2.5, 2.6, 2.7, 10.0, 10.1], [0, 3, 6, 7]),
        ([1.9, 1.99, 2.0, 3.9, 4.0, 4.1], [0, 3, 5, 6]),
        ([2.0, 4.0, 6.0], [0, 1, 2, 3]),
        ([0.1, 0.2, 0.3], [0, 3]),
    ],
)
def test_a_saver_saves_when_its_seconds_have_passed_since_the_last_save(
    lines, tmp_path, times, steps
):
    clock = Clock(*times)
    saver = clock.of(est.CheckpointSaverHook(str(tmp_path), save_secs=2))
    lines.train(endless, [clock, saver], steps=len(times))
    assert saved_in(tmp_path) == steps


@pytest.mark.parametrize("ends", [2, 3])
def test_a_saver_saves_the_last_step_once(lines, model_dir, ends):
    listener = ListenerNotes()
    saver = est.CheckpointSaverHook(model_dir, save_steps=2, listeners=[listener])
    lines.train(lambda: batches(ends), [saver])
    saves = [step for step in (0, 2, 3) if step <= ends]
    calls = [call for step in saves for call in save(step)]
    assert listener.log == [BEGIN, *calls, ["listener", "end", ends]]


def test_the_first_checkpoint_holds_the_first_values_and_the_last_the_last(lines, model_dir):
    final = est.FinalOpsHook("line/kernel")
    lines.train(endless, [final, est.CheckpointSaverHook(model_dir, 1e6)], steps=3)
    paths = [f"{model_dir}/checkpoints/{step}" for step in (0, 3)]
    first, last = [est.load_variable(path, "line/kernel") for path in paths]
    assert first.tolist() == [0.5, -0.25]
    np.testing.assert_array_equal(last, final.final_ops_values)


def test_the_same_saver_counts_from_the_first_step_of_its_second_run(model_dir):
    listener = ListenerNotes()
    saver = est.CheckpointSaverHook(model_dir, save_steps=2, listeners=[listener])
    estimator = quiet(model_dir)
    for _ in range(2):
        estimator.train(endless, [saver], steps=3)
    assert steps_of(estimator) == [0, 2, 3, 5, 6]
    second = [call for step in (3, 5, 6) for call in save(step)]
    assert listener.log[8:] == [BEGIN, *second, ["listener", "end", 6]]


@pytest.mark.parametrize(("every", "steps"), [(10, [0, 10, 20, 23]), (5, [0, 5, 10, 15, 20, 23])])
def test_a_saver_keeps_its_cadence_in_blocks_of_five(model_dir, every, steps):
    listener = ListenerNotes()
    saver = est.CheckpointSaverHook(model_dir, save_steps=every, listeners=[listener])
    estimator = quiet(model_dir, keep_checkpoint_max=None, steps_per_execution=5)
    estimator.train(endless, [saver], steps=23)
    assert steps_of(estimator) == [c[2] for c in listener.log if c[1] == "after_save"] == steps


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_a_saver_where_nothing_is_trained_says_where_it_belongs(model_dir, call):
    hooks = [est.CheckpointSaverHook(model_dir, save_steps=1)]
    with pytest.raises(ValueError, match="Give a CheckpointSaverHook to train"):
        list(getattr(quiet(model_dir), call)(lambda: batches(1), hooks=hooks))


# Where it saves.


def test_a_saver_with_its_own_directory_leaves_the_model_dir_without_checkpoints(
    model_dir, tmp_path, caplog
):
    other = str(tmp_path / "other")
    estimator = quiet(model_dir)
    with caplog.at_level(logging.WARNING, "estimator"):
        estimator.train(endless, [est.CheckpointSaverHook(other, save_steps=2)], steps=3)
    assert (steps_of(estimator), saved_in(other)) == ([], [0, 2, 3])
    assert f"Checkpoints go to ['{other}'] only: evaluate, predict and the next" in caplog.text
    assert estimator.evaluate(lambda: batches(1))["global_step"] == 0
    assert estimator.evaluate(lambda: batches(1), checkpoint_path=f"{other}/checkpoints/3")


def test_two_savers_save_in_two_directories_each_at_its_cadence(model_dir, tmp_path):
    other = str(tmp_path / "other")
    savers = [
        est.CheckpointSaverHook(model_dir, save_steps=2),
        est.CheckpointSaverHook(other, save_steps=3),
    ]
    estimator = quiet(model_dir).train(endless, savers, steps=4).train(endless, savers, steps=1)
    assert (steps_of(estimator), saved_in(other)) == ([0, 2, 4, 5], [0, 3, 4, 5])
    for name in estimator.get_variable_names():
        wanted = estimator.get_variable_value(name)
        np.testing.assert_array_equal(est.load_variable(other, name), wanted)


def test_two_savers_of_one_directory_share_its_checkpoints(lines, model_dir, caplog):
    savers = [
        est.CheckpointSaverHook(model_dir, save_steps=n, listeners=[ListenerNotes()])
        for n in (2, 3)
    ]
    with caplog.at_level(logging.WARNING, "estimator"):
        lines.train(endless, savers, steps=7)
    assert saved_in(model_dir) == [0, 2, 3, 4, 6, 7]
    assert "from another run" not in caplog.text


@pytest.mark.parametrize("spelling", [Path, lambda d: d + os.sep, os.path.relpath])
def test_a_saver_knows_the_model_dir_in_every_spelling(model_dir, caplog, spelling):
    listener = ListenerNotes()
    saver = est.CheckpointSaverHook(spelling(model_dir), save_steps=2, listeners=[listener])
    estimator = quiet(model_dir)
    with caplog.at_level(logging.WARNING, "estimator"):
        estimator.train(endless, [saver], steps=2).train(endless, [saver], steps=1)
    assert steps_of(estimator) == [0, 2, 3]
    assert caplog.text == "", "the checkpoint of step 2 is that of the run itself"


def test_a_step_that_another_run_has_saved_is_left_as_it_is_and_told(model_dir, tmp_path, caplog):
    saver = est.CheckpointSaverHook(str(tmp_path / "other"), save_steps=1)
    quiet(model_dir).train(endless, [saver], steps=1)
    kernel = est.load_variable(tmp_path / "other", "line/kernel")
    with caplog.at_level(logging.WARNING, "estimator"):
        quiet(model_dir, params={"rate": 0.01}).train(endless, [saver], steps=1)
    told = [text.split(" is there already")[0] for text in lines_of(caplog, str(tmp_path))]
    assert [os.path.basename(path) for path in told] == ["0", "1"]
    np.testing.assert_array_equal(est.load_variable(tmp_path / "other", "line/kernel"), kernel)


# Whom it tells.


class FindsCheckpoints(ListenerNotes):
    """Writes down which checkpoints are complete at each call."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory
        self.found = []

    def before_save(self, session, global_step_value):
        self.found.append(saved_in(self.directory))

    def after_save(self, session, global_step_value):
        self.found.append(saved_in(self.directory))

    def end(self, session, global_step_value):
        self.found.append(saved_in(self.directory))


def test_a_checkpoint_is_complete_between_before_and_after_save(model_dir):
    listener = FindsCheckpoints(model_dir)
    quiet(model_dir).train(endless, steps=2, saving_listeners=[listener])
    assert listener.found == [[], [0], [0], [0, 2], [0, 2]]


def test_all_listeners_hear_of_a_save_before_it_and_then_all_after_it(lines, model_dir):
    log = []
    listeners = [ListenerNotes(log), ListenerNotes(log)]
    saver = est.CheckpointSaverHook(model_dir, save_steps=1, listeners=listeners[:1])
    lines.train(endless, [saver], steps=1, saving_listeners=listeners[1:])
    calls = [BEGIN, *save(0), *save(1), ["listener", "end", 1]]
    assert log == [call for call in calls for _ in listeners]


def test_saving_listeners_are_those_of_the_first_saver(lines, model_dir, tmp_path):
    listener = ListenerNotes()
    savers = [
        est.CheckpointSaverHook(model_dir, save_steps=2),
        est.CheckpointSaverHook(str(tmp_path / "other"), save_steps=3),
    ]
    lines.train(endless, savers, steps=4, saving_listeners=[listener])
    assert [call[2] for call in listener.log if call[1] == "after_save"] == [0, 2, 4]


@pytest.mark.parametrize("twice", ["in both lists", "in one list", "in two calls"])
def test_a_listener_that_is_added_twice_is_called_once(lines, model_dir, twice):
    listener = ListenerNotes()
    given = [listener] if twice == "in both lists" else []
    saver = est.CheckpointSaverHook(model_dir, save_steps=5, listeners=given)
    if twice == "in two calls":
        saver.add_listeners([listener])
    listeners = [listener] * (2 if twice == "in one list" else 1)
    lines.train(endless, [saver], steps=5, saving_listeners=listeners)
    assert listener.log == [BEGIN, *save(0), *save(5), ["listener", "end", 5]]


# What a listener can do.


@pytest.mark.parametrize("answer", [None, False, 0])
def test_a_listener_that_does_not_answer_true_lets_the_run_go_on(lines, model_dir, answer):
    listener = ListenerNotes()
    listener.after_save = lambda session, step: answer
    lines.train(
        endless, [est.CheckpointSaverHook(model_dir, save_steps=2, listeners=[listener])], steps=3
    )
    assert saved_in(model_dir) == [0, 2, 3]


@pytest.mark.parametrize(("which", "k"), [(0, 1), (1, 1), (1, 5)])
def test_any_listener_may_stop_the_run_and_the_others_hear_of_it(model_dir, which, k):
    listeners = [ListenerNotes(stop_at=4 if i == which else None) for i in range(2)]
    estimator = quiet(model_dir, save_checkpoints_steps=2, steps_per_execution=k)
    estimator.train(endless, saving_listeners=listeners)
    assert steps_of(estimator) == [0, 2, 4]
    wanted = [BEGIN, *save(0), *save(2), *save(4), ["listener", "end", 4]]
    assert [listener.log for listener in listeners] == [wanted, wanted]


def test_a_listener_may_stop_the_run_at_the_first_save(model_dir):
    """As a hook that asks after a step, it may be one step late."""
    listener = ListenerNotes(stop_at=0)
    estimator = quiet(model_dir).train(endless, steps=5, saving_listeners=[listener])
    assert steps_of(estimator)[-1] <= 1


def test_a_listener_that_wants_to_stop_at_the_end_changes_nothing(model_dir):
    listener = ListenerNotes(stop_at=3)
    estimator = quiet(model_dir).train(endless, steps=3, saving_listeners=[listener])
    assert listener.log == [BEGIN, *save(0), *save(3), ["listener", "end", 3]]
    estimator.train(endless, steps=1)
    assert steps_of(estimator) == [0, 3, 4]


@pytest.mark.parametrize(
    ("where", "steps"), [("begin", []), ("before_save", [0]), ("after_save", [0, 2]), ("end", None)]
)
def test_an_exception_of_a_listener_ends_the_run_and_complete_checkpoints_stay(
    model_dir, where, steps
):
    def breaks(session=None, step=2):
        if step != 0:
            raise ArithmeticError("enough")

    listener, notes = ListenerNotes(), Notes()
    setattr(listener, where, breaks)
    saver = est.CheckpointSaverHook(model_dir, save_steps=2, listeners=[listener])
    estimator = quiet(model_dir)
    with pytest.raises(ArithmeticError, match="enough"):
        estimator.train(endless, [saver, notes], steps=5)
    assert steps_of(estimator) == ([0, 2, 4, 5] if steps is None else steps)
    assert "end" not in [call[1] for call in [*listener.log, *notes.log]]
    estimator.train(endless, max_steps=7)
    assert steps_of(estimator)[-1] == 7


def test_a_listener_sees_the_variables_it_saves(lines, model_dir):
    seen = {}

    class Reads(est.CheckpointSaverListener):
        def before_save(self, session, global_step_value):
            seen[global_step_value] = session.run("line/kernel")

    saver = est.CheckpointSaverHook(model_dir, save_steps=2, listeners=[Reads()])
    lines.train(endless, [saver], steps=3)
    assert list(seen) == [0, 2, 3]
    for step, kernel in seen.items():
        saved = est.load_variable(f"{model_dir}/checkpoints/{step}", "line/kernel")
        np.testing.assert_array_equal(saved, kernel)


def test_nobody_is_told_of_a_save_that_a_bad_number_prevents(model_dir):
    x = [np.full((4, 2), value, np.float32) for value in (1.0, 1.0, np.nan, 1.0)]
    listener = ListenerNotes()
    saver = est.CheckpointSaverHook(model_dir, save_steps=2, listeners=[listener])
    hooks = [saver, est.NanTensorHook(fail_on_nan_loss=False, every_n_iter=1)]
    data = [({"x": rows}, np.zeros(4, np.float32)) for rows in x]
    estimator = quiet(model_dir, poisoned).train(lambda: data, hooks)
    assert steps_of(estimator) == [0, 2]
    assert listener.log == [BEGIN, *save(0), *save(2), ["listener", "end", 3]]


def test_the_saver_of_the_config_is_one_with_the_listeners_of_the_call(model_dir):
    listener = ListenerNotes()
    estimator = make(line, model_dir, save_checkpoints_steps=2)
    estimator.train(endless, steps=3, saving_listeners=[listener])
    calls = [call for step in (0, 2, 3) for call in save(step)]
    assert listener.log == [BEGIN, *calls, ["listener", "end", 3]]
    listener.log.clear()
    estimator.train(endless, steps=1)
    assert listener.log == [], "the listeners of a call are of that call only"
    assert list(estimator.predict(lambda: features_only(1)))
