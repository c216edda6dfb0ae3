"""SavedModels: TensorFlow answers as the model does, with its own ops, from strings to names.

`make test-tensorflow` runs them; where TensorFlow is not installed there is nothing to test.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from exporting import BUILDERS, PEOPLE, TEXTS, assert_same_answers, build_custom, rows_of

import canned
import estimator as est
import feature_columns as fc
from estimator.command_line import main

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.filterwarnings("default")


def tensors_of(features, signature):
    """Returns features as TensorFlow takes them: dense rows, filled up, by name."""
    named = features if isinstance(features, dict) else {"features": features}
    fills = {tf.string: "", tf.int64: -1, tf.float32: np.nan, tf.float64: np.nan}
    given = {}
    for name, spec in signature.structured_input_signature[1].items():
        value = named[name]
        if isinstance(value, list):
            value = tf.ragged.constant(value)
            if isinstance(value, tf.RaggedTensor):
                value = value.to_tensor(tf.constant(fills[spec.dtype], value.dtype))
        given[name] = tf.cast(value, spec.dtype)
    return given


def plain(answers):
    """Returns what TensorFlow answers as the model gives it: strings as str."""
    made = {name: answer.numpy() for name, answer in answers.items()}
    for name, answer in made.items():
        if answer.dtype == object:
            texts = [text.decode() for text in answer.ravel()]
            made[name] = np.array([*texts, None], object)[:-1].reshape(answer.shape)
    return made


def served(estimator, directory, **kwargs):
    path = estimator.export_saved_model(directory, format="tensorflow", **kwargs)
    return tf.saved_model.load(path.decode())


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_tensorflow_answers_as_predict_does(kind, tmp_path):
    estimator, features = BUILDERS[kind](str(tmp_path / "model"))
    model = served(estimator, tmp_path / "saved")
    assert "serving_default" in model.signatures
    signature = model.signatures["predict" if "predict" in model.signatures else "serving_default"]
    for count in (1, 2, 3, 6):
        asked = rows_of(features, count)
        (wanted,) = estimator.predict(lambda asked=asked: asked, yield_single_examples=False)
        assert_same_answers(plain(signature(**tensors_of(asked, signature))), wanted)
    for name in estimator.get_variable_names():
        if name in model.variables_by_name:
            value = model.variables_by_name[name].numpy()
            np.testing.assert_array_equal(value, estimator.get_variable_value(name))


ASK = """
import sys
import numpy as np
sys.modules["jax"] = sys.modules["estimator"] = None    # neither may be asked for
import tensorflow as tf
signature = tf.saved_model.load(sys.argv[1]).signatures["predict"]
text = tf.constant([["good", "food"], ["so", ""]])
print(signature(text=text, price=tf.constant([10.0, 5.0]))["probabilities"].numpy().tolist())
"""


def test_another_process_needs_tensorflow_only(tmp_path):
    estimator, _ = BUILDERS["rnn"](str(tmp_path / "model"))
    path = estimator.export_saved_model(tmp_path / "saved", format="tensorflow").decode()
    done = subprocess.run(
        [sys.executable, "-c", ASK, path], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    asked = {"text": [["good", "food"], ["so"]], "price": [10.0, 5.0]}
    (wanted,) = estimator.predict(lambda: asked, yield_single_examples=False)
    np.testing.assert_allclose(eval(done.stdout), wanted["probabilities"], rtol=1e-6)


PLACES = {
    "word": ["clerk", "nurse", "", "poet", "clerk", "thief"],
    "words": [["clerk", "poet"], [], ["nurse"], ["", "clerk"], ["x"], ["clerk", "y", "nurse"]],
    "shares": [[0.5, 2.0], [], [1.0], [0.0, 3.0], [1.0], [1.0, 2.0, 3.0]],
    "number": [3, 5, -1, 9, 0, 3],
    "age": [17.5, 30.0, float("nan"), 65.0, 18.0, 90.0],
    "pair": [[1.0, 2.0]] * 6,
}
AGE = fc.numeric_column("age", default_value=40.0)
GROUP = fc.bucketized_column(AGE, [18, 30, 65])
WORDS = fc.categorical_column_with_vocabulary_list("words", ["clerk", "nurse"], num_oov_buckets=3)
NUMBER = fc.categorical_column_with_vocabulary_list("number", [3, 5], default_value=1)
CATEGORICAL = {
    "identity": fc.categorical_column_with_identity("number", 10),
    "identity with a default": fc.categorical_column_with_identity("number", 4, default_value=0),
    "hashed": fc.categorical_column_with_hash_bucket("words", 7),
    "hashed numbers": fc.categorical_column_with_hash_bucket("number", 7, dtype=np.int64),
    "words": WORDS,
    "word without an id": fc.categorical_column_with_vocabulary_list("word", ["clerk", "nurse"]),
    "numbers": NUMBER,
    "numbers beyond": fc.categorical_column_with_vocabulary_list(
        "number", [3, 5], num_oov_buckets=4
    ),
    "weighted": fc.weighted_categorical_column(WORDS, "shares"),
    "crossed": fc.crossed_column(["words", "word"], 50),
    "crossed buckets": fc.crossed_column([GROUP, "words"], 50, hash_key=5),
    "crossed ids": fc.crossed_column([NUMBER, WORDS, "word"], 50),
    "crossed numbers": fc.crossed_column(["number", GROUP], 50),
    "buckets": GROUP,
}


@pytest.mark.parametrize("kind", list(CATEGORICAL))
def test_ids_are_those_of_the_host(kind, tmp_path):
    """The multi-hot vector tells the ids of a row, and how often, or with which weight."""
    column = CATEGORICAL[kind]
    needed = {key: PLACES[key] for key in column.keys}

    def model_fn(features, mode):
        weight = est.get_variable("weight", (), 1.0, trainable=False)
        dense = fc.input_layer(features, [fc.indicator_column(column)])
        return est.EstimatorSpec(mode, predictions=dense * weight, loss=weight)

    estimator = est.Estimator(model_fn, tmp_path / "model").train(lambda: needed, steps=1)
    signature = served(estimator, tmp_path / "saved").signatures["serving_default"]
    asked = {
        name: spec_value(needed[name], spec)
        for name, spec in signature.structured_input_signature[1].items()
    }
    (wanted,) = estimator.predict(lambda: needed, yield_single_examples=False)
    np.testing.assert_array_equal(signature(**asked)["output"].numpy(), wanted)
    assert wanted.any()


def spec_value(value, spec):
    ragged = tf.ragged.constant(value)
    if isinstance(ragged, tf.RaggedTensor):
        fill = {tf.string: "", tf.float32: np.nan}[spec.dtype]
        ragged = ragged.to_tensor(tf.constant(fill, ragged.dtype))
    return tf.cast(ragged, spec.dtype)


def test_sequences_of_all_kinds_and_their_lengths_are_those_of_the_host(tmp_path):
    sequences = {
        "words": [["a", "b", "c"], ["a"], []],
        "ids": [[1, 2, 3], [4], []],
        "x": [[0.5, 1.5, 2.5], [3.5], []],
        "pairs": [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]], []],
    }
    columns = [
        fc.indicator_column(fc.sequence_categorical_column_with_hash_bucket("words", 5)),
        fc.indicator_column(fc.sequence_categorical_column_with_identity("ids", 6)),
        fc.sequence_numeric_column("x", normalizer_fn=lambda x: x * 2),
        fc.sequence_numeric_column("pairs", shape=2, default_value=-1.0),
    ]

    def model_fn(features, mode):
        weight = est.get_variable("weight", (), 1.0, trainable=False)
        steps, lengths = fc.sequence_input_layer(features, columns)
        trimmed = est.host_output(est.Trim(), steps * weight, lengths)
        answers = {"steps": trimmed, "lengths": lengths}
        return est.EstimatorSpec(mode, predictions=answers, loss=weight)

    estimator = est.Estimator(model_fn, tmp_path / "model").train(lambda: sequences, steps=1)
    signature = served(estimator, tmp_path / "saved").signatures["serving_default"]
    nan = np.nan
    asked = {
        "words": tf.constant([["a", "b", "c", "", ""], ["a"] + [""] * 4, [""] * 5]),
        "ids": tf.constant([[1, 2, 3], [4, -1, -1], [-1, -1, -1]], tf.int64),
        "x": tf.constant([[0.5, 1.5, 2.5, nan], [3.5, nan, nan, nan], [nan] * 4]),
        "pairs": tf.constant([[1.0, 2, 3, 4, 5, 6], [7.0, 8] + [nan] * 4, [nan] * 6]),
    }
    (wanted,) = estimator.predict(lambda: sequences, yield_single_examples=False)
    given = {name: answer.numpy() for name, answer in signature(**asked).items()}
    np.testing.assert_array_equal(given["lengths"], wanted["lengths"])
    np.testing.assert_allclose(given["steps"], wanted["steps"])
    short = asked | {"ids": tf.constant([[1, 2, -1], [4, -1, -1], [-1, -1, -1]], tf.int64)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have one length"):
        signature(**short)


def test_what_is_missing_without_a_default_is_an_error(tmp_path):
    estimator = canned.LinearRegressor([fc.numeric_column("age")], tmp_path / "model")
    estimator.train(lambda: ({"age": [1.0, 2.0]}, [1.0, 2.0]), steps=1)
    signature = served(estimator, tmp_path / "saved").signatures["predict"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="a value is missing"):
        signature(age=tf.constant([1.0, np.nan]))


def test_records_are_parsed_by_tensorflow(tmp_path):
    words = fc.categorical_column_with_hash_bucket("job", 9)
    columns = [words, fc.numeric_column("age", shape=2, default_value=[1.0, 2.0])]
    estimator = canned.LinearClassifier(columns, tmp_path / "model")
    features = {"job": PEOPLE["job"], "age": np.ones((6, 2), np.float32)}
    estimator.train(lambda: (features, [0, 1] * 3), steps=1)
    receive = est.export.build_parsing_serving_input_receiver_fn(
        fc.make_parse_example_spec(columns)
    )
    model = served(estimator, tmp_path / "saved", serving_input_receiver_fn=receive)
    records = [{"job": ["nurse", "clerk"], "age": [3.0, 4.0]}, {}]
    texts = tf.constant([est.export.example_record(record) for record in records])
    given = plain(model.signatures["predict"](examples=texts))
    asked = {"job": [["nurse", "clerk"], []], "age": [[3.0, 4.0], [1.0, 2.0]]}
    (wanted,) = estimator.predict(lambda: asked, yield_single_examples=False)
    assert_same_answers(given, wanted)


def test_digits_beyond_float32_are_kept(tmp_path):
    points = np.random.default_rng(0).normal(1e9, 1.0, size=(50, 2))
    assert np.ptp(points.astype(np.float32)[:, 0]) % 64 == 0  # float32 keeps no digit
    estimator = canned.KMeans(3, tmp_path / "model").train(lambda: points, steps=3)
    signature = served(estimator, tmp_path / "saved").signatures["predict"]
    assert signature.structured_input_signature[1]["features"].dtype == tf.float64
    (wanted,) = estimator.predict(lambda: points, yield_single_examples=False)
    given = signature(features=tf.constant(points))
    np.testing.assert_array_equal(given["cluster_index"].numpy(), wanted["cluster_index"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be finite"):
        signature(features=tf.constant([[np.nan, 1.0]], tf.float64))


def test_an_export_can_be_converted_without_the_model(tmp_path, capsys):
    estimator, features = build_custom(str(tmp_path / "model"))
    estimator.export_saved_model(tmp_path / "exports")
    assert main(["convert", str(tmp_path / "exports"), str(tmp_path / "saved")]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert (path.parent, path.name.isdecimal()) == (tmp_path / "saved", True)
    signature = tf.saved_model.load(str(path)).signatures["classify"]
    (wanted,) = estimator.predict(lambda: features, yield_single_examples=False)
    given = signature(**tensors_of(features, signature))["scores"].numpy()
    np.testing.assert_array_equal(given.argmax(1), wanted["net"].argmax(1))


def with_top_k(features, mode):
    weight = est.get_variable("weight", (), 1.0, trainable=False)
    values, _ = jax.lax.top_k(features["x"] * weight, 2)
    return est.EstimatorSpec(mode, predictions=values, loss=weight)


def with_sizes(features, mode):
    weight = est.get_variable("weight", (), 1.0, trainable=False)
    scale = 1.0 if int(features["x"].shape[0]) > 1000 else 2.0
    return est.EstimatorSpec(mode, predictions=features["x"] * weight * scale, loss=weight)


def with_a_recipe_of_its_own(features, mode):
    weight = est.get_variable("weight", (), 1.0, trainable=False)
    names = est.host_output(Shouted(), features["x"] * weight)
    return est.EstimatorSpec(mode, predictions=names, loss=weight)


@dataclasses.dataclass(frozen=True)
class Shouted(est.OutputRecipe):
    """Numbers as texts."""

    def __call__(self, *arrays):
        return np.array([f"{x}!" for x in arrays[0].ravel()], object).reshape(arrays[0].shape)


@pytest.mark.parametrize(
    ("model_fn", "error", "message"),
    [
        (with_top_k, ValueError, "argsort does the same"),
        (with_sizes, ValueError, "was exported for batches of"),
        (with_a_recipe_of_its_own, TypeError, "Shouted has no form in TensorFlow"),
    ],
)
def test_what_tensorflow_cannot_do_is_told_and_nothing_is_left(model_fn, error, message, tmp_path):
    x = np.float32([[1, 3, 2], [4, 6, 5]])
    estimator = est.Estimator(model_fn, tmp_path / "model").train(lambda: {"x": x}, steps=1)
    with pytest.raises(error, match=message):
        estimator.export_saved_model(tmp_path / "saved", format="tensorflow")
    assert not os.path.exists(tmp_path / "saved") or os.listdir(tmp_path / "saved") == []


def test_a_recipe_of_ones_own_can_be_given_a_form(tmp_path):
    @est.export.tensorflow_form.register
    def _(recipe: Shouted, graph: est.export.Graph, numbers):
        return graph.tf.strings.join([graph.tf.strings.as_string(numbers, precision=1), "!"])

    x = np.float32([[1, 3], [4, 6]])
    estimator = est.Estimator(with_a_recipe_of_its_own, tmp_path / "model")
    estimator.train(lambda: {"x": x}, steps=1)
    signature = served(estimator, tmp_path / "saved").signatures["serving_default"]
    assert signature(x=tf.constant(x))["output"].numpy()[1].tolist() == [b"4.0!", b"6.0!"]


NAMES = ["education-num", "my feature", "class", "self", "é", "_x", 7, "A.b"]


def test_features_may_be_called_anything_and_lie_in_one_another(tmp_path):
    def model_fn(features, mode):
        weight = est.get_variable("weight", (), 1.0, trainable=False)
        flat = [features[name] for name in NAMES]
        total = sum(flat) + features["inner"]["a"] * 2 + features["inner"]["b"] * 3
        return est.EstimatorSpec(mode, predictions=total * weight, loss=weight)

    x = np.float32([1, 2])
    features = {name: x * i for i, name in enumerate(NAMES)} | {"inner": {"a": x, "b": -x}}
    estimator = est.Estimator(model_fn, tmp_path / "model").train(lambda: features, steps=1)
    signature = served(estimator, tmp_path / "saved").signatures["serving_default"]
    names = [*signature.structured_input_signature[1]]
    assert {"education_num", "my_feature", "class_", "self_", "input_7", "inner_a"} < {*names}
    asked = {name: tf.constant(x) for name in names}
    (wanted,) = estimator.predict(
        lambda: dict.fromkeys(NAMES, x) | {"inner": {"a": x, "b": x}},
        yield_single_examples=False,
    )
    np.testing.assert_allclose(signature(**asked)["output"].numpy(), wanted)


def test_features_that_tensorflow_cannot_tell_apart_are_named(tmp_path):
    columns = [fc.numeric_column("Age"), fc.numeric_column("age")]
    estimator = canned.LinearRegressor(columns, tmp_path / "model")
    estimator.train(lambda: ({"Age": [1.0], "age": [2.0]}, [1.0]), steps=1)
    with pytest.raises(ValueError, match="cannot tell the feature 'age' from another"):
        served(estimator, tmp_path / "saved")


@pytest.mark.parametrize("is_parsing", [True, False])
def test_what_was_never_seen_is_asked_with_numbers_made_up(tmp_path, is_parsing):
    estimator = est.Estimator(with_top_k, tmp_path / "model")
    x = np.float32([[1, 3, 2], [4, 6, 5]])
    estimator.train(lambda: {"x": x}, steps=1)
    build = est.export.build_raw_serving_input_receiver_fn
    kind = est.export.TensorSpec((None, 3))
    if is_parsing:
        build = est.export.build_parsing_serving_input_receiver_fn
        kind = fc.FixedLenFeature((3,), np.float32)
    with pytest.raises(ValueError, match="argsort does the same"):
        served(estimator, tmp_path / "saved", serving_input_receiver_fn=build({"x": kind}))


def test_gaps_of_pandas_are_gaps(tmp_path):
    columns = [fc.categorical_column_with_hash_bucket("city", 9)]
    estimator = canned.LinearClassifier(columns, tmp_path / "model")
    features = {"city": np.array(["Rome", np.nan, None], object)}
    estimator.train(lambda: (features, [0, 1, 1]), steps=2)
    signature = served(estimator, tmp_path / "saved").signatures["predict"]
    (wanted,) = estimator.predict(lambda: features, yield_single_examples=False)
    given = signature(city=tf.constant(["Rome", "", ""]))
    np.testing.assert_allclose(given["logits"].numpy(), wanted["logits"], rtol=1e-6)


@pytest.mark.parametrize(
    ("column", "features", "asked"),
    [
        (fc.numeric_column("x", default_value=3), [None, 1, 2], [np.nan, 1, 2]),
        (fc.sequence_numeric_column("x"), [[1, 2], [3], [4]], [[1, 2], [3, np.nan], [4, np.nan]]),
    ],
)
def test_gaps_among_ints_are_gaps(column, features, asked, tmp_path):
    if features[0] is None:
        estimator = canned.LinearRegressor([column], tmp_path / "model")
    else:
        estimator = canned.RNNClassifier([column], units=[2], model_dir=tmp_path / "model")
    features = {"x": features}
    estimator.train(lambda: (features, [1, 0, 1]), steps=1)
    signature = served(estimator, tmp_path / "saved").signatures["predict"]
    (wanted,) = estimator.predict(lambda: features, yield_single_examples=False)
    given = plain(signature(x=tf.constant(asked, tf.float32)))
    for name, answer in wanted.items():
        if answer.dtype.kind == "f":
            np.testing.assert_allclose(given[name], answer, rtol=1e-6, atol=1e-6)


def test_rows_that_are_wrong_are_errors(tmp_path):
    def model_fn(features, mode):
        weight = est.get_variable("weight", (), 1, np.int32, trainable=False)
        answers = features["n"] * weight
        return est.EstimatorSpec(mode, predictions=answers, loss=1.0 * weight)

    estimator = est.Estimator(model_fn, tmp_path / "model")
    estimator.train(lambda: {"n": np.array([1, 2])}, steps=1)
    signature = served(estimator, tmp_path / "saved").signatures["serving_default"]
    assert signature(n=tf.constant([3], tf.int64))["output"].numpy().tolist() == [3]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be int32"):
        signature(n=tf.constant([2**31 + 5], tf.int64))
    with pytest.raises(tf.errors.InvalidArgumentError, match="There are no rows"):
        signature(n=tf.constant([], tf.int64))


def test_a_feature_without_a_value_needs_a_receiver(tmp_path):
    columns = [fc.categorical_column_with_hash_bucket("tags", 9), fc.numeric_column("x")]
    estimator = canned.LinearClassifier(columns, tmp_path / "model")
    estimator.train(lambda: ({"tags": [[], []], "x": [1.0, 2.0]}, [0, 1]), steps=1)
    with pytest.raises(ValueError, match="held no value of 'tags'"):
        served(estimator, tmp_path / "saved")
    kinds = {
        "tags": est.export.TensorSpec((None, None), str),
        "x": est.export.TensorSpec((None,)),
    }
    receive = est.export.build_raw_serving_input_receiver_fn(kinds)
    model = served(estimator, tmp_path / "saved", serving_input_receiver_fn=receive)
    given = model.signatures["predict"](
        tags=tf.constant([["a", "b"], ["c", ""]]), x=tf.constant([1.0, 2.0])
    )
    asked = {"tags": [["a", "b"], ["c"]], "x": [1.0, 2.0]}
    (wanted,) = estimator.predict(lambda: asked, yield_single_examples=False)
    np.testing.assert_allclose(given["logits"].numpy(), wanted["logits"], rtol=1e-6)


def test_extra_assets_go_along(tmp_path):
    estimator, _ = build_custom(str(tmp_path / "model"))
    (tmp_path / "note.txt").write_text("hello")
    assets = {"deep/note.txt": tmp_path / "note.txt"}
    path = estimator.export_saved_model(tmp_path / "exports", assets_extra=assets).decode()
    made = est.export.write_saved_model(est.export.load(path), tmp_path / "saved")
    assert (Path(made) / "assets.extra" / "deep" / "note.txt").read_text() == "hello"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "onnx"}, '"jax" or "tensorflow", got \'onnx\''),
        ({"format": "tensorflow", "experimental_mode": "eval"}, "of the mode PREDICT"),
        ({"format": "tensorflow", "as_text": True}, "without as_text"),
    ],
)
def test_formats_that_cannot_be_are_refused(wrong, message, tmp_path):
    estimator, _ = build_custom(str(tmp_path / "model"))
    with pytest.raises(ValueError, match=message):
        estimator.export_saved_model(tmp_path, **wrong)


def test_features_that_come_in_any_form_may_have_one_value_a_row(tmp_path):
    estimator, _ = BUILDERS["rnn"](str(tmp_path / "model"))
    signature = served(estimator, tmp_path / "saved").signatures["predict"]
    asked = {"text": [["good"], ["so"]], "price": TEXTS["price"][:2]}
    (wanted,) = estimator.predict(lambda: asked, yield_single_examples=False)
    for text in (["good", "so"], [["good"], ["so"]], [[["good"]], [["so"]]]):
        given = signature(text=tf.constant(text), price=tf.constant(asked["price"]))
        np.testing.assert_allclose(given["logits"].numpy(), wanted["logits"], rtol=1e-6)
