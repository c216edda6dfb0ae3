"""Served models: the newest export of a directory, which is replaced when a newer one appears.

    with ServedModel("runs/iris/export/best") as model:
        version = model.current     # hold on to it for the time of one request
        version.ask(features)

One that cannot be read, or no longer answers its examples as it did, is never served.
"""

import dataclasses
import logging
import os
import threading
from typing import Any

from estimator.export_directories import exports_at
from estimator.export_files import DamagedExportError
from estimator.loaded_model import LoadedModel, load
from estimator.manifest import reason_of
from estimator.merged_requests import MergedRequests

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Version:
    """An export that is served.

    Attributes:
        number: the name of its directory, the time of the export; `1` if it is no number.
        loaded: the model.
        ask: the model as many threads may ask it.
    """

    number: str
    loaded: LoadedModel
    ask: MergedRequests


class ServedModel:
    """The newest export of a directory.

    Args:
        directory: an export; or the directory that holds several, named by their times.
        batch_rows: how many rows of requests that come at the same time are answered together;
            0: each request is answered alone.
        reload_secs: seconds between two looks for a newer export; None: there are none.
        wait: whether there need not be an export yet.

    Attributes:
        current: what is served; None: nothing yet.

    Raises:
        DamagedExportError: if there is no export, or it is not as it was written.
        ValueError: if its examples are no longer answered as they were.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        batch_rows: int = 64,
        reload_secs: float | None = 5.0,
        wait: bool = False,
    ) -> None:
        self._directory = os.path.abspath(os.fsdecode(directory))
        self._batch_rows = batch_rows
        self._failures: dict[str, Any] = {}  # by path: the state in which it failed
        self._served: Any = None  # the state of what is served
        self._ended = threading.Event()
        self.current: Version | None = None
        self._watcher: threading.Thread | None = None
        self.refresh()
        if self.current is None and not wait:
            self.current = self._read(exports_at(self._directory)[0])  # raises what is wrong
        if reload_secs:
            self._watcher = threading.Thread(
                target=self._watch, args=[reload_secs], name="newer exports", daemon=True
            )
            self._watcher.start()

    def __enter__(self) -> "ServedModel":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the looks for newer exports."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()

    def refresh(self) -> None:
        """Looks for the newest export that can be served, and serves it from now on.

        One that cannot be read, or answers its examples otherwise, is passed over; if it changes,
        it is tried again: it may have been on its way.
        """
        try:
            paths = exports_at(self._directory)
        except (DamagedExportError, OSError):
            return
        for path in paths:
            state = _state(path)
            is_served = self.current is not None and path == self.current.loaded.path
            if is_served and state in (self._served, self._failures.get(path)):
                return
            if self._failures.get(path) == state:
                continue
            try:
                self.current = self._read(path)
            except Exception as error:
                if path not in self._failures:
                    _LOG.warning("%s is not served: %s", path, reason_of(error))
                self._failures[path] = state
                if is_served:  # it was replaced by something else; what was read goes on
                    return
                continue
            self._served = state
            _LOG.info("%s is served now, step %d.", path, self.current.loaded.global_step)
            return

    def _read(self, path: str) -> Version:
        loaded = load(path)
        loaded.check()
        for signature in loaded.signatures:
            loaded.output_types(signature)  # reads its function
        name = os.path.basename(path)
        merged = MergedRequests(loaded, self._batch_rows)
        return Version(name if name.isdecimal() else "1", loaded, merged)

    def _watch(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            self.refresh()


def _state(path: str) -> list[tuple[str, int, int]]:
    """Returns what tells whether a directory has changed."""
    try:
        with os.scandir(path) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return []
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
