"""A run that looks after itself: it stops when nothing improves, and keeps the best model.

    python examples/digits_early_stopping.py                        # a few seconds
    python examples/digits_early_stopping.py --picture curves.png   # also draws its curves

A wide network learns handwritten digits (scikit-learn's, 1,797 pictures of 8 x 8) from 300 of them:
soon it knows these by heart, and its loss on pictures held out rises again. Every 20 steps it is
evaluated on a part of those; the best model is exported, and 200 steps without a better loss end
the run. Press Ctrl-C, or kill it, and start it with --resume: it goes on as if nothing had
happened.
"""

import argparse
import logging
import os
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import estimator as est

CLASSES = 10


def load_data():
    """Returns pairs (pictures, digits): 300 to train, 500 to stop by, the others to test."""
    digits = load_digits()
    x = (digits.data / 16).astype(np.float32)
    train_x, rest_x, train_y, rest_y = train_test_split(
        x, digits.target, train_size=300, stratify=digits.target, random_state=0
    )
    valid_x, test_x, valid_y, test_y = train_test_split(
        rest_x, rest_y, train_size=500, stratify=rest_y, random_state=0
    )
    return (train_x, train_y), (valid_x, valid_y), (test_x, test_y)


def model_fn(features, labels, mode):
    """Two wide layers, nothing against overfitting."""
    net = est.layers.dense(features["pixels"], 256, activation=jax.nn.relu)
    net = est.layers.dense(net, 256, activation=jax.nn.relu)
    logits = est.layers.dense(net, CLASSES, name="logits")
    if mode == est.ModeKeys.PREDICT:
        answers = {"digit": jnp.argmax(logits, 1), "probabilities": jax.nn.softmax(logits)}
        return est.EstimatorSpec(mode, predictions=answers)
    return est.EstimatorSpec(
        mode,
        loss=optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(),
        train_op=optax.adam(2e-3),
        eval_metric_ops={"accuracy": est.metrics.accuracy(labels, jnp.argmax(logits, 1))},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", default="runs/digits_early_stopping")
    parser.add_argument("--resume", action="store_true", help="go on with the run that is there")
    parser.add_argument("--picture", help="where to draw the curves")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("estimator.early_stopping").setLevel(logging.INFO)
    if not args.resume:
        shutil.rmtree(args.model_dir, ignore_errors=True)

    train, valid, test = load_data()

    def held_out(x, y):
        return est.numpy_input_fn({"pixels": x}, y, 250, num_epochs=1, shuffle=False)

    config = est.RunConfig(random_seed=0, save_checkpoints_steps=100, log_step_count_steps=20)
    classifier = est.Estimator(model_fn, args.model_dir, config)
    stop = est.stop_if_no_decrease_hook(classifier, "loss", max_steps_without_decrease=200)
    metrics, _ = est.train_and_evaluate(
        classifier,
        est.TrainSpec(
            est.numpy_input_fn(
                {"pixels": train[0]}, train[1], 50, num_epochs=None, shuffle=True, seed=0
            ),
            max_steps=5000,
            hooks=[stop],
        ),
        est.EvalSpec(held_out(*valid), every_n_steps=20, exporters=est.BestExporter("best")),
    )
    if classifier.interrupted:
        sys.exit(f"interrupted by {classifier.interrupted}; --resume goes on")

    best = est.export.load(os.path.join(args.model_dir, "export", "best"))
    last = next(classifier.predict(lambda: {"pixels": test[0]}, yield_single_examples=False))
    print(f"== Stopped at step {metrics['global_step']}; the best was step {best.global_step}.")
    losses = {}
    for name, answers in (("best", best({"pixels": test[0]})), ("last", last)):
        probabilities = answers["probabilities"][np.arange(len(test[1])), test[1]]
        losses[name] = -np.log(probabilities).mean()
        accuracy = (answers["digit"] == test[1]).mean()
        print(f"   In the test the {name} has loss {losses[name]:.4f}, accuracy {accuracy:.4f}.")
    if args.picture:
        est.plot_history(args.model_dir, ["loss", "accuracy"]).savefig(args.picture, dpi=90)
        print(f"== Drawn: {args.picture}")
    if best.global_step >= metrics["global_step"] or losses["best"] > losses["last"]:
        sys.exit("the best model should be an earlier one than the last, and better in the test")


if __name__ == "__main__":
    main()
