"""Signals: Ctrl-C and SIGTERM set a flag that the training loop reads between steps.

    with Interrupt() as interrupt:
        while not interrupt.requested:
            ...

A second Ctrl-C raises KeyboardInterrupt at once.
"""

import contextlib
import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_LOG = logging.getLogger(__name__)


class Interrupt(contextlib.AbstractContextManager["Interrupt"]):
    """Catches SIGINT and SIGTERM while it is entered, in the main thread; elsewhere, nothing.

    Attributes:
        requested: the name of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not installed from Python: leave it unset.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        _LOG.warning(
            "%s: saving a checkpoint and ending the run. Ctrl-C stops at once.", self.requested
        )
