"""Event files: what TensorBoard reads.

    writer = EventWriter("runs/iris")
    writer.add_scalars(100, {"loss": 0.3})
    writer.flush()

Records are appended to one file a writer and a directory; between two flushes no file is open, so
there is nothing to close.
"""

import contextlib
import io
import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from estimator.summary import Text
from estimator.summary_protos import summary_values

_FLUSH_SECONDS = 1.0


class EventWriter:
    """Appends summaries to an event file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     writer = EventWriter(directory)
    ...     writer.add_scalars(100, {"loss": 0.3})
    ...     writer.flush()
    ...     len(os.listdir(directory))
    1

    Args:
        directory: where the file is made, with the first flush.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._records: list[bytes] = []
        self._flushed = 0.0
        self._path: str | None = None

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds one number for each tag."""
        self.add_summaries(step, {tag: float(value) for tag, value in scalars.items()})

    def add_text(self, step: int, tag: str, text: str) -> None:
        """Adds a text, shown on TensorBoard's text page."""
        self.add_summaries(step, {tag: Text(None, (text,))})

    def add_summaries(self, step: int, summaries: Mapping[str, Any]) -> None:
        """Adds numbers, arrays, and what `session.run("summaries")` gives, by tag.

        Args:
            step: the global step.
            summaries: values by tag, fetched with `jax.device_get`.
        """
        from tensorboardX.proto.summary_pb2 import Summary

        values = [v for tag, value in summaries.items() for v in summary_values(tag, value)]
        self._records.append(_record(_event(step=step, summary=Summary(value=values))))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what was added; without it, that happens about once a second.

        Raises:
            OSError: if the directory cannot be written.
        """
        if not self._records:
            return
        # A model_dir may be deleted between two calls: then the file begins anew.
        new = self._path is None or not os.path.exists(self._path)
        records = [_record(_event(file_version="brain.Event:2"))] if new else []
        try:
            if self._path is None or new:
                os.makedirs(self.directory, exist_ok=True)
                self._path = os.path.join(self.directory, _file_name())
            size = 0 if new else os.path.getsize(self._path)
            with open(self._path, "ab", buffering=0) as file:
                _write_whole(file, b"".join([*records, *self._records]), size)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write summaries: {error.strerror}", self.directory
            ) from error
        self._records = []
        self._flushed = time.monotonic()


class EventWriters:
    """One writer a directory."""

    def __init__(self) -> None:
        self._writers: dict[str, EventWriter] = {}

    def get(self, directory: str) -> EventWriter:
        """Returns the writer of a directory, always the same one."""
        return self._writers.setdefault(os.path.abspath(directory), EventWriter(directory))

    def flush(self) -> None:
        """Writes what was added to any of them."""
        for writer in self._writers.values():
            writer.flush()


def _write_whole(file: io.FileIO, data: bytes, size: int) -> None:
    """Appends all of the data to a file of that size, or none of it: half a record ends a file."""
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(file.fileno(), size)
        raise


def _event(**fields: Any) -> bytes:
    from tensorboardX.proto.event_pb2 import Event

    return Event(wall_time=time.time(), **fields).SerializeToString()


def _record(data: bytes) -> bytes:
    """Frames an event as TensorFlow's record files do: length, its checksum, data, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    header = struct.pack("<Q", len(data))
    checks = [struct.pack("<I", masked_crc32c(part)) for part in (header, data)]
    return header + checks[0] + data + checks[1]


def _file_name() -> str:
    return f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
