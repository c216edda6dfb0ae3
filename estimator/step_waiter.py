"""The step waiter: holds a worker back until others have brought the model so far.

estimator.train(input_fn, hooks=[GlobalStepWaiterHook(wait_until_step=1000)])
"""

import logging
import time

from estimator.session import SessionRunArgs, SessionRunContext, SessionRunHook

_LOG = logging.getLogger(__name__)


class GlobalStepWaiterHook(SessionRunHook):
    """Holds a run back until the global step is reached, by other workers.

    Where no other makes steps, as in a run of one process, it waits until a second Ctrl-C.

    >>> GlobalStepWaiterHook(wait_until_step=100).next_step(0)
    1

    Args:
        wait_until_step: the global step to wait for.
        poll_secs: seconds between two looks.
    """

    def __init__(self, wait_until_step: int, poll_secs: float = 0.5) -> None:
        self._wait_until_step = wait_until_step
        self._poll_secs = poll_secs
        self._waited = wait_until_step <= 0

    def begin(self) -> None:
        """Begins to wait anew."""
        self._waited = self._wait_until_step <= 0

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Waits."""
        while not self._waited:
            step = int(run_context.session.run("global_step"))
            self._waited = step >= self._wait_until_step
            if not self._waited:
                _LOG.info("Waiting for step %d, now at %d.", self._wait_until_step, step)
                time.sleep(self._poll_secs)
        return None

    def next_step(self, global_step: int) -> int | None:
        """Returns the next step while it waits; then any will do."""
        return None if self._waited else global_step + 1
