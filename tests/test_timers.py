"""Timers: by steps or by seconds, with a clock that the test holds."""

import pytest

import estimator as est


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_timer_fires_at_its_first_step_and_every_so_many_steps_from_there():
    timer = est.SecondOrStepTimer(every_steps=3)
    fired = []
    for step in range(5, 15):
        if timer.should_trigger_for_step(step):
            fired.append((step, timer.update_last_triggered_step(step)[1]))
    assert fired == [(5, None), (8, 3), (11, 3), (14, 3)]
    assert timer.last_triggered_step() == 14


def test_a_timer_fires_once_for_one_step():
    timer = est.SecondOrStepTimer(every_secs=0.0)
    timer.update_last_triggered_step(3)
    assert not timer.should_trigger_for_step(3)
    assert timer.should_trigger_for_step(4)


def test_a_timer_of_seconds_looks_at_the_clock():
    clock = Clock()
    timer = est.SecondOrStepTimer(every_secs=2.0, clock=clock)
    assert timer.should_trigger_for_step(1)
    assert timer.update_last_triggered_step(1) == (None, None)
    clock.now = 1.9
    assert not timer.should_trigger_for_step(2)
    clock.now = 2.0
    assert timer.should_trigger_for_step(3)
    assert timer.update_last_triggered_step(3) == (2.0, 2)


def test_a_timer_that_was_reset_fires_at_once():
    timer = est.SecondOrStepTimer(every_steps=100)
    timer.update_last_triggered_step(1)
    timer.reset()
    assert timer.last_triggered_step() is None
    assert timer.should_trigger_for_step(2)


@pytest.mark.parametrize("given", [{}, {"every_secs": 1.0, "every_steps": 1}])
def test_a_timer_needs_exactly_one_cadence(given):
    with pytest.raises(ValueError, match="Exactly one of every_secs and every_steps"):
        est.SecondOrStepTimer(**given)
