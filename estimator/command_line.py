"""The command line: what a directory holds, and what an export answers.

python -m estimator show runs/iris                          # a model directory, or an export
python -m estimator predict runs/iris/export/best --input rows.json
python -m estimator serve runs/iris/export/best --port 8501
python -m estimator convert runs/iris/export/best runs/iris/saved_models
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from estimator import checkpoint, export_files
from estimator.export_directories import directories_of_exports, near_exports, newest
from estimator.export_outputs import DEFAULT
from estimator.loaded_mode import RECORDS, shape_text
from estimator.loaded_model import LoadedModel, load
from estimator.rest_application import RequestLimits
from estimator.rest_server import serve
from estimator.tensorflow_export import write_saved_model

_MOST_SHOWN = 1000
_EXPORT = "an export; or the directory that holds exports, named by their times"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
        arguments: the words of the command; None: those of the process.
    """
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, LookupError, ArithmeticError, TypeError, ImportError) as error:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m estimator", description="Shows, asks and serves models."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    show = commands.add_parser("show", help="what a model directory, or an export, holds")
    show.add_argument("directory", help=_EXPORT + "; or a model directory")
    show.set_defaults(run=_show)

    predict = commands.add_parser(
        "predict",
        help="what an export answers",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    predict.add_argument("directory", help=_EXPORT)
    predict.add_argument(
        "--input",
        default="-",
        help="a JSON file: a list of rows, or columns by name; -: standard input",
    )
    predict.add_argument("--signature", default=DEFAULT, help="what is asked")
    predict.set_defaults(run=_predict)

    served = commands.add_parser(
        "serve",
        help="an export as a REST service, as TensorFlow Serving has it",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    served.add_argument("directory", help=_EXPORT)
    served.add_argument("--port", type=_number(0, 65535), default=8501, help="0: any free one")
    served.add_argument("--host", default="127.0.0.1", help="0.0.0.0: open to the network")
    served.add_argument("--name", default="default", help="what the model is called in addresses")
    served.add_argument(
        "--max-rows", type=_number(1), default=RequestLimits.rows, help="rows of a request"
    )
    served.add_argument(
        "--max-bytes",
        type=_number(1),
        default=RequestLimits.body_bytes,
        help="length of a body, and of what its rows become once they are filled up",
    )
    served.add_argument(
        "--batch-rows",
        type=_number(0),
        default=64,
        help="rows of requests that come at the same time, answered together; 0: none",
    )
    served.add_argument(
        "--threads", type=_number(1), default=16, help="requests worked on at the same time"
    )
    served.add_argument(
        "--reload-secs",
        type=_seconds,
        default=5.0,
        help="seconds between two looks for a newer export; 0: none",
    )
    served.add_argument("--wait", action="store_true", help="there need not be an export yet")
    served.add_argument("--verbose", action="store_true", help="log each request")
    served.set_defaults(run=_serve)

    convert = commands.add_parser("convert", help="an export as TensorFlow's SavedModel")
    convert.add_argument("directory", help=_EXPORT)
    convert.add_argument("output", help="the directory that gets it, named by the time")
    convert.set_defaults(run=_convert)
    return parser


def _number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Returns what reads an argument that is a whole number."""

    def number(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            to = "" if most is None else f", and at most {most}"
            raise argparse.ArgumentTypeError(f"must be at least {least}{to}, got {value}")
        return value

    return number


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


def _show(given: argparse.Namespace) -> None:
    sys.stdout.writelines(f"{line}\n" for line in _shown(given.directory))


def _predict(given: argparse.Namespace) -> None:
    answers = load(given.directory)(_read_json(given.input), given.signature)
    sys.stdout.write(json.dumps(rows_of(answers)) + "\n")


def _convert(given: argparse.Namespace) -> None:
    sys.stdout.write(write_saved_model(load(given.directory), given.output) + "\n")


def _serve(given: argparse.Namespace) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("estimator").setLevel(logging.DEBUG if given.verbose else logging.INFO)

    def on_start(address: str) -> None:
        sys.stdout.write(f"{given.directory} is served at {address}; Ctrl-C ends it.\n")
        sys.stdout.flush()

    serve(
        given.directory,
        given.port,
        given.host,
        given.name,
        RequestLimits(given.max_bytes, given.max_rows),
        given.batch_rows,
        given.threads,
        given.reload_secs,
        given.wait,
        on_start,
    )


def _read_json(path: str) -> Any:
    if path == "-":
        text: str | bytes = sys.stdin.read()
    else:
        with open(path, "rb") as file:
            text = file.read()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
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
                kind = f"{entry.dtype} {shape_text(entry.shape or ())}"
            else:
                kind = f"{entry.like or 'values'}, as its columns take it"
            kind = kind if entry.needed else "not used"
            shown[f"  {entry.name} ({entry.part}): {kind}"] = name
    lines += ["", "inputs", *shown]
    if any(map(loaded.takes_records, loaded.signatures)):
        lines.append(f"  or {RECORDS}: serialised tf.train.Examples")
    if row := _example_row(loaded):
        lines += ["", "example row", f"  {row}"]
    return [*lines, "", *_shown_variables(loaded.variables)]


def _example_row(loaded: LoadedModel) -> str:
    """Returns a row of the examples as JSON; nothing where that is not plain to see."""
    for example in loaded.examples:
        features = example["features"]
        try:
            first = {name: leaf[0] for name, leaf in features.items()}
            text = json.dumps(first, default=lambda value: value.tolist())
            return text if len(text) <= _MOST_SHOWN else ""
        except (AttributeError, LookupError, TypeError):
            continue
    return ""


def _shown_model(directory: str) -> list[str]:
    try:
        path = checkpoint.resolve(directory)
    except ValueError as error:
        near = near_exports(os.path.abspath(directory))
        raise ValueError(f"{directory} holds no export and no checkpoint.{near}") from error
    values = checkpoint.read_variables(path)
    lines = [f"checkpoint {path}", "", *_shown_variables(values)]
    found = directories_of_exports(directory)
    return [*lines, "", "exports", *(f"  {newest(root)}" for root in found)] if found else lines


def _shown_variables(values: dict[str, np.ndarray]) -> list[str]:
    total = sum(value.size for value in values.values())
    size = sum(value.nbytes for value in values.values())
    lines = [f"variables ({total:,} numbers, {size:,} bytes)"]
    for name, value in sorted(values.items()):
        lines.append(f"  {name}: {value.dtype} {list(value.shape)}")
    return lines
