"""A network learns handwritten digits, is exported, served by another process, and asked over HTTP.

    python examples/serve.py            # about a quarter of a minute

The service is `python -m estimator serve`: it knows the export only, not this file. Whoever asks it
needs nothing but HTTP and JSON; here that is the standard library's urllib.
"""

import argparse
import json
import logging
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import estimator as est

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WANTED_ACCURACY = 0.93


def model_fn(features, labels, mode):
    """One hidden layer."""
    net = est.layers.dense(features["pixels"] / 16, 64, activation=jax.nn.relu)
    logits = est.layers.dense(net, 10)
    probabilities = jax.nn.softmax(logits)
    if mode == est.ModeKeys.PREDICT:
        digit = jnp.argmax(logits, 1)
        likely = jnp.argsort(logits, axis=1, descending=True)[:, :3]
        likeliest = est.export.ClassificationOutput(
            scores=jnp.take_along_axis(probabilities, likely, axis=1),
            classes=est.host_output(est.Lookup(NAMES), likely),
        )
        return est.EstimatorSpec(
            mode,
            predictions={"digit": digit, "probabilities": probabilities},
            export_outputs={"serving_default": {"digit": digit}, "likeliest": likeliest},
        )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adam(1e-3))


def post(address, body):
    """Returns what a service answers."""
    with urllib.request.urlopen(address, json.dumps(body).encode(), timeout=60) as answer:
        return json.loads(answer.read())


def started(directory):
    """Returns a process that serves a directory of exports, and the address it has told."""
    words = ["-m", "estimator", "serve", directory, "--name", "digits", "--port", "0"]
    server = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    print(line, end="")
    return server, line.split(" at ")[1].split(";")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model-dir", default="runs/serve")
    model_dir = parser.parse_args().model_dir
    logging.basicConfig(format="%(message)s")

    pixels, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels.astype(np.float32), digits, test_size=360, stratify=digits, random_state=0
    )
    shutil.rmtree(model_dir, ignore_errors=True)
    estimator = est.Estimator(model_fn, model_dir, est.RunConfig(random_seed=1))
    estimator.train(
        est.numpy_input_fn(
            {"pixels": train_x}, train_y, batch_size=64, num_epochs=None, shuffle=True, seed=1
        ),
        steps=600,
    )
    estimator.export_saved_model(f"{model_dir}/exports")

    server, address = started(f"{model_dir}/exports")
    try:
        rows = [{"pixels": row.tolist()} for row in test_x]
        answers = post(f"{address}:predict", {"instances": rows})["predictions"]
        accuracy = np.mean(np.array(answers) == test_y)
        print(f"{len(rows)} digits it has never seen: {accuracy:.3f} right")

        body = {"signature_name": "likeliest", "examples": rows[:1]}
        (pairs,) = post(f"{address}:classify", body)["result"]
        print(f"a {test_y[0]}:", ", ".join(f"{name} {score:.3f}" for name, score in pairs))

        try:
            post(f"{address}:predict", {"instances": [{"pixel": rows[0]["pixels"]}]})
        except urllib.error.HTTPError as error:
            print("a wrong request:", error.code, json.loads(error.read())["error"])
    finally:
        server.terminate()
        server.wait()
    if accuracy < WANTED_ACCURACY:
        sys.exit(f"{accuracy:.3f} right is less than the {WANTED_ACCURACY} that are wanted.")


if __name__ == "__main__":
    main()
