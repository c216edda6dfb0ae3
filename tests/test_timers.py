"""Timers: by steps or by seconds, alone and in hooks, with a clock that the test holds."""

import logging
import os

import pytest
from models import endless, lines_of, quiet, scalars

import estimator as est

UNSAVED = {"save_checkpoints_steps": None, "save_checkpoints_secs": None}


class Clock(est.SessionRunHook):
    """A clock that, as the first hook of a run, moves to the next of `times` before each step."""

    def __init__(self, *times):
        self.now = 0.0
        self.times = list(times)

    def __call__(self):
        return self.now

    def before_run(self, run_context):
        self.now = self.times.pop(0)

    def of(self, hook):
        """Returns the hook with this clock: hooks take none as an argument."""
        hook._timer._clock = self
        return hook


def fired(timer, steps):
    """Returns the steps at which a timer fires that is asked at each."""
    return [
        step
        for step in steps
        if timer.should_trigger_for_step(step) and timer.update_last_triggered_step(step)
    ]


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [5, 6, 7, 8, 9]), (3, [5, 8]), (4, [5, 9]), (100, [5])]
)
def test_a_timer_fires_at_its_first_step_and_every_so_many_steps_from_there(every, steps):
    timer = est.SecondOrStepTimer(every_steps=every)
    assert fired(timer, range(5, 10)) == steps
    assert timer.last_triggered_step() == steps[-1]


def test_a_timer_asked_late_fires_late_and_counts_from_there():
    assert fired(est.SecondOrStepTimer(every_steps=3), [1, 3, 6, 7, 8, 9, 20, 22, 23]) == [
        *(1, 6),
        *(9, 20, 23),
    ]


@pytest.mark.parametrize("given", [{"every_secs": 0.0}, {"every_steps": 1}])
def test_a_timer_fires_once_for_one_step(given):
    timer = est.SecondOrStepTimer(**given)
    timer.update_last_triggered_step(3)
    assert not timer.should_trigger_for_step(3)
    assert timer.should_trigger_for_step(4)


def test_asking_a_timer_does_not_change_it():
    timer = est.SecondOrStepTimer(every_steps=3)
    assert timer.should_trigger_for_step(1)
    assert timer.should_trigger_for_step(1)
    assert timer.last_triggered_step() is None


def test_a_timer_of_seconds_looks_at_the_clock():
    clock = Clock()
    timer = est.SecondOrStepTimer(every_secs=2.0, clock=clock)
    assert timer.should_trigger_for_step(1)
    assert timer.update_last_triggered_step(1) == (None, None)
    clock.now = 1.9
    assert not timer.should_trigger_for_step(2)
    clock.now = 2.0
    assert not timer.should_trigger_for_step(1), "not twice for one step"
    assert timer.should_trigger_for_step(3)
    assert timer.update_last_triggered_step(3) == (2.0, 2)


@pytest.mark.parametrize("given", [{"every_secs": 100.0}, {"every_steps": 100}])
def test_an_update_tells_the_seconds_and_steps_since_the_one_before(given):
    clock = Clock()
    timer = est.SecondOrStepTimer(**given, clock=clock)
    told = []
    for step, clock.now in ((1, 10.0), (5, 12.5), (7, 12.5)):
        told.append(timer.update_last_triggered_step(step))
    assert told == [(None, None), (2.5, 4), (0.0, 2)]


def test_a_timer_that_was_reset_fires_at_once():
    timer = est.SecondOrStepTimer(every_steps=100)
    timer.update_last_triggered_step(1)
    timer.reset()
    assert timer.last_triggered_step() is None
    assert timer.should_trigger_for_step(2)
    assert timer.update_last_triggered_step(2) == (None, None)


@pytest.mark.parametrize("every", [1, 2, 5, 7])
def test_the_next_step_is_the_one_a_timer_fires_at(every):
    timer = est.SecondOrStepTimer(every_steps=every)
    told = [timer.next_step(0)]
    while told[-1] < 30:
        timer.update_last_triggered_step(told[-1])
        told.append(timer.next_step(told[-1]))
    assert told == fired(est.SecondOrStepTimer(every_steps=every), range(1, told[-1] + 1))


def test_a_timer_of_seconds_is_looked_at_at_any_time_once_it_has_fired():
    timer = est.SecondOrStepTimer(every_secs=1.0)
    assert timer.next_step(4) == 5
    timer.update_last_triggered_step(5)
    assert timer.next_step(5) is None


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("every", [1, 3, 5])
def test_a_timer_is_due_within_steps_of_which_it_fires_at_one(every, count):
    timer = est.SecondOrStepTimer(every_steps=every)
    timer.update_last_triggered_step(1)
    for step in range(1, 8):
        steps = range(step + 1, step + count + 1)
        assert timer.is_due_within(step, count) == any(map(timer.should_trigger_for_step, steps))


@pytest.mark.parametrize("given", [{}, {"every_secs": 1.0, "every_steps": 1}])
def test_a_timer_needs_exactly_one_cadence(given):
    with pytest.raises(ValueError, match="Exactly one of every_secs and every_steps"):
        est.SecondOrStepTimer(**given)


@pytest.mark.parametrize("every", [0, -3])
def test_a_timer_refuses_a_number_of_steps_that_is_none(every):
    with pytest.raises(ValueError, match=f"every_steps must be > 0, got {every}"):
        est.SecondOrStepTimer(every_steps=every)


# In hooks.


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """An estimator of a line that saves nothing: each call begins at step 0."""
    return quiet(str(tmp_path_factory.mktemp("lines") / "model"), **UNSAVED)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"every_n_secs": 1.0}, ["1", "3 (1.000 sec)", "5 (2.500 sec)"]),
        ({"every_n_iter": 2}, ["1", "3 (1.000 sec)", "5 (2.500 sec)"]),
        ({"every_n_iter": 4, "at_end": True}, ["1", "5 (3.500 sec)", "6"]),
    ],
)
def test_a_line_tells_the_seconds_since_the_one_before_and_the_first_does_not(
    lines, caplog, given, shown
):
    clock = Clock(5.0, 5.9, 6.0, 6.5, 8.5, 9.0)
    hook = clock.of(est.LoggingTensorHook({"at": "global_step"}, **given))
    with caplog.at_level(logging.INFO, "estimator"):
        lines.train(endless, [clock, hook], steps=6)
    assert [text.removeprefix("at = ") for text in lines_of(caplog, "at = ")] == shown


@pytest.mark.parametrize(
    ("given", "rates"),
    [
        ({"every_n_steps": 1}, [(2, 2.0), (3, 1.0), (4, 4.0), (5, 0.5), (6, 8.0)]),
        ({"every_n_steps": 2}, [(3, 2 / 1.5), (5, 2 / 2.25)]),
        ({"every_n_steps": None, "every_n_secs": 1.5}, [(3, 2 / 1.5), (5, 2 / 2.25)]),
        ({"every_n_secs": 3.0}, [(5, 4 / 3.75)]),
        ({"every_n_steps": 6}, []),
        ({"every_n_secs": 100.0}, []),
    ],
)
def test_a_step_counter_measures_the_steps_and_seconds_since_its_last_firing(
    lines, tmp_path, caplog, given, rates
):
    clock = Clock(7.0, 7.5, 8.5, 8.75, 10.75, 10.875)
    hook = clock.of(est.StepCounterHook(**given, output_dir=str(tmp_path)))
    with caplog.at_level(logging.INFO, "estimator"):
        lines.train(endless, [clock, hook], steps=6)
    assert dict(scalars(str(tmp_path)).get("global_step/sec", [])) == pytest.approx(dict(rates))
    told = [f"global_step/sec: {rate:g}" for _, rate in rates]
    assert lines_of(caplog, "global_step/sec") == told
    assert bool(os.listdir(tmp_path)) == bool(rates), "one firing makes no file"


def test_a_step_counter_does_not_divide_by_a_time_that_did_not_pass(lines, tmp_path):
    clock = Clock(1.0, 1.0, 3.0)
    hook = clock.of(est.StepCounterHook(every_n_steps=1, output_dir=str(tmp_path)))
    lines.train(endless, [clock, hook], steps=3)
    assert scalars(str(tmp_path))["global_step/sec"] == [(3, 0.5)]


def test_a_step_counter_does_not_count_the_time_between_two_runs(lines, tmp_path):
    clock = Clock(1.0, 2.0, 100.0, 104.0)
    hook = clock.of(est.StepCounterHook(every_n_steps=1, output_dir=str(tmp_path)))
    for _ in range(2):
        lines.train(endless, [clock, hook], steps=2)
    assert scalars(str(tmp_path))["global_step/sec"] == [(2, 1.0), (2, 0.25)]


def test_a_step_counter_counts_the_steps_of_blocks(model_dir, tmp_path):
    clock = Clock(1.0, 2.0, 4.0)  # a block is one look at the clock
    clock.next_step = lambda step: None
    hook = clock.of(est.StepCounterHook(every_n_steps=5, output_dir=str(tmp_path)))
    quiet(model_dir, steps_per_execution=5, **UNSAVED).train(endless, [clock, hook], steps=11)
    assert scalars(str(tmp_path))["global_step/sec"] == [(6, 5.0), (11, 2.5)]


@pytest.mark.parametrize(
    ("secs", "steps"), [(0.5, [1, 2, 3, 4, 5, 6, 7, 8]), (9.0, [1, 4, 7]), (100.0, [1])]
)
def test_summaries_are_written_when_their_seconds_have_passed(lines, tmp_path, secs, steps):
    clock = Clock(*[3.1 * i for i in range(8)])
    hook = clock.of(est.SummarySaverHook(save_secs=secs, output_dir=str(tmp_path)))
    lines.train(endless, [clock, hook], steps=8)
    assert [step for step, _ in scalars(str(tmp_path))["loss"]] == steps


@pytest.fixture
def traced(monkeypatch):
    """The traces that were begun and ended, in place of real ones, which are slow."""
    log = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda path: log.append(path))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: log.append("stop"))
    return log


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"save_steps": 1}, [1, 2, 3, 4, 5, 6]),
        ({"save_steps": 2}, [1, 3, 5]),
        ({"save_steps": 6}, [1]),
        ({"save_secs": 2}, [1, 3, 6]),
        ({"save_secs": 100}, [1]),
    ],
)
def test_the_profiler_traces_the_first_step_and_at_its_cadence_in_each_run(
    lines, traced, given, steps
):
    class Marks(est.SessionRunHook):
        def before_run(self, run_context):
            traced.append(run_context.session.global_step + 1)

    for _ in range(2):
        traced.clear()
        clock = Clock(3.0, 4.9, 5.5, 5.6, 7.4, 7.5)
        hook = clock.of(est.ProfilerHook(**given))
        lines.train(endless, [clock, Marks(), hook], steps=6)
        around = [traced[traced.index(step) :][:3] for step in steps]
        assert around == [[step, ".", "stop"] for step in steps]
        assert len(traced) == 6 + 2 * len(steps)
