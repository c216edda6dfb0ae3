"""The REST server: an export answers HTTP requests until it is told to end.

    serve("runs/iris/export/best", port=8501)       # pip install 'jax-estimator[serve]'

    curl -d '{"instances": [{"x": [1.0]}]}' http://127.0.0.1:8501/v1/models/default:predict

It listens to this machine only, unless it is told otherwise.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from estimator.rest_application import RequestLimits, RestApplication
from estimator.served_model import ServedModel

_LOG = logging.getLogger(__name__)

_MOST_SECONDS = 30.0  # for requests that have come when the server is told to end


def serve(
    directory: str | os.PathLike[str],
    port: int = 8501,
    host: str = "127.0.0.1",
    name: str = "default",
    limits: RequestLimits | None = None,
    batch_rows: int = 64,
    threads: int = 16,
    reload_secs: float | None = 5.0,
    wait: bool = False,
    on_start: Callable[[str], Any] = _LOG.info,
) -> None:
    """Serves an export until SIGINT or SIGTERM ends it.

    Requests that have come are answered first, for half a minute at the most.

    Args:
        directory: an export; or the directory that holds several: then the newest, and any newer
            one as it appears.
        port: where to listen; 0: any free one.
        host: the address to listen at. `127.0.0.1` is for this machine only; at `0.0.0.0` anybody
            who reaches it may ask.
        name: what the model is called in addresses.
        limits: how large a request may be.
        batch_rows: how many rows of requests that come at the same time are answered together;
            0: each request is answered alone.
        threads: how many requests are worked on at the same time.
        reload_secs: seconds between two looks for a newer export; None: there are none.
        wait: whether there need not be an export yet: until there is one, the answer is 503.
        on_start: is told the address when the model can be asked.

    Raises:
        ImportError: if waitress is not installed.
        DamagedExportError: if there is no export, or it is not as it was written.
        OSError: if nothing can listen there.
        ValueError: if no address can hold the name.
    """
    try:
        from waitress import wasyncore
        from waitress.server import create_server
        from waitress.task import ThreadedTaskDispatcher
    except ImportError as error:
        raise ImportError("Serving needs waitress: pip install 'jax-estimator[serve]'.") from error

    class PatientDispatcher(ThreadedTaskDispatcher):
        """Ends when all is answered and sent; waitress's own stops sending, and waits 5 seconds."""

        def shutdown(self, cancel_pending: bool = True, timeout: float = _MOST_SECONDS) -> bool:
            deadline = time.monotonic() + timeout
            server.del_channel()  # listens no longer
            while time.monotonic() < deadline and (
                self.queue
                or self.active_count
                or any(channel.total_outbufs_len for channel in server.active_channels.values())
            ):
                wasyncore.loop(timeout=0.05, map=server._map, use_poll=True, count=1)
            return bool(super().shutdown(cancel_pending, timeout=1))

    limits = limits or RequestLimits()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        ServedModel(directory, batch_rows, reload_secs, wait) as model,
        socket.create_server((host, port), family=family) as listening,
        _ended_by_sigterm(),
    ):
        dispatcher = PatientDispatcher()
        dispatcher.set_thread_count(threads)
        server = create_server(
            RestApplication(model, name, limits),
            sockets=[listening],
            _dispatcher=dispatcher,
            max_request_body_size=limits.body_bytes,
            asyncore_use_poll=True,
            ident=None,
        )
        # All threads busy is no news: requests then wait for the next call of the model.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        at = f"[{host}]" if ":" in host else host
        on_start(f"http://{at}:{listening.getsockname()[1]}/v1/models/{name}")
        server.run()
        server.close()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the server as Ctrl-C does; outside the main thread it means what it did."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
