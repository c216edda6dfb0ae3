"""What tests of exports share: models of several kinds, trained for a step or two."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import canned
import estimator as est
import feature_columns as fc
from estimator import export_files

TEXTS = {
    "text": [["good", "food"], ["never", "again", "here"], ["so"], [], ["good", "good"], ["bad"]],
    "price": [10.0, 20.0, 5.0, 1.0, 2.0, 3.0],
}
MOODS = ["glad", "cross", "glad", "cross", "glad", "cross"]
PEOPLE = {
    "city": ["Rome", "Oslo", "Bern", "Rome", "", "Oslo"],
    "job": [["nurse"], ["clerk", "nurse"], [], ["poet"], ["clerk"], ["nurse"]],
    "age": np.array([30, 41, 22, 67, 50, 18]),
}
MOVED = [1, 0, 0, 1, 1, 0]
POINTS = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)


def custom(features, labels, mode):
    """A dense layer over a nested feature and a count, with answers of several shapes."""
    x = jnp.concatenate([features["x"], features["count"][:, None].astype(jnp.float32)], 1)
    net = est.layers.dense(x, 3)
    names = est.Lookup(("a", "b", "c"))
    if mode == est.ModeKeys.PREDICT:
        answers = {
            "name": est.host_output(names, jnp.argmax(net, 1)),
            "net": net,
            "sum": net.sum(),
        }
        scores = est.export.ClassificationOutput(scores=jax.nn.softmax(net), classes=None)
        outputs = {"serving_default": answers, "classify": scores}
        return est.EstimatorSpec(mode, answers, export_outputs=outputs)
    return est.EstimatorSpec(mode, loss=jnp.mean(net**2), train_op=optax.sgd(0.1))


def custom_features(rows):
    x = np.random.default_rng(1).normal(size=(rows, 2)).astype(np.float32)
    return {"x": x, "count": np.arange(rows), "ignored": ["a"] * rows}


def words():
    return fc.sequence_categorical_column_with_hash_bucket("text", hash_bucket_size=50)


def build_custom(model_dir):
    estimator = est.Estimator(custom, model_dir)
    return estimator.train(lambda: custom_features(4), steps=1), custom_features(70)


def build_kmeans(model_dir):
    return canned.KMeans(3, model_dir).train(lambda: POINTS, steps=2), POINTS


def build_rnn(model_dir):
    estimator = canned.RNNClassifier(
        [fc.embedding_column(words(), dimension=4)],
        [fc.numeric_column("price")],
        units=[4],
        cell_type="gru",
        label_vocabulary=["cross", "glad"],
        model_dir=model_dir,
    )
    return estimator.train(lambda: (TEXTS, MOODS), steps=2), TEXTS


def build_rnn_of_steps(model_dir):
    steps = fc.sequence_numeric_column("x")
    estimator = canned.RNNEstimator(
        canned.SequentialHeadWrapper(canned.BinaryClassHead()),
        [steps],
        units=[3],
        return_sequences=True,
        model_dir=model_dir,
    )
    features = {"x": [[1.0, 2.0, 3.0], [1.0], [2.0, 1.0]]}
    labels = [[1, 0, 1], [0], [1, 1]]
    return estimator.train(lambda: (features, labels), steps=1), features


def build_linear(model_dir):
    job = fc.categorical_column_with_vocabulary_list("job", ["clerk", "nurse"])
    age = fc.bucketized_column(fc.numeric_column("age"), [25, 45])
    columns = [job, age, fc.crossed_column(["city", age], 20)]
    estimator = canned.LinearClassifier(columns, model_dir)
    return estimator.train(lambda: (PEOPLE, MOVED), steps=2), PEOPLE


BUILDERS = {
    "custom": build_custom,
    "kmeans": build_kmeans,
    "linear": build_linear,
    "rnn": build_rnn,
    "rnn of steps": build_rnn_of_steps,
}


def rows_of(features, count):
    if not isinstance(features, dict):
        return features[:count]
    return {name: values[:count] for name, values in features.items()}


def assert_same_answers(given, wanted):
    assert given.keys() == wanted.keys()
    for name, answer in wanted.items():
        assert given[name].dtype == answer.dtype, name
        if answer.dtype.kind == "f":
            np.testing.assert_allclose(given[name], answer, rtol=1e-6, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(given[name], answer, err_msg=name)


def rewritten(path, directory, change):
    """Returns a copy of an export whose manifest was changed, checksum and all."""
    directory = shutil.copytree(path, directory)
    manifest = json.loads((Path(directory) / "export.json").read_text())["body"]
    before = json.dumps(manifest)
    change(manifest)
    assert json.dumps(manifest) != before
    del manifest["format"]
    export_files.write_manifest(directory, manifest)
    return directory
