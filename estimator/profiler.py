"""The profiler: traces of single steps, for TensorBoard's profiler or Perfetto.

estimator.train(input_fn, hooks=[ProfilerHook(save_steps=1000, output_dir="runs/profile")])
"""

from typing import Any

import jax

from estimator.session import (
    Session,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)
from estimator.timers import SAVE_NAMES, SecondOrStepTimer, step_of_batch


class ProfilerHook(SessionRunHook):
    """Writes a trace of single steps (or blocks) for TensorBoard's profiler or Perfetto.

    >>> ProfilerHook(save_steps=1000, output_dir="runs/profile").next_step(0)
    1

    Args:
        save_steps: steps between two traces; the first step is traced.
        save_secs: seconds between two traces, in place of steps.
        output_dir: where the traces go.
    """

    def __init__(
        self, save_steps: int | None = None, save_secs: float | None = None, output_dir: str = ""
    ) -> None:
        self._timer = SecondOrStepTimer(
            save_secs, save_steps, asked_by="ProfilerHook", names=SAVE_NAMES
        )
        self._output_dir = output_dir
        self._tracing = False
        self._first = 0

    def begin(self) -> None:
        """Begins to count anew."""
        self._timer.reset()

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Notes where the run starts."""
        self._first = session.global_step

    def before_run(self, run_context: SessionRunContext) -> None:
        """Starts a trace, if it is time."""
        session = run_context.session
        if self._timer.is_due_within(session.batches, session.block):
            jax.profiler.start_trace(self._output_dir or ".")
            self._tracing = True

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Waits for the traced step and writes it."""
        if self._tracing:
            jax.block_until_ready(run_context.session.outputs)
            self.close()
            self._timer.update_last_triggered_step(run_context.session.batches)

    def close(self) -> None:
        """Ends the trace: JAX has only one at a time."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next trace."""
        return step_of_batch(self._first, self._timer.next_step(global_step - self._first))
