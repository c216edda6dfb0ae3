"""Wide and deep: feature columns make a model of the strings and gaps of a passenger list.

    python examples/titanic_columns.py          # less than a minute; five folds

Who survived the Titanic? A linear model of categories and crosses and a small network of embeddings
add up their logits; each fifth of the 1,309 passengers is held out once. The data are "titanic3" by
Frank E. Harrell Jr. and Thomas Cason, Vanderbilt Biostatistics: OpenML's data set 40945, licence
"Public". They are read from scikit-learn, whose wheel brings them for its own tests; nothing is
downloaded. The columns `boat` and `body` would tell the answer, and are left out.
"""

import argparse
import csv
import gzip
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


def load_data():
    """Returns features by name, "" or NaN where one is missing, and labels."""
    data = resources.files("sklearn.datasets.tests.data.openml.id_40945")
    with gzip.open(data / "data-v1-dl-16826755.arff.gz", "rt", encoding="utf-8") as file:
        head, _, body = file.read().partition("@data\n")
    rows = [["" if cell == "?" else cell for cell in row] for row in csv.reader(body.splitlines())]
    table = dict(zip(re.findall("@attribute '(.*?)'", head), np.array(rows).T, strict=True))

    features = {key: table[key] for key in ("name", "sex", "embarked")}
    features["pclass"] = table["pclass"].astype(np.int32)
    for key in ("age", "fare", "sibsp", "parch"):
        features[key] = np.array([float(cell or "nan") for cell in table[key]], np.float32)
    # "Allen, Miss. Elisabeth Walton" has the title "Miss"; cabin "C22" is on deck "C".
    features["title"] = np.array([re.search(r", (.*?)\.", name)[1] for name in table["name"]])
    features["deck"] = np.array([cabin[:1] for cabin in table["cabin"]])
    # "Montreal, PQ / Chesterville, ON" is four places; a row has four at the most, "" fills it.
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
    known = ["Mr", "Miss", "Mrs", "Master"]
    title = fc.categorical_column_with_vocabulary_list("title", known, num_oov_buckets=1)
    home = fc.categorical_column_with_hash_bucket("home", 200)
    sex_class = fc.crossed_column(["sex", "pclass"], 50)
    sex_class_age = fc.crossed_column(["sex", "pclass", age_group], 500)

    wide = [age_group, embarked, title, home, sex_class, sex_class_age]
    deep = [age, fare, *map(fc.numeric_column, ("sibsp", "parch"))]
    deep += [fc.indicator_column(column) for column in (sex, pclass, deck)]
    deep += [fc.embedding_column(title, 3), fc.embedding_column(home, 4)]
    return wide, deep


def model_fn(features, labels, mode, params):
    """A linear model and a network, trained together."""
    net = fc.input_layer(features, params["deep"])
    net = est.layers.dense(net, params["hidden_units"], activation=jax.nn.relu)
    net = est.layers.dropout(net, 0.3, training=mode == est.ModeKeys.TRAIN)
    logit = (est.layers.dense(net, 1) + fc.linear_model(features, params["wide"]))[:, 0]
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


def show_input(columns, features):
    """Prints which numbers of the network's input are which column's."""
    slices = {}
    one = {key: values[:1] for key, values in features.items()}
    est.preview(lambda x: fc.input_layer(x, columns, cols_to_output_slices=slices), one)
    print("== What the network sees of each passenger")
    for column, part in slices.items():
        print(f"   [{part.start:2}:{part.stop:2}]  {column.name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", default="runs/titanic")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    features, labels = load_data()
    wide, deep = make_columns()
    show_input(deep, features)
    params = {"wide": wide, "deep": deep, "hidden_units": 16, "rate": 0.003}

    def input_of(rows, **settings):
        chosen = {key: values[rows] for key, values in features.items()}
        return est.numpy_input_fn(chosen, labels[rows], **settings)

    print(f"== {len(labels)} passengers, {labels.sum()} survivors\n   fold  accuracy    auc")
    aucs = []
    folds = StratifiedKFold(5, shuffle=True, random_state=0)  # the list is sorted by class
    for fold, (known, held_out) in enumerate(folds.split(labels, labels), 1):
        model_dir = f"{args.model_dir}/fold_{fold}"
        shutil.rmtree(model_dir, ignore_errors=True)
        classifier = est.Estimator(model_fn, model_dir, est.RunConfig(random_seed=0), params)
        train_input = input_of(known, batch_size=64, num_epochs=None, shuffle=True, seed=0)
        classifier.train(train_input, max_steps=args.steps)
        if classifier.interrupted:
            sys.exit(f"interrupted by {classifier.interrupted}")
        test_input = input_of(held_out, batch_size=len(held_out), shuffle=False)
        results = classifier.evaluate(test_input)
        print(f"   {fold:<6}{results['accuracy']:8.3f}{results['auc']:8.3f}")
        aucs.append(results["auc"])
    mean = np.mean(aucs)
    print(f"   mean{mean:18.3f}")

    print("== Some of the last fold, whom the model had not seen")
    answers = zip(classifier.predict(test_input), held_out, strict=True)
    for answer, row in list(answers)[::40]:
        fate = "survived" if labels[row] else "died"
        print(f"   {answer['survives']:6.1%} {fate:<9} {features['name'][row]}")
    if mean < 0.85:
        sys.exit(f"the mean AUC {mean:.3f} is below 0.85")


if __name__ == "__main__":
    main()
