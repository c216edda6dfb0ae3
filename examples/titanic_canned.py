"""Three canned models on the Titanic: a linear one, a deep one, and one that is both.

    python examples/titanic_canned.py                     # about a minute and a half; five folds
    python examples/titanic_canned.py --picture roc.png

Data and columns are those of titanic_columns.py, which writes the last of the three as a model_fn
of its own; here each is one call. A fifth of the passengers is held out in each fold, and the folds
are the same for all models. The AUC is the probability that a survivor is given a higher
probability than somebody who died.
"""

import argparse
import shutil
import sys

import jax
import numpy as np
import optax
from sklearn.metrics import roc_curve
from sklearn.model_selection import StratifiedKFold
from titanic_columns import load_data, make_columns

import estimator as est
from canned import DNNClassifier, DNNLinearCombinedClassifier, LinearClassifier

WANTED = {"linear": 0.83, "deep": 0.85, "wide and deep": 0.85}
FOLDS = 5


def make_model(name, model_dir):
    """Returns one of the three models, untrained."""
    wide, deep = make_columns()
    common = {
        "model_dir": model_dir,
        "config": est.RunConfig(random_seed=0, save_summary_steps=0, log_step_count_steps=None),
    }
    if name == "linear":
        numbers = [column for column in deep if hasattr(column, "key")]
        return LinearClassifier([*wide, *numbers], **common)
    # The default is Adagrad with a rate of 0.001, as in TensorFlow: it would need far more steps.
    optimizer = optax.adam(0.003)
    if name == "deep":
        return DNNClassifier([16], deep, optimizer=optimizer, dropout=0.3, **common)
    return DNNLinearCombinedClassifier(
        linear_feature_columns=wide,
        dnn_feature_columns=deep,
        dnn_hidden_units=[16],
        dnn_optimizer=optimizer,
        dnn_dropout=0.3,
        **common,
    )


def cross_validate(name, features, labels, args):
    """Returns the AUC of each fold, and a probability for each passenger, if they are drawn."""

    def input_of(rows, **settings):
        chosen = {key: values[rows] for key, values in features.items()}
        return est.numpy_input_fn(chosen, labels[rows], **settings)

    aucs, accuracies = [], []
    survives = np.zeros(len(labels))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)  # the list is sorted by class
    for fold, (known, held_out) in enumerate(folds.split(labels, labels), 1):
        model_dir = f"{args.model_dir}/{name.replace(' ', '_')}/fold_{fold}"
        shutil.rmtree(model_dir, ignore_errors=True)
        model = make_model(name, model_dir)
        train_input = input_of(known, batch_size=64, num_epochs=None, shuffle=True, seed=0)
        model.train(train_input, max_steps=args.steps)
        if model.interrupted:
            sys.exit(f"interrupted by {model.interrupted}")
        test_input = input_of(held_out, batch_size=len(held_out), shuffle=False)
        results = model.evaluate(test_input)
        aucs.append(results["auc"])
        accuracies.append(results["accuracy"])
        if args.picture:
            answers = model.predict(test_input, predict_keys="logistic")
            survives[held_out] = [answer["logistic"][0] for answer in answers]
    shown = " ".join(f"{auc:.3f}" for auc in aucs)
    print(f"   {name:<15}{np.mean(aucs):.3f}  ({shown})  {np.mean(accuracies):9.3f}", flush=True)
    return aucs, survives


def draw(path, labels, found):
    """Draws ROC curves of all passengers, each judged by a model that had not seen her."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.2, 5), layout="constrained")
    for name, (aucs, survives) in found.items():
        false, true, _ = roc_curve(labels, survives)
        axes.plot(false, true, label=f"{name}: {np.mean(aucs):.3f} ± {np.std(aucs):.3f}")
    axes.plot([0, 1], [0, 1], ":", color="gray")
    axes.set(
        title="Who survived? Passengers the model had not seen",
        xlabel="of those who died, taken for survivors",
        ylabel="of the survivors, found",
        aspect="equal",
    )
    axes.grid(alpha=0.3)
    axes.legend(title=f"AUC, mean of {FOLDS} folds", loc="lower right")
    figure.savefig(path, dpi=90)
    print(f"== Drawn: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", default="runs/titanic_canned")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--picture", help="where to draw the ROC curves")
    args = parser.parse_args()

    # Compiling fifteen small models takes longer than training them.
    jax.config.update("jax_disable_most_optimizations", True)

    features, labels = load_data()
    print(f"== {len(labels)} passengers, {labels.sum()} survivors, {FOLDS} folds")
    print(f"   {'model':<15}  auc  {'(of each fold)':<31}  accuracy")
    found = {name: cross_validate(name, features, labels, args) for name in WANTED}
    if args.picture:
        draw(args.picture, labels, found)
    low = [name for name, (aucs, _) in found.items() if np.mean(aucs) < WANTED[name]]
    if low:
        sys.exit(f"the AUC of {', '.join(low)} is below what is wanted: {WANTED}")


if __name__ == "__main__":
    main()
