"""Wide and deep: feature columns make a model of the strings and gaps of a passenger list.

    python examples/titanic_columns.py                    # less than a minute; five folds
    python examples/titanic_columns.py --model-dir runs/mine --steps 500

Who survived the Titanic? A linear model of categories and crosses and a small network of embeddings
add up their logits. Each fifth of the 1,309 passengers is held out once.

The data are "titanic3", collected by Frank E. Harrell Jr. and Thomas Cason, Vanderbilt Biostatistics;
OpenML's data set 40945, licence: public. They are read from scikit-learn, whose wheel brings them for
its own tests; nothing is downloaded. `boat` and `body` would tell the answer, and are left out.
"""

import argparse
import csv
import gzip
import logging
import os
import re
import shutil
import sys
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.model_selection import StratifiedKFold

import estimator as est
import feature_columns as fc

FOLDS = 5


def load_data():
    """Returns features by name, each an array (passengers, ...), and labels; "" and NaN: missing."""
    data = resources.files("sklearn.datasets.tests.data.openml.id_40945")
    with gzip.open(data / "data-v1-dl-16826755.arff.gz", "rt", encoding="utf-8") as file:
        head, _, body = file.read().partition("@data\n")
    rows = [["" if cell == "?" else cell for cell in row] for row in csv.reader(body.splitlines())]
    names = re.findall("@attribute '(.*?)'", head)
    table = dict(zip(names, np.array(rows).T, strict=True))

    features = {key: table[key] for key in ("name", "sex", "embarked")}
    features["pclass"] = table["pclass"].astype(np.int32)
    for key in ("age", "fare", "sibsp", "parch"):
        features[key] = np.array([float(cell or "nan") for cell in table[key]], np.float32)
    # "Allen, Miss. Elisabeth Walton": "Miss"; "C22 C26": "C"
    features["title"] = np.array([re.search(r", (.*?)\.", name)[1] for name in table["name"]])
    features["deck"] = np.array([cabin[:1] for cabin in table["cabin"]])
    # "Montreal, PQ / Chesterville, ON": ["Montreal", "PQ", "Chesterville", "ON"]; four at the most
    homes = [re.split(r"\s*[,/]\s*", home) for home in table["home.dest"]]
    features["home"] = np.array([[*places, "", "", "", ""][:4] for places in homes])
    return features, table["survived"].astype(np.int32)


def make_columns():
    """Returns the columns of the linear model, and those of the network."""
    age = fc.numeric_column("age", default_value=30, normalizer_fn=lambda x: (x - 30) / 14)
    fare = fc.numeric_column("fare", default_value=14, normalizer_fn=jnp.log1p)
    # An unknown age, -1, has the first bucket to itself.
    raw_age = fc.numeric_column("age", default_value=-1)
    age_group = fc.bucketized_column(raw_age, boundaries=[0, 6, 12, 18, 30, 45, 60])
    sex = fc.categorical_column_with_vocabulary_list("sex", ["female", "male"])
    pclass = fc.categorical_column_with_vocabulary_list("pclass", [1, 2, 3])
    embarked = fc.categorical_column_with_vocabulary_list("embarked", ["C", "Q", "S"])
    deck = fc.categorical_column_with_vocabulary_list("deck", list("ABCDEFG"))
    titles = ["Mr", "Miss", "Mrs", "Master"]
    title = fc.categorical_column_with_vocabulary_list("title", titles, num_oov_buckets=1)
    home = fc.categorical_column_with_hash_bucket("home", 200)
    sex_class = fc.crossed_column(["sex", "pclass"], 50)
    sex_class_age = fc.crossed_column(["sex", "pclass", age_group], 500)

    wide = [age_group, embarked, deck, title, home, sex_class, sex_class_age]
    deep = [age, fare, *map(fc.numeric_column, ("sibsp", "parch"))]
    deep += [fc.indicator_column(column) for column in (sex, pclass, deck)]
    deep += [fc.embedding_column(title, 3), fc.embedding_column(home, 4)]
    return wide, deep


def model_fn(features, labels, mode, params):
    """A linear model and a network, trained together."""
    net = fc.input_layer(features, params["deep"])
    for units in params["hidden_units"]:
        net = est.layers.dense(net, units, activation=jax.nn.relu)
        net = est.layers.dropout(net, 0.3, training=mode == est.ModeKeys.TRAIN)
    logits = est.layers.dense(net, 1) + fc.linear_model(features, params["wide"])
    logit = logits[:, 0]
    survives = jax.nn.sigmoid(logit)
    if mode == est.ModeKeys.PREDICT:
        return est.EstimatorSpec(mode, predictions={"survives": survives})

    return est.EstimatorSpec(
        mode,
        loss=optax.sigmoid_binary_cross_entropy(logit, labels).mean(),
        train_op=optax.adamw(params["rate"], weight_decay=0.1),
        eval_metric_ops={
            "accuracy": est.metrics.accuracy(labels, survives > 0.5),
            "auc": est.metrics.auc(labels, survives),
        },
    )


def input_of(data, rows, **settings):
    """Returns an input_fn of some of the passengers."""
    features, labels = data
    chosen = {key: values[rows] for key, values in features.items()}
    return est.numpy_input_fn(chosen, labels[rows], **settings)


def show_input(columns, features):
    """Prints which numbers of the network's input are which column's."""
    slices = {}
    few = {key: values[:2] for key, values in features.items()}
    est.preview(lambda x: fc.input_layer(x, columns, cols_to_output_slices=slices), few)
    shown = [f"{column.name} {part.stop - part.start}" for column, part in slices.items()]
    print(f"== The network sees {max(s.stop for s in slices.values())} numbers of each passenger")
    print("   " + ", ".join(shown))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", default="runs/titanic")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)

    features, labels = data = load_data()
    wide, deep = make_columns()
    show_input(deep, features)
    params = {"wide": wide, "deep": deep, "hidden_units": [16], "rate": 3e-3}
    config = est.RunConfig(random_seed=0)
    shutil.rmtree(args.model_dir, ignore_errors=True)
    print(f"== {len(labels)} passengers, {labels.sum()} survivors; {args.steps} steps a fold")
    print("   fold  accuracy    auc")
    aucs = []
    # The list is sorted by class, so the folds are shuffled.
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for fold, (known, held_out) in enumerate(folds.split(labels, labels), 1):
        model_dir = os.path.join(args.model_dir, f"fold_{fold}")
        classifier = est.Estimator(model_fn, model_dir, config=config, params=params)
        batches = {"batch_size": args.batch_size, "num_epochs": None, "shuffle": True, "seed": 0}
        classifier.train(input_of(data, known, **batches), max_steps=args.steps)
        if classifier.interrupted:
            sys.exit(f"interrupted by {classifier.interrupted}")
        test_input = input_of(data, held_out, batch_size=len(held_out), shuffle=False)
        results = classifier.evaluate(test_input)
        print(f"   {fold:<6}{results['accuracy']:8.3f}{results['auc']:8.3f}")
        aucs.append(results["auc"])
    mean = float(np.mean(aucs))
    print(f"   mean{mean:18.3f}")

    print("== Some of the last fold, whom the model had not seen")
    for answer, row in zip(classifier.predict(test_input), held_out[:6], strict=False):
        fate = "survived" if labels[row] else "died"
        print(f"   {answer['survives']:6.1%} {fate:<9} {features['name'][row]}")
    if mean < 0.85:
        sys.exit(f"the mean AUC {mean:.3f} is below 0.85")


if __name__ == "__main__":
    main()
