"""Progress: a bar on a terminal, with loss, steps a second and the time left.

    train:  28%|███████▏       | 1685/6000 [00:02<00:05, 772 steps/s, loss=0.00086]

It reads the loss twice a second at the most.
"""

import contextlib
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
        first: the step it begins at.
        last: the step it ends at, if it is known: then the time left is shown.
    """

    def __init__(self, title: str, first: int = 0, last: int | None = None) -> None:
        self._title = title
        self._first = first
        self._last = last
        self._bar: Any = None
        self._step = first
        self._shown = 0.0
        self._contexts = contextlib.ExitStack()

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Draws the bar; log lines that go to the terminal then stand above it."""
        if sys.stderr.isatty():
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm

            self._contexts.enter_context(logging_redirect_tqdm())
            self._bar = tqdm(
                desc=self._title, initial=self._first, total=self._last, unit=" steps", leave=True
            )

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Asks for the loss."""
        return SessionRunArgs("loss") if self._bar is not None else None

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Moves the bar, twice a second at the most: to show the loss is to wait for it."""
        if self._bar is None:
            return
        self._step = self._first + run_context.session.batches
        if time.monotonic() - self._shown >= _REFRESH_SECONDS:
            self._shown = time.monotonic()
            self._bar.set_postfix(loss=f"{float(run_values.results):.4g}", refresh=False)
            self._bar.update(self._step - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it is, after an exception, too."""
        if self._bar is not None:
            self._bar.update(self._step - self._bar.n)
            self._bar.close()
            self._bar = None
        self._contexts.close()

    def next_step(self, global_step: int) -> int | None:
        """Returns None: any step will do."""
        return None
