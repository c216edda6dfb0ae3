"""Report hooks: what tells people how a run goes.

    estimator.train(input_fn, hooks=[LoggingTensorHook({"loss": "loss"}, every_n_iter=100)])

Values are fetched by name: `loss`, `global_step`, a variable, or what the model_fn has tagged. A
hook that has nothing to report asks for nothing, and what nobody asks for is not waited for.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from estimator.events import EventWriter
from estimator.session import (
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
    refuse_tracers,
)
from estimator.timers import SAVE_NAMES, SecondOrStepTimer, step_of_batch

_LOG = logging.getLogger(__name__)


class LoggingTensorHook(SessionRunHook):
    """Logs values every so many steps or seconds.

    >>> LoggingTensorHook({"loss": "loss"}, every_n_iter=100).next_step(0)
    1

    Args:
        tensors: names to fetch: a dict from what to show to the name, a list of names, or one.
        every_n_iter: steps between two lines; the first step is shown.
        every_n_secs: seconds between two lines.
        at_end: whether to log at the end of the run, too.
        formatter: makes the line of a dict of values.

    Raises:
        ValueError: unless exactly one cadence is given (none is needed with `at_end`).
        TypeError: if it is given traced arrays in place of names.
    """

    def __init__(
        self,
        tensors: Mapping[str, str] | Sequence[str] | str,
        every_n_iter: int | None = None,
        every_n_secs: float | None = None,
        at_end: bool = False,
        formatter: Callable[[dict[str, Any]], str] | None = None,
    ) -> None:
        refuse_tracers(tensors, "LoggingTensorHook")
        if every_n_iter is not None and every_n_secs is not None:
            raise ValueError("LoggingTensorHook: give only one of every_n_iter and every_n_secs.")
        if every_n_iter is None and every_n_secs is None and not at_end:
            raise ValueError("LoggingTensorHook: give every_n_iter, every_n_secs or at_end=True.")
        if every_n_iter is not None and every_n_iter <= 0:
            raise ValueError(f"LoggingTensorHook: every_n_iter must be > 0, got {every_n_iter}.")
        tensors = [tensors] if isinstance(tensors, str) else tensors
        if formatter is not None and not callable(formatter):
            raise TypeError(f"LoggingTensorHook: formatter must be a function, got {formatter!r}.")
        self._tensors = dict(tensors) if isinstance(tensors, Mapping) else {n: n for n in tensors}
        timed = every_n_iter is not None or every_n_secs is not None
        self._timer = SecondOrStepTimer(every_n_secs, every_n_iter) if timed else None
        self._at_end = at_end
        self._formatter = formatter
        self._first = 0

    def begin(self) -> None:
        """Begins to count anew."""
        if self._timer is not None:
            self._timer.reset()

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Checks the names."""
        session.check(self._tensors, "LoggingTensorHook")
        self._first = session.global_step

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Asks for the values, if it is time."""
        session = run_context.session
        due = self._timer and self._timer.is_due_within(session.batches, session.block)
        return SessionRunArgs(self._tensors if self._is_heard() else {}) if due else None

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Logs, if it is time."""
        count = run_context.session.batches
        if self._timer is None or run_values.results is None:
            return
        if self._timer.should_trigger_for_step(count):
            self._log(run_values.results, self._timer.update_last_triggered_step(count)[0])

    def end(self, session: Session) -> None:
        """Logs the last values."""
        if (
            self._at_end
            and self._is_heard()
            and all(session.has(name) for name in self._tensors.values())
        ):
            self._log(session.run(self._tensors), None)

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next line."""
        if self._timer is None:
            return None
        return step_of_batch(self._first, self._timer.next_step(global_step - self._first))

    def _is_heard(self) -> bool:
        """Whether anybody listens: else values are neither fetched nor waited for."""
        return self._formatter is not None or _LOG.isEnabledFor(logging.INFO)

    def _log(self, values: Mapping[str, Any], seconds: float | None) -> None:
        if not self._is_heard():
            return
        shown = {name: np.asarray(value) for name, value in values.items()}
        if self._formatter is not None:
            _LOG.info(self._formatter(shown))
            return
        line = ", ".join(f"{name} = {value}" for name, value in shown.items())
        _LOG.info("%s%s", line, "" if seconds is None else f" ({seconds:.3f} sec)")


class StepCounterHook(SessionRunHook):
    """Logs and writes how many steps a second are made, as `global_step/sec`.

    >>> StepCounterHook(every_n_steps=50).next_step(0)  # starts the clock
    1

    Args:
        every_n_steps: steps between two measurements; the first step starts the clock.
        every_n_secs: seconds between two measurements, in place of steps.
        output_dir: where the event file is; by default that of the run.
        summary_writer: an `EventWriter` in place of that.
    """

    def __init__(
        self,
        every_n_steps: int | None = 100,
        every_n_secs: float | None = None,
        output_dir: str | None = None,
        summary_writer: EventWriter | None = None,
    ) -> None:
        every_n_steps = None if every_n_secs is not None else every_n_steps
        self._timer = SecondOrStepTimer(
            every_n_secs,
            every_n_steps,
            asked_by="StepCounterHook",
            names=("every_n_secs", "every_n_steps"),
        )
        self._output_dir = output_dir
        self._writer = summary_writer

    def begin(self) -> None:
        """Begins to count anew."""
        self._timer.reset()

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Checks that the run makes steps."""
        if "losses" not in session.names():
            raise ValueError(
                "StepCounterHook: evaluate and predict make no steps. Give it to train."
            )

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Measures, if it is time."""
        session = run_context.session
        step = session.global_step
        if not self._timer.should_trigger_for_step(step):
            return
        seconds, steps = self._timer.update_last_triggered_step(step)
        if seconds and steps:
            writer = self._writer or session.summary_writer(self._output_dir)
            writer.add_scalars(step, {"global_step/sec": steps / seconds})
            _LOG.info("global_step/sec: %g", steps / seconds)

    def close(self) -> None:
        """Writes what its own writer still holds; the run's is written by the run."""
        if self._writer is not None:
            self._writer.flush()

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next measurement."""
        return self._timer.next_step(global_step)


class SummarySaverHook(SessionRunHook):
    """Writes the model_fn's summaries, in training the loss too, every so many steps or seconds.

    Among the `evaluation_hooks` of a spec it writes those of an evaluation's first batch.

    >>> SummarySaverHook(save_steps=10).next_step(0)
    1

    Args:
        save_steps: steps between two summaries; the first step is written.
        save_secs: seconds between two summaries, in place of steps.
        output_dir: where the event file is; by default that of the run.
        summary_writer: an `EventWriter` in place of that.
    """

    def __init__(
        self,
        save_steps: int | None = None,
        save_secs: float | None = None,
        output_dir: str | None = None,
        summary_writer: EventWriter | None = None,
    ) -> None:
        self._timer = SecondOrStepTimer(
            save_secs, save_steps, asked_by="SummarySaverHook", names=SAVE_NAMES
        )
        self._output_dir = output_dir
        self._writer = summary_writer
        self._wanted = False
        self._before = -1
        self._stands_still = False

    def begin(self) -> None:
        """Begins to count anew."""
        self._timer.reset()
        self._stands_still = False

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Checks that the run has summaries: predict has none."""
        session.check("summaries", "SummarySaverHook")

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Asks for the summaries, if it is time: only then the step computes them."""
        session = run_context.session
        self._before = session.global_step
        due = self._timer.is_due_within(session.global_step, session.block)
        self._wanted = due and not self._stands_still
        return SessionRunArgs("summaries") if self._wanted else None

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Writes them."""
        session = run_context.session
        if not self._wanted or not self._timer.should_trigger_for_step(session.global_step):
            return
        self._timer.update_last_triggered_step(session.global_step)
        # An evaluation makes no steps: its first batch is all that is written.
        self._stands_still = session.global_step == self._before
        writer = self._writer or session.summary_writer(self._output_dir)
        writer.add_summaries(session.global_step, jax.device_get(run_values.results))

    def close(self) -> None:
        """Writes what its own writer still holds; the run's is written by the run."""
        if self._writer is not None:
            self._writer.flush()

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next summary."""
        return self._timer.next_step(global_step)


class FinalOpsHook(SessionRunHook):
    """Fetches values at the end of a run.

    >>> FinalOpsHook({"last_loss": "loss"}).final_ops_values is None  # until a run has ended
    True

    Args:
        final_ops: names to fetch.

    Attributes:
        final_ops_values: their values; None where the run made no step that could give them.
    """

    def __init__(self, final_ops: Any, final_ops_feed_dict: None = None) -> None:
        del final_ops_feed_dict
        refuse_tracers(final_ops, "FinalOpsHook")
        self._final_ops = final_ops
        self.final_ops_values: Any = None

    def begin(self) -> None:
        """Forgets the values of the run before."""
        self.final_ops_values = None

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Checks the names."""
        session.check(self._final_ops, "FinalOpsHook")

    def end(self, session: Session) -> None:
        """Fetches the values."""
        if all(session.has(name) for name in jax.tree.leaves(self._final_ops)):
            self.final_ops_values = jax.device_get(session.run(self._final_ops))

    def next_step(self, global_step: int) -> int | None:
        """Returns None: no step matters but the end."""
        return None
