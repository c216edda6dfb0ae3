"""REST messages: JSON bodies in the shapes of TensorFlow Serving's REST API, and features.

    {"instances": [{"x": [1.0]}, ...]}      ->  {"predictions": [{"y": 2.0}, ...]}
    {"inputs": {"x": [[1.0], ...]}}         ->  {"outputs": {"y": [2.0, ...]}}
    {"examples": [{"x": [1.0]}, ...]}       ->  {"result": [[["cat", 0.9], ...], ...]}     classify
    {"examples": [{"x": [1.0]}, ...]}       ->  {"result": [2.0, ...]}                     regress

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from estimator.export_outputs import DEFAULT
from estimator.loaded_mode import RECORDS
from estimator.loaded_model import LoadedModel
from estimator.messages import did_you_mean, shown

VERBS = ("predict", "classify", "regress")

_KEYS = {
    "predict": ("signature_name", "instances", "inputs"),
    "classify": ("signature_name", "examples", "context"),
    "regress": ("signature_name", "examples", "context"),
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a body asks.

    Attributes:
        verb: `predict`, `classify` or `regress`.
        signature: the signature.
        rows: the features, a list of rows; or None.
        columns: the features by name, where they came so; or None.
        context: features that all rows have.
    """

    verb: str
    signature: str
    rows: list[Any] | None
    columns: Any = None
    context: Mapping[str, Any] | None = None

    def features(self, loaded: LoadedModel) -> Any:
        """Returns the features as a loaded model takes them.

        Raises:
            ValueError: if a name of the context is unknown, or some rows have names and some none.
        """
        given: Any = self.columns if self.rows is None else self.rows
        named = isinstance(given[0] if self.rows else given, Mapping)
        if self.rows and any(isinstance(row, Mapping) != named for row in self.rows):
            raise ValueError("Either all rows are objects by name, or none is.")
        inputs = loaded.inputs(self.signature)
        if self.context:
            names = {str(entry.path[0]) for entry in inputs if entry.path}
            if unknown := sorted(self.context.keys() - names):
                raise ValueError(f"context: the model takes no feature {shown(unknown[0])}.")
            given = [{**self.context, **row} for row in given]
        if self.rows and named and loaded.takes_records(self.signature):
            records = [row[RECORDS] for row in given if row.keys() == {RECORDS}]
            return {RECORDS: records} if len(records) == len(given) else given
        return given


def read_body(data: bytes, verb: str, most_rows: int) -> Asked:
    """Returns what a body asks.

    >>> read_body(b'{"instances": [[1.0], [2.0]]}', "predict", most_rows=10).rows
    [[1.0], [2.0]]

    Args:
        data: the JSON text.
        verb: what follows the colon in the address.
        most_rows: how many rows it may have.

    Raises:
        ValueError: if it asks nothing, or too much.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise ValueError(f"The body must be an object with some of {list(_KEYS[verb])}.")
    for key in body:
        if key not in _KEYS[verb]:
            raise ValueError(
                f"There is no key {shown(key)} in a body of {verb}."
                f"{did_you_mean(key, _KEYS[verb])} "
                f"There are {list(_KEYS[verb])}."
            )
    signature = body.pop("signature_name", DEFAULT) or DEFAULT
    if not isinstance(signature, str):
        raise ValueError(f"signature_name must be a string, got {shown(signature)}.")
    context = body.pop("context", {})
    if len(body) != 1:
        raise ValueError(f"The body must have one of {list(_KEYS[verb][1:])}, got {[*body]}.")
    ((key, given),) = body.items()
    given = _decoded(given) if b'"b64"' in data else given
    counts = [len(column) for column in _columns(given)]
    if max(counts, default=0) > most_rows:
        raise ValueError(f"There are {max(counts)} rows, and a request may have {most_rows}.")
    if key == "inputs":
        return Asked(verb, signature, None, columns=given)
    if not isinstance(given, list) or not given:
        raise ValueError(f"{key} must be a list of at least one row.")
    named = isinstance(context, dict) and all(isinstance(row, dict) for row in given)
    if verb != "predict" and not named:
        raise ValueError("context, and each of examples, must be an object: features by name.")
    return Asked(verb, signature, given, context=context)


def answer_body(asked: Asked, method: str, answers: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the body that answers.

    >>> asked = Asked("predict", "serving_default", [[1.0]])
    >>> answer_body(asked, "predict", {"y": np.array([2.0])})
    {'predictions': [2.0]}

    Args:
        asked: what was asked.
        method: what kind of answers the signature gives: `predict`, `classify` or `regress`.
        answers: what the model answered.

    Raises:
        ValueError: if the signature does not give what was asked for.
    """
    if asked.verb != "predict" and asked.verb != method:
        raise ValueError(
            f"The signature {asked.signature!r} does not {asked.verb}: ask it with :{method}."
        )
    lists = {name: answer.tolist() for name, answer in answers.items()}
    if asked.verb == "predict" and asked.rows is None:
        return {"outputs": next(iter(lists.values())) if len(lists) == 1 else lists}
    if asked.verb == "classify" and any(answer.ndim != 2 for answer in answers.values()):
        raise ValueError(
            f"The signature {asked.signature!r} gives no classes and scores for each row: ask it "
            "with :predict."
        )
    for name, answer in answers.items():
        if answer.ndim == 0 or len(answer) != len(asked.rows or ()):
            raise ValueError(
                f"{name}, of shape {list(answer.shape)}, does not answer row by row: ask with "
                '"inputs" in place of "instances".'
            )
    if asked.verb == "regress":
        numbers = answers["outputs"]
        return {"result": (numbers.ravel() if numbers.size == len(numbers) else numbers).tolist()}
    if asked.verb == "classify":
        shape = next(iter(answers.values())).shape
        labels = answers.get("classes", np.full(shape, ""))
        numbers = answers.get("scores", np.zeros(shape))
        pairs = zip(labels.tolist(), numbers.tolist(), strict=True)
        return {"result": [[*zip(*pair, strict=True)] for pair in pairs]}
    if len(lists) == 1:
        return {"predictions": next(iter(lists.values()))}
    rows_of = zip(*lists.values(), strict=True)
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in rows_of]}


def to_bytes(body: Any) -> bytes:
    """Returns a body as JSON; bytes become `{"b64": "..."}`.

    >>> to_bytes({"outputs": [b"a", float("nan")]})
    b'{"outputs": [{"b64": "YQ=="}, NaN]}'
    """
    return json.dumps(body, default=_encoded).encode()


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    raise TypeError(f"JSON holds no {type(value).__name__}")


def _decoded(value: Any) -> Any:
    """Returns a value with bytes in place of `{"b64": "..."}`."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"b64"}:
        return {key: _decoded(item) for key, item in value.items()}
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"b64 is no base64 text: {error}") from error


def _columns(given: Any) -> list[list[Any]]:
    """Returns the lists that a value, or an object of such values, consists of."""
    if isinstance(given, dict):
        return [column for value in given.values() for column in _columns(value)]
    return [given] if isinstance(given, list) else []
