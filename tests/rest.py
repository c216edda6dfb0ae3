"""What tests of the REST service share: it is asked without a network, as WSGI servers do."""

import io
import json


def ask(application, path, body=None, method=None, **environ):
    """Returns status, headers and the parsed body of an answer; a body of bytes goes as it is."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    told = {}

    def start_response(status, headers):
        told.update(status=int(status.split()[0]), headers=dict(headers))

    environ = {
        "REQUEST_METHOD": method or ("GET" if body is None else "POST"),
        "PATH_INFO": path,
        "CONTENT_LENGTH": str(len(data)),
        "wsgi.input": io.BytesIO(data),
        **environ,
    }
    answer = b"".join(application(environ, start_response))
    assert told["headers"]["Content-Length"] == str(len(answer))
    assert told["headers"]["Content-Type"] == "application/json"
    return told["status"], told["headers"], json.loads(answer)
