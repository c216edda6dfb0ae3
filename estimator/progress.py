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
    """Shows how far train or evaluate is; nothing where standard error is no terminal.

    Args:
        title: what stands before the bar.
        total: steps of the whole run, if it is known: then the time left is shown.
    """

    def __init__(self, title: str, total: int | None = None) -> None:
        self._title = title
        self._total = total
        self._bar: Any = None
        self._batches = 0
        self._shown = 0.0

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Draws the bar."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=self._title, total=self._total, unit=" steps", leave=True)

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Asks for the loss."""
        return SessionRunArgs("loss") if self._bar is not None else None

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Moves the bar, twice a second at the most: to show the loss is to wait for it."""
        if self._bar is None:
            return
        self._batches = run_context.session.batches
        if time.monotonic() - self._shown >= _REFRESH_SECONDS:
            self._shown = time.monotonic()
            self._bar.set_postfix(loss=f"{float(run_values.results):.4g}", refresh=False)
            self._advance()

    def close(self) -> None:
        """Leaves the bar as it is, after an exception, too."""
        if self._bar is not None:
            self._advance()
            self._bar.close()
            self._bar = None

    def next_step(self, global_step: int) -> int | None:
        """Returns None: any step will do."""
        return None

    def _advance(self) -> None:
        self._bar.update(self._batches - self._bar.n)
