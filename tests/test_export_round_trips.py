"""Round trips: what was exported answers as the Estimator does, in every mode and of every size."""

import functools
import hashlib
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from exporting import BUILDERS, assert_same_answers, build_custom, rewritten
from models import Notes

import canned
import estimator as est
import feature_columns as fc

EVERY = dict.fromkeys([est.ModeKeys.PREDICT, est.ModeKeys.EVAL, est.ModeKeys.TRAIN])
# Numbers of rows, and the lengths of their sequences; 0: each has another.
SIZES = [(1, 17), (2, 1), (7, 3), (64, 0)]
SEEN = (7, 3)
CITIES = ["Rome", "Oslo", "Bern", ""]
JOBS = ["nurse", "clerk", "poet"]
WORDS = ["good", "food", "never", "again", "bad", "so"]


def lengths_of(rng, rows, length):
    return [length] * rows if length else rng.integers(0, 18, rows).tolist()


def texts_of(rng, rows, length):
    return [rng.choice(WORDS, n).tolist() for n in lengths_of(rng, rows, length)]


def people(rng, rows):
    return {
        "city": rng.choice(CITIES, rows).tolist(),
        "job": [rng.choice(JOBS, n).tolist() for n in rng.integers(0, 3, rows)],
        "age": rng.integers(18, 70, rows),
    }


def custom_data(rng, rows, length):
    x = rng.normal(size=(rows, 2)).astype(np.float32)
    return {"x": x, "count": rng.integers(0, 9, rows), "ignored": ["a"] * rows}, None


def points(rng, rows, length):
    return rng.normal(size=(rows, 3)).astype(np.float32), None


def linear_data(rng, rows, length):
    return people(rng, rows), rng.integers(0, 2, rows)


def rnn_data(rng, rows, length):
    features = {"text": texts_of(rng, rows, length), "price": rng.normal(size=rows)}
    return features, rng.choice(["cross", "glad"], rows).tolist()


def steps_data(rng, rows, length):
    lengths = [max(n, 1) for n in lengths_of(rng, rows, length)]
    x = [rng.normal(size=n).tolist() for n in lengths]
    return {"x": x}, [rng.integers(0, 2, n).tolist() for n in lengths]


def deep_columns():
    city = fc.categorical_column_with_hash_bucket("city", 9)
    height = fc.numeric_column("height", default_value=1.7)
    return [fc.indicator_column(city), height]


def weighted_columns():
    job = fc.categorical_column_with_vocabulary_list("job", JOBS, num_oov_buckets=1)
    weighted = fc.weighted_categorical_column(job, "job_weight")
    return [*deep_columns(), fc.embedding_column(weighted, 3), fc.numeric_column("age")]


def deep_features(rng, rows):
    made = people(rng, rows)
    weights = [rng.random(len(jobs)).tolist() for jobs in made["job"]]
    return made | {"job_weight": weights, "height": rng.normal(size=rows), "w": rng.random(rows)}


def build_classes(model_dir):
    return canned.DNNClassifier(
        [4], weighted_columns(), model_dir, 3, weight_column="w", label_vocabulary=["a", "b", "c"]
    )


def classes_data(rng, rows, length):
    return deep_features(rng, rows), rng.choice(["a", "b", "c"], rows).tolist()


def build_regressor(model_dir):
    return canned.DNNRegressor([4], deep_columns(), model_dir, 2, weight_column="w")


def regressor_data(rng, rows, length):
    return deep_features(rng, rows), rng.normal(size=(rows, 2))


def build_heads(model_dir):
    heads = [canned.RegressionHead(name="age"), canned.MultiClassHead(3, name="class")]
    return canned.DNNEstimator(canned.MultiHead(heads, [1, 0.5]), [4], deep_columns(), model_dir)


def heads_data(rng, rows, length):
    labels = {"age": rng.normal(size=rows), "class": rng.integers(0, 3, rows)}
    return deep_features(rng, rows), labels


def build_words_of_steps(model_dir):
    """Tells the class of each word."""
    words = fc.sequence_categorical_column_with_vocabulary_list("text", WORDS)
    head = canned.SequentialHeadWrapper(canned.MultiClassHead(3, label_vocabulary=["x", "y", "z"]))
    return canned.RNNEstimator(
        head,
        fc.embedding_column(words, 3),
        units=[3],
        cell_type="lstm",
        return_sequences=True,
        model_dir=model_dir,
    )


def words_of_steps_data(rng, rows, length):
    lengths = [max(n, 1) for n in lengths_of(rng, rows, length)]
    texts = [rng.choice(WORDS, n).tolist() for n in lengths]
    return {"text": texts}, [rng.choice(["x", "y", "z"], n).tolist() for n in lengths]


KINDS = {
    "custom": (BUILDERS["custom"], custom_data),
    "kmeans": (BUILDERS["kmeans"], points),
    "linear": (BUILDERS["linear"], linear_data),
    "rnn": (BUILDERS["rnn"], rnn_data),
    "rnn of steps": (BUILDERS["rnn of steps"], steps_data),
    "classes": (build_classes, classes_data),
    "regressor": (build_regressor, regressor_data),
    "heads": (build_heads, heads_data),
    "words of steps": (build_words_of_steps, words_of_steps_data),
}
assert {*BUILDERS} <= {*KINDS}


@functools.cache
def data_of(kind, rows, length):
    return KINDS[kind][1](np.random.default_rng(rows), rows, length)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Gives by kind an Estimator, trained for a step or two, and the export of all its modes."""

    @functools.cache
    def made(kind):
        root = tmp_path_factory.mktemp("model")
        built = KINDS[kind][0](str(root / "model"))
        estimator = built[0] if isinstance(built, tuple) else built
        features, labels = data_of(kind, *SEEN)
        estimator.train(lambda: features if labels is None else (features, labels), steps=1)
        path = estimator.experimental_export_all_saved_models(root / "exports", EVERY)
        return estimator, est.export.load(path)

    return made


def assert_same_predictions(models, kind, rows, length):
    estimator, loaded = models(kind)
    features, _ = data_of(kind, rows, length)
    signature = "predict" if "predict" in loaded.signatures else "serving_default"
    (wanted,) = estimator.predict(lambda: features, yield_single_examples=False)
    named = {"/".join(n) if isinstance(n, tuple) else n: a for n, a in wanted.items()}
    assert_same_answers(loaded(features, signature), named)


def assert_same_results(models, kind, rows, length):
    estimator, loaded = models(kind)
    features, labels = data_of(kind, rows, length)
    results = estimator.evaluate(lambda: features if labels is None else (features, labels))
    answers = loaded(features, "eval", labels=labels)
    for name, value in results.items():
        if name != "global_step":
            answer = answers["loss" if name == "loss" else f"metrics/{name}/value"]
            np.testing.assert_allclose(answer, value, rtol=1e-6, atol=1e-6, err_msg=name)


def assert_same_loss_of_a_step(models, kind, rows, length):
    estimator, loaded = models(kind)
    features, labels = data_of(kind, rows, length)
    note, checkpoint = Notes(fetches="loss"), estimator.latest_checkpoint()
    given = features if labels is None else (features, labels)
    estimator.train(lambda: given, steps=1, hooks=[note])
    loss = loaded(features, "train", labels=labels)["loss"]
    np.testing.assert_allclose(loss, note.results[0], rtol=1e-6, atol=1e-6)
    shutil.rmtree(estimator.latest_checkpoint())  # back to the step that was exported
    assert estimator.latest_checkpoint() == checkpoint


# test_export.py asks for predictions of the BUILDERS, too, and that is faster.
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind in BUILDERS else ()) for kind in KINDS],
)
def test_an_export_answers_as_its_estimator_in_every_mode(models, kind):
    for size in SIZES:
        assert_same_predictions(models, kind, *size)
    assert_same_results(models, kind, *SIZES[-1])
    assert_same_loss_of_a_step(models, kind, *SEEN)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_evaluation_and_training_are_exported_for_every_size(models, kind):
    for size in SIZES:
        assert_same_results(models, kind, *size)
        assert_same_loss_of_a_step(models, kind, *size)


def test_a_function_is_deserialized_once_and_when_it_is_asked(models, monkeypatch):
    _, loaded = models("heads")
    loaded = est.export.load(loaded.path)
    read = []
    deserialize = jax.export.deserialize

    def counted(data):
        read.append(hashlib.sha256(data).hexdigest())
        return deserialize(data)

    monkeypatch.setattr(jax.export, "deserialize", counted)
    assert len(loaded.signatures) > 3
    assert loaded.inputs("predict")
    assert loaded.outputs("predict")
    assert read == []
    for _ in range(2):
        for rows, length in SIZES[:2]:
            loaded(data_of("heads", rows, length)[0], "predict")
    assert len(read) == 1
    features, labels = data_of("heads", *SIZES[0])
    loaded(features, "serving_default")
    loaded(features, "eval", labels=labels)
    loaded(features, "eval", labels=labels)
    assert len({*read}) == len(read) == 3


def test_a_function_that_this_jax_cannot_read_names_both_versions(tmp_path):
    estimator, features = build_custom(str(tmp_path / "model"))
    path = estimator.export_saved_model(tmp_path / "exports").decode()
    junk = b"of another time"

    def change(manifest):
        manifest["jax"] = "0.0.7"
        (module,) = manifest["modes"]["infer"]["signatures"]["classify"]["modules"]
        manifest["files"][module["file"]] = {
            "size": len(junk),
            "sha256": hashlib.sha256(junk).hexdigest(),
        }
        names.append(module["file"])

    names = []
    directory = rewritten(path, tmp_path / "junk", change)
    (Path(directory) / names[0]).write_bytes(junk)
    loaded = est.export.load(directory)
    assert loaded(features)
    wanted = rf"{names[0]} was written by jax 0\.0\.7, and jax {jax.__version__} cannot read it"
    for _ in range(2):
        with pytest.raises(ValueError, match=wanted):
            loaded(features, "classify")
