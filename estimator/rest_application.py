"""The REST application: a served model behind the addresses of TensorFlow Serving's REST API.

    GET  /v1/models/NAME                    whether it is there
    GET  /v1/models/NAME/metadata           its signatures
    POST /v1/models/NAME:predict            also :classify, :regress
    POST /v1/models/NAME/versions/N:predict one version, if it is the one that is served

It is a WSGI application, so any WSGI server can run it. Source of the shapes:
https://www.tensorflow.org/tfx/serving/api_rest
"""

import dataclasses
import http
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from estimator.loaded_mode import RECORDS
from estimator.loaded_model import LoadedModel
from estimator.messages import shown
from estimator.rest_messages import VERBS, answer_body, read_body, to_bytes
from estimator.served_model import ServedModel, Version

_LOG = logging.getLogger(__name__)

_ADDRESS = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>[0-9]+))?"
    r"(?P<what>|/metadata|:(?P<verb>" + "|".join(VERBS) + "))"
)
# TensorFlow's names for dtypes, of which metadata tells.
_TF_TYPES = {
    "float16": "DT_HALF",
    "bfloat16": "DT_BFLOAT16",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    "object": "DT_STRING",
    "bool": "DT_BOOL",
    **{f"{kind}{n}": f"DT_{kind.upper()}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64)},
}


# What a feature that may come in any form held when the model was exported.
_LIKE = {"str": "object", "int": "int64", "float": "float32", "bool": "bool"}


@dataclasses.dataclass(frozen=True)
class RequestLimits:
    """How large a request may be.

    Attributes:
        body_bytes: the length of the body. No feature may have more values, or characters, once
            its rows are filled up to the longest.
        rows: the number of rows.
    """

    body_bytes: int = 2**22
    rows: int = 4096


class _Refused(Exception):  # noqa: N818
    """An answer that is no success, with its status and headers."""

    def __init__(self, status: int, message: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class RestApplication:
    """Answers HTTP requests with a model.

    Args:
        model: the model.
        name: what it is called in addresses.
        limits: how large a request may be.

    Raises:
        ValueError: if no address can hold the name.
    """

    def __init__(
        self, model: ServedModel, name: str = "default", limits: RequestLimits | None = None
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ValueError(
                f"The name {name!r} is no part of an address: use letters, digits, _, . and -."
            )
        self._model = model
        self._name = name
        self._limits = limits or RequestLimits()

    def __call__(
        self, environ: Mapping[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answers a request, as WSGI has it."""
        status, headers = 200, [("Content-Type", "application/json")]
        try:
            body = to_bytes(self._answer(environ))
        except _Refused as refused:
            status, body = refused.status, to_bytes({"error": str(refused)})
            headers += refused.headers
        except Exception as error:
            _LOG.exception("A request failed.")
            status, body = 500, to_bytes({"error": f"The model failed: {type(error).__name__}."})
        headers.append(("Content-Length", str(len(body))))
        _LOG.debug("%s %s: %d", environ["REQUEST_METHOD"], environ.get("PATH_INFO"), status)
        start_response(f"{status} {http.HTTPStatus(status).phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: Mapping[str, Any]) -> dict[str, Any]:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        found = _ADDRESS.fullmatch(path)
        if found is None:
            raise _Refused(
                404,
                f"There is nothing at {shown(path)}. There are GET /v1/models/{self._name}, GET "
                f"/v1/models/{self._name}/metadata and POST /v1/models/{self._name}:VERB, where "
                f"VERB is one of {list(VERBS)}.",
            )
        version = self._model.current
        if version is None:
            raise _Refused(503, "There is no model yet.", [("Retry-After", "1")])
        if found["name"] != self._name:
            raise _Refused(
                404, f"There is no model {shown(found['name'])} here; there is {self._name!r}."
            )
        if found["version"] not in (None, version.number):
            asked = found["version"][:20]
            raise _Refused(404, f"Version {asked} is not served; {version.number} is.")
        wanted = ["POST"] if found["verb"] else ["GET", "HEAD"]
        if method not in wanted:
            message = f"{path} is asked by {wanted[0]}, not by {shown(method)}."
            raise _Refused(405, message, [("Allow", ", ".join(wanted))])
        if found["verb"]:
            return self._asked(version, found["verb"], self._body(environ))
        return self._metadata(version) if found["what"] else _status(version)

    def _body(self, environ: Mapping[str, Any]) -> bytes:
        most = self._limits.body_bytes
        text = environ.get("CONTENT_LENGTH") or "0"
        if not text.isdecimal() or len(text) > 18:
            raise _Refused(400, f"The Content-Length {shown(text)} is no size.")
        if int(text) > most:
            raise _Refused(413, f"The body has {text} bytes, and may have {most}.")
        return environ["wsgi.input"].read(int(text))

    def _asked(self, version: Version, verb: str, body: bytes) -> dict[str, Any]:
        loaded = version.loaded
        try:
            asked = read_body(body, verb, self._limits.rows)
            request = loaded.request(
                asked.features(loaded), asked.signature, most_values=self._limits.body_bytes
            )
        except MemoryError as error:
            raise _Refused(413, "The request needs more memory than there is.") from error
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            raise _Refused(400, str(error)) from error
        answers = loaded.finished(request, version.ask.run(request))
        try:
            return answer_body(asked, loaded.method(asked.signature), answers)
        except ValueError as error:
            raise _Refused(400, str(error)) from error

    def _metadata(self, version: Version) -> dict[str, Any]:
        signatures = {
            name: {
                "inputs": _inputs(version.loaded, name),
                "outputs": {
                    output: _tensor(output, t.dtype.name, t.shape)
                    for output, t in version.loaded.output_types(name).items()
                },
                "method_name": f"tensorflow/serving/{version.loaded.method(name)}",
            }
            for name in version.loaded.signatures
            if all(entry.part == "features" for entry in version.loaded.inputs(name))
        }
        return {
            "model_spec": {"name": self._name, "signature_name": "", "version": version.number},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }


def _status(version: Version) -> dict[str, Any]:
    fine = {"error_code": "OK", "error_message": ""}
    status = {"version": version.number, "state": "AVAILABLE", "status": fine}
    return {"model_version_status": [status]}


def _inputs(loaded: LoadedModel, signature: str) -> dict[str, Any]:
    """Describes what goes into a signature; where records are taken, these."""
    if loaded.takes_records(signature):
        return {RECORDS: _tensor(RECORDS, "object", (None,))}
    return {
        entry.name: _tensor(entry.name, entry.dtype or _LIKE.get(entry.like or ""), entry.shape)
        for entry in loaded.inputs(signature)
        if entry.needed
    }


def _tensor(name: str, dtype: str | None, shape: tuple[int | None, ...] | None) -> dict[str, Any]:
    """Describes a tensor as TensorFlow does; where any form will do, it is left open."""
    sizes = [{"size": str(-1 if size is None else size), "name": ""} for size in shape or ()]
    return {
        "name": name,
        "dtype": "DT_INVALID" if dtype is None else _TF_TYPES.get(dtype, dtype),
        "tensor_shape": {"dim": sizes, "unknown_rank": shape is None},
    }
