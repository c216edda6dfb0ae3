"""Export directories: where exports are, the newest first.

    newest("runs/iris/export/best")         # runs/iris/export/best/1700000000

Each is named by the time, in seconds, at which it was made.
"""

import glob
import os

from estimator import export_files
from estimator.export_files import DamagedExportError

_MOST_NAMES = 5


def newest(path: str | bytes | os.PathLike[str]) -> str:
    """Returns the directory of an export: the one given, or the latest that lies in it.

    Raises:
        DamagedExportError: if there is none.
    """
    return exports_at(path)[0]


def exports_at(path: str | bytes | os.PathLike[str]) -> list[str]:
    """Returns the directories of exports, the newest first: the one given, or those in it.

    Raises:
        DamagedExportError: if there is none.
    """
    path = os.path.abspath(os.fsdecode(path))
    candidates = [path] if _holds(path, export_files.MANIFEST) else _named_by_time(path)
    found = [os.path.realpath(c) for c in candidates if _holds(c, export_files.MANIFEST)]
    if found:
        return found
    if any(_holds(c, "saved_model.pb") for c in [path, *candidates]):
        raise DamagedExportError(
            f"{path} holds a SavedModel of TensorFlow's, which tf.saved_model.load reads."
        )
    raise DamagedExportError(f"There is no export in {path}.{near_exports(path)}")


def directories_of_exports(path: str) -> list[str]:
    """Returns the directories in a model directory that hold exports."""
    found = {
        os.path.dirname(os.path.dirname(name))
        for root in (path, os.path.join(path, "export"))
        for name in glob.glob(os.path.join(glob.escape(root), "*", "*", export_files.MANIFEST))
    }
    return sorted(found)


def near_exports(path: str) -> str:
    """Returns where there are exports, in words: those of a model directory, or beside a typo."""
    for root in (path, os.path.dirname(path)):
        if found := directories_of_exports(root):
            more = ["..."] if len(found) > _MOST_NAMES else []
            return f" There are some in {', '.join([*found[:_MOST_NAMES], *more])}."
    return " estimator.export_saved_model writes one."


def _named_by_time(path: str) -> list[str]:
    names = os.listdir(path) if os.path.isdir(path) else []
    times = [name for name in names if name.isdecimal() and len(name) == 10]
    return [os.path.join(path, name) for name in sorted(times, reverse=True)]


def _holds(path: str, name: str) -> bool:
    return os.path.exists(os.path.join(path, name))
