"""Hooks: the standard ones and their cadences; the saver has a file of its own."""

import glob
import logging
import os

import jax
import numpy as np
import pytest
from models import (
    Notes,
    batches,
    endless,
    features_only,
    line,
    lines_of,
    make,
    noisy,
    quiet,
    scalars,
    steps_of,
)
from test_timers import UNSAVED

import estimator as est
from estimator.train_loop import TrainSession


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """An estimator of a line that saves nothing: each call begins at step 0."""
    return quiet(str(tmp_path_factory.mktemp("lines") / "model"), **UNSAVED)


def steps_in(directory, tag):
    """Returns the steps at which a tag was written."""
    return [step for step, _ in scalars(str(directory)).get(tag, [])]


# StopAtStepHook.


@pytest.mark.parametrize("given", [{}, {"num_steps": 1, "last_step": 1}])
def test_stop_at_step_needs_exactly_one_argument(given):
    with pytest.raises(ValueError, match="exactly one of num_steps and last_step"):
        est.StopAtStepHook(**given)


@pytest.mark.parametrize(
    ("given", "steps"), [({"num_steps": 2}, [2, 4]), ({"last_step": 3}, [3, 4])]
)
def test_stop_at_step_counts_anew_or_makes_one_step_more_where_the_last_is_past(
    model_dir, given, steps
):
    """A hook that is asked after a step cannot stop before it."""
    estimator, seen = quiet(model_dir), []
    for _ in range(2):
        estimator.train(lambda: batches(9), [est.StopAtStepHook(**given)])
        seen.append(int(estimator.get_variable_value("global_step")))
    assert seen == steps


def test_stop_at_step_counts_from_the_step_that_was_restored(model_dir):
    hook = est.StopAtStepHook(num_steps=3)
    for steps in (3, 6):
        estimator = quiet(model_dir).train(endless, [hook])
        assert steps_of(estimator)[-1] == steps


@pytest.mark.parametrize(
    ("given", "limits", "last"),
    [
        ([{"num_steps": 5}, {"last_step": 3}], {"steps": 9}, 3),
        ([{"num_steps": 5}], {"steps": 2}, 2),
        ([{"last_step": 5}], {"max_steps": 7}, 5),
    ],
)
def test_the_earliest_of_several_stops_ends_the_run(lines, given, limits, last):
    final = est.FinalOpsHook("global_step")
    lines.train(endless, [*[est.StopAtStepHook(**g) for g in given], final], **limits)
    assert final.final_ops_values == last


# LoggingTensorHook.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give every_n_iter, every_n_secs or at_end=True"),
        ({"every_n_iter": 1, "every_n_secs": 1.0}, "only one of every_n_iter and every_n_secs"),
        ({"every_n_iter": 0}, "every_n_iter must be > 0, got 0"),
        ({"every_n_iter": -5}, "every_n_iter must be > 0, got -5"),
    ],
)
def test_logging_refuses_a_cadence_that_is_none(given, message):
    with pytest.raises(ValueError, match=message):
        est.LoggingTensorHook(["loss"], **given)


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"every_n_iter": 1}, [1, 2, 3, 4, 5, 6, 7]),
        ({"every_n_iter": 3}, [1, 4, 7]),
        ({"every_n_iter": 3, "at_end": True}, [1, 4, 7, 7]),
        ({"every_n_iter": 4, "at_end": True}, [1, 5, 7]),
        ({"every_n_secs": 1e6}, [1]),
        ({"every_n_secs": 1e6, "at_end": True}, [1, 7]),
        ({"every_n_secs": 0.0}, [1, 2, 3, 4, 5, 6, 7]),
        ({"at_end": True}, [7]),
    ],
)
def test_logging_shows_values_at_its_cadence_in_each_run(lines, caplog, given, steps):
    hook = est.LoggingTensorHook({"at": "global_step"}, **given)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "estimator"):
            lines.train(endless, [hook], steps=7)
        assert [int(text.split()[2]) for text in lines_of(caplog, "at = ")] == steps


@pytest.mark.parametrize(
    ("tensors", "names"),
    [
        (["loss", "global_step", "line/bias"], ["loss", "global_step", "line/bias"]),
        ({"z": "loss", "a": "global_step", "m": "line/bias"}, ["z", "a", "m"]),
    ],
)
def test_a_line_shows_names_in_the_order_given(lines, caplog, tensors, names):
    with caplog.at_level(logging.INFO, "estimator"):
        lines.train(endless, [est.LoggingTensorHook(tensors, every_n_iter=9)], steps=1)
    (text,) = lines_of(caplog, f"{names[0]} = ")
    assert [part.split(" = ")[0] for part in text.split(", ")] == names


def test_logging_uses_the_formatter_it_was_given(lines, caplog):
    hook = est.LoggingTensorHook(
        ["loss", "line/kernel"],
        every_n_iter=1,
        formatter=lambda v: f"SHAPE {list(v)} {v['line/kernel'].shape}",
    )
    with caplog.at_level(logging.INFO, "estimator"):
        lines.train(endless, [hook], steps=1)
    assert lines_of(caplog, "SHAPE") == ["SHAPE ['loss', 'line/kernel'] (2,)"]


def test_logging_fetches_nothing_where_nobody_listens(lines, caplog, monkeypatch):
    fetched, fetch = [], TrainSession.fetch
    monkeypatch.setattr(
        TrainSession, "fetch", lambda s, name: fetched.append(name) or fetch(s, name)
    )
    hooks = [est.LoggingTensorHook(["line/kernel"], every_n_iter=2, at_end=True)]
    with caplog.at_level(logging.WARNING, "estimator"):
        lines.train(endless, hooks, steps=3)
    assert "line/kernel" not in fetched
    with caplog.at_level(logging.INFO, "estimator"):
        lines.train(endless, hooks, steps=3)
    assert "line/kernel" in fetched


def test_logging_counts_batches_where_nothing_is_trained(lines, caplog):
    for name, call in (
        ("loss", lambda hook: lines.evaluate(lambda: batches(5), hooks=[hook])),
        ("y", lambda hook: list(lines.predict(lambda: features_only(5), hooks=[hook]))),
    ):
        for given, count in (({"every_n_iter": 2}, 3), ({"at_end": True}, 1)):
            caplog.clear()
            with caplog.at_level(logging.INFO, "estimator"):
                call(est.LoggingTensorHook({"V": name}, **given))
            assert len(lines_of(caplog, "V = ")) == count, name


def test_the_loss_is_logged_as_the_config_says(model_dir, caplog):
    with caplog.at_level(logging.INFO, "estimator"):
        make(line, model_dir, log_step_count_steps=3).train(endless, steps=5)
    assert [text.split(" = ")[2].split()[0] for text in lines_of(caplog, "loss = ")] == ["1", "4"]
    assert len(lines_of(caplog, "global_step/sec")) == 1


# StepCounterHook and SummarySaverHook; with a clock: test_timers.py.


def test_a_step_counter_needs_a_cadence():
    with pytest.raises(
        ValueError, match="StepCounterHook: Exactly one of every_n_secs and every_n_steps"
    ):
        est.StepCounterHook(every_n_steps=None)


def test_steps_a_second_are_written_from_the_second_firing_on(model_dir):
    make(line, model_dir, log_step_count_steps=2).train(endless, steps=10)
    assert steps_in(model_dir, "global_step/sec") == [3, 5, 7, 9]


@pytest.mark.parametrize("hook", [est.SummarySaverHook, est.ProfilerHook])
@pytest.mark.parametrize("given", [{}, {"save_secs": 1, "save_steps": 1}])
def test_a_summary_or_profiler_hook_needs_exactly_one_cadence(hook, given):
    with pytest.raises(ValueError, match="Exactly one of"):
        hook(**given)


@pytest.mark.parametrize(("every", "steps"), [(3, [1, 4, 7, 10]), (1, list(range(1, 11))), (0, [])])
@pytest.mark.parametrize("model_fn", [line, noisy])
def test_summaries_are_written_at_the_first_step_and_at_their_cadence(
    model_dir, model_fn, every, steps
):
    hook = Notes(fetches=["loss", "biggest" if model_fn is noisy else "loss"])
    estimator = quiet(model_dir, model_fn, save_summary_steps=every)
    estimator.train(endless, [hook], steps=10)
    found = scalars(model_dir)
    tags = {"loss", "mean"} if model_fn is noisy else {"loss"}
    assert found.keys() == (tags if every else set())
    for tag in found:
        assert [step for step, _ in found[tag]] == steps
    for step, loss in found.get("loss", []):
        assert loss == float(hook.results[step - 1][0])


def test_a_summary_hook_may_write_elsewhere_and_its_cadence_begins_anew_with_each_call(
    model_dir, tmp_path
):
    hook = est.SummarySaverHook(save_steps=4, output_dir=str(tmp_path / "other"))
    estimator = quiet(model_dir, noisy)
    for _ in range(2):
        estimator.train(endless, [hook], steps=6)
    assert [step for step, _ in scalars(str(tmp_path / "other"))["mean"]] == [1, 5, 7, 11]
    assert scalars(model_dir) == {}


def test_several_summary_hooks_write_each_at_its_cadence_the_same_numbers(model_dir, tmp_path):
    paths = [str(tmp_path / str(n)) for n in (1, 2, 3)]
    hooks = [
        est.SummarySaverHook(save_steps=1, output_dir=paths[0]),
        est.SummarySaverHook(save_steps=2, output_dir=paths[1]),
        est.SummarySaverHook(save_steps=3, summary_writer=est.EventWriter(paths[2])),
    ]
    quiet(model_dir, noisy, **UNSAVED).train(endless, hooks, steps=7)
    every, second, third = [scalars(path) for path in paths]
    for tag in ("mean", "loss"):
        assert [step for step, _ in every[tag]] == [1, 2, 3, 4, 5, 6, 7]
        assert (second[tag], third[tag]) == (every[tag][::2], every[tag][::3])


@pytest.mark.parametrize("kind", [est.SummarySaverHook, est.StepCounterHook])
def test_a_writer_of_the_users_is_written_when_the_run_ends_and_can_go_on(lines, tmp_path, kind):
    writer = est.EventWriter(str(tmp_path / "mine"))
    hook = kind(1, summary_writer=writer, output_dir=str(tmp_path / "not here"))
    lines.train(endless, hooks=[hook], steps=3)
    tag = "loss" if kind is est.SummarySaverHook else "global_step/sec"
    assert steps_in(tmp_path / "mine", tag) == [1, 2, 3][kind is est.StepCounterHook :]
    writer.add_scalars(9, {"own": 1.0})
    writer.flush()
    assert steps_in(tmp_path / "mine", "own") == [9]
    assert os.listdir(tmp_path) == ["mine"]


# GlobalStepWaiterHook.


class Steps(est.Session):
    """A session whose step others bring forward."""

    def __init__(self, step):
        self.global_step = step

    def names(self):
        return ["global_step"]

    def fetch(self, name):
        return self.global_step


def test_a_waiter_for_a_step_that_is_past_does_not_wait(model_dir, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    estimator = quiet(model_dir).train(endless, steps=2)
    estimator.train(endless, [est.GlobalStepWaiterHook(2), est.GlobalStepWaiterHook(0)], steps=1)


def test_a_waiter_waits_until_the_step_is_there_and_says_so(monkeypatch, caplog):
    def sleep(seconds):
        assert seconds == 0.25
        session.global_step += 400

    session = Steps(300)
    context = est.SessionRunContext(session)
    monkeypatch.setattr("time.sleep", sleep)
    hook = est.GlobalStepWaiterHook(1000, poll_secs=0.25)
    with caplog.at_level(logging.INFO, "estimator"):
        assert hook.next_step(300) == 301
        hook.before_run(context)
        assert session.global_step == 1100
        assert hook.next_step(1100) is None
        hook.before_run(context)
    told = [f"Waiting for step 1000, now at {step}." for step in (300, 700)]
    assert lines_of(caplog, "Waiting") == told


def test_a_waiter_waits_in_its_second_run_too(monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        session.global_step += 1

    monkeypatch.setattr("time.sleep", sleep)
    hook = est.GlobalStepWaiterHook(5)
    for _ in range(2):
        session = Steps(4)
        hook.begin()
        hook.before_run(est.SessionRunContext(session))
        assert session.global_step == 5
    assert len(slept) == 2


# FinalOpsHook.


@pytest.mark.parametrize(
    ("fetches", "read"),
    [
        ("line/kernel", lambda v: v),
        (["global_step", "line/kernel"], lambda v: v[1]),
        (("line/kernel",), lambda v: v[0]),
        ({"a": ("line/kernel", "loss")}, lambda v: v["a"][0]),
    ],
)
def test_final_ops_fetches_values_at_the_end(model_dir, fetches, read):
    hook = est.FinalOpsHook(fetches)
    assert hook.final_ops_values is None
    estimator = quiet(model_dir).train(endless, [hook], steps=3)
    assert type(hook.final_ops_values) is (
        type(fetches) if fetches != "line/kernel" else np.ndarray
    )
    kernel = estimator.get_variable_value("line/kernel")
    np.testing.assert_array_equal(read(hook.final_ops_values), kernel)
    estimator.train(endless, steps=2)
    np.testing.assert_array_equal(read(hook.final_ops_values), kernel)


def test_final_ops_works_in_evaluate_and_predict(lines):
    hooks = [est.FinalOpsHook(n) for n in ("loss", "y")]
    lines.evaluate(lambda: batches(2), hooks=[hooks[0]])
    answers = list(lines.predict(lambda: features_only(1), hooks=[hooks[1]]))
    assert np.shape(hooks[0].final_ops_values) == ()
    np.testing.assert_array_equal(hooks[1].final_ops_values, [a["y"] for a in answers])


# ProfilerHook.


def test_the_profiler_writes_a_trace_of_its_steps(lines, tmp_path):
    hook = est.ProfilerHook(save_steps=10, output_dir=str(tmp_path / "not" / "there"))
    lines.train(endless, [hook], steps=3)
    traces = glob.glob(str(tmp_path / "not" / "there" / "**" / "*.xplane.pb"), recursive=True)
    assert len(traces) == 1


def test_a_trace_ends_where_the_step_fails(lines, tmp_path):
    class Breaks(est.SessionRunHook):
        def before_run(self, run_context):
            raise ArithmeticError("enough")

    hook = est.ProfilerHook(save_steps=10, output_dir=str(tmp_path / "traces"))
    with pytest.raises(ArithmeticError, match="enough"):
        lines.train(endless, [hook, Breaks()], steps=3)
    try:
        fresh = est.ProfilerHook(save_steps=10, output_dir=str(tmp_path / "again"))
        lines.train(endless, [fresh], steps=1)
    except RuntimeError:
        jax.profiler.stop_trace()
        raise
