"""History: every evaluation, and the training values that are logged, as plain records.

    estimator.history
    # [{"mode": "train", "global_step": 100, "loss": 0.52, "wall_time": 1.7e9},
    #  {"mode": "eval", "eval_name": None, "global_step": 100, "loss": 0.4, "accuracy": 0.9, ...}]

They are kept as JSON lines in the model directory, so a run that is continued knows what came
before. A run that begins at an earlier step, because it was killed, forgets what came after that
step: it will come again.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from estimator.mode_keys import ModeKeys
from estimator.session import (
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)
from estimator.timers import SecondOrStepTimer

FILE = "history.jsonl"
_META = ("mode", "eval_name", "wall_time")


class History:
    """The records of one model directory.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     History(directory).add_evaluation("test", 100, {"loss": 0.5})
    ...     History(directory).evaluations("test")
    {100: {'global_step': 100, 'loss': 0.5}}

    Args:
        directory: the model directory; the file is made with the first record.
    """

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, FILE)
        self._read: tuple[int, int] = (0, 0)
        self._records: list[dict[str, Any]] = []

    def records(self) -> list[dict[str, Any]]:
        """Returns all records, oldest first."""
        return [dict(record) for record in self._up_to_date()]

    def _up_to_date(self) -> list[dict[str, Any]]:
        """Returns the records, having read what was added, by whomever, since the last time."""
        try:
            stat = os.stat(self._path)
        except OSError:
            self._read, self._records = (0, 0), []
            return self._records
        which, place = self._read
        if which != stat.st_ino or place > stat.st_size:  # another file has taken its place
            place, self._records = 0, []
        if place < stat.st_size:
            with open(self._path, "rb") as file:
                file.seek(place)
                # A line that is not finished yet, or never will be, is none.
                lines = file.read().split(b"\n")[:-1]
            found = map(_record, lines)
            self._records += [record for record in found if record is not None]
            place += sum(len(line) + 1 for line in lines)
        self._read = (stat.st_ino, place)
        return self._records

    def size(self) -> int:
        """Returns the size of the file: another one tells that something was added."""
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0

    def evaluations(self, name: str | None = None) -> dict[int, dict[str, Any]]:
        """Returns the results of an evaluation by step, in the order of steps.

        Args:
            name: which evaluation; None: the one without a name.
        """
        found: dict[int, dict[str, Any]] = {}
        for record in self._up_to_date():
            if record["mode"] == ModeKeys.EVAL and record["eval_name"] == name:
                results = {key: value for key, value in record.items() if key not in _META}
                found[record["global_step"]] = results
        return dict(sorted(found.items()))

    def add_evaluation(self, name: str | None, step: int, results: Mapping[str, Any]) -> None:
        """Adds the results of an evaluation; those that are no numbers are left out."""
        self._add(step, results, mode=ModeKeys.EVAL, eval_name=name)

    def add_training(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds values of a training step."""
        self._add(step, values, mode=ModeKeys.TRAIN)

    def forget_after(self, step: int) -> None:
        """Drops what was noted of later steps."""
        records = self.records()
        kept = [record for record in records if record["global_step"] <= step]
        if len(kept) == len(records):
            return
        aside = f"{self._path}.{os.getpid()}"
        with open(aside, "w", encoding="utf-8") as file:
            file.writelines(_line(record) for record in kept)
        os.replace(aside, self._path)
        self._read = (0, 0)

    def _add(self, step: int, values: Mapping[str, Any], **meta: Any) -> None:
        plain = plain_results(values)
        record = {**meta, "global_step": step, **plain, **meta, "wall_time": time.time()}
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(self._path, "a+b") as file:
                file.write(_after(file) + _line(record).encode())
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write the history: {error.strerror}", self._path
            ) from error


class HistoryHook(SessionRunHook):
    """Adds loss and speed of training to a history every so many steps.

    It never waits for the device: a loss is read when the next one is due.

    >>> import tempfile
    >>> HistoryHook(History(tempfile.gettempdir()), every_n_steps=100).next_step(0)
    1

    Args:
        history: where they go.
        every_n_steps: steps between two records; the first step is one.
    """

    def __init__(self, history: History, every_n_steps: int) -> None:
        self._history = history
        self._timer = SecondOrStepTimer(every_steps=every_n_steps)
        self._waiting: tuple[int, dict[str, Any]] | None = None

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Asks for the loss."""
        return SessionRunArgs("loss")

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Notes the loss, if it is time, and writes the one of before."""
        step = run_context.session.global_step
        if not self._timer.should_trigger_for_step(step):
            return
        self._write(before=step)
        seconds, steps = self._timer.update_last_triggered_step(step)
        values = {"loss": run_values.results}
        if seconds and steps:
            values["global_step/sec"] = steps / seconds
        self._waiting = (step, values)

    def end(self, session: Session) -> None:
        """Writes the last loss."""
        self._write(before=session.global_step + 1)

    def close(self) -> None:
        """Writes the last loss, after an exception, too."""
        self._write()

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next record."""
        return self._timer.next_step(global_step)

    def _write(self, before: float = math.inf) -> None:
        """Writes what waits; a step that is not before the present one was undone since."""
        if self._waiting is not None:
            step, values = self._waiting
            self._waiting = None
            if step < before:
                self._history.add_training(step, values)


def plain_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those results that are numbers, or arrays of them, as JSON writes them.

    >>> plain_results({"loss": np.float32(0.5), "counts": np.array([1, 2]), "label": "a"})
    {'loss': 0.5, 'counts': [1, 2]}
    """
    plain = {name: _plain(value) for name, value in results.items()}
    return {name: value for name, value in plain.items() if value is not None}


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not {"mode", "global_step", "wall_time"} <= record.keys():
        return None
    return record if record["mode"] != ModeKeys.EVAL or "eval_name" in record else None


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _after(file: Any) -> bytes:
    """Returns what must come before a new line: a line may have been left unfinished."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read() == b"\n" else b"\n"


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        if array.dtype.name != "bfloat16":
            return None
        array = array.astype(np.float32)
    return array.tolist()
