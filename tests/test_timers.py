"""Timers: by steps or by seconds, with a clock that the test holds."""

import pytest

import estimator as est


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
