"""The command line: what a directory holds, and what an export answers.

python -m estimator show runs/iris                          # a model directory, or an export
python -m estimator predict runs/iris/export/best --input rows.json
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from estimator import checkpoint, export_files
from estimator.loaded_model import LoadedModel, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
        arguments: the words of the command; None: those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m estimator", description="Shows and asks models."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="what a model directory, or an export, holds")
    show.add_argument("directory")
    predict = commands.add_parser("predict", help="what an export answers")
    predict.add_argument("directory")
    predict.add_argument(
        "--input", default="-", help="a JSON file: a list of rows, or columns by name; -: stdin"
    )
    predict.add_argument("--signature", default="serving_default")
    given = parser.parse_args(arguments)
    try:
        if given.command == "show":
            sys.stdout.writelines(f"{line}\n" for line in _shown(given.directory))
        else:
            answers = load(given.directory)(_read_json(given.input), given.signature)
            sys.stdout.write(json.dumps(rows_of(answers)) + "\n")
    except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def rows_of(answers: dict[str, np.ndarray]) -> list[dict[str, Any]] | dict[str, Any]:
    """Returns answers row by row, as JSON writes them; by name, where they are of no rows.

    >>> rows_of({"class": np.array([1, 0]), "net": np.array([[0.5], [1.5]])})
    [{'class': 1, 'net': [0.5]}, {'class': 0, 'net': [1.5]}]
    """
    lists = {name: answer.tolist() for name, answer in answers.items()}
    counts = {len(answer) if answer.ndim else None for answer in answers.values()}
    if len(counts) != 1 or None in counts:
        return lists
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _read_json(path: str) -> Any:
    if path == "-":
        text = sys.stdin.read()
    else:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"the input {path} is no JSON: {error}") from error


def _shown(directory: str) -> list[str]:
    """Returns the lines that describe a directory."""
    is_export = os.path.exists(os.path.join(directory, export_files.MANIFEST))
    has_exports = os.path.isdir(directory) and any(
        os.path.exists(os.path.join(directory, name, export_files.MANIFEST))
        for name in os.listdir(directory)
    )
    return _shown_export(load(directory)) if is_export or has_exports else _shown_model(directory)


def _shown_export(loaded: LoadedModel) -> list[str]:
    lines = [f"export {loaded.path}", f"global_step {loaded.global_step}", "", "signatures"]
    for name in loaded.signatures:
        lines.append(f"  {name} ({loaded.method(name)}): {', '.join(loaded.outputs(name))}")
    shown: dict[str, str] = {}
    for name in loaded.signatures:
        for entry in loaded.inputs(name):
            if entry.dtype is not None:
                kind = f"{entry.dtype} {[size or 'any' for size in entry.shape or ()]}"
            else:
                kind = "as its columns take it" if entry.needed else "not used"
            shown[f"  {entry.name} ({entry.part}): {kind}"] = name
    lines += ["", "inputs", *shown]
    return [*lines, "", *_shown_variables(loaded.variables)]


def _shown_model(directory: str) -> list[str]:
    path = checkpoint.resolve(directory)
    values = checkpoint.read_variables(path)
    return [f"checkpoint {path}", "", *_shown_variables(values)]


def _shown_variables(values: dict[str, np.ndarray]) -> list[str]:
    total = sum(value.size for value in values.values())
    size = sum(value.nbytes for value in values.values())
    lines = [f"variables ({total:,} numbers, {size:,} bytes)"]
    for name, value in sorted(values.items()):
        lines.append(f"  {name}: {value.dtype} {list(value.shape)}")
    return lines
