"""Progress: a bar on a terminal, with loss, steps a second and the time left."""

import sys
import time
from typing import Any

from estimator.session import (
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)

_REFRESH_SECONDS = 0.5


class ProgressBarHook(SessionRunHook):
    """Shows how far a run is; nothing where standard error is no terminal.

    Args:
        title: what stands before the bar.
        total: steps of the whole run, if it is known: then the time left is shown.
        loss: whether there is a loss to show.
    """

    def __init__(self, title: str, total: int | None = None, loss: bool = True) -> None:
        self._title = title
        self._total = total
        self._fetches = SessionRunArgs("loss") if loss else None
        self._bar: Any = None
        self._count = 0
        self._shown = 0.0

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Draws the bar."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=self._title, total=self._total, unit=" steps", leave=True)

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Asks for the loss and notes where the step starts."""
        self._start = run_context.session.global_step
        return self._fetches if self._bar is not None else None

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Moves the bar, twice a second at the most: to show the loss is to wait for it."""
        if self._bar is None:
            return
        self._count += max(run_context.session.global_step - self._start, 1)
        if time.monotonic() - self._shown >= _REFRESH_SECONDS:
            self._shown = time.monotonic()
            if self._fetches is not None:
                self._bar.set_postfix(loss=f"{float(run_values.results):.4g}", refresh=False)
            self._advance()

    def end(self, session: Session) -> None:
        """Leaves the finished bar."""
        self.close()

    def close(self) -> None:
        """Takes the terminal back, after an exception too."""
        if self._bar is not None:
            self._advance()
            self._bar.close()
            self._bar = None

    def next_step(self, global_step: int) -> int | None:
        """Returns None: any step will do."""
        return None

    def _advance(self) -> None:
        self._bar.update(self._count)
        self._count = 0
