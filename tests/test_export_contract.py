"""Exports: what TensorFlow's tests of an Estimator's exports ask, in this project's terms."""

import dataclasses
import json
import os
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exporting import build_linear

import canned
import estimator as est
import feature_columns as fc
from estimator import export_files
from estimator.export import TensorSpec, load

PREDICT, EVAL, TRAIN = est.ModeKeys.PREDICT, est.ModeKeys.EVAL, est.ModeKeys.TRAIN
XY = {"x": np.float32([1, 2, 3]), "y": np.float32([2, 2, 5])}
TRUTH = np.float32([1, 0, 1])
NUMBER = TensorSpec((None,), np.float32)
SERVING = est.export.build_raw_serving_input_receiver_fn({"x": NUMBER, "y": NUMBER})
SUPERVISED = est.export.build_raw_supervised_input_receiver_fn({"x": NUMBER, "y": NUMBER}, TRUTH)
RECEIVERS = {PREDICT: SERVING, EVAL: SUPERVISED, TRAIN: SUPERVISED}
SEEN = []


def x_y(features, labels, mode):
    """Variables of one mode, of all modes, and one that begins differently in each."""
    SEEN.append((mode, *features, labels is None))
    x, y = features["x"], features["y"]
    weight = est.get_variable("weight", (), 1.0)
    start = 36.0 if mode == PREDICT else 3.0
    shared = est.get_variable("shared", (), start, trainable=False)
    if mode == PREDICT:
        names = est.host_output(est.Lookup(("wumpus", "bandersnatch")), (x > y).astype(jnp.int32))
        outputs = {
            "serving_default": est.export.RegressionOutput(x * weight + shared),
            "class": est.export.ClassificationOutput(classes=names),
            "one": est.export.PredictOutput(x + y),
        }
        return est.EstimatorSpec(mode, x * y, export_outputs=outputs)
    later = est.get_variable("later", (), 2.0)
    loss = jnp.mean((x * weight + later - labels) ** 2)
    metrics = {"difference": est.metrics.mean(x - y)}
    return est.EstimatorSpec(mode, x * y, loss, optax.sgd(0.1), metrics)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    estimator = est.Estimator(x_y, str(tmp_path_factory.mktemp("x_y") / "model"))
    return estimator.train(lambda: (XY, TRUTH), steps=1)


@pytest.fixture(scope="module")
def everything(trained, tmp_path_factory):
    """The export of all modes, which many tests ask."""
    root = tmp_path_factory.mktemp("export")
    return load(trained.experimental_export_all_saved_models(root, RECEIVERS))


SERVED = ["class", "one", "serving_default"]


@pytest.mark.parametrize("mode", [PREDICT, EVAL, TRAIN])
def test_each_mode_can_be_exported_alone(trained, tmp_path, mode):
    path = trained.export_saved_model(tmp_path, RECEIVERS[mode], experimental_mode=mode)
    loaded = load(path)
    assert loaded.signatures == (SERVED if mode == PREDICT else [mode])
    assert {*loaded.variables} == {"weight", "shared"} | ({"later"} if mode != PREDICT else set())
    assert loaded.check() == 0
    assert {"export.json", "variables.safetensors"} <= {*os.listdir(path.decode())}


@pytest.mark.parametrize("modes", [(PREDICT,), (TRAIN,), (EVAL,), (EVAL, TRAIN)])
def test_the_map_of_receivers_says_which_modes_are_exported(trained, tmp_path, modes):
    receivers = {mode: RECEIVERS[mode] for mode in modes}
    loaded = load(trained.experimental_export_all_saved_models(tmp_path, receivers))
    wanted = sorted(name for mode in modes for name in (SERVED if mode == PREDICT else [mode]))
    assert loaded.signatures == wanted


def test_all_modes_answer_with_one_set_of_variables(trained, everything):
    assert everything.signatures == ["class", "eval", "one", "serving_default", "train"]
    assert {*everything.variables} == {"weight", "shared", "later"}
    results = trained.evaluate(lambda: (XY, TRUTH))
    for signature in ("train", "eval"):
        answers = everything(XY, signature, labels=TRUTH)
        assert [*answers] == ["loss", "metrics/difference/value", "predictions"]
        np.testing.assert_allclose(answers["loss"], results["loss"], rtol=1e-6)
        np.testing.assert_allclose(answers["metrics/difference/value"], -1)
        np.testing.assert_array_equal(answers["predictions"], [2, 4, 15])
        parts = {(entry.part, entry.name) for entry in everything.inputs(signature)}
        assert parts == {("features", "x"), ("features", "y"), ("labels", "labels")}


def test_the_checkpoint_tells_the_value_of_a_variable_and_not_the_mode(everything):
    assert everything.variables["shared"] == 3
    answers = everything(XY)["outputs"]
    np.testing.assert_allclose(answers, XY["x"] * everything.variables["weight"] + 3, rtol=1e-6)


def test_each_kind_of_export_output_names_its_answers_and_its_method(everything):
    named = {name: (everything.outputs(name), everything.method(name)) for name in SERVED}
    assert named == {
        "serving_default": (["outputs"], "regress"),
        "class": (["classes"], "classify"),
        "one": (["output"], "predict"),
    }
    assert everything(XY, "class")["classes"].tolist() == ["wumpus"] * 3


def test_a_model_fn_is_traced_with_what_the_receiver_describes(trained, everything):
    assert {seen for seen in SEEN if seen[0] == PREDICT} == {(PREDICT, "x", "y", True)}
    assert (EVAL, "x", "y", False) in SEEN


def test_a_default_batch_size_describes_requests_and_does_not_bind_them(trained, tmp_path):
    receive = est.export.build_raw_serving_input_receiver_fn({"x": NUMBER, "y": NUMBER}, 10)
    loaded = load(trained.export_saved_model(tmp_path, receive))
    assert loaded(XY, "one")["output"].tolist() == [3, 4, 8]
    assert loaded.inputs("one")[0].shape == (None,)


def test_a_receiver_of_another_kind_than_the_mode_needs_is_refused(trained, tmp_path):
    with pytest.raises(TypeError, match="for 'infer' must return a ServingInputReceiver, got Sup"):
        trained.export_saved_model(tmp_path, SUPERVISED)
    with pytest.raises(TypeError, match="for 'train' must return a SupervisedInputReceiver, got S"):
        trained.export_saved_model(tmp_path, SERVING, experimental_mode=TRAIN)
    assert os.listdir(tmp_path) == []


def only_in_predict(features, labels, mode):
    name = "only_in_predict" if mode == PREDICT else "otherwise"
    answer = est.get_variable(name, (), 1.0) * features["x"]
    return est.EstimatorSpec(mode, answer, jnp.sum(answer), optax.sgd(0.1))


def test_a_variable_that_the_checkpoint_lacks_is_named(tmp_path):
    estimator = est.Estimator(only_in_predict, str(tmp_path / "model"))
    estimator.train(lambda: (XY, TRUTH), steps=1)
    with pytest.raises(ValueError, match=r"in mode 'infer': missing \['only_in_predict'\]"):
        estimator.experimental_export_all_saved_models(tmp_path / "exports", RECEIVERS)
    assert os.listdir(tmp_path) == ["model"]


def product(features, labels, mode):
    """Takes one array, and names no export outputs."""
    weight = est.get_variable("weight", (), 2.0, trainable=False)
    return est.EstimatorSpec(mode, features @ features.T * weight, weight * 0)


def test_features_that_are_one_array_need_no_name_and_predictions_no_export_outputs(tmp_path):
    x = np.float32([[1, 2, 3]])
    estimator = est.Estimator(product, str(tmp_path / "model")).train(lambda: x, steps=1)
    spec = TensorSpec((None, 3))
    receiver = est.export.TensorServingInputReceiver(spec, spec, {"raw": {"feature": spec}})
    loaded = load(estimator.export_saved_model(tmp_path, lambda: receiver))
    assert loaded.signatures == ["raw:serving_default", "serving_default"]
    for signature in loaded.signatures:
        assert {n: a.tolist() for n, a in loaded(x, signature).items()} == {"output": [[28]]}
    receive = est.export.SupervisedInputReceiver(spec)
    path = estimator.export_saved_model(tmp_path / "eval", receive, experimental_mode=EVAL)
    answers = load(path)(x, "eval")
    assert {name: answer.tolist() for name, answer in answers.items()} == {
        "loss": 0,
        "predictions": [[28]],
    }


def test_features_may_have_ints_for_names_which_are_texts_in_json(tmp_path):
    def model_fn(features, mode):
        weight = est.get_variable("weight", (), 1.0, trainable=False)
        largest = jnp.maximum(features["text"], features[42])
        return est.EstimatorSpec(mode, largest * weight, weight * 0)

    given = {"text": np.float32([1, 2]), 42: np.float32([3, 1])}
    estimator = est.Estimator(model_fn, str(tmp_path / "model")).train(lambda: given, steps=1)
    receive = est.export.build_raw_serving_input_receiver_fn({"text": NUMBER, 42: NUMBER})
    for number, receiver in enumerate((None, receive)):
        loaded = load(estimator.export_saved_model(tmp_path / str(number), receiver))
        assert [entry.name for entry in loaded.inputs()] == ["42", "text"]
        assert loaded.check() == 1 - number
        asked = [given, {str(name): value for name, value in given.items()}]
        rows = [{"text": 1, "42": 3}, {"text": 2, "42": 1}]
        for features in (*asked, rows, [{"text": 1, 42: 3}, {"text": 2, 42: 1}]):
            assert loaded(features)["output"].tolist() == [3, 2]
        with pytest.raises(ValueError, match=r"takes no feature 43.* It takes \['42', 'text'\]"):
            loaded(given | {43: given[42]})
        with pytest.raises(
            ValueError, match=r"features \['42'\] are missing; there are \['text'\]"
        ):
            loaded({"text": given["text"]})


def test_a_warm_start_from_a_directory_is_exported_without_training(trained, tmp_path):
    warm = est.Estimator(x_y, str(tmp_path / "warm"), warm_start_from=trained.model_dir)
    loaded = load(warm.export_saved_model(tmp_path, SERVING))
    assert loaded.variables["weight"] == trained.get_variable_value("weight") != 1
    assert loaded.global_step == 0


def clashing(features, labels, mode):
    answer = est.get_variable("weight", (), 1.0) * features["x"]
    outputs = {"serving_default": answer, "train": answer + 1}
    return est.EstimatorSpec(mode, answer, jnp.sum(answer), optax.sgd(0.1), export_outputs=outputs)


def test_two_signatures_of_one_name_are_refused(tmp_path):
    estimator = est.Estimator(clashing, str(tmp_path / "model"))
    estimator.train(lambda: (XY, TRUTH), steps=1)
    assert load(estimator.export_saved_model(tmp_path / "e")).signatures[1] == "train"
    with pytest.raises(ValueError, match=r"several signatures \['train'\]: TRAIN and EVAL have"):
        estimator.experimental_export_all_saved_models(tmp_path / "all", RECEIVERS)
    assert os.listdir(tmp_path / "all") == []


def test_alternatives_are_signatures_which_share_functions(trained, tmp_path):
    alternatives = {"all": {"x": NUMBER, "y": NUMBER}, "raw": {"y": NUMBER, "x": np.zeros(1)}}
    receiver = dataclasses.replace(SERVING(), receiver_tensors_alternatives=alternatives)
    path = trained.export_saved_model(tmp_path, lambda: receiver).decode()
    loaded = load(path)
    every = [*SERVED, *(f"{name}:{s}" for name in alternatives for s in SERVED)]
    assert loaded.signatures == sorted(every)
    assert sorted(p.suffix for p in Path(path).iterdir()) == [
        ".json",
        ".safetensors",
        *[".stablehlo"] * len(SERVED),
    ]
    for signature in SERVED:
        assert loaded.method(f"raw:{signature}") == loaded.method(signature)
        given, wanted = loaded(XY, f"all:{signature}"), loaded(XY, signature)
        assert given.keys() == wanted.keys()
        assert all((given[name] == wanted[name]).all() for name in wanted)


def test_an_alternative_may_leave_out_what_no_signature_looks_at(tmp_path):
    def model_fn(features, mode):
        weight = est.get_variable("weight", (), 1.0, trainable=False)
        return est.EstimatorSpec(mode, features["y"] * weight, weight * 0)

    estimator = est.Estimator(model_fn, str(tmp_path / "model")).train(lambda: XY, steps=1)

    def receive(*names):
        given = {"raw": dict.fromkeys(names, NUMBER)}
        return lambda: dataclasses.replace(SERVING(), receiver_tensors_alternatives=given)

    loaded = load(estimator.export_saved_model(tmp_path / "e", receive("y")))
    assert [entry.name for entry in loaded.inputs()] == ["x", "y"]
    assert [entry.name for entry in loaded.inputs("raw:serving_default")] == ["y"]
    assert loaded({"y": [2.0]}, "raw:serving_default")["output"].tolist() == [2]
    with pytest.raises(ValueError, match=r"takes no feature 'x'.* It takes \['y'\]"):
        loaded(XY, "raw:serving_default")
    with pytest.raises(ValueError, match=r"'raw' lacks the features \['y'\], and the model looks"):
        estimator.export_saved_model(tmp_path / "no", receive("x"))
    assert os.listdir(tmp_path / "no") == []


def test_features_may_come_themselves_beside_records(tmp_path):
    estimator, people = build_linear(str(tmp_path / "model"))
    spec = {
        "city": fc.VarLenFeature(np.dtype(str)),
        "job": fc.VarLenFeature(np.dtype(str)),
        "age": fc.FixedLenFeature((1,), np.int64),
    }
    features = {"city": TensorSpec((None, 1), str), "job": TensorSpec((None, None), str)}
    receiver = est.export.ParsingInputReceiver(
        spec, receiver_tensors_alternatives={"raw": features | {"age": np.zeros((1, 1))}}
    )
    loaded = load(estimator.export_saved_model(tmp_path, lambda: receiver))
    (wanted,) = estimator.predict(lambda: people, yield_single_examples=False)
    given = loaded(people, "raw:predict")
    np.testing.assert_allclose(given["probabilities"], wanted["probabilities"], rtol=1e-6)
    record = est.export.example_record({"city": ["Rome"], "job": ["nurse"], "age": [30]})
    assert loaded({"examples": [record]})["scores"].shape == (1, 2)
    with pytest.raises(ValueError, match="takes no feature 'examples'"):
        loaded({"examples": [record]}, "raw:predict")


class Clock:
    """Stands for the module `time`: it stands still for some sleeps, then goes on."""

    def __init__(self, still):
        self.now, self.still, self.slept = 1_700_000_000, still, []

    def time(self):
        return self.now + 0.9

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += len(self.slept) > self.still


def test_a_directory_is_named_by_the_second_and_waits_for_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(export_files, "time", Clock(still=3))
    beside = []

    def write(directory):
        beside.append(sorted(os.listdir(Path(directory).parent)))
        (Path(directory) / "file").write_text("x")

    base = os.fsencode(tmp_path / "deep" / "exports")
    first, second = (export_files.write_aside(base, write, None) for _ in range(2))
    assert [Path(path).name for path in (first, second)] == ["1700000000", "1700000001"]
    assert beside == [["temp-1700000000"], ["1700000000", "temp-1700000001"]]
    assert export_files.time.slept == [1] * 4
    assert (Path(second) / "file").read_text() == "x"
    (Path(os.fsdecode(base)) / "temp-1700000002").mkdir()  # of another process
    export_files.time.now = 1_700_000_002
    assert Path(export_files.write_aside(base, write, None)).name == "1700000003"


def test_a_clock_that_stands_still_is_an_error_after_ten_tries(tmp_path, monkeypatch):
    clock = Clock(still=99)
    monkeypatch.setattr(export_files, "time", clock)
    (tmp_path / "1700000000").mkdir()
    with pytest.raises(RuntimeError, match="an export of each of the last 10 seconds"):
        export_files.write_aside(tmp_path, lambda _: None, None)
    assert clock.slept == [1] * 10


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_nothing_remains_of_an_export_that_fails(tmp_path, error):
    def write(directory):
        (Path(directory) / "half").write_text("x")
        raise error("as the disk is full")

    with pytest.raises(error, match="as the disk is full"):
        export_files.write_aside(tmp_path, write, None)
    with pytest.raises(FileNotFoundError):
        export_files.write_aside(tmp_path, lambda _: None, {"a": tmp_path / "missing"})
    assert os.listdir(tmp_path) == []


def test_a_base_directory_in_bytes_is_taken_as_bytes_come_back(trained, tmp_path):
    path = trained.export_saved_model(os.fsencode(tmp_path / "exports"), SERVING)
    assert isinstance(path, bytes)
    assert os.path.dirname(path) == os.fsencode(tmp_path / "exports")


def test_a_label_less_model_is_described_without_labels(tmp_path):
    points = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    estimator = canned.KMeans(2, str(tmp_path / "model")).train(lambda: points, steps=1)
    receiver = est.export.SupervisedInputReceiver(TensorSpec((None, 2)))
    path = estimator.export_saved_model(tmp_path, lambda: receiver, experimental_mode=EVAL)
    loss = load(path)(points, "eval")["loss"]
    np.testing.assert_allclose(loss, estimator.evaluate(lambda: points)["loss"], rtol=1e-6)


def test_which_features_come_in_any_form_is_found_out_once(tmp_path, monkeypatch):
    monkeypatch.setattr(export_files, "time", Clock(still=0))
    traces = types.SimpleNamespace(count=0)

    def model_fn(features, mode):
        traces.count += mode == PREDICT
        sums = sum(jnp.asarray(value) for value in features.values())
        weight = est.get_variable("weight", (), 1.0, trainable=False)
        return est.EstimatorSpec(mode, sums * weight, jnp.sum(sums) * weight)

    features = {name: np.ones(3, np.float32) for name in "abcdef"}
    estimator = est.Estimator(model_fn, str(tmp_path / "model"))
    estimator.train(lambda: features, steps=1)
    counts = []
    for _ in range(3):
        before = traces.count
        path = estimator.export_saved_model(tmp_path).decode()
        counts.append(traces.count - before)
    # One trace of the signature and one of its example; at first one for each feature, too.
    assert counts[0] >= 2 + 1 + len(features)
    assert counts[1:] == [2, 2]
    for entry in json.loads((Path(path) / "export.json").read_text())["body"]["modes"].values():
        assert all(given["dtype"] == "float32" for given in entry["inputs"])


def test_a_second_export_takes_gaps_as_the_first_did(tmp_path, monkeypatch):
    monkeypatch.setattr(export_files, "time", Clock(still=0))
    age = fc.numeric_column("age", default_value=40.0)
    estimator = canned.LinearRegressor([age], str(tmp_path / "model"))
    estimator.train(lambda: ({"age": np.array([30, 41])}, [1.0, 2.0]), steps=1)
    first, second = (load(estimator.export_saved_model(tmp_path)) for _ in range(2))
    for loaded in (first, second):
        assert [entry.dtype for entry in loaded.inputs()] == [None]
        answers = loaded({"age": [None, 40.0]}, "predict")["predictions"]
        assert answers[0] == answers[1]


def test_sizes_that_happen_to_be_equal_in_the_example_may_differ_in_a_request(tmp_path):
    job = fc.categorical_column_with_vocabulary_list("job", ["nurse", "clerk", "poet"])
    city = fc.categorical_column_with_hash_bucket("city", 9)
    columns = [city, fc.weighted_categorical_column(job, "weight")]
    seen = {"job": [["nurse"], ["clerk"]], "weight": [[0.5], [1.0]], "city": ["Rome", "Oslo"]}
    estimator = canned.LinearClassifier(columns, str(tmp_path / "model"))
    estimator.train(lambda: (seen, [0, 1]), steps=1)
    asked = seen | {"job": [["nurse", "clerk", "poet"], []], "weight": [[0.5, 1, 2], []]}
    (wanted,) = estimator.predict(lambda: asked, yield_single_examples=False)
    many = TensorSpec((None, None), str)
    specs = {"job": many, "city": many, "weight": TensorSpec((None, None))}
    receive = est.export.build_raw_serving_input_receiver_fn(specs)
    for number, receiver in enumerate((None, receive)):
        loaded = load(estimator.export_saved_model(tmp_path / str(number), receiver))
        given = loaded(asked, "predict")["probabilities"]
        np.testing.assert_allclose(given, wanted["probabilities"], rtol=1e-6)
        with pytest.raises(ValueError, match=r"weight.* values"):
            loaded(asked | {"weight": [[0.5], []]})
