"""Retention: which step directories there are, which of them stay, and what is swept away.

    retention = Retention(keep_max=5, keep_every_n_hours=1.0, clock=time.time)
    retention.apply(directory, saved=path, saved_at=os.path.getmtime)      # after every save
    step_directories(directory)                                            # [".../10", ".../20"]

A directory named by a number is a complete step, always: it gets that name when it is complete, and
another one before it is deleted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable

_ENDED, _TRAINED, _KEPT = "ended", "trained", "kept"

_STEP = re.compile(r"0|[1-9][0-9]*")
_LEFTOVER = re.compile(r"([0-9]+)\.(saving|deleted|orbax-checkpoint-tmp)\b.*")
_ABANDONED_S = 3600.0
# What a checkpoint takes besides its arrays: files and their blocks, and some for each array.
_ROOM_BESIDES = 400_000
_ROOM_PER_ARRAY = 2_000
_ABANDONED_SAME_STEP_S = 60.0


def check_room(directory: str, arrays: int, size: int) -> None:
    """Checks that a checkpoint will fit, so that none is left half written on a full disk.

    Args:
      directory: where it goes.
      arrays: how many arrays it has.
      size: how many bytes they have.

    Raises:
      OSError: if the disk has less room.
    """
    needed = size + _ROOM_BESIDES + _ROOM_PER_ARRAY * arrays
    free = shutil.disk_usage(directory).free
    if free < needed:
        full = os.strerror(errno.ENOSPC)
        raise OSError(errno.ENOSPC, f"{full}: about {needed} bytes are needed, {free} are free")


class Retention:
    """Keeps the newest steps, and one of every few hours for good: the rule of tf.train.Saver."""

    def __init__(
        self, keep_max: int | None, keep_every_n_hours: float, clock: Callable[[], float]
    ) -> None:
        """Starts to count the hours.

        Args:
          keep_max: how many of the newest to keep; None or 0 keeps all.
          keep_every_n_hours: one about to be deleted is kept for good when it was saved later than
            this many hours from now, or from the previous such time.
          clock: gives the time in seconds.

        Raises:
          ValueError: if `keep_max` is negative or `keep_every_n_hours` is not positive.
        """
        if keep_max is not None and keep_max < 0:
            raise ValueError(
                f"keep_max is {keep_max}: give the number of checkpoints to keep; None or 0: all."
            )
        if not keep_every_n_hours > 0:
            raise ValueError(
                f"keep_every_n_hours is {keep_every_n_hours}: give a number of hours above 0."
            )
        self._keep_max = keep_max
        self._interval_s = keep_every_n_hours * 3600
        self._next_keep = clock() + self._interval_s

    def apply(self, directory: str, saved: str, saved_at: Callable[[str], float]) -> None:
        """Deletes what is neither among the newest nor kept for good.

        Args:
          directory: holds the step directories.
          saved: the step directory just saved; it stays even where there are larger steps.
          saved_at: tells when a step directory was saved, in seconds.

        Raises:
          OSError: if one cannot be deleted.
        """
        if not self._keep_max:
            return
        candidates = [
            path
            for path in step_directories(directory)
            if not os.path.exists(os.path.join(path, _KEPT))
        ]
        for path in candidates[: -self._keep_max]:
            if path == saved:
                continue
            with contextlib.suppress(FileNotFoundError):  # another writer was faster
                if saved_at(path) > self._next_keep:
                    _mark(path, _KEPT)
                    self._next_keep += self._interval_s
                else:
                    _delete(path)


def step_directories(directory: str) -> list[str]:
    """Lists the complete steps, as paths, smallest step first; none if there is no such directory.

    >>> step_directories("/no/such/directory")
    []
    """
    try:
        with os.scandir(directory) as entries:
            steps = [
                int(entry.name)
                for entry in entries
                if _STEP.fullmatch(entry.name) and entry.is_dir()
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [os.path.join(directory, str(step)) for step in sorted(steps)]


def has_ended(path: str | os.PathLike[str]) -> bool:
    """Says whether the training call that made a checkpoint has ended.

    False means that the call is still running or was killed.
    """
    return os.path.exists(os.path.join(path, _ENDED))


def has_trained(path: str | os.PathLike[str]) -> bool:
    """Says whether training was over at a checkpoint, and only what follows it is to be done."""
    return os.path.exists(os.path.join(path, _TRAINED))


def mark_trained(path: str | os.PathLike[str]) -> None:
    """Writes down that training is over, and that what follows it is still to be done.

    Args:
      path: the path of a checkpoint.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
    """
    _mark(os.path.abspath(path), _TRAINED)


def mark_ended(path: str | os.PathLike[str]) -> None:
    """Writes down that the training call that made a checkpoint has ended.

    Args:
      path: the path of a checkpoint.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
    """
    _mark(os.path.abspath(path), _ENDED)


def set_aside(path: str | os.PathLike[str]) -> str:
    """Renames a damaged checkpoint: it is no longer listed, and its step can be saved again.

    Args:
      path: the path of a checkpoint.

    Returns:
      Its new path, `<step>.damaged`, or `<step>.damaged-1` and so on where that is taken.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
    """
    path = os.path.abspath(path)
    count, target = 0, f"{path}.damaged"
    while os.path.lexists(target):
        count += 1
        target = f"{path}.damaged-{count}"
    os.rename(path, target)
    return target


def sweep(directory: str, step: int | None = None) -> None:
    """Removes what killed writers have left behind.

    Half-deleted steps go at once. Half-written ones may belong to another writer that is alive:
    they go when nothing in them has changed for an hour, those of `step` after a minute.

    Args:
      directory: holds the step directories; may be missing.
      step: a step about to be saved, or None.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(directory):
            match = _LEFTOVER.fullmatch(name)
            if match is None:
                continue
            patience = _ABANDONED_SAME_STEP_S if match[1] == str(step) else _ABANDONED_S
            path = os.path.join(directory, name)
            if match[2] == "deleted" or time.time() - _last_change(path) > patience:
                shutil.rmtree(path, ignore_errors=True)


def _mark(path: str, name: str) -> None:
    """Puts an empty file into a step directory, whole or not at all."""
    partial = os.path.join(path, f".{name}-{uuid.uuid4().hex}")
    try:
        with open(partial, "wb"):
            pass
        os.replace(partial, os.path.join(path, name))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{path}: there is no such checkpoint to mark as {name}; it may have been deleted."
        ) from None


def _delete(path: str) -> None:
    doomed = f"{path}.deleted-{uuid.uuid4().hex}"
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)  # what stays, the next sweep removes


def _last_change(path: str) -> float:
    """The newest modification time of anything in a directory, 0.0 if it is gone."""
    newest = 0.0
    for parent, _, files in os.walk(path):
        for name in (".", *files):
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, os.stat(os.path.join(parent, name)).st_mtime)
    return newest
