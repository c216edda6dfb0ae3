"""A recurrent model answers at each step, or once for a sequence: parity of bits, rows of digits.

    python examples/rnn_steps.py                     # about a minute
    python examples/rnn_steps.py --picture steps.png

First, was the number of ones so far odd? Each one turns the answer round, so that a step needs all
the past; no window of the last bits helps. With `return_sequences=True` labels are lists, too, as
long as their sequences. All bits are random; those held out come from the same generator.

Then scikit-learn's 1,797 digits of 8 x 8, read from the top as eight steps of eight numbers, and by
other cells from the bottom, with the default optimizer; a fifth is held out. One seed says little:
three are averaged.
"""

import argparse
import shutil
import sys

import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import estimator as est
import feature_columns as fc
from canned import RNNClassifier

LONGEST = 32
SEEDS = (0, 1, 2)


class LossCurve(est.SessionRunHook):
    """Keeps the loss of each step, without waiting for it."""

    def __init__(self):
        self.losses = []

    def before_run(self, run_context):
        return est.SessionRunArgs("loss")

    def after_run(self, run_context, run_values):
        self.losses.append(run_values.results)


def make_config(seed):
    """Returns settings; sequences are padded to one length, so that one program is compiled."""
    return est.RunConfig(
        random_seed=seed,
        save_summary_steps=0,
        log_step_count_steps=None,
        continue_input=True,  # else each round would begin with the same batches
        length_buckets=[8, LONGEST],
    )


def random_bits(count, rng):
    """Returns lists of 1 to 32 bits, and for each bit whether the ones so far are odd."""
    bits = [rng.integers(0, 2, rng.integers(1, LONGEST + 1)) for _ in range(count)]
    return [row.tolist() for row in bits], [(row.cumsum() % 2).tolist() for row in bits]


def learn_parity(args):
    """Returns the loss of each step, and the accuracies of held out sequences by turns."""
    rng = np.random.default_rng(0)
    (train_x, train_y), (test_x, test_y) = random_bits(4000, rng), random_bits(1000, rng)
    train_input = est.numpy_input_fn(
        {"bits": train_x}, train_y, 64, num_epochs=None, shuffle=True, seed=0
    )
    test_input = est.numpy_input_fn({"bits": test_x}, test_y, 500, shuffle=False)
    model = RNNClassifier(
        fc.sequence_numeric_column("bits"),
        units=[16],
        cell_type="gru",
        return_sequences=True,
        model_dir=f"{args.model_dir}/parity",
        optimizer=optax.adam(0.01),  # the default, Adagrad, finds nothing in 1,000 steps
        config=make_config(0),
    )
    print(f"== Parity of 1 to {LONGEST} bits, {len(test_x):,} sequences held out")
    print("   step  accuracy of a step")
    curve = LossCurve()
    rounds = []
    for steps in range(50, 401, 50):
        train(model, train_input, curve, steps)
        rounds.append((steps, model.evaluate(test_input)["accuracy"]))
        print(f"   {steps:<6}{rounds[-1][1]:8.4f}")

    answers = list(model.predict(test_input))
    row = min(range(len(test_x)), key=lambda row: abs(len(test_x[row]) - 24))
    shown = answers[row]["class_ids"][: len(test_x[row]), 0]
    print("   bits ", *test_x[row], "\n   odd? ", *shown)
    return curve.losses, rounds


def learn_digits(args, seed):
    """Returns the loss of each step, the accuracy, and what held out digits were taken for."""
    digits = load_digits()
    rows = (digits.images / 16).astype(np.float32)  # (pictures, steps, numbers)
    train_x, test_x, train_y, test_y = train_test_split(
        rows, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )
    train_input = est.numpy_input_fn(
        {"rows": train_x}, train_y, 64, num_epochs=None, shuffle=True, seed=seed
    )
    test_input = est.numpy_input_fn({"rows": test_x}, test_y, len(test_y), shuffle=False)
    model = RNNClassifier(
        fc.sequence_numeric_column("rows", shape=8),
        units=[64],
        cell_type="gru",
        n_classes=10,
        model_dir=f"{args.model_dir}/digits_{seed}",
        config=make_config(seed),
        bidirectional=True,
    )
    curve = LossCurve()
    train(model, train_input, curve, args.steps)
    accuracy = model.evaluate(test_input)["accuracy"]
    print(f"   {seed:<6}{accuracy:8.4f}", flush=True)
    confusion = np.zeros((10, 10), int)
    guesses = [answer["class_ids"][0] for answer in model.predict(test_input)]
    np.add.at(confusion, (test_y, guesses), 1)
    return curve.losses, accuracy, confusion


def train(model, input_fn, curve, steps):
    model.train(input_fn, hooks=[curve], max_steps=steps)
    if model.interrupted:
        sys.exit(f"interrupted by {model.interrupted}")


def draw(path, parity, digits):
    """Draws the curves of both tasks, and which digits were taken for which."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
    losses, rounds = parity
    axes[0].plot(np.arange(1, len(losses) + 1), losses, label="loss, training")
    axes[0].plot(*zip(*rounds, strict=True), "o-", markersize=3, label="accuracy, held out")
    axes[0].set(title="parity of random bits, at each step", xlabel="step")
    axes[0].legend()
    for seed, (losses, accuracy, _) in zip(SEEDS, digits, strict=True):
        label = f"seed {seed}, held out {accuracy:.3f}"
        axes[1].plot(np.arange(1, len(losses) + 1), losses, linewidth=0.6, label=label)
    axes[1].set(title="digits, loss", xlabel="step", yscale="log")
    axes[1].legend()
    for axis in axes[:2]:
        axis.grid(alpha=0.3)
    confusion = sum(counts for *_, counts in digits)
    axes[2].imshow(np.log1p(confusion), cmap="Blues")
    for (row, column), count in np.ndenumerate(confusion):
        color = "white" if row == column else "black"
        axes[2].text(column, row, count or "", ha="center", va="center", fontsize=7, color=color)
    axes[2].set_xticks(range(10))
    axes[2].set_yticks(range(10))
    axes[2].set(title="held out digits, all seeds", xlabel="taken for", ylabel="digit")
    figure.savefig(path, dpi=90)
    print(f"== Drawn: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", default="runs/steps")
    parser.add_argument("--steps", type=int, default=2000, help="for the digits")
    parser.add_argument("--picture", help="where to draw curves and the confusion matrix")
    args = parser.parse_args()
    shutil.rmtree(args.model_dir, ignore_errors=True)

    parity = learn_parity(args)
    print(f"== Digits, eight rows one by one, {args.steps} steps\n   seed  accuracy")
    digits = [learn_digits(args, seed) for seed in SEEDS]
    mean = np.mean([accuracy for _, accuracy, _ in digits])
    print(f"   mean  {mean:8.4f}")
    if args.picture:
        draw(args.picture, parity, digits)
    if parity[1][-1][1] < 0.99 or mean < 0.95:
        sys.exit("the accuracy of parity should be at least 0.99, that of digits 0.95")


if __name__ == "__main__":
    main()
