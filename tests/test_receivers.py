"""Receivers and export outputs: what TensorFlow's tests ask of them, one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import canned
import estimator as est
import feature_columns as fc
from estimator.export import (
    ClassificationOutput,
    ParsingInputReceiver,
    PredictOutput,
    RegressionOutput,
    ServingInputReceiver,
    SupervisedInputReceiver,
    TensorServingInputReceiver,
    TensorSpec,
)
from estimator.export_outputs import named_answers

NUMBER = TensorSpec((None,), np.float32)
TEXT = TensorSpec((None,), str)
SPARSE = est.SparseTensor([[0, 0]], [1], [1, 1])
NAMES = est.host_output(est.Lookup(("a", "b")), jnp.zeros((2, 2), jnp.int32))


def test_features_may_be_specs_arrays_lists_and_sparse_under_names_or_ints():
    features = {"spec": NUMBER, "array": np.zeros(2), "list": ["a"], "sparse": SPARSE, 42: TEXT}
    for receiver in (ServingInputReceiver(features), SupervisedInputReceiver(features, NUMBER)):
        assert receiver.features == features
        assert [*receiver.example()] == [*features]
        assert receiver.example()["array"] is features["array"]


def test_one_feature_is_called_feature_and_one_receiver_tensor_input():
    receiver = ServingInputReceiver(NUMBER, NUMBER)
    assert receiver.features == {"feature": NUMBER}
    assert receiver.receiver_tensors == {"input": NUMBER}
    assert receiver.example()["feature"].shape == (2,)
    assert ServingInputReceiver({"x": NUMBER}).receiver_tensors == {"x": NUMBER}


def test_a_tensor_receiver_keeps_its_one_feature_as_it_is():
    receiver = TensorServingInputReceiver(NUMBER, NUMBER)
    assert receiver.features == NUMBER
    assert receiver.receiver_tensors == {"input": NUMBER}
    assert receiver.example().shape == (2,)
    assert TensorServingInputReceiver(SPARSE).example() is SPARSE
    with pytest.raises(TypeError, match=r"one TensorSpec or array, got \{.*takes a dict"):
        TensorServingInputReceiver({"x": NUMBER})


def test_features_and_labels_of_a_supervised_receiver_may_be_alone():
    receiver = SupervisedInputReceiver(NUMBER, TEXT)
    assert (receiver.features, receiver.labels) == (NUMBER, TEXT)
    assert receiver.receiver_tensors == {"input": NUMBER, "label": TEXT}
    assert receiver.example_labels() == ["", ""]
    without = SupervisedInputReceiver(NUMBER)
    assert without.example_labels() is None
    assert [*without.receiver_tensors] == ["input"]


@pytest.mark.parametrize(
    "kind",
    [
        ServingInputReceiver,
        TensorServingInputReceiver,
        ParsingInputReceiver,
        SupervisedInputReceiver,
    ],
)
@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (None, ValueError, "features must be given, got None"),
        ("no tensor", TypeError, "must be a TensorSpec or an array, got 'no tensor'"),
        (5, TypeError, "must be a TensorSpec or an array, got 5"),
    ],
)
def test_what_is_no_feature_is_an_error(kind, features, error, message):
    with pytest.raises(error, match=f"{kind.__name__}: .*{message}"):
        kind(features)


@pytest.mark.parametrize("kind", [ServingInputReceiver, SupervisedInputReceiver])
def test_names_and_kinds_of_features_and_labels_are_checked(kind):
    with pytest.raises(ValueError, match=r"name of a feature must be a str or an int, got 42\.2"):
        kind({42.2: NUMBER})
    with pytest.raises(TypeError, match="the feature 'x' must be a TensorSpec or an array, got 1"):
        kind({"x": 1})
    with pytest.raises(ValueError, match=r"name of a label must be a str or an int, got 1\.5"):
        SupervisedInputReceiver({"x": NUMBER}, {1.5: NUMBER})
    with pytest.raises(TypeError, match="the label 'label' must be a TensorSpec or an array"):
        SupervisedInputReceiver({"x": NUMBER}, 100)


@pytest.mark.parametrize("kind", [ServingInputReceiver, SupervisedInputReceiver])
def test_what_arrives_is_the_features_because_a_receiver_computes_nothing(kind):
    given = {"foo": NUMBER, "bar": TEXT}
    assert kind(given, receiver_tensors=given).receiver_tensors == given
    for tensors in (TEXT, {"examples": TEXT}, {"foo": NUMBER}):
        with pytest.raises(ValueError, match=r"computes nothing here, so what arrives is \['foo'"):
            kind(given, receiver_tensors=tensors)
    with pytest.raises(TypeError, match="the receiver tensor 'foo' must be a TensorSpec"):
        kind(given, receiver_tensors={"foo": 1, "bar": TEXT})


def test_a_parsing_receiver_takes_records_and_names_their_features():
    spec = {"ints": fc.VarLenFeature(np.int64), "float": fc.FixedLenFeature((1,), np.float32)}
    receive = est.export.build_parsing_serving_input_receiver_fn(spec, default_batch_size=3)
    receiver = receive()
    assert receiver.features == spec
    assert receiver.receiver_tensors == {"examples": TensorSpec((3,), str)}
    assert ParsingInputReceiver(spec).receiver_tensors == {"examples": TEXT}
    assert receiver.example()["float"].shape == (2, 1)


def test_a_raw_receiver_takes_shapes_and_dtypes_of_examples():
    build = est.export.build_raw_serving_input_receiver_fn
    receiver = build({"word": np.array(["hello"]), 42: np.array([42], np.int32)})()
    assert isinstance(receiver, ServingInputReceiver)
    assert {*receiver.features} == {*receiver.receiver_tensors} == {"word", 42}
    assert receiver.features[42] == TensorSpec((None,), np.dtype("int32"))
    assert receiver.example()["word"] == ["", ""]
    named = build({"x": TensorSpec((32, 4), np.float32, name="x")})()
    assert named.features["x"].shape == (None, 4)
    with pytest.raises(TypeError, match="'x' must be a TensorSpec, or an array with one row for"):
        build({"x": np.float32(1)})


def test_a_raw_supervised_receiver_names_features_and_labels():
    build = est.export.build_raw_supervised_input_receiver_fn
    features = {"word": np.array(["hello"]), "count": np.array([42])}
    labels = {"foo": np.array([5]), "bar": np.array([6])}
    receiver = build(features, labels, default_batch_size=10)()
    assert [*receiver.receiver_tensors] == ["word", "count", "foo", "bar"]
    assert {*receiver.features, *receiver.labels} == {*receiver.receiver_tensors}
    assert receiver.features["word"].shape == receiver.labels["foo"].shape == (10,)
    assert receiver.example()["count"].shape == receiver.example_labels()["bar"].shape == (10,)
    assert [*build(features["word"], labels)().receiver_tensors] == ["input", "foo", "bar"]
    assert [*build(features["word"], labels["foo"])().receiver_tensors] == ["input", "label"]
    with pytest.raises(ValueError, match=r"\['word'\] are names of features and of labels"):
        build(features, {"word": np.array([5]), "bar": np.array([6])})


@pytest.mark.parametrize(
    ("alternatives", "error", "message"),
    [
        ([NUMBER], TypeError, "receiver_tensors_alternatives must be a dict of features by name"),
        ({"raw": NUMBER}, TypeError, "must have a str for its name and be a dict of features"),
        ({3: {"x": NUMBER}}, TypeError, "must have a str for its name and be a dict of features"),
        ({"raw": {"x": "text"}}, TypeError, "the feature 'x' must be a TensorSpec or an array"),
        ({"raw": {"x": NUMBER, "z": TEXT}}, ValueError, r"computes nothing.*lacks \['z'\]"),
    ],
)
def test_an_alternative_that_is_not_made_of_features_is_an_error(alternatives, error, message):
    receiver = ServingInputReceiver({"x": NUMBER, "y": TEXT})
    with pytest.raises(error, match=message):
        dataclasses.replace(receiver, receiver_tensors_alternatives=alternatives)


def test_alternatives_are_kept_as_they_are_given():
    alternatives = {"some": {"x": NUMBER}, "all": {"x": np.zeros(1), "y": TEXT}}
    receiver = ServingInputReceiver({"x": NUMBER, "y": TEXT}, None, alternatives)
    assert receiver.receiver_tensors_alternatives is alternatives
    alone = {"raw": {"feature": NUMBER}}
    assert TensorServingInputReceiver(NUMBER, None, alone).receiver_tensors_alternatives is alone


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegressionOutput(["a"]), "value must be an array of floats or a host_output, got"),
        (lambda: RegressionOutput(np.zeros(2, np.int32)), "value must be an array of floats"),
        (lambda: RegressionOutput(None), "value must be an array of floats"),
        (lambda: ClassificationOutput(scores=np.array(["a"])), "scores must be an array of floats"),
        (lambda: ClassificationOutput(classes=np.zeros(1)), "classes must be names, such as host_"),
        (lambda: ClassificationOutput(classes="wumpus"), "classes must be names, such as host_"),
        (ClassificationOutput, "give scores, or classes, or both"),
        (lambda: PredictOutput({1: np.zeros(1)}), "must be a str or a tuple of them, got 1"),
        (lambda: PredictOutput({("a", 1): np.zeros(1)}), "must be a str or a tuple of them, got"),
    ],
)
def test_export_outputs_check_what_they_are_given(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_export_outputs_name_their_answers():
    x = np.ones((2, 2), np.float32)
    outputs = {
        ("outputs",): RegressionOutput(x.astype(jnp.bfloat16)),
        ("scores",): ClassificationOutput(scores=x),
        ("classes",): ClassificationOutput(classes=NAMES),
        ("classes", "scores"): ClassificationOutput(x, NAMES),
        ("output",): PredictOutput(x),
        ("a", "b/c/d"): PredictOutput({("b", "c", "d"): x, "a": NAMES}),
    }
    for names, output in outputs.items():
        assert [name for name, _ in named_answers(output)] == [*names]


def test_jax_maps_export_outputs_without_checks():
    outputs = [RegressionOutput(np.ones(2)), ClassificationOutput(np.ones(2)), PredictOutput({})]
    made = jax.tree.map(lambda _: "no array", outputs)
    assert [type(output) for output in made] == [type(output) for output in outputs]
    assert (made[0].value, made[1].scores, made[1].classes) == ("no array", "no array", None)


def test_a_spec_refuses_export_outputs_that_are_no_arrays():
    for output in ({"x": SPARSE}, {"x": "text"}, PredictOutput([1.0]), "text"):
        with pytest.raises(TypeError, match="must be an array or a host_output"):
            est.EstimatorSpec("infer", np.ones(1), export_outputs={"x": output})
    with pytest.raises(TypeError, match="export_outputs must be a dict of answers by name"):
        est.EstimatorSpec("infer", np.ones(1), export_outputs=PredictOutput(np.ones(1)))


def test_records_may_hold_sequences_of_words_and_of_numbers(tmp_path):
    words = fc.sequence_categorical_column_with_hash_bucket("words", 9)
    columns = [fc.embedding_column(words, 2), fc.sequence_numeric_column("x")]
    estimator = canned.RNNClassifier(columns, units=[2], model_dir=tmp_path / "model")
    features = {"words": [["a", "b"], ["c"]], "x": [[1.0, 2.0], [3.0]]}
    estimator.train(lambda: (features, [0, 1]), steps=1)
    receive = est.export.build_parsing_serving_input_receiver_fn(
        fc.make_parse_example_spec(columns)
    )
    loaded = est.export.load(estimator.export_saved_model(tmp_path, receive))
    rows = [dict(zip(features, row, strict=True)) for row in zip(*features.values(), strict=True)]
    records = [est.export.example_record(row) for row in rows]
    (wanted,) = estimator.predict(lambda: features, yield_single_examples=False)
    given = loaded({"examples": records}, "predict")["logits"]
    np.testing.assert_allclose(given, wanted["logits"], rtol=1e-6)
