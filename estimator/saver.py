"""The saver: writes a checkpoint at the start, every so often, and at the end.

    CheckpointSaverHook(estimator.model_dir, save_steps=500, listeners=[MyListener()])

Around each save its listeners are called: all `before_save`, the write, all `after_save`.
"""

from collections.abc import Sequence
from typing import Any

from estimator.session import (
    CheckpointSaverListener,
    Session,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
    check_hooks,
)
from estimator.timers import SAVE_NAMES, SecondOrStepTimer


class CheckpointSaverHook(SessionRunHook):
    """Saves checkpoints of a training run.

    >>> saver = CheckpointSaverHook("runs/iris", save_steps=500)

    Args:
        checkpoint_dir: the directory that holds `checkpoints/`; usually the model_dir.
        save_secs: seconds between two saves.
        save_steps: steps between two saves.
        listeners: are called around each save. Without any, saving goes on behind the training.

    Raises:
        ValueError: unless exactly one of save_secs and save_steps is given.
        TypeError: if a listener is none.
    """

    def __init__(
        self,
        checkpoint_dir: str,
        save_secs: float | None = None,
        save_steps: int | None = None,
        listeners: Sequence[CheckpointSaverListener] | None = None,
    ) -> None:
        self._directory = checkpoint_dir
        self._timer = SecondOrStepTimer(
            save_secs, save_steps, asked_by="CheckpointSaverHook", names=SAVE_NAMES
        )
        self._stops = False
        self._saved: int | None = None
        self._borrowed: list[CheckpointSaverListener] = []
        self._listeners = list(
            check_hooks(listeners, CheckpointSaverListener, "CheckpointSaverHook: listeners")
        )

    @property
    def directory(self) -> str:
        """The directory that holds `checkpoints/`."""
        return self._directory

    def add_listeners(self, listeners: Sequence[CheckpointSaverListener]) -> None:
        """Adds listeners that are not there yet, for one run."""
        for new in listeners:
            if new not in self._listeners:
                self._listeners.append(new)
                self._borrowed.append(new)

    def begin(self) -> None:
        """Begins to count anew."""
        self._timer.reset()
        self._saved = None
        for listener in self._listeners:
            listener.begin()

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Saves the step the run starts from."""
        self._stops = self._save(session)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Saves, if it is time."""
        session = run_context.session
        due = self._timer.should_trigger_for_step(session.global_step)
        if self._stops or (due and self._save(session)):
            run_context.request_stop()

    def end(self, session: Session) -> None:
        """Saves the last step."""
        if session.global_step != self._saved:
            self._save(session)
        for listener in self._listeners:
            listener.end(session, session.global_step)

    def close(self) -> None:
        """Lets go of the listeners that were added."""
        self._listeners = [one for one in self._listeners if one not in self._borrowed]
        self._borrowed = []

    def save_now(self, session: Session) -> bool:
        """Saves apart from the cadence, and waits; returns whether the run should stop."""
        if session.global_step != self._saved:
            return self._write(session, wait=True)
        session.save(self._directory, wait=True)  # it may still be on its way
        return False

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next save; the next one, if the first save asked to stop."""
        return global_step + 1 if self._stops else self._timer.next_step(global_step)

    def _save(self, session: Session) -> bool:
        """Saves, and returns whether the run should stop."""
        self._timer.update_last_triggered_step(session.global_step)
        return self._write(session, wait=bool(self._listeners))

    def _write(self, session: Session, wait: bool) -> bool:
        step = session.global_step
        if not session.check_finite():
            return True
        for listener in self._listeners:
            listener.before_save(session, step)
        session.save(self._directory, wait=wait)
        self._saved = step
        answers = [listener.after_save(session, step) for listener in self._listeners]
        return any(answers)
