"""The words of a character's name tell what kind of character it is: strings into an LSTM.

    python examples/rnn_names.py                     # about half a minute
    python examples/rnn_names.py --picture names.png

Unicode calls "LATIN SMALL LETTER A WITH RING ABOVE" a lower case letter (Ll), and "VULGAR FRACTION
ONE HALF" a number that is no digit (No). Names and categories come with Python, in `unicodedata`;
a newer Python knows more characters. No word decides alone: "DIGIT SEVEN" is a digit (Nd), "DINGBAT
NEGATIVE CIRCLED DIGIT SEVEN" is not. The features are lists of words, of different lengths; labels
are the names of the categories. A fifth of the characters is held out. Rare categories are left
out, and mathematical symbols (Sm): with them it is right in 97 of 100, without in 98, as names do
not tell which arrows are mathematical.
"""

import argparse
import collections
import re
import shutil
import sys
import unicodedata

import numpy as np
import optax

import estimator as est
import feature_columns as fc
from canned import BaselineClassifier, RNNClassifier

CATEGORIES = {
    "Lu": "upper case letter",
    "Ll": "lower case letter",
    "Lo": "other letter",
    "Mn": "mark",
    "Nd": "digit",
    "No": "other number",
    "Po": "punctuation",
    "So": "symbol",
}
ROUNDS = 10


def load_data(most=3000, seed=0):
    """Returns (train_x, train_y), (test_x, test_y): lists of words, and categories.

    Args:
        most: how many characters of one category there are at the most, drawn by chance.
        seed: of that, and of which fifth is held out.
    """
    names = {category: [] for category in CATEGORIES}
    for code in range(sys.maxunicode + 1):
        name = unicodedata.name(chr(code), "")
        category = unicodedata.category(chr(code))
        # 95,000 characters are called by their number: "CJK UNIFIED IDEOGRAPH-4E00".
        if name and category in names and f"{code:04X}" not in name:
            names[category].append(name)

    rng = np.random.default_rng(seed)
    chosen = [(name, key) for key in names for name in rng.permutation(names[key])[:most]]
    chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    words = np.array([re.split("[ -]", name) for name, _ in chosen] + [None], object)[:-1]
    labels = np.array([category for _, category in chosen])
    held_out = len(chosen) // 5
    return (words[held_out:], labels[held_out:]), (words[:held_out], labels[:held_out])


class LossCurve(est.SessionRunHook):
    """Keeps the loss of each step, without waiting for it."""

    def __init__(self):
        self.losses = []

    def before_run(self, run_context):
        return est.SessionRunArgs("loss")

    def after_run(self, run_context, run_values):
        self.losses.append(run_values.results)


def make_classifier(args, train_words):
    """Returns the model; its vocabulary are the words that training names have twice or oftener."""
    counts = collections.Counter(word for words in train_words for word in words)
    known = sorted(word for word, count in counts.items() if count > 1)
    print(f"== {len(counts):,} different words, {len(known):,} of them more than once")
    # The words seen once train the bucket of unknown words.
    column = fc.sequence_categorical_column_with_vocabulary_list("words", known, num_oov_buckets=1)
    return RNNClassifier(
        fc.embedding_column(column, 32),
        units=[32],
        cell_type=args.cell_type,
        model_dir=f"{args.model_dir}/rnn",
        n_classes=len(CATEGORIES),
        label_vocabulary=list(CATEGORIES),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.01, args.steps)),
        config=est.RunConfig(
            random_seed=0,
            save_summary_steps=0,
            log_step_count_steps=None,
            continue_input=True,  # else each round would begin with the same batches
            length_buckets=[16],  # one length, one program to compile
        ),
        dropout=0.3,
    )


def draw(path, losses, rounds, confusion):
    """Draws the curves of a run, and what was taken for what."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
    axes[0].plot(np.arange(1, len(losses) + 1), losses, linewidth=0.6, label="training")
    axes[0].plot(*zip(*[(step, loss) for step, loss, _ in rounds], strict=True), "o-", markersize=3)
    axes[0].lines[1].set_label("held out")
    axes[0].set(title="loss", xlabel="step", yscale="log")
    axes[0].legend()
    axes[1].plot(*zip(*[(step, part) for step, _, part in rounds], strict=True), "o-", markersize=3)
    axes[1].set(title="accuracy, held out", xlabel="step", ylim=(0.8, 1.005))
    for axis in axes[:2]:
        axis.grid(alpha=0.3)
    axes[2].imshow(np.log1p(confusion), cmap="Blues")
    for (row, column), count in np.ndenumerate(confusion):
        color = "white" if row == column else "black"
        axes[2].text(column, row, count or "", ha="center", va="center", fontsize=7, color=color)
    places = range(len(CATEGORIES))
    axes[2].set_xticks(places, CATEGORIES)
    axes[2].set_yticks(places, [f"{name} ({key})" for key, name in CATEGORIES.items()])
    axes[2].set(title="held out characters", xlabel="taken for")
    figure.savefig(path, dpi=90)
    print(f"== Drawn: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", default="runs/names")
    parser.add_argument("--cell-type", default="lstm", choices=["lstm", "gru", "simple_rnn"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--picture", help="where to draw curves and the confusion matrix")
    args = parser.parse_args()
    shutil.rmtree(args.model_dir, ignore_errors=True)

    (train_x, train_y), (test_x, test_y) = load_data()
    counts = collections.Counter([*train_y, *test_y])
    print(f"== {counts.total():,} characters of Unicode {unicodedata.unidata_version}")
    print("   " + ", ".join(f"{key} {counts[key]:,}" for key in CATEGORIES))
    train_input = est.numpy_input_fn(
        {"words": train_x}, train_y, args.batch_size, num_epochs=None, shuffle=True, seed=0
    )
    test_input = est.numpy_input_fn({"words": test_x}, test_y, 512, shuffle=False)

    classifier = make_classifier(args, train_x)
    curve = LossCurve()
    rounds = []
    print(f"== {len(train_y):,} to learn from, {len(test_y):,} held out\n   step    loss  accuracy")
    for round_ in range(1, ROUNDS + 1):
        classifier.train(train_input, hooks=[curve], max_steps=args.steps * round_ // ROUNDS)
        if classifier.interrupted:
            sys.exit(f"interrupted by {classifier.interrupted}")
        results = classifier.evaluate(test_input)
        rounds.append((results["global_step"], results["average_loss"], results["accuracy"]))
        print("   {:<6}{:7.3f}{:9.3f}".format(*rounds[-1]))

    baseline = BaselineClassifier(
        f"{args.model_dir}/baseline",
        n_classes=len(CATEGORIES),
        label_vocabulary=list(CATEGORIES),
        config=est.RunConfig(random_seed=0, save_summary_steps=0, log_step_count_steps=None),
    )
    baseline.train(train_input, max_steps=200)
    majority = baseline.evaluate(test_input)
    print(f"   baseline, without words: {majority['average_loss']:.3f}, {majority['accuracy']:.3f}")

    print("== Some that it takes for another kind")
    places = {key: place for place, key in enumerate(CATEGORIES)}
    confusion = np.zeros((len(places), len(places)), int)
    wrong = []
    for answer, words, truth in zip(classifier.predict(test_input), test_x, test_y, strict=True):
        guess = answer["classes"][0]
        confusion[places[truth], places[guess]] += 1
        if guess != truth:
            wrong.append(f"   {' '.join(words)}: {truth}, taken for {guess}")
    print("\n".join(wrong[:8]))
    if args.picture:
        draw(args.picture, curve.losses, rounds, confusion)
    if results["accuracy"] < 0.97:
        sys.exit(f"the accuracy {results['accuracy']:.3f} is below 0.97")


if __name__ == "__main__":
    main()
