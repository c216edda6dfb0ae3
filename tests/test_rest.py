"""The REST service in the shapes of TensorFlow Serving, and what is wrong with a request."""

import base64
import copy
import functools
import json
import logging
import random
import shutil

import numpy as np
import pytest
from exporting import PEOPLE, POINTS, TEXTS, custom_features
from models import endless, quiet
from rest import ask

import canned
import estimator as est
import feature_columns as fc

MODEL = "/v1/models/default"
ROW = {"city": "Rome", "job": ["nurse"], "age": 30}


@pytest.fixture(scope="module")
def served(exported):
    """Gives the application and the loaded model by kind, made once."""

    @functools.cache
    def made(kind):
        # To find out whether rows see each other takes time, and test_merged_requests.py asks it.
        rows = 64 if kind == "rnn" else 0
        model = est.export.ServedModel(exported(kind)[2], rows, reload_secs=None)
        return est.export.RestApplication(model), model.current.loaded

    return made


def as_json(answer):
    """Returns an answer as it looks after a journey through JSON."""
    return json.loads(json.dumps(answer.tolist()))


def test_rows_are_answered_by_rows_and_columns_by_columns(served):
    application, loaded = served("linear")
    columns = {"city": PEOPLE["city"], "job": PEOPLE["job"], "age": PEOPLE["age"].tolist()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    wanted = {name: as_json(answer) for name, answer in loaded(columns, "predict").items()}
    body = {"signature_name": "predict", "inputs": columns}
    assert ask(application, f"{MODEL}:predict", body)[::2] == (200, {"outputs": wanted})
    body = {"signature_name": "predict", "instances": rows}
    status, _, given = ask(application, f"{MODEL}:predict", body)
    assert status == 200
    assert given == {"predictions": [{n: wanted[n][i] for n in wanted} for i in range(len(rows))]}


def test_one_input_and_one_answer_need_no_names(served):
    application, loaded = served("kmeans")
    points = POINTS[:3].tolist()
    wanted = as_json(loaded(points, "cluster_index")["output"])
    for body, answer in (
        ({"instances": points}, {"predictions": wanted}),
        ({"inputs": points}, {"outputs": wanted}),
    ):
        body["signature_name"] = "cluster_index"
        assert ask(application, f"{MODEL}:predict", body)[::2] == (200, answer)


def test_the_one_input_may_have_a_name(tmp_path):
    estimator = quiet(str(tmp_path / "model")).train(endless, steps=1)
    estimator.export_saved_model(tmp_path / "exports")
    model = est.export.ServedModel(tmp_path / "exports", reload_secs=None)
    application = est.export.RestApplication(model, name="line")
    answers = [
        ask(application, "/v1/models/line:predict", {"instances": rows})
        for rows in ([[1.0, 2.0], [3.0, 4.0]], [{"x": [1.0, 2.0]}, {"x": [3.0, 4.0]}])
    ]
    assert answers[0] == answers[1]
    assert answers[0][0] == 200
    assert len(answers[0][2]["predictions"]) == 2


def test_classes_come_as_pairs_with_their_scores(served):
    application, loaded = served("rnn")
    examples = [{"text": ["good", "food"]}, {"text": ["so"]}]
    body = {"examples": examples, "context": {"price": 10.0}}
    features = {"text": [["good", "food"], ["so"]], "price": [10.0, 10.0]}
    answers = loaded(features)
    wanted = [
        [[name, score] for name, score in zip(names, scores, strict=True)]
        for names, scores in zip(*map(as_json, answers.values()), strict=True)
    ]
    assert ask(application, f"{MODEL}:classify", body)[::2] == (200, {"result": wanted})
    assert wanted[0][0][0] == "cross"


def test_scores_alone_have_empty_names(served):
    application, _ = served("custom")
    body = {"signature_name": "classify", "examples": [{"x": [1.0, 2.0], "count": 3}]}
    status, _, given = ask(application, f"{MODEL}:classify", body)
    assert status == 200
    assert [name for name, _ in given["result"][0]] == ["", "", ""]


def test_regression_gives_a_number_a_row(served):
    application, loaded = served("linear")
    body = {"signature_name": "regression", "examples": [ROW, ROW | {"city": "Oslo"}]}
    status, _, given = ask(application, f"{MODEL}:regress", body)
    assert status == 200
    wanted = loaded([ROW, ROW | {"city": "Oslo"}], "regression")["outputs"]
    assert given["result"] == as_json(wanted.ravel())


def test_answers_that_are_no_rows_are_given_for_columns_only(served):
    application, loaded = served("custom")
    features = {n: np.asarray(v).tolist() for n, v in custom_features(3).items()}
    status, _, given = ask(application, f"{MODEL}:predict", {"inputs": features})
    assert status == 200
    assert given["outputs"]["sum"] == as_json(loaded(features)["sum"])
    rows = [{n: v[i] for n, v in features.items()} for i in range(3)]
    status, _, given = ask(application, f"{MODEL}:predict", {"instances": rows})
    assert (status, "does not answer row by row" in given["error"]) == (400, True)


def test_records_come_as_base64(tmp_path):
    estimator = canned.LinearClassifier([fc.numeric_column("x")], tmp_path / "model")
    estimator.train(lambda: ({"x": [1.0, 2.0]}, [0, 1]), steps=1)
    receive = est.export.build_parsing_serving_input_receiver_fn(
        fc.make_parse_example_spec([fc.numeric_column("x")])
    )
    estimator.export_saved_model(tmp_path / "exports", receive)
    model = est.export.ServedModel(tmp_path / "exports", reload_secs=None)
    application = est.export.RestApplication(model)
    records = [est.export.example_record({"x": [value]}) for value in (1.0, 2.0)]
    texts = [{"b64": base64.b64encode(record).decode()} for record in records]
    wanted = as_json(model.current.loaded({"x": [1.0, 2.0]}, "predict")["logits"])
    for body in (
        {"inputs": {"examples": texts}},
        {"instances": [{"examples": text} for text in texts]},
    ):
        body["signature_name"] = "predict"
        status, _, given = ask(application, f"{MODEL}:predict", body)
        assert status == 200, given
        rows = given.get("predictions") or given["outputs"]["logits"]
        assert [row["logits"] if isinstance(row, dict) else row for row in rows] == wanted
    body = {"inputs": {"examples": [{"b64": "?"}]}}
    assert ask(application, f"{MODEL}:predict", body)[0] == 400


def test_the_status_names_the_version_that_is_served(served):
    application, loaded = served("rnn")
    number = loaded.path.rpartition("/")[2]
    _, _, given = ask(application, MODEL)
    assert given["model_version_status"][0]["version"] == number
    assert given["model_version_status"][0]["state"] == "AVAILABLE"
    for path in (f"{MODEL}/versions/{number}", f"{MODEL}/versions/{number}/metadata"):
        assert ask(application, path)[0] == 200
    status, _, given = ask(application, f"{MODEL}/versions/3")
    assert (status, given["error"]) == (404, f"Version 3 is not served; {number} is.")


def test_metadata_describe_the_signatures(served):
    application, _ = served("kmeans")
    _, _, given = ask(application, f"{MODEL}/metadata")
    assert given["model_spec"]["name"] == "default"
    described = given["metadata"]["signature_def"]["signature_def"]["predict"]
    assert described["method_name"] == "tensorflow/serving/predict"
    sizes = [{"size": "-1", "name": ""}, {"size": "3", "name": ""}]
    assert described["inputs"] == {
        "features": {
            "name": "features",
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": sizes, "unknown_rank": False},
        }
    }
    assert described["outputs"]["cluster_index"]["dtype"] == "DT_INT64"
    application, _ = served("linear")
    signatures = ask(application, f"{MODEL}/metadata")[2]["metadata"]["signature_def"]
    described = signatures["signature_def"]["classification"]
    assert described["method_name"] == "tensorflow/serving/classify"
    assert described["inputs"]["job"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
    assert described["outputs"]["classes"]["dtype"] == "DT_STRING"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/", None, 404, "There is nothing at '/'"),
        ("/v1/models/other", None, 404, "There is no model 'other' here; there is 'default'."),
        (f"{MODEL}:train", {}, 404, "There is nothing at"),
        (f"{MODEL}:predict", None, 405, "is asked by POST"),
        (MODEL, {}, 405, "is asked by GET"),
        (f"{MODEL}:predict", b"{", 400, "is no JSON"),
        (f"{MODEL}:predict", b"\xff", 400, "is no JSON"),
        (f"{MODEL}:predict", b"[" * 100_000, 400, "is no JSON"),
        (f"{MODEL}:predict", b"1" * 5000, 400, "is no JSON"),
        (f"{MODEL}:predict", [], 400, "must be an object"),
        (f"{MODEL}:predict", {}, 400, "must have one of ['instances', 'inputs'], got []"),
        (f"{MODEL}:predict", {"inputs": {}, "instances": []}, 400, "must have one of"),
        (f"{MODEL}:predict", {"instance": []}, 400, 'Did you mean "instances"?'),
        (f"{MODEL}:predict", {"signature_name": "x", "inputs": {}}, 400, "no signature 'x'"),
        (f"{MODEL}:predict", {"signature_name": 3, "inputs": {}}, 400, "must be a string"),
        (f"{MODEL}:predict", {"instances": []}, 400, "at least one row"),
        (f"{MODEL}:predict", {"instances": [ROW, 3]}, 400, "all rows are objects by name"),
        (f"{MODEL}:predict", {"instances": [3]}, 400, "must be a dict by name"),
        (f"{MODEL}:predict", {"instances": [ROW | {"jbo": 1}]}, 400, 'Did you mean "job"?'),
        (f"{MODEL}:predict", {"instances": [ROW | {"age": "x"}]}, 400, "age"),
        (f"{MODEL}:predict", {"inputs": 3}, 400, "must be a dict by name"),
        (f"{MODEL}:classify", {"examples": [3]}, 400, "must be an object"),
        (f"{MODEL}:classify", {"examples": [ROW], "context": 3}, 400, "must be an object"),
        (f"{MODEL}:regress", {"examples": [ROW]}, 400, "does not regress: ask it with :classify"),
    ],
)
def test_what_is_wrong_is_told(served, path, body, status, message):
    given = ask(served("linear")[0], path, body)
    assert given[0] == status
    assert message in given[2]["error"]
    assert status != 405 or given[1]["Allow"] in ("GET, HEAD", "POST")


SMALL = {"text": ["a"], "price": 1.0}


@pytest.fixture(scope="module")
def limited(served):
    """Gives status and error of a body, of a server that takes few bytes and rows."""
    model = est.export.ServedModel(served("rnn")[1].path, 0, reload_secs=None)
    limits = est.export.RequestLimits(body_bytes=50_000, rows=100)
    application = est.export.RestApplication(model, limits=limits)

    def status_of(body, verb="predict", **environ):
        given = ask(application, f"{MODEL}:{verb}", body, **environ)
        return given[0], given[2].get("error", "")

    return status_of


def test_bodies_and_rows_have_limits(limited):
    assert limited({"instances": [SMALL] * 100})[0] == 200
    assert limited({"instances": [SMALL] * 101}) == (
        400,
        "There are 101 rows, and a request may have 100.",
    )
    columns = {"text": [["a"]] * 101, "price": [1.0] * 101}
    assert "may have 100" in limited({"inputs": columns})[1]
    assert limited(b" " * 50_001)[0] == 413
    for length in ("many", "-1", "1" * 5000):
        assert limited(b"", CONTENT_LENGTH=length)[0] == 400


@pytest.mark.parametrize(
    "rows",
    [
        [SMALL] * 80 + [SMALL | {"text": ["a"] * 1000}],  # rows are filled up to the longest,
        [SMALL] * 80 + [SMALL | {"text": ["a" * 1000]}],  # texts to the longest text,
        [SMALL | {"text": ["b"] * 3000 + ["a" * 100]}],  # in one row, too;
        [SMALL | {"text": [["a"] * 300] + [["b"]] * 300}],  # and steps to the largest step
    ],
)
def test_small_bodies_that_take_much_memory_are_refused(limited, rows):
    status, message = limited({"instances": rows})
    assert (status, "Ask for fewer rows at once" in message) == (400, True), message


def test_many_columns_and_long_texts_are_measured_as_they_are(tmp_path):
    columns = [fc.categorical_column_with_hash_bucket(f"c{i}", 9) for i in range(20)]
    estimator = canned.LinearClassifier(columns, tmp_path / "model")
    row = {f"c{i}": ["a"] for i in range(20)}
    estimator.train(lambda: ({name: [["a"], ["b"]] for name in row}, [0, 1]), steps=1)
    estimator.export_saved_model(tmp_path / "exports")
    model = est.export.ServedModel(tmp_path / "exports", 0, reload_secs=None)
    limits = est.export.RequestLimits(50_000)
    application = est.export.RestApplication(model, limits=limits)

    def status_of(rows):
        return ask(application, f"{MODEL}:predict", {"instances": rows})[0]

    # Widened, the counts of all columns would be beyond the limit: they stay as they are.
    assert status_of([row] * 20 + [row | {"c0": ["a"] * 300}]) == 200
    assert status_of([row] * 60 + [row | {"c0": ["a"] * 800}]) == 400  # 61 times 1024
    assert status_of([row] * 20 + [row | {"c0": ["a"] * 200 + ["b" * 67]}]) == 200
    loaded = model.current.loaded
    wide = loaded.request([row | {"c0": ["a", "b", "c"]}], "predict", most_values=1000)
    assert {array.shape for array in wide.inputs} == {(1, 4)}
    narrow = loaded.request([row | {"c0": ["a", "b", "c"]}], "predict", most_values=60)
    assert {array.shape for array in narrow.inputs} == {(1, 4), (1, 1)}


def test_many_names_and_long_contexts_are_refused(limited):
    body = {"examples": [{}] * 80, "context": SMALL | {"text": ["a"] * 6000}}
    assert "fewer rows" in limited(body, "classify")[1]
    body = {"examples": [SMALL] * 80, "context": {f"{i}": 1 for i in range(3000)}}
    assert "context: the model takes no feature '0'" in limited(body, "classify")[1]
    names = [{f"{i}_{j}": 1 for j in range(40)} for i in range(80)]
    assert "takes no feature" in limited({"instances": names})[1]
    long = limited({"signature_name": "x" * 40_000, "inputs": {}})[1]
    assert len(long) < 400


def test_records_are_measured_as_they_are_read(tmp_path):
    column = fc.categorical_column_with_identity("x", 5, default_value=0)
    estimator = canned.LinearClassifier([column], tmp_path / "model")
    estimator.train(lambda: ({"x": [1, 2]}, [0, 1]), steps=1)
    receive = est.export.build_parsing_serving_input_receiver_fn(
        fc.make_parse_example_spec([column])
    )
    estimator.export_saved_model(tmp_path / "exports", receive)
    model = est.export.ServedModel(tmp_path / "exports", reload_secs=None)
    application = est.export.RestApplication(model, limits=est.export.RequestLimits(50_000))
    records = [est.export.example_record({"x": [1] * n}) for n in (1, 1, 3000)]
    texts = [{"b64": base64.b64encode(record).decode()} for record in records]
    assert ask(application, f"{MODEL}:predict", {"instances": texts})[0] == 200
    status, _, given = ask(application, f"{MODEL}:predict", {"instances": texts[:1] * 50 + texts})
    assert (status, "fewer rows" in given["error"]) == (400, True)
    described = ask(application, f"{MODEL}/metadata")[2]["metadata"]["signature_def"]
    inputs = described["signature_def"]["predict"]["inputs"]
    assert {name: entry["dtype"] for name, entry in inputs.items()} == {"examples": "DT_STRING"}


def test_features_in_one_another_may_come_in_rows(tmp_path):
    def model_fn(features, mode):
        weight = est.get_variable("weight", (), 1.0, trainable=False)
        answers = (features["a"]["x"] + features["a"]["y"]) * weight
        return est.EstimatorSpec(mode, predictions=answers, loss=weight)

    features = {"a": dict.fromkeys("xy", np.float32([1, 2]))}
    estimator = est.Estimator(model_fn, tmp_path / "model").train(lambda: features, steps=1)
    estimator.export_saved_model(tmp_path / "exports")
    model = est.export.ServedModel(tmp_path / "exports", 0, reload_secs=None)
    application = est.export.RestApplication(model)
    rows = [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0}]
    body = {"instances": [{"a": row} for row in rows]}
    assert ask(application, f"{MODEL}:predict", body)[2] == {"predictions": [3.0, 7.0]}
    rows[0]["z"] = 1.0
    wanted = {"error": "The model takes no feature 'a/z'."}
    assert ask(application, f"{MODEL}:predict", body)[::2] == (400, wanted)


def test_a_server_may_wait_for_the_first_export(served, tmp_path):
    with pytest.raises(est.export.DamagedExportError, match="There is no export in"):
        est.export.ServedModel(tmp_path, reload_secs=None)
    model = est.export.ServedModel(tmp_path, 0, reload_secs=None, wait=True)
    application = est.export.RestApplication(model)
    status, headers, given = ask(application, MODEL)
    assert (status, headers["Retry-After"], given["error"]) == (503, "1", "There is no model yet.")
    shutil.copytree(served("kmeans")[1].path, tmp_path / "1700000001")
    model.refresh()
    assert ask(application, MODEL)[0] == 200


def test_head_has_no_body_and_names_are_parts_of_addresses(served):
    application, loaded = served("kmeans")
    told = []
    environ = {"REQUEST_METHOD": "HEAD", "PATH_INFO": MODEL}
    assert list(application(environ, lambda *given: told.append(given))) == []
    assert told[0][0] == "200 OK"
    model = est.export.ServedModel(loaded.path, 0, reload_secs=None)
    for name in ("a/b", "", "two words", "modèle"):
        with pytest.raises(ValueError, match="is no part of an address"):
            est.export.RestApplication(model, name)


def test_a_failure_of_the_model_is_told_without_its_secrets(served, monkeypatch, caplog):
    _, loaded = served("linear")
    model = est.export.ServedModel(loaded.path, 0, reload_secs=None)

    def run(request):
        raise RuntimeError("a secret path")

    monkeypatch.setattr(model.current.loaded, "run", run)
    with caplog.at_level(logging.ERROR):
        status, _, given = ask(
            est.export.RestApplication(model), f"{MODEL}:predict", {"instances": [ROW]}
        )
    assert (status, given) == (500, {"error": "The model failed: RuntimeError."})
    assert "a secret path" in caplog.text


def mutated(body, rng):
    """Returns a request body that somebody got wrong, or means ill."""
    body = copy.deepcopy(body)
    odd = [
        *(None, True, -1, 0, 3.5, 1e308, -1e-320, 2**31, 2**63, 10**30, float("nan"), float("inf")),
        *("", "Rome", "\x00", "\ud800", "a" * 1000, [], {}, [[]], [None], [[[[1]]]], {"b64": "?"}),
        *({"b64": "AAAA"}, {"a": 1}, ["x", 1, None, []], [[1], [2, 3]], [1] * 300),
    ]

    def something_odd():
        return copy.deepcopy(rng.choice(odd))

    for _ in range(rng.choice([1, 1, 2, 5])):
        places = [(None, None)]
        stack = [body]
        while stack:
            node = stack.pop()
            keys = node.keys() if isinstance(node, dict) else range(len(node))
            for key in keys:
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    stack.append(node[key])
        node, key = rng.choice(places)
        if node is None:
            continue
        what = rng.randrange(5)
        if what == 0:
            node[key] = something_odd()
        elif what == 1:
            del node[key]
        elif what == 2 and isinstance(node, dict):
            node[rng.choice(["signature_name", "inputs", "x", "", key + "x"])] = something_odd()
        elif what == 3 and isinstance(node, list):
            node.insert(key, something_odd())
        else:
            node[key] = copy.deepcopy(node[key]) if rng.random() < 0.5 else [node[key]]
    data = json.dumps(body).encode()
    if rng.random() < 0.2:
        place = rng.randrange(len(data))
        data = data[:place] + rng.randbytes(rng.randrange(4)) + data[place + rng.randrange(9) :]
    return data


BODIES = {
    "custom": {"inputs": {n: np.asarray(v).tolist() for n, v in custom_features(3).items()}},
    "kmeans": {"signature_name": "predict", "instances": POINTS[:3].tolist()},
    "linear": {"signature_name": "predict", "instances": [ROW, ROW]},
    "rnn": {
        "examples": [{"text": text} for text in TEXTS["text"][:3]],
        "context": {"price": 3.0},
    },
    "rnn of steps": {"inputs": {"x": [[1.0, 2.0, 3.0], [1.0]]}, "signature_name": "predict"},
}


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", list(BODIES))
def test_a_mutated_body_gets_an_answer_or_a_reason_and_harms_nobody(served, kind, count):
    application, _ = served(kind)
    verb = "classify" if kind == "rnn" else "predict"
    rng = random.Random(kind)
    before = ask(application, f"{MODEL}:{verb}", BODIES[kind])
    assert before[0] == 200, before
    statuses = []
    for _ in range(count):
        body = mutated(BODIES[kind], rng)
        status, _, given = ask(application, f"{MODEL}:{verb}", body)
        assert status in (200, 400), (body, given)
        assert status == 200 or len(given["error"]) > 10, body
        statuses.append(status)
    assert statuses.count(400) > count / 3
    assert ask(application, f"{MODEL}:{verb}", BODIES[kind]) == before
