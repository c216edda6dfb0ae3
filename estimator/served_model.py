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

from estimator.export_files import DamagedExportError
from estimator.loaded_model import LoadedModel, load, newest
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

    Raises:
        DamagedExportError: if there is no export, or it is not as it was written.
        ValueError: if its examples are no longer answered as they were.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        batch_rows: int = 64,
        reload_secs: float | None = 5.0,
    ) -> None:
        self._directory = os.path.abspath(os.fsdecode(directory))
        self._batch_rows = batch_rows
        self._told: set[str] = set()
        self._ended = threading.Event()
        self.current = self._read(newest(self._directory))
        self._watcher: threading.Thread | None = None
        if reload_secs is not None:
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
        """Looks for the newest export, and serves it from now on.

        One that cannot be read, or answers its examples otherwise, leaves all as it was; it may be
        on its way, and is tried again.
        """
        try:
            path = newest(self._directory)
        except (DamagedExportError, OSError):
            return
        if path == self.current.loaded.path:
            return
        try:
            self.current = self._read(path)
        except Exception as error:
            if path not in self._told:
                self._told.add(path)
                _LOG.warning("%s is not served: %s", path, reason_of(error))
            return
        _LOG.info("%s is served now, step %d.", path, self.current.loaded.global_step)

    def _read(self, path: str) -> Version:
        loaded = load(path)
        loaded.check()
        name = os.path.basename(path)
        merged = MergedRequests(loaded, self._batch_rows)
        return Version(name if name.isdecimal() else "1", loaded, merged)

    def _watch(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            self.refresh()
