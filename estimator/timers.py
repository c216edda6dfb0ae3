"""Timers: when something is due, by steps or by seconds.

    timer = SecondOrStepTimer(every_steps=100)
    if timer.should_trigger_for_step(step):
        seconds, steps = timer.update_last_triggered_step(step)

A timer reads no clock but the one it is given.
"""

import time
from collections.abc import Callable

SAVE_NAMES = ("save_secs", "save_steps")


class SecondOrStepTimer:
    """Fires at its first step, then every so many steps or seconds.

    >>> timer = SecondOrStepTimer(every_steps=3)
    >>> [step for step in range(1, 9)
    ...  if timer.should_trigger_for_step(step) and timer.update_last_triggered_step(step)]
    [1, 4, 7]

    Args:
        every_secs: seconds between two firings.
        every_steps: steps between two firings.
        clock: tells the time in seconds.
        asked_by: whose arguments they are, for error messages.
        names: what they are called there.

    Raises:
        ValueError: unless exactly one of the two is given, and steps are more than 0.
    """

    def __init__(
        self,
        every_secs: float | None = None,
        every_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        asked_by: str = "SecondOrStepTimer",
        names: tuple[str, str] = ("every_secs", "every_steps"),
    ) -> None:
        if (every_secs is None) == (every_steps is None):
            raise ValueError(
                f"{asked_by}: Exactly one of {names[0]} and {names[1]} must be given, got "
                f"{names[0]}={every_secs} and {names[1]}={every_steps}."
            )
        if every_steps is not None and every_steps <= 0:
            raise ValueError(f"{asked_by}: {names[1]} must be > 0, got {every_steps}.")
        self._every_secs = every_secs
        self._every_steps = every_steps
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forgets that it ever fired."""
        self._last_step: int | None = None
        self._last_time: float | None = None

    def should_trigger_for_step(self, step: int) -> bool:
        """Returns whether it is due at `step`."""
        if self._last_step is None or self._last_time is None:
            return True
        self._go_back_to(step)
        if step == self._last_step:
            return False
        if self._every_secs is not None:
            return self._clock() >= self._last_time + self._every_secs
        return self._every_steps is not None and step >= self._last_step + self._every_steps

    def is_due_within(self, step: int, count: int) -> bool:
        """Returns whether it is due at one of the `count` steps after `step`, or by the clock."""
        if self._last_step is None or self._every_steps is None:
            return self.should_trigger_for_step(step + 1)
        return step + count >= self._last_step + self._every_steps

    def update_last_triggered_step(self, step: int) -> tuple[float | None, int | None]:
        """Notes that it fired; returns seconds and steps since it fired before, or None, None."""
        now = self._clock()
        elapsed: tuple[float | None, int | None] = (None, None)
        if self._last_step is not None and self._last_time is not None:
            elapsed = (now - self._last_time, step - self._last_step)
        self._last_step, self._last_time = step, now
        return elapsed

    def last_triggered_step(self) -> int | None:
        """Returns the step it last fired at, or None."""
        return self._last_step

    def next_step(self, global_step: int) -> int | None:
        """Returns the next step to look at it: None for a clock, which is looked at at any time."""
        if self._last_step is None:
            return global_step + 1
        self._go_back_to(global_step)
        return None if self._every_steps is None else self._last_step + self._every_steps

    def _go_back_to(self, step: int) -> None:
        """Counts from `step` where a run has gone back to it."""
        if self._last_step is not None and step < self._last_step:
            self._last_step = step


def step_of_batch(first: int, batch: int | None) -> int | None:
    """Returns the global step of a run's batch: a run that does not train counts batches.

    >>> step_of_batch(100, 3), step_of_batch(100, None)
    (103, None)

    Args:
        first: the global step that the run began at.
        batch: the number of the batch, from 1; None, as from a timer of seconds, stays None.
    """
    return None if batch is None else first + batch
