"""Stop hooks: what ends a run before its input does.

    estimator.train(input_fn, hooks=[StopAtStepHook(last_step=1000)])

The loss is watched for numbers that are none in every train call; a NanTensorHook of your own says
how, or watches another value.
"""

import logging
from typing import Any

import numpy as np

from estimator.session import (
    NAN_CURE,
    NanLossDuringTrainingError,
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
    refuse_tracers,
)
from estimator.timers import SecondOrStepTimer, step_of_batch

_LOG = logging.getLogger(__name__)


class StopAtStepHook(SessionRunHook):
    """Asks the run to stop after a number of steps, or at a step.

    >>> StopAtStepHook(last_step=100).next_step(3)  # it need not see the steps before
    100

    Args:
        num_steps: steps from the beginning of this run.
        last_step: the global step to stop at.

    Raises:
        ValueError: unless exactly one is given.
    """

    def __init__(self, num_steps: int | None = None, last_step: int | None = None) -> None:
        if (num_steps is None) == (last_step is None):
            raise ValueError(
                "StopAtStepHook: give exactly one of num_steps and last_step, got "
                f"num_steps={num_steps} and last_step={last_step}."
            )
        self._num_steps = num_steps
        self._last_step = last_step
        self._first = 0

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Counts from the present step."""
        self._first = session.global_step
        if self._num_steps is not None:
            self._last_step = session.global_step + self._num_steps

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Stops at the last step."""
        session = run_context.session
        # A number of steps is one of batches where nothing is trained.
        step = session.global_step if self._num_steps is None else self._first + session.batches
        if self._last_step is not None and step >= self._last_step:
            run_context.request_stop()

    def next_step(self, global_step: int) -> int | None:
        """Returns the last step; the next one, if that is past already."""
        return None if self._last_step is None else max(self._last_step, global_step + 1)


class NanTensorHook(SessionRunHook):
    """Stops the run when the loss is no longer a finite number.

    The device notes the first bad step; the hook looks every so many steps, and before each
    checkpoint the saver looks, too, so no bad checkpoint is written.

    >>> NanTensorHook("loss", fail_on_nan_loss=False).fail_on_nan_loss
    False

    Args:
        loss_tensor: the name to watch.
        fail_on_nan_loss: whether to raise; else the run just stops.
        every_n_iter: steps between two looks.
    """

    def __init__(
        self, loss_tensor: str = "loss", fail_on_nan_loss: bool = True, every_n_iter: int = 100
    ) -> None:
        refuse_tracers(loss_tensor, "NanTensorHook")
        self.fail_on_nan_loss = fail_on_nan_loss
        self._name = loss_tensor
        self._timer = SecondOrStepTimer(
            every_steps=every_n_iter, asked_by="NanTensorHook", names=("", "every_n_iter")
        )
        self._first = 0

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Checks the name."""
        session.check(self._name, "NanTensorHook")
        self._timer.reset()
        self._first = session.global_step

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Asks for the loss."""
        return SessionRunArgs(self._name)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Looks at the loss."""
        session = run_context.session
        if self._timer.should_trigger_for_step(session.batches):
            # The first step, then multiples: whatever saves at multiples, blocks stay whole.
            self._timer.update_last_triggered_step(session.batches if session.batches > 1 else 0)
            if self._is_bad(session, run_values.results):
                run_context.request_stop()

    def end(self, session: Session) -> None:
        """Looks once more, at the steps since the last look."""
        if session.has(self._name):
            self._is_bad(session, session.run(self._name))

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next look."""
        batch = global_step - self._first
        due = self._timer.next_step(batch)
        return step_of_batch(self._first, None if due is None else max(due, batch + 1))

    def _is_bad(self, session: Session, value: Any) -> bool:
        step = session.bad_step() if self._name == "loss" else None
        is_good = np.isfinite if self._name == "loss" else _is_no_nan
        if step is None and is_good(np.asarray(value)).all():
            return False
        step = session.global_step if step is None else step
        message = f"{self._name} was not a finite number at step {step}."
        if self.fail_on_nan_loss:
            raise NanLossDuringTrainingError(
                f"{message} The last checkpoint is from before. {NAN_CURE}"
            )
        _LOG.error("%s", message)
        return True


def _is_no_nan(values: np.ndarray) -> np.ndarray:
    """Returns where a value that is no loss is good: it may be infinite on purpose."""
    return ~np.isnan(values)
