"""A loaded export beside the bare jitted function, and REST servers beside each other, in one run.

    python benchmarks/serve.py      # two minutes

The 784-256-128-10 network. One JSON line a case. `batch`: microseconds of a call of
`loaded(features)`, from a dict of numpy arrays to numpy answers, those of the jitted function of
the same weights, fetched likewise, and their difference, with the one that is wanted at the most.
`REST`: requests of one row a second, over loopback, of so many clients in a process of their own,
each with a connection that it keeps; beside those of a server that answers each request alone, and
of one that reads the same bodies and answers nothing: the same waitress without a model. `LSTM` is
an RNNClassifier of 128 units, asked with 60 words, whose time is the model's more than HTTP's.
Repetitions alternate.
"""

import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from loop import MLP, ByHand, make_data, make_estimator
from measure import REPETITIONS, report

import canned
import estimator as est
import feature_columns as fc

CALLS = 200
REQUESTS = 400
ROUNDS = 5

NO_MODEL = """
import waitress
def application(environ, start_response):
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
    return [b"{}"]
server = waitress.create_server(application, port=0, threads=16, asyncore_use_poll=True)
print(f"no model at http://127.0.0.1:{server.effective_port}/;", flush=True)
server.run()
"""


def microseconds(ask):
    """Returns the time of one of many calls."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        ask()
    return (time.perf_counter() - begin) / CALLS * 1e6


def exported(estimator):
    """Returns the path of an export."""
    return estimator.export_saved_model(tempfile.mkdtemp()).decode()


def export_of_lstm():
    """Returns the path of an export of a recurrent classifier, and a row to ask it with."""
    words = fc.sequence_categorical_column_with_hash_bucket("words", 1000)
    estimator = canned.RNNClassifier(
        [fc.embedding_column(words, dimension=32)],
        units=[128],
        cell_type="lstm",
        model_dir=tempfile.mkdtemp(),
    )
    texts = [[f"word{(i + 1) * j % 77}" for j in range(60)] for i in range(8)]
    estimator.train(lambda: ({"words": texts}, [0, 1] * 4), steps=1)
    return exported(estimator), {"words": texts[0]}


@contextlib.contextmanager
def server(*words):
    """Runs a Python process that serves, and gives the address it tells."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split(" at ")[1].split(";")[0]
    finally:
        process.terminate()
        process.wait()


def ask_many(address, body, clients):
    """Returns the requests a second of so many clients; runs in a process of its own."""
    place = urllib.parse.urlsplit(address)

    def client(count):
        connection = http.client.HTTPConnection(place.hostname, place.port)
        for _ in range(count):
            connection.request("POST", f"{place.path}:predict", body)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()

    with ThreadPoolExecutor(clients) as pool:
        begin = time.perf_counter()
        list(pool.map(client, [REQUESTS // clients] * clients))
    return REQUESTS / (time.perf_counter() - begin)


def requests_a_second(address, row, clients):
    body = json.dumps({"instances": [row]})
    words = [sys.executable, __file__, address, str(clients)]
    asked = subprocess.run(words, input=body, capture_output=True, text=True, check=True)
    return float(asked.stdout)


def compare_servers(name, path, row, all_clients):
    serve = ["-m", "estimator", "serve", path, "--port", "0"]
    with (
        server(*serve) as merging,
        server(*serve, "--batch-rows", "0") as alone,
        server("-c", NO_MODEL) as empty,
    ):
        addresses = (merging, alone, empty)
        for clients in all_clients:
            rounds = [
                [requests_a_second(address, row, clients) for address in addresses]
                for _ in range(ROUNDS + 1)
            ]
            ours, each_alone, no_model = map(statistics.median, zip(*rounds[1:], strict=True))
            report(
                case=f"REST {name}, {clients} client{'s' if clients > 1 else ''}",
                unit="requests/s",
                here=ours,
                each_alone=each_alone,
                no_model=no_model,
                merged_to_alone=ours / each_alone,
                ratio=ours / no_model,
            )


def main():
    if len(sys.argv) > 1:
        print(ask_many(sys.argv[1], sys.stdin.read(), int(sys.argv[2])))
        return
    sizes, _ = MLP
    x, y = make_data(sizes, 64, 1)
    path = exported(make_estimator(sizes).train(lambda: ({"x": x}, y), steps=1))
    loaded = est.export.load(path)
    hand = ByHand(sizes)
    hand.params = [
        (loaded.variables[f"{name}/kernel"], loaded.variables[f"{name}/bias"])
        for name in ("dense", "dense_1", "dense_2")
    ]
    hand.params = jax.tree.map(jnp.asarray, hand.params)
    for rows, wanted in ((1, 100), (64, None)):
        asked = {"x": x[:rows]}

        def here(asked=asked):
            return loaded(asked)

        def by_hand(asked=asked):
            return jax.device_get(hand.predict_step(hand.params, asked["x"]))

        given, bare = here(), by_hand()
        np.testing.assert_allclose(given["probabilities"], bare["probabilities"], rtol=1e-5)
        pairs = [(microseconds(here), microseconds(by_hand)) for _ in range(REPETITIONS)]
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        report(
            case=f"batch {rows}",
            unit="us",
            here=ours,
            by_hand=theirs,
            more=ours - theirs,
            wanted_more_below=wanted,
        )
    compare_servers("MLP", path, {"x": x[0].tolist()}, (1, 8))
    compare_servers("LSTM", *export_of_lstm(), (8,))


if __name__ == "__main__":
    main()
