"""A custom model_fn learns iris, loses its process half way, and goes on as if nothing was.

    python examples/iris_custom_model.py                    # about ten seconds
    python examples/iris_custom_model.py --model-dir runs/mine --steps 2000

The model is the one of TensorFlow's tutorial on custom Estimators: two hidden layers of ten units,
Adagrad with rate 0.1. Training runs in two processes: the first is killed at half the steps.
"""

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

import estimator as est
import feature_columns as fc

FEATURES = ("SepalLength", "SepalWidth", "PetalLength", "PetalWidth")
SPECIES = ("Setosa", "Versicolor", "Virginica")


def load_data():
    """Returns (train_x, train_y), (test_x, test_y): 120 flowers to learn from, 30 held out."""
    x, y = load_iris(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        x.astype(np.float32), y, test_size=30, stratify=y, random_state=0
    )
    columns = [dict(zip(FEATURES, part.T, strict=True)) for part in (train_x, test_x)]
    return (columns[0], train_y), (columns[1], test_y)


def my_model(features, labels, mode, params):
    """The tutorial's model."""
    # Use `input_layer` to apply the feature columns.
    net = fc.input_layer(features, params["feature_columns"])

    # Build the hidden layers, sized according to the 'hidden_units' param.
    for units in params["hidden_units"]:
        net = est.layers.dense(net, units=units, activation=jax.nn.relu)

    # Compute logits (1 per class).
    logits = est.layers.dense(net, params["n_classes"], activation=None)

    # Compute predictions.
    predicted_classes = jnp.argmax(logits, 1)
    if mode == est.ModeKeys.PREDICT:
        predictions = {
            "class_ids": predicted_classes[:, jnp.newaxis],
            "probabilities": jax.nn.softmax(logits),
            "logits": logits,
        }
        return est.EstimatorSpec(mode, predictions=predictions)

    # Compute loss.
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    # Compute evaluation metrics.
    accuracy = est.metrics.accuracy(labels=labels, predictions=predicted_classes, name="acc_op")
    metrics = {"accuracy": accuracy}
    est.summary.scalar("accuracy", accuracy[1])
    if mode == est.ModeKeys.EVAL:
        return est.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)

    optimizer = optax.adagrad(learning_rate=0.1)
    return est.EstimatorSpec(mode, loss=loss, train_op=optimizer)


def make_classifier(model_dir):
    """Returns the Estimator; two processes that call this continue each other's work."""
    return est.Estimator(
        model_fn=my_model,
        model_dir=model_dir,
        config=est.RunConfig(random_seed=1, save_checkpoints_steps=100),
        params={
            "feature_columns": [fc.numeric_column(key=key) for key in FEATURES],
            # Two hidden layers of 10 nodes each.
            "hidden_units": [10, 10],
            # The model must choose between 3 classes.
            "n_classes": 3,
        },
    )


class PowerCut(est.SessionRunHook):
    """Kills the process at a step: nothing can be cleaned up or saved."""

    def __init__(self, step):
        self.step = step

    def after_run(self, run_context, run_values):
        if run_context.session.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(args):
    """Trains up to `args.steps`; what happens to one of two processes."""
    (train_x, train_y), _ = load_data()
    input_fn = est.numpy_input_fn(
        train_x, train_y, args.batch_size, num_epochs=None, shuffle=True, seed=1
    )
    hooks = [PowerCut(args.kill_at)] if args.kill_at else []
    make_classifier(args.model_dir).train(input_fn, hooks=hooks, max_steps=args.steps)


def train_in_process(args, *more):
    """Runs `train` in a process of its own, and returns its exit status."""
    given = ["--model-dir", args.model_dir, "--steps", str(args.steps)]
    command = [sys.executable, __file__, "--train-only", *given, *more]
    return subprocess.run(command, check=False).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", default="runs/iris")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--train-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--kill-at", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    if args.train_only:
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        logging.getLogger("estimator").setLevel(logging.INFO)
        train(args)
        return

    if os.path.isdir(os.path.join(args.model_dir, "checkpoints")):
        shutil.rmtree(args.model_dir)
    half = args.steps // 2 + 50
    print(f"== Training to step {args.steps}, in a process that is killed at step {half}")
    status = train_in_process(args, "--kill-at", str(half))
    classifier = make_classifier(args.model_dir)
    print(
        f"   It ended with status {status}; {classifier.latest_checkpoint()} was complete by then."
    )

    print("== A second process goes on, state and input alike")
    if train_in_process(args) != 0:
        sys.exit("the second process failed")

    _, (test_x, test_y) = load_data()
    input_fn = est.numpy_input_fn(test_x, test_y, args.batch_size, num_epochs=1, shuffle=False)
    print("== Evaluation on 30 flowers it has not seen")
    results = classifier.evaluate(input_fn)
    print("   " + ", ".join(f"{name} {value:.4g}" for name, value in sorted(results.items())))

    print("== Predictions")
    for answer, label in zip(classifier.predict(input_fn), test_y[:5], strict=False):
        species = int(answer["class_ids"][0])
        probability = answer["probabilities"][species]
        print(f"   {SPECIES[species]:<10} ({probability:6.1%}), in truth {SPECIES[label]}")

    print(f"== Curves: tensorboard --logdir {os.path.abspath(args.model_dir)}")
    if results["accuracy"] < 0.95:
        sys.exit(f"accuracy {results['accuracy']:.3f} is below 0.95")


if __name__ == "__main__":
    main()
