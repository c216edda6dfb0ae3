"""A small convolutional network learns handwritten digits, on one device or on two, and draws it.

    python examples/digits_cnn.py                       # about a minute; one device, then two
    python examples/digits_cnn.py --picture curves.png  # also draws the curves of the run
    tensorboard --logdir runs/digits                    # curves, pictures, texts as it trains

The data are scikit-learn's digits: 1,797 pictures of 8 x 8. The learning rate falls along a cosine;
summaries show it, the gradient's norm, a layer's values and, after each evaluation, the first
pictures with what the model takes them for. Two CPU devices share one machine: what they show is
that the numbers do not depend on the devices. (Sums in another order differ in the seventh digit,
which training magnifies; in float64 all printed digits agree.)
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
ROUNDS = 8


def load_data():
    """Returns (train_x, train_y), (test_x, test_y): pictures (n, 8, 8, 1), a fifth held out."""
    digits = load_digits()
    x = (digits.images[..., None] / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        x, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    return (train_x, train_y), (test_x, test_y)


def norm_summary():
    """An optax transformation that changes nothing and shows the gradient's norm."""

    def update(updates, state, params=None):
        est.summary.scalar("gradient_norm", optax.tree.norm(updates))
        return updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def model_fn(features, labels, mode, params):
    """Two convolutions, a pooling, two dense layers."""
    training = mode == est.ModeKeys.TRAIN
    net = est.layers.conv2d(features["image"], 16, 3, padding="same", use_bias=False)
    net = jax.nn.relu(est.layers.batch_normalization(net, momentum=0.9, training=training))
    net = est.layers.conv2d(net, 32, 3, padding="same", activation=jax.nn.relu)
    net = est.layers.flatten(est.layers.max_pooling2d(net, 2, strides=2))
    net = est.layers.dense(net, 64, activation=jax.nn.relu)
    est.summary.histogram("dense", net)
    net = est.layers.dropout(net, 0.4, training=training)
    logits = est.layers.dense(net, CLASSES, name="logits")
    digit = jnp.argmax(logits, 1)
    if mode == est.ModeKeys.PREDICT:
        answers = {"digit": digit, "probabilities": jax.nn.softmax(logits)}
        return est.EstimatorSpec(mode, predictions=answers)

    rate = optax.cosine_decay_schedule(params["rate"], params["steps"])
    est.summary.scalar("learning_rate", rate(est.get_global_step()))
    est.summary.image("digits", features["image"], max_outputs=4)
    names = est.Lookup(tuple(str(name) for name in range(CLASSES)))
    est.summary.text("taken_for", est.host_output(names, digit[:4]))
    accuracy = est.metrics.accuracy(labels, digit)
    est.summary.scalar("accuracy", accuracy)
    return est.EstimatorSpec(
        mode,
        loss=optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(),
        train_op=optax.chain(norm_summary(), optax.sgd(rate, momentum=0.9)),
        eval_metric_ops={
            "accuracy": accuracy,
            "accuracy_of_classes": est.metrics.mean_per_class_accuracy(labels, digit, CLASSES),
            "among_two": est.metrics.recall_at_k(labels, logits, k=2),
        },
        evaluation_hooks=[est.SummarySaverHook(save_steps=1)],
    )


def run(args, devices):
    """Trains and evaluates on so many devices; returns the last results."""
    (train_x, train_y), (test_x, test_y) = load_data()
    model_dir = os.path.join(args.model_dir, f"{devices}_devices")
    shutil.rmtree(model_dir, ignore_errors=True)
    distribute = est.DataParallel(jax.devices()[:devices])
    classifier = est.Estimator(
        model_fn,
        model_dir,
        params={"rate": 0.02, "steps": args.steps},
        config=est.RunConfig(
            random_seed=0,
            save_summary_steps=20,
            train_distribute=distribute,
            eval_distribute=distribute,
        ),
    )
    train_input = est.numpy_input_fn(
        {"image": train_x}, train_y, args.batch_size, num_epochs=None, shuffle=True, seed=0
    )
    test_input = est.numpy_input_fn(
        {"image": test_x}, test_y, args.batch_size, num_epochs=1, shuffle=False
    )
    print(f"== {args.steps} steps on {devices} {jax.devices()[0].platform} device(s)")
    results, _ = est.train_and_evaluate(
        classifier,
        est.TrainSpec(train_input, max_steps=args.steps),
        est.EvalSpec(test_input, steps=None, every_n_steps=max(1, args.steps // ROUNDS)),
    )
    if classifier.interrupted:
        sys.exit(f"interrupted by {classifier.interrupted}")
    for record in classifier.history:
        if record["mode"] == "eval":
            names = ("global_step", "loss", "accuracy", "accuracy_of_classes", "among_two")
            print("   " + ", ".join(f"{name} {record[name]:.4g}" for name in names))
    return classifier, results


def draw(classifier, path):
    """Draws the curves of a run, read from its event files as TensorBoard reads them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = {}
    for name, folder in (("training", classifier.model_dir), ("held out", classifier.eval_dir())):
        reader = EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
        for tag in reader.Tags()["scalars"]:
            events = reader.Scalars(tag)
            curves[tag, name] = [e.step for e in events], [e.value for e in events]
    figure, axes = plt.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
    for axis, tag in zip(axes, ("loss", "accuracy", "learning_rate", "gradient_norm"), strict=True):
        for name, style in (("training", "-"), ("held out", "o-")):
            if (tag, name) in curves and (name == "training" or tag in ("loss", "accuracy")):
                axis.plot(*curves[tag, name], style, markersize=3, linewidth=1, label=name)
        axis.set_title(tag, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].set_ylim(0.8, 1.005)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=90)
    print(f"== Drawn: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", default="runs/digits")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--picture", help="where to draw the curves of the first run")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    # Cores of a CPU as devices; must be said before anything else uses JAX. GPUs are what they are.
    jax.config.update("jax_num_cpu_devices", max(args.devices))

    runs = [run(args, count) for count in args.devices if count <= len(jax.devices())]
    if args.picture:
        draw(runs[0][0], args.picture)
    print(f"== TensorBoard: tensorboard --logdir {os.path.abspath(args.model_dir)}")
    accuracies = [float(results["accuracy"]) for _, results in runs]
    two_pictures = 2.001 / len(load_data()[1][1])
    if min(accuracies) < 0.98 or max(accuracies) - min(accuracies) > two_pictures:
        sys.exit(
            f"accuracies {accuracies}: each should be at least 0.98, and they should differ by two "
            "pictures at the most"
        )


if __name__ == "__main__":
    main()
