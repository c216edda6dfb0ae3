"""Export: a directory that answers as the model did, in a process that has no model_fn."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from exporting import (
    BUILDERS,
    MOODS,
    MOVED,
    PEOPLE,
    TEXTS,
    assert_same_answers,
    build_custom,
    custom,
    custom_features,
    rows_of,
)
from models import batches, endless, features_only, line, quiet

import canned
import estimator as est
import feature_columns as fc
from estimator import export_outputs

each_kind = pytest.mark.parametrize("kind", list(BUILDERS))


def signature_of(loaded):
    return "predict" if "predict" in loaded.signatures else "serving_default"


@each_kind
def test_an_export_answers_as_predict_does_for_any_number_of_rows(exported, kind):
    estimator, features, path = exported(kind)
    loaded = est.export.load(path)
    rows = len(features if not isinstance(features, dict) else next(iter(features.values())))
    for count in sorted({1, 2, min(7, rows), rows}):
        asked = rows_of(features, count)
        (wanted,) = estimator.predict(lambda asked=asked: asked, yield_single_examples=False)
        assert_same_answers(loaded(asked, signature_of(loaded)), wanted)


@each_kind
def test_an_export_knows_its_examples_and_its_weights(exported, kind):
    estimator, _, path = exported(kind)
    loaded = est.export.load(path)
    assert loaded.check() == 1
    assert "serving_default" in loaded.signatures
    assert loaded.global_step == estimator.get_variable_value("global_step")
    for name, value in loaded.variables.items():
        np.testing.assert_array_equal(value, estimator.get_variable_value(name))


ASK = """
import json, sys
import estimator as est
answers = []
with open(sys.argv[1]) as file:
    for path, signature, requests in json.load(file):
        loaded = est.export.load(path)
        for request in requests:
            made = loaded(request, signature)
            answers.append({name: answer.tolist() for name, answer in made.items()})
print(json.dumps(answers))
assert not {"test_export", "models", "exporting"} & sys.modules.keys()
"""


def test_another_process_needs_no_code_of_the_model(exported, tmp_path):
    asked, wanted = [], []
    for kind in BUILDERS:
        estimator, features, path = exported(kind)
        signature = signature_of(est.export.load(path))
        requests = [rows_of(features, count) for count in (1, 2, 7, 64)]
        for request in requests:
            wanted += estimator.predict(lambda r=request: r, yield_single_examples=False)
        asked.append([path, signature, [as_lists(request) for request in requests]])
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    root = str(Path(est.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path / "asked.json")],
        env={**os.environ, "PYTHONPATH": root},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for given, answers in zip(json.loads(done.stdout), wanted, strict=True):
        arrays = {n: np.array(given[n], answer.dtype) for n, answer in answers.items()}
        assert_same_answers(arrays, answers)


def as_lists(features):
    if not isinstance(features, dict):
        return features.tolist()
    return {name: v if isinstance(v, list) else v.tolist() for name, v in features.items()}


def test_signatures_have_the_answers_and_methods_that_the_spec_names(exported):
    _, features, path = exported("custom")
    loaded = est.export.load(path)
    assert loaded.signatures == ["classify", "serving_default"]
    assert loaded.outputs() == ["name", "net", "sum"]
    assert (loaded.method("classify"), loaded.method()) == ("classify", "predict")
    assert [*loaded(features, "classify")] == ["scores"]
    with pytest.raises(ValueError, match=r"no signature 'clasify'. Did you mean"):
        loaded(features, "clasify")


def test_a_request_may_hold_gaps_and_floats_that_no_batch_held(tmp_path):
    age = fc.numeric_column("age", default_value=40.0, normalizer_fn=lambda x: x / 10)
    columns = [age, fc.numeric_column("size", shape=2)]
    estimator = canned.DNNRegressor([2], columns, tmp_path / "model")
    seen = {"age": np.array([30, 41]), "size": np.ones((2, 2), np.int64)}
    estimator.train(lambda: (seen, [1.0, 2.0]), steps=1)
    loaded = est.export.load(estimator.export_saved_model(tmp_path))
    asked = {"age": [30.5, None], "size": [[1, 2.5], [0, 1]]}
    (wanted,) = estimator.predict(lambda: asked, yield_single_examples=False)
    assert_same_answers(loaded(asked, "predict"), wanted)
    assert [entry.dtype for entry in loaded.inputs()] == [None, None]
    with pytest.raises(ValueError, match=r"size.* has a missing value, None or NaN"):
        loaded({"age": [1], "size": [[None, 1]]})


def test_the_centers_of_kmeans_are_a_signature(exported):
    estimator, points, path = exported("kmeans")
    loaded = est.export.load(path)
    centers = loaded(points[:1], "cluster_centers")["output"]
    np.testing.assert_array_equal(centers, estimator.cluster_centers())


def test_requests_may_be_rows_and_signatures_have_methods(exported):
    loaded = est.export.load(exported("linear")[2])
    methods = {name: loaded.method(name) for name in loaded.signatures}
    assert methods == {
        "classification": "classify",
        "predict": "predict",
        "regression": "regress",
        "serving_default": "classify",
    }
    rows = [{"city": "Rome", "job": ["nurse"], "age": 30}, {"age": 41, "job": [], "city": "Oslo"}]
    columns = {"city": ["Rome", "Oslo"], "job": [["nurse"], []], "age": [30, 41]}
    assert_same_answers(loaded(rows), loaded(columns))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f | {"x": f["x"][:, :1]}, r"x must be float32 of shape \(any, 2\), got"),
        (lambda f: f | {"x": f["x"][:3]}, "same number of rows"),
        (lambda f: None, "needs features"),
        (lambda f: f | {"x": [["a", "b"]] * 6}, "x must be float32"),
        (lambda f: f | {"count": f["count"] + 0.5}, "count must be int32"),
        (lambda f: {"x": f["x"]}, r"\['count'\] are missing"),
        (lambda f: f | {"counts": f["count"]}, "takes no feature 'counts'. Did you mean"),
        (lambda f: {name: v[:0] for name, v in f.items()}, "at least one row"),
        (lambda f: f["x"], "must be a dict"),
        (lambda f: f | {"x": [[1, 2]] * 5 + [[1]]}, "got rows of different lengths"),
        (lambda f: [{"x": [1, 2], "count": 1}, {"x": [1, 2]}], "count .*; row 1 lacks a value"),
        (lambda f: f | {"x": [[1, 2]] * 5 + [[1, None]]}, "x .*; row 5 lacks a value"),
        (lambda f: f | {"count": f["count"] + 2**40}, "int32|32-bit"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(exported, change, message):
    loaded = est.export.load(exported("custom")[2])
    with pytest.raises((ValueError, OverflowError), match=message):
        loaded(change(custom_features(6)))


def test_a_receiver_describes_inputs_that_were_never_seen(tmp_path):
    build_custom(str(tmp_path / "model"))
    fresh = est.Estimator(custom, str(tmp_path / "model"))
    with pytest.raises(ValueError, match="has seen no batch yet"):
        fresh.export_saved_model(tmp_path)
    specs = {
        "x": est.export.TensorSpec((None, 2), np.float32),
        "count": est.export.TensorSpec((None,), np.int64),
    }
    receive = est.export.build_raw_serving_input_receiver_fn(specs)
    loaded = est.export.load(fresh.export_saved_model(tmp_path, receive))
    features = custom_features(5)
    del features["ignored"]
    (wanted,) = fresh.predict(lambda: features, yield_single_examples=False)
    assert_same_answers(loaded(features), wanted)
    assert loaded.check() == 0
    with pytest.raises(TypeError, match="must return a ServingInputReceiver, got 3"):
        fresh.export_saved_model(tmp_path, lambda: 3)


def test_strings_of_any_number_can_be_received(exported, tmp_path):
    estimator, features, _ = exported("linear")
    receive = est.export.build_raw_serving_input_receiver_fn(
        {
            "city": est.export.TensorSpec((None,), str),
            "job": est.export.TensorSpec((None, None), str),
            "age": np.zeros(1, np.int64),
        }
    )
    loaded = est.export.load(estimator.export_saved_model(tmp_path, receive))
    (wanted,) = estimator.predict(lambda: features, yield_single_examples=False)
    assert_same_answers(loaded(features, "predict"), wanted)


def by_size(features, mode):
    """Computes with the number of rows in Python, which no open size allows."""
    weight = est.get_variable("weight", (), 2.0, np.float32, trainable=False)
    scale = 1.0 if int(features.shape[0]) > 1000 else 2.0
    return est.EstimatorSpec(mode, predictions={"y": features * weight * scale}, loss=weight * 0)


def test_a_model_that_computes_with_sizes_is_exported_for_some(tmp_path, caplog):
    estimator = est.Estimator(by_size, str(tmp_path / "model"))
    x = np.arange(20, dtype=np.float32)
    estimator.train(lambda: x, steps=1)
    path = estimator.export_saved_model(tmp_path, batch_sizes=(1, 4))
    assert "is exported for batches of [1, 4] rows" in caplog.text
    loaded = est.export.load(path)
    for count in (1, 2, 4, 7, 20):
        np.testing.assert_array_equal(loaded(x[:count])["y"], x[:count] * 4)


@pytest.mark.parametrize(
    ("answer", "sizes"),
    [
        (lambda x: x.sum(), (1, 8)),  # rows that fill up would count
        (lambda x: jnp.zeros(8), (1, 8)),  # not one for each row
        (lambda x: jnp.zeros(8), (8,)),  # although it looks so
        (lambda x: x - x.mean(), (1, 8)),
    ],
)
def test_what_answers_no_rows_is_not_exported_for_some_sizes(answer, sizes, tmp_path):
    def model_fn(features, mode):
        assert int(features.shape[0]) > 0
        weight = est.get_variable("weight", (), 2.0, np.float32, trainable=False)
        return est.EstimatorSpec(mode, predictions=answer(features * weight), loss=weight * 0)

    estimator = est.Estimator(model_fn, str(tmp_path / "model"))
    estimator.train(lambda: np.arange(20, dtype=np.float32), steps=1)
    with pytest.raises(ValueError, match="since it does not answer row by row"):
        estimator.export_saved_model(tmp_path, batch_sizes=sizes)


def test_a_function_on_the_host_cannot_be_exported(tmp_path):
    age = fc.bucketized_column(fc.numeric_column("age", normalizer_fn=lambda x: x / 10), [3.0])
    estimator = canned.LinearClassifier([fc.crossed_column(["city", age], 9)], tmp_path / "model")
    estimator.train(lambda: (PEOPLE, MOVED), steps=1)
    with pytest.raises(TypeError, match="holds a Python function"):
        estimator.export_saved_model(tmp_path / "exports")
    assert os.listdir(tmp_path / "exports") == []


def test_an_untrained_model_cannot_be_exported(tmp_path):
    estimator = quiet(str(tmp_path / "model"))
    list(estimator.predict(lambda: features_only(1)))
    with pytest.raises(ValueError, match="Couldn't find trained model"):
        estimator.export_saved_model(tmp_path / "exports")
    warm = est.Estimator(
        line, tmp_path / "warm", warm_start_from={"line/bias": np.float32(3)}, params={}
    )
    list(warm.predict(lambda: features_only(1)))
    loaded = est.export.load(warm.export_saved_model(tmp_path / "exports"))
    assert loaded.variables["line/bias"] == 3


def test_directories_are_named_by_the_time_and_never_written_over(tmp_path):
    estimator = quiet(str(tmp_path / "model")).train(endless, steps=1)
    paths = [Path(estimator.export_saved_model(tmp_path / "e").decode()) for _ in range(2)]
    assert sorted(os.listdir(tmp_path / "e")) == sorted(path.name for path in paths)
    assert all(len(path.name) == 10 and path.name.isdigit() for path in paths)
    assert est.export.load(tmp_path / "e").path == str(max(paths))


def test_an_earlier_checkpoint_and_assets_can_be_exported(tmp_path):
    estimator = quiet(str(tmp_path / "model"), save_checkpoints_steps=2).train(endless, steps=4)
    first = next(p for p in estimator.all_checkpoints() if p.endswith("/2"))
    (tmp_path / "note.txt").write_text("hello")
    path = estimator.export_saved_model(
        tmp_path,
        assets_extra={"deep/note.txt": tmp_path / "note.txt"},
        checkpoint_path=first,
        as_text=True,
    ).decode()
    assert est.export.load(path).global_step == 2
    assert (Path(path) / "assets.extra" / "deep" / "note.txt").read_text() == "hello"
    assert "stablehlo" in (Path(path) / "1_serving_default.mlir").read_text()
    with pytest.raises(ValueError, match="does not lie in assets"):
        estimator.export_saved_model(tmp_path, assets_extra={"../x": tmp_path / "note.txt"})


def test_all_modes_go_into_one_export_with_one_set_of_variables(exported, tmp_path):
    estimator = exported("rnn")[0]
    results = estimator.evaluate(lambda: (TEXTS, MOODS))
    path = estimator.experimental_export_all_saved_models(
        tmp_path, dict.fromkeys([est.ModeKeys.PREDICT, est.ModeKeys.EVAL, est.ModeKeys.TRAIN])
    )
    loaded = est.export.load(path)
    assert {"serving_default", "predict", "train", "eval"} <= {*loaded.signatures}
    assert loaded.check() == 3
    answers = loaded(TEXTS, "eval", labels=MOODS)
    for name, value in results.items():
        if name not in ("loss", "global_step"):
            np.testing.assert_allclose(answers[f"metrics/{name}/value"], value, rtol=1e-5)
    np.testing.assert_allclose(answers["loss"], results["loss"], rtol=1e-6)
    assert answers["predictions/classes"].shape == (6, 1)
    assert [*loaded(TEXTS, "train", labels=MOODS)] == ["loss"]
    with pytest.raises(ValueError, match="needs labels"):
        loaded(TEXTS, "eval")
    with pytest.raises(ValueError, match="takes no labels"):
        loaded(TEXTS, "predict", labels=MOODS)


def test_a_mode_may_be_exported_by_shapes_alone(tmp_path):
    quiet(str(tmp_path / "model")).train(endless, steps=1)
    fresh = quiet(str(tmp_path / "model"))
    receive = est.export.build_raw_supervised_input_receiver_fn(
        {"x": est.export.TensorSpec((None, 2))}, np.zeros(1, np.float32)
    )
    path = fresh.export_saved_model(tmp_path, receive, experimental_mode=est.ModeKeys.EVAL)
    ((features, labels),) = batches(1, rows=7)
    answers = est.export.load(path)(features, "eval", labels=labels)
    results = fresh.evaluate(lambda: [(features, labels)])
    np.testing.assert_allclose(answers["loss"], results["loss"], rtol=1e-6)
    np.testing.assert_allclose(answers["metrics/error/value"], results["error"], rtol=1e-6)
    serving = est.export.build_raw_serving_input_receiver_fn({"x": np.zeros((1, 2))})
    with pytest.raises(TypeError, match="must return a SupervisedInputReceiver"):
        fresh.export_saved_model(tmp_path, serving, experimental_mode=est.ModeKeys.EVAL)
    for wrong in ({}, {"evaluate": None}):
        with pytest.raises(ValueError, match="No valid modes for exporting found"):
            fresh.experimental_export_all_saved_models(tmp_path, wrong)
    assert est.export.load(fresh.export_savedmodel(tmp_path, serving)).signatures


def test_several_outputs_need_a_default_and_one_is_it():
    with pytest.raises(ValueError, match="none of them is the default"):
        export_outputs.signatures({"a": 1, "b": 2}, None)
    assert export_outputs.signatures({"a": 1}, None)["serving_default"].answers() == {"output": 1}


def test_signatures_whose_names_look_alike_are_told_apart(tmp_path):
    def model_fn(features, mode):
        x = features["x"]
        outputs = {"serving_default": x, "a/b": x + 1, "a_b": x + 2, "größe" * 60: x + 3}
        return est.EstimatorSpec(mode, predictions=x, loss=x.sum(), export_outputs=outputs)

    x = np.arange(3, dtype=np.float32)
    estimator = est.Estimator(model_fn, tmp_path / "model").train(lambda: {"x": x}, steps=1)
    loaded = est.export.load(estimator.export_saved_model(tmp_path))
    given = [loaded({"x": x}, name)["output"].tolist() for name in ("a/b", "a_b", "größe" * 60)]
    assert given == [[1, 2, 3], [2, 3, 4], [3, 4, 5]]


def test_an_export_holds_no_path_of_a_source(exported):
    _, _, path = exported("custom")
    for file in Path(path).iterdir():
        assert str(Path(__file__).parent).encode() not in file.read_bytes(), file.name


def test_exporters_write_exports(tmp_path):
    estimator = quiet(str(tmp_path / "model"))
    exporters = [
        est.BestExporter("best"),
        est.LatestExporter("latest", exports_to_keep=1),
        est.FinalExporter("final"),
    ]
    _, paths = est.train_and_evaluate(
        estimator,
        est.TrainSpec(endless, max_steps=4),
        est.EvalSpec(lambda: batches(1), every_n_steps=2, exporters=exporters),
    )
    for name, path in zip(("best", "latest", "final"), paths, strict=True):
        root = tmp_path / "model" / "export" / name
        assert est.export.load(root).global_step == 4
        assert est.export.load(path).path.startswith(str(root))


def test_words_of_a_file_go_into_the_export(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("clerk\nnurse\n")
    job = fc.categorical_column_with_vocabulary_file("job", path, num_oov_buckets=1)
    columns = [fc.indicator_column(job)]
    estimator = canned.DNNClassifier([2], columns, tmp_path / "model")
    estimator.train(lambda: ({"job": PEOPLE["job"]}, MOVED), steps=1)
    directory = estimator.export_saved_model(tmp_path / "exports").decode()
    asked = {"job": PEOPLE["job"]}
    (wanted,) = estimator.predict(lambda: asked, yield_single_examples=False)
    path.unlink()
    assert_same_answers(est.export.load(directory)(asked, "predict"), wanted)


def test_digits_beyond_float32_go_into_an_export_too(tmp_path):
    points = np.random.default_rng(0).normal(1e9, 1.0, size=(40, 2))
    estimator = canned.KMeans(3, tmp_path / "model").train(lambda: points, steps=2)
    loaded = est.export.load(estimator.export_saved_model(tmp_path))
    (wanted,) = estimator.predict(lambda: points, yield_single_examples=False)
    assert_same_answers(loaded(points, "predict"), wanted)
    assert len({*wanted["cluster_index"]}) == 3


def test_the_normalizer_of_a_sequence_is_inside_the_module(tmp_path):
    column = fc.sequence_numeric_column("x", normalizer_fn=lambda x: x * 2)
    estimator = canned.RNNClassifier([column], units=[2], model_dir=tmp_path / "model")
    features = {"x": [[1.0, 2.0], [3.0]]}
    estimator.train(lambda: (features, [0, 1]), steps=1)
    loaded = est.export.load(estimator.export_saved_model(tmp_path))
    (wanted,) = estimator.predict(lambda: features, yield_single_examples=False)
    assert_same_answers(loaded(features, "predict"), wanted)


def test_signatures_that_answer_the_same_share_a_function(exported):
    _, features, path = exported("linear")
    loaded = est.export.load(path)
    files = {name: loaded.signature(name).files[None] for name in loaded.signatures}
    assert files["serving_default"] == files["classification"] != files["predict"]
    assert_same_answers(loaded(features), loaded(features, "classification"))
