"""The files of an export: modules, weights, and a manifest that says what they are.

    <export>/
      export.json                   signatures, inputs, host recipes, checksums of the other files
      variables.safetensors         the weights
      <n>_<signature>.stablehlo     the function of a signature, for cpu, cuda and tpu
      examples.json                 a few requests with their answers

Law: nothing in it is code that Python runs. A directory that is not as it was written is refused.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from estimator.manifest import reason_of

MANIFEST = "export.json"
WEIGHTS = "variables.safetensors"
EXAMPLES = "examples.json"

_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
# A manifest is small; anything larger is no manifest.
_MOST_BYTES = 2**28
_TRIES = 10


class DamagedExportError(ValueError):
    """An export is not as it was written, or none; the message names the path and the reason."""


def write_aside(
    base: str | os.PathLike[str],
    write: Callable[[str], None],
    assets_extra: Mapping[str, str] | None,
) -> str:
    """Returns a new directory, named by the time, which appears when it is complete.

    Args:
        base: the directory that it is made in.
        write: writes into a directory that is there and empty.
        assets_extra: files to copy, by the path they get under `assets.extra`.

    Raises:
        ValueError: if such a path points elsewhere.
        RuntimeError: if the names of ten seconds are all taken.
    """
    base = os.path.abspath(os.fsdecode(base))
    os.makedirs(base, exist_ok=True)
    for _ in range(_TRIES):
        name = f"{int(time.time()):010d}"
        path, aside = os.path.join(base, name), os.path.join(base, f"temp-{name}")
        try:
            if os.path.exists(path):
                raise FileExistsError
            os.mkdir(aside)
        except FileExistsError:
            time.sleep(1)
            continue
        try:
            write(aside)
            _copy_assets(aside, assets_extra or {})
            os.rename(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return path
    raise RuntimeError(f"There is an export of each of the last {_TRIES} seconds in {base}.")


def write_file(directory: str, name: str, data: bytes, files: dict[str, Any]) -> str:
    """Writes a file of an export, and notes in `files` what the manifest says of it.

    Returns:
        The name of the file that holds the data: another one, if that was written already.
    """
    assert _NAME.fullmatch(name), name
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for other, known in files.items():
        if known == entry:
            return other
    with open(os.path.join(directory, name), "wb") as file:
        file.write(data)
    files[name] = entry
    return name


def assets_of(directory: str) -> dict[str, str]:
    """Returns the extra files of an export, by the paths that they have among them."""
    root = os.path.join(directory, "assets.extra")
    found = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return {os.path.relpath(path, root): path for path in found}


def write_manifest(directory: str, body: Mapping[str, Any]) -> None:
    """Writes the manifest, with a checksum of itself."""
    text = _canonical({"format": _FORMAT, **body})
    digest = hashlib.sha256(text).hexdigest()
    with open(os.path.join(directory, MANIFEST), "wb") as file:
        file.write(b'{"sha256":"%s","body":%s}\n' % (digest.encode(), text))


def read_manifest(directory: str) -> dict[str, Any]:
    """Returns what an export holds.

    Raises:
        DamagedExportError: if there is no manifest, or it is not what was written.
    """
    path = os.path.join(directory, MANIFEST)
    try:
        if os.path.getsize(path) > _MOST_BYTES:
            raise ValueError("it is too large")
        with open(path, "rb") as file:
            outer = json.loads(file.read())
        body, digest = outer["body"], outer["sha256"]
        actual = hashlib.sha256(_canonical(body)).hexdigest()
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged(directory, MANIFEST, reason_of(error)) from None
    if actual != digest or not isinstance(body, dict):
        raise damaged(directory, MANIFEST, "its checksum differs")
    if body.get("format") != _FORMAT:
        raise DamagedExportError(
            f"{directory} has format {body.get('format')}, and this version reads format {_FORMAT} "
            "only. Read it with the version that wrote it."
        )
    return body


def read_file(directory: str, name: Any, files: Mapping[str, Any]) -> bytes:
    """Returns the content of a file of an export.

    Raises:
        DamagedExportError: if it is not what the manifest says, or lies elsewhere.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name not in files:
        raise damaged(directory, repr(name), "an export has no such file")
    try:
        if os.path.getsize(os.path.join(directory, name)) != files[name]["size"]:
            raise ValueError("its size differs")
        with open(os.path.join(directory, name), "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != files[name]["sha256"]:
            raise ValueError("its checksum differs")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(directory, name, reason_of(error)) from None
    return data


def weights_to_bytes(values: Mapping[str, np.ndarray]) -> bytes:
    """Returns arrays by name as a safetensors file."""
    from safetensors.numpy import save

    return save({name: np.asarray(value, order="C") for name, value in values.items()})


def weights_from_bytes(directory: str, data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name.

    Raises:
        DamagedExportError: if it is none.
    """
    from safetensors.numpy import load

    try:
        return load(data)
    except Exception as error:
        raise damaged(directory, WEIGHTS, reason_of(error)) from None


def damaged(directory: str, part: str, reason: str) -> DamagedExportError:
    """Makes the error that says what of an export is damaged, why, and what to do."""
    return DamagedExportError(
        f"{directory}: {part} is not as an export was written: {reason}. Export the model again."
    )


def _copy_assets(directory: str, assets: Mapping[str, str]) -> None:
    root = os.path.join(directory, "assets.extra")
    for given, source in assets.items():
        target = os.path.abspath(os.path.join(root, given))
        if not target.startswith(root + os.sep):
            raise ValueError(f"assets_extra: {given!r} does not lie in assets.extra.")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target)


def _canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
