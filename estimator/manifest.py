"""The content of a checkpoint: a snapshot before it is written, a manifest with checksums after.

    snapshot = host_copy(Snapshot(10, seed, variables, trainable, opt_state))
    infos = describe(snapshot.variables, snapshot.trainable)
    write_manifest(path, Manifest(id, 10, seed, infos, {}, None, now))
    read_manifest(path).variables["dense/kernel"].crc32 == checksum(variables["dense/kernel"])

Reading a manifest costs one small file. Nothing but its checksums notices a flipped bit on a disk.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

Array = jax.Array | np.ndarray

MANIFEST = "manifest.json"
STEP_NAME = "global_step"

_FORMAT = 1
# The machine, not the checkpoint, is to blame for these; tensorstore has them as words.
_NOT_DAMAGE = ("EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM")
_NOT_DAMAGE_WORDS = (*_NOT_DAMAGE, "PERMISSION_DENIED", "RESOURCE_EXHAUSTED")


class DamagedCheckpointError(ValueError):
    """A checkpoint is not as it was written; the message names the path, the part, the reason."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What one save writes.

    Attributes:
      step: the global step, which names the checkpoint.
      seed: the seed of the run.
      variables: `{name: array}`.
      trainable: the names of the trainable ones among `variables`.
      opt_state: the optimizer's arrays, flat by path.
      position: where the input stands, in terms of JSON (tuples come back as lists), or None.
    """

    step: int
    seed: int
    variables: Mapping[str, Array]
    trainable: frozenset[str]
    opt_state: Mapping[str, Array]
    position: Any = None


@dataclasses.dataclass(frozen=True)
class ArrayInfo:
    """One saved array.

    Attributes:
      shape: its shape.
      dtype: the name of its dtype.
      crc32: the checksum of dtype, shape and bytes.
      trainable: whether it is a trainable variable.
    """

    shape: tuple[int, ...]
    dtype: str
    crc32: int
    trainable: bool = False


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
      id: drawn anew by every save; says whether two looks at a step saw the same checkpoint.
      step: the global step.
      seed: the seed of the run.
      variables: `{name: info}`.
      opt_state: `{path: info}`.
      position: where the input stood, or None.
      saved_at: the time of the save, in seconds since 1970.
    """

    id: str
    step: int
    seed: int
    variables: dict[str, ArrayInfo]
    opt_state: dict[str, ArrayInfo]
    position: Any
    saved_at: float


def checked_step(snapshot: Snapshot) -> int:
    """Returns the step of a snapshot; a ValueError if it is none."""
    step = snapshot.step
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
        raise ValueError(f"save: the step is {step!r}; give an int that is not negative.")
    return int(step)


def host_copy(snapshot: Snapshot) -> Snapshot:
    """Copies a snapshot to the host, where nobody else can change it.

    Args:
      snapshot: what to copy.

    Returns:
      The same with numpy arrays, in C order and native bytes, that share no memory with the given.

    Raises:
      TypeError: if an array is not of numbers or booleans, or the position not JSON.
      ValueError: if the step is no step, or the names do not fit together.
    """
    where = f"save(step {snapshot.step})"
    strangers = sorted(snapshot.trainable - snapshot.variables.keys())
    if strangers:
        known = shorten(snapshot.variables)
        raise ValueError(f"{where}: trainable {strangers} are not among the variables {known}.")
    if STEP_NAME in snapshot.variables:
        raise ValueError(f"{where}: {STEP_NAME!r} names the step itself; rename the variable.")
    try:
        position = json.loads(json.dumps(snapshot.position))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{where}: the input position must be something JSON can hold, and {error}. It is "
            f"{snapshot.position!r:.200}."
        ) from None
    return Snapshot(
        step=checked_step(snapshot),
        seed=int(snapshot.seed),
        variables=_host_arrays(f"{where}: the variable", snapshot.variables),
        trainable=snapshot.trainable,
        opt_state=_host_arrays(f"{where}: the optimizer's", snapshot.opt_state),
        position=position,
    )


def describe(
    arrays: Mapping[str, Array], trainable: frozenset[str] = frozenset()
) -> dict[str, ArrayInfo]:
    """Describes arrays.

    >>> describe({"x": np.ones(3, np.float32)})
    {'x': ArrayInfo(shape=(3,), dtype='float32', crc32=1913113241, trainable=False)}

    Args:
      arrays: `{name: array}`.
      trainable: the names of the trainable ones.

    Returns:
      `{name: info}`.
    """
    return {
        name: ArrayInfo(array.shape, array.dtype.name, checksum(array), name in trainable)
        for name, array in arrays.items()
    }


def checksum(array: Array) -> int:
    """Returns the crc32 of an array's dtype, shape and bytes in C order."""
    header = zlib.crc32(f"{array.dtype.name}{array.shape}".encode())
    flat = np.ascontiguousarray(array).reshape(-1)
    return zlib.crc32(flat.view(np.uint8).data, header)


def write_manifest(path: str, manifest: Manifest) -> None:
    """Writes the manifest of a checkpoint.

    Args:
      path: the directory of the checkpoint.
      manifest: what to write; its `position` must be something JSON can hold.
    """
    body = _canonical({"format": _FORMAT, **dataclasses.asdict(manifest)})
    with open(os.path.join(path, MANIFEST), "wb") as file:
        file.write(b'{"crc32":%d,"body":%s}' % (zlib.crc32(body), body))


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads what a checkpoint holds.

    Args:
      path: the path of a checkpoint.

    Returns:
      Its manifest.

    Raises:
      DamagedCheckpointError: if it is missing, garbled, or not what was written.
      OSError: if the machine, not the checkpoint, is to blame: no permission, too many open files.
      ValueError: if it was written in a format that this version does not know.
    """
    path = os.path.abspath(path)
    try:
        with open(os.path.join(path, MANIFEST), "rb") as file:
            outer = json.loads(file.read())
        body, crc32 = outer["body"], outer["crc32"]
        actual = zlib.crc32(_canonical(body))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise unreadable(path, MANIFEST, error) from None
    if actual != crc32:
        raise damaged(path, MANIFEST, f"its checksum is {actual}, it says {crc32}")
    if body["format"] != _FORMAT:
        raise ValueError(
            f"{path} has format {body['format']}, and this version reads format {_FORMAT} only. "
            "Read it with the version that wrote it."
        )
    fields = {field.name: body[field.name] for field in dataclasses.fields(Manifest)}
    for item in ("variables", "opt_state"):
        fields[item] = {name: _array_info(**info) for name, info in fields[item].items()}
    return Manifest(**fields)


def unreadable(path: str, part: str, error: Exception) -> DamagedCheckpointError | OSError:
    """Makes the error to raise when reading has failed.

    Args:
      path: the path of the checkpoint.
      part: what of it was read.
      error: how that failed.

    Returns:
      A `DamagedCheckpointError`; or an OSError if the machine is to blame, for then nobody should
      set the checkpoint aside.
    """
    reason = reason_of(error)
    code = errno.errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    if code in _NOT_DAMAGE or any(word in reason for word in _NOT_DAMAGE_WORDS):
        return OSError(
            f"{path}: {part} cannot be read now: {reason}. The checkpoint may well be intact: mend "
            "the cause and read it again."
        )
    if not os.path.isdir(path):
        reason = "there is no such directory; it may have been deleted"
    return damaged(path, part, reason)


def damaged(path: str, part: str, reason: str) -> DamagedCheckpointError:
    """Makes the error that says which part of which checkpoint is damaged, why, and what to do."""
    return DamagedCheckpointError(
        f"{path}: {part} is not as it was written: {reason}. Read another checkpoint, and put this "
        "one out of the way with set_aside(path)."
    )


def saved_at(path: str) -> float:
    """Returns when a checkpoint was saved, in seconds since the epoch; 0 if it is damaged."""
    try:
        return read_manifest(path).saved_at
    except DamagedCheckpointError:
        return 0.0


def reason_of(error: Exception) -> str:
    """Returns the first line of an error, with its type.

    >>> reason_of(KeyError("x"))
    "KeyError: 'x'"
    """
    first = next(iter(str(error).splitlines()), "").partition(" [tensorstore_spec=")[0]
    return f"{type(error).__name__}: {first[:300]}"


def save_error(what: str, error: Exception, advice: str) -> Exception:
    """Makes the error of a save: an OSError where the system said no, else a RuntimeError.

    >>> save_error("saving", ValueError("os_error_code='28'"), "Make room.")
    OSError(28, 'saving: No space left on device. Make room.')
    """
    code = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore has it as a word
    if code:
        return OSError(int(code[1]), f"{what}: {os.strerror(int(code[1]))}. {advice}")
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, f"{what}: {error.strerror}. {advice}")
    return RuntimeError(f"{what}: {reason_of(error)}. {advice}")


def shorten(names: Iterable[str]) -> str:
    """Returns the names, sorted, and of many the first ten."""
    listed = sorted(names)
    return f"{listed}" if len(listed) <= 10 else f"{listed[:10]} and {len(listed) - 10} more"


def _canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _array_info(shape: list[int], dtype: str, crc32: int, trainable: bool) -> ArrayInfo:
    return ArrayInfo(tuple(shape), dtype, crc32, trainable)


def _host_arrays(where: str, arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    copies = {}
    for name, value in jax.device_get(dict(arrays)).items():  # starts all transfers, then waits
        array = np.array(value, copy=True, order="C")
        kind, dtype = array.dtype.kind, array.dtype.name
        if not (kind in "biufc" or dtype in ("bfloat16", "int4") or dtype.startswith("float8_")):
            raise TypeError(f"{where} {name!r} is of {dtype}; only numbers and booleans are saved.")
        copies[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return copies
