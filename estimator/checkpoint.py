"""Checkpoints: a directory named after its step, whole or not there, that proves its own bytes.

    with CheckpointWriter(model_dir, keep_max=5) as writer:
        writer.save(Snapshot(10, seed, variables, trainable=frozenset(variables), opt_state={}))
    path = latest_checkpoint(model_dir)             # model_dir/checkpoints/10
    variables = read_variables(path)                # {name: numpy array}

A step directory holds the orbax items `variables` and `opt_state`, flat dicts that are absent when
empty, and `manifest.json`. It is written under another name and renamed when everything is in it.
Two empty files may join it later: `ended`, when the training call that made it has ended, and
`kept`, when it is never to be deleted. The list of checkpoints is always the directory as it is
now, so several writers and readers may share one. Where several processes train together, each
reads on its own, and process 0 alone saves.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType, TracebackType
from typing import Any

import jax
import numpy as np

from estimator.manifest import (
    MANIFEST,
    STEP_NAME,
    Array,
    ArrayInfo,
    DamagedCheckpointError,
    Manifest,
    Snapshot,
    checked_step,
    checksum,
    damaged,
    describe,
    host_copy,
    read_manifest,
    save_error,
    saved_at,
    shorten,
    unreadable,
    write_manifest,
)
from estimator.retention import (
    Retention,
    check_room,
    has_ended,
    mark_ended,
    set_aside,
    step_directories,
    sweep,
)

__all__ = [
    "ArrayInfo",
    "CheckpointWriter",
    "DamagedCheckpointError",
    "Manifest",
    "Snapshot",
    "all_checkpoints",
    "has_ended",
    "is_checkpoint",
    "latest_checkpoint",
    "list_variables",
    "load_variable",
    "mark_ended",
    "read_manifest",
    "read_opt_state",
    "read_variables",
    "resolve",
    "set_aside",
]

_CHECKPOINTS = "checkpoints"

_one_at_a_time = threading.Lock()
_logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Saves snapshots in the background, one at a time, and deletes what is no longer wanted.

    Close it: a save still in flight when the interpreter exits is lost.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        keep_max: int | None = 5,
        keep_every_n_hours: float = 10000.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Sweeps away what killed writers have left behind.

        Args:
          model_dir: the directory of the model; the first save makes `checkpoints` inside it.
          keep_max: how many of the newest checkpoints to keep; None or 0 keeps all.
          keep_every_n_hours: of the older ones, one for every so many hours is kept for good.
          clock: gives the time in seconds.

        Raises:
          ValueError: if `keep_max` is negative or `keep_every_n_hours` is not positive.
        """
        self._directory = _directory(model_dir)
        self._retention = Retention(keep_max, keep_every_n_hours, clock)
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._closed = False
        sweep(self._directory)

    def save(self, snapshot: Snapshot, wait: bool = False) -> str:
        """Saves `snapshot`, unless its step is saved already.

        The arrays are copied before this returns: their buffers may be donated or changed. A thread
        does the rest, after an earlier save still in flight.

        Args:
          snapshot: what to save.
          wait: whether to return only when the checkpoint is complete.

        Returns:
          The path of the checkpoint.

        Raises:
          TypeError: if an array is not of numbers or booleans, or the position not JSON.
          ValueError: if the step is no step, or the names do not fit together.
          OSError: if the save before this one, or this one under `wait`, has failed (a
            RuntimeError if the system did not say so). Checkpoints before it are intact.
        """
        if self._closed:
            raise RuntimeError(f"save(step {snapshot.step}): this writer is closed; make another.")
        if jax.process_index() != 0:  # orbax would write the directory without any array
            raise RuntimeError(
                f"save(step {snapshot.step}): this is process {jax.process_index()} of "
                f"{jax.process_count()}; let process 0 save."
            )
        self.wait()
        path = os.path.join(self._directory, str(checked_step(snapshot)))
        if not os.path.isdir(path):
            self._thread = threading.Thread(
                target=self._work,
                args=(host_copy(snapshot), path),
                name=f"estimator-checkpoint-{snapshot.step}",
            )
            self._thread.start()
            if wait:
                self.wait()
        return path

    def wait(self) -> None:
        """Waits for the save in flight and raises, once, what made a save fail."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Waits like `wait`. Afterwards no thread is left, and nothing can be saved."""
        self._closed = True
        self.wait()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except (OSError, RuntimeError) as failure:
            if error is None:
                raise
            _logger.error("%s", failure)  # raising it would hide the error in flight

    def _work(self, snapshot: Snapshot, path: str) -> None:
        failed = "could not be saved"
        advice = "Checkpoints before it are intact. Make room or mend the cause, and save again."
        try:
            _write(snapshot, path, self._clock())
            failed, advice = "is saved, but an older one could not be deleted", "Delete it by hand."
            self._retention.apply(self._directory, path, saved_at)
        except Exception as error:
            self._error = save_error(f"{path}: this checkpoint {failed}", error, advice)
            self._error.__cause__ = error
            if not threading.main_thread().is_alive():  # nobody is left to ask for it
                _logger.error("%s Close the writer before the program ends.", self._error)


def all_checkpoints(model_dir: str | os.PathLike[str]) -> list[str]:
    """Lists the checkpoints there are.

    >>> all_checkpoints("/no/such/model")
    []

    Args:
      model_dir: the directory of the model.

    Returns:
      Absolute paths, smallest step first, each ending in its step; none if there is no directory.
    """
    return step_directories(_directory(model_dir))


def latest_checkpoint(model_dir: str | os.PathLike[str]) -> str | None:
    """Finds the checkpoint of the largest step.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as model_dir, CheckpointWriter(model_dir) as writer:
    ...     path = writer.save(Snapshot(7, 0, {"x": np.ones(3)}, frozenset("x"), {}), wait=True)
    ...     latest_checkpoint(model_dir) == path
    True

    Args:
      model_dir: the directory of the model.

    Returns:
      Its absolute path, or None if there is none.
    """
    return next(reversed(all_checkpoints(model_dir)), None)


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Says whether a path is that of a checkpoint, by a look at its manifest's name only."""
    return os.path.isfile(os.path.join(path, MANIFEST))


def resolve(path_or_model_dir: str | os.PathLike[str]) -> str:
    """Finds the checkpoint that is meant: the one given, or the latest one of a model's directory.

    Raises:
      ValueError: if there is none.
    """
    path = os.path.abspath(path_or_model_dir)
    parent, name = os.path.split(path)
    if is_checkpoint(path) or (name.isdecimal() and os.path.basename(parent) == _CHECKPOINTS):
        return path
    latest = latest_checkpoint(path)
    if latest is None:
        raise ValueError(
            f"{path} is neither a checkpoint nor the directory of a model that has one. Give one "
            "of these, or train the model first."
        )
    return latest


def read_variables(
    path: str | os.PathLike[str], names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads variables from the disk, and only those asked for.

    Args:
      path: the path of a checkpoint.
      names: the names of the variables; None reads all.

    Returns:
      `{name: array}`, bit for bit what was saved.

    Raises:
      KeyError: if a name is unknown.
      DamagedCheckpointError: if what is read is not what was written.
    """
    path = os.path.abspath(path)
    infos = read_manifest(path).variables
    wanted = list(infos if names is None else dict.fromkeys(names))
    for name in wanted:
        if name not in infos:
            near = difflib.get_close_matches(name, infos, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise KeyError(f"{path}: no variable {name!r} among {shorten(infos)}.{hint}")
    return _read_item(path, "variables", {name: infos[name] for name in wanted})


def read_opt_state(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the optimizer's arrays.

    Args:
      path: the path of a checkpoint.

    Returns:
      `{path: array}`, bit for bit what was saved; empty if there was none.

    Raises:
      DamagedCheckpointError: if what is read is not what was written.
    """
    path = os.path.abspath(path)
    return _read_item(path, "opt_state", read_manifest(path).opt_state)


def load_variable(
    path_or_model_dir: str | os.PathLike[str], name: str
) -> np.ndarray | np.signedinteger[Any]:
    """Reads one variable, like tf.train.load_variable.

    Args:
      path_or_model_dir: the path of a checkpoint, or a model's directory for its latest one.
      name: the name of a variable, or `"global_step"`.

    Returns:
      Its value; the step as np.int64.

    Raises:
      KeyError: if there is no such variable.
      ValueError: if there is no checkpoint.
      DamagedCheckpointError: if what is read is not what was written.
    """
    path = resolve(path_or_model_dir)
    if name == STEP_NAME:
        return np.int64(read_manifest(path).step)
    return read_variables(path, [name])[name]


def list_variables(path_or_model_dir: str | os.PathLike[str]) -> list[tuple[str, list[int]]]:
    """Lists variables and their shapes, like tf.train.list_variables.

    Args:
      path_or_model_dir: the path of a checkpoint, or a model's directory for its latest one.

    Returns:
      `(name, shape)` sorted by name, `("global_step", [])` among them.

    Raises:
      ValueError: if there is no checkpoint.
      DamagedCheckpointError: if its manifest is not what was written.
    """
    infos = read_manifest(resolve(path_or_model_dir)).variables
    shapes = [(name, list(info.shape)) for name, info in infos.items()]
    return sorted([*shapes, (STEP_NAME, [])])


def _directory(model_dir: str | os.PathLike[str]) -> str:
    return os.path.join(os.path.abspath(model_dir), _CHECKPOINTS)


def _write(snapshot: Snapshot, path: str, now: float) -> None:
    """Writes everything under another name; the rename makes it a checkpoint."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sweep(os.path.dirname(path), snapshot.step)
    arrays = [*snapshot.variables.values(), *snapshot.opt_state.values()]
    check_room(os.path.dirname(path), len(arrays), sum(array.nbytes for array in arrays))
    variables = describe(snapshot.variables, snapshot.trainable)
    opt_state = describe(snapshot.opt_state)
    token = uuid.uuid4().hex
    manifest = Manifest(
        token, snapshot.step, snapshot.seed, variables, opt_state, snapshot.position, now
    )
    partial = f"{path}.saving-{token}"
    try:
        _save_items(partial, {"variables": snapshot.variables, "opt_state": snapshot.opt_state})
        write_manifest(partial, manifest)
        os.rename(partial, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not os.path.isdir(path):
            raise  # otherwise another writer has saved this step meanwhile
    finally:
        for leftover in (partial, f"{partial}.orbax-checkpoint-tmp"):
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _orbax() -> Iterator[ModuleType]:
    """Gives orbax to one thread at a time, without its log: its temporary names may collide."""
    import orbax.checkpoint as ocp  # here, because it takes longer than all other imports

    def not_from_orbax(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger = logging.getLogger("absl")
    with _one_at_a_time:
        logger.addFilter(not_from_orbax)
        try:
            yield ocp
        finally:
            logger.removeFilter(not_from_orbax)


def _save_items(path: str, items: Mapping[str, Mapping[str, Array]]) -> None:
    """Leaves out arrays without elements, which orbax refuses, and items without arrays."""
    full = {item: {n: a for n, a in arrays.items() if a.size} for item, arrays in items.items()}
    full = {item: arrays for item, arrays in full.items() if arrays}
    if not full:
        os.mkdir(path)
        return
    with _orbax() as ocp:
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        arguments = {item: ocp.args.PyTreeSave(arrays) for item, arrays in full.items()}
        handler = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
            **{
                item: ocp.PyTreeCheckpointHandler(
                    use_ocdbt=True, use_zarr3=False, multiprocessing_options=alone
                )
                for item in full
            },
        )
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            checkpointer.save(path, args=ocp.args.Composite(**arguments))


def _read_item(path: str, item: str, infos: Mapping[str, ArrayInfo]) -> dict[str, np.ndarray]:
    """Reads the arrays that `infos` describe, and compares what comes with what was written."""
    full = {name: info for name, info in infos.items() if 0 not in info.shape}
    try:
        found = _restore(os.path.join(path, item), full) if full else {}
    except MemoryError:
        raise
    except Exception as error:
        raise unreadable(path, f"{item} {shorten(full)}", error) from None
    for name, info in infos.items():
        if name not in full:
            found[name] = np.zeros(info.shape, np.dtype(info.dtype))
        actual = found[name].shape, found[name].dtype.name, checksum(found[name])
        if actual != (info.shape, info.dtype, info.crc32):
            wanted = f"{info.shape}, {info.dtype}, {info.crc32}"
            reason = f"shape, dtype and checksum are {actual}, they were ({wanted})"
            raise damaged(path, f"{item} {name!r}", reason)
    return {name: found[name] for name in infos}


def _restore(path: str, infos: Mapping[str, ArrayInfo]) -> dict[str, np.ndarray]:
    """Reads arrays of an orbax item with its own library for arrays.

    Orbax would read them in an event loop that it closes at the first error; what is still on its
    way then prints tracebacks.
    """
    import tensorstore as ts

    base = {"driver": "file", "path": path + os.sep}
    stores = {}
    for name in infos:
        kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        spec = {"driver": "zarr", "kvstore": kvstore}
        stores[name] = ts.open(spec, open=True, read=True)
    reads = {name: store.result().read() for name, store in stores.items()}
    return {name: np.asarray(read.result()) for name, read in reads.items()}
