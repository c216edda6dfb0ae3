"""Requests that come at the same time are answered together, each as if it had come alone."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest
from exporting import TEXTS, assert_same_answers, rows_of
from models import quiet

import estimator as est
from estimator.merged_requests import MergedRequests, may_be_merged


@pytest.fixture(scope="module")
def loaded_of(exported):
    """Gives features and a loaded model by kind, read once."""

    @functools.cache
    def made(kind):
        _, features, path = exported(kind)
        return features, est.export.load(path)

    return made


class Gate:
    """Lets a model answer once it is opened, and counts its calls and their rows."""

    def __init__(self, loaded, monkeypatch):
        self.open = threading.Event()
        self.entered = threading.Event()
        self.rows = []
        answer = loaded.run

        def run(request):
            self.rows.append(request.rows)
            self.entered.set()
            assert self.open.wait(30)
            return answer(request)

        monkeypatch.setattr(loaded, "run", run)


def ask_at_once(merged, gate, requests, signature):
    """Asks once, and all the others while the model is busy with that."""
    with ThreadPoolExecutor(len(requests)) as pool:
        futures = [pool.submit(merged, requests[0], signature)]
        assert gate.entered.wait(30)
        futures += [pool.submit(merged, request, signature) for request in requests[1:]]
        while len(merged._waiting) < len(requests) - 1 and not any(f.done() for f in futures):
            threading.Event().wait(0.001)
        gate.open.set()
        return futures


@pytest.mark.parametrize("kind", ["kmeans", "linear", "rnn", "rnn of steps"])
def test_merged_requests_are_answered_as_they_are_alone(loaded_of, kind, monkeypatch):
    features, loaded = loaded_of(kind)
    asked = [rows_of(features, count) for count in (1, 2, 3, 1, 3)]
    wanted = [loaded(request, "predict") for request in asked]
    merged = MergedRequests(loaded)
    gate = Gate(loaded, monkeypatch)
    given = [future.result() for future in ask_at_once(merged, gate, asked, "predict")]
    for one, other in zip(given, wanted, strict=True):
        assert_same_answers(one, other)
    assert len(gate.rows) < len(asked)


def test_all_that_waits_goes_together_filled_up_to_a_power_of_two(loaded_of, monkeypatch):
    _, loaded = loaded_of("rnn")
    asked = [{"text": [["good"]] * rows, "price": [1.0] * rows} for rows in (1, 3, 1, 1)]
    merged = MergedRequests(loaded)
    gate = Gate(loaded, monkeypatch)
    for future in ask_at_once(merged, gate, asked, "predict"):
        future.result()
    assert gate.rows == [1, 8]


def test_no_more_rows_go_together_than_may(loaded_of, monkeypatch):
    _, loaded = loaded_of("rnn")
    asked = [{"text": [["good"]] * rows, "price": [1.0] * rows} for rows in (1, 3, 3, 3, 9)]
    merged = MergedRequests(loaded, most_rows=6)
    gate = Gate(loaded, monkeypatch)
    for future in ask_at_once(merged, gate, asked, "predict"):
        future.result()
    assert sorted(gate.rows) == [1, 4, 8, 16]


def test_a_wrong_request_harms_no_other(loaded_of):
    _, loaded = loaded_of("rnn")
    good = rows_of(TEXTS, 2)
    wanted = loaded(good, "predict")
    merged = MergedRequests(loaded)
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(merged, {"text": [["good"]]} if i % 3 == 0 else good, "predict")
            for i in range(30)
        ]
        for i, future in enumerate(futures):
            if i % 3 == 0:
                with pytest.raises(ValueError, match=r"\['price'\] are missing"):
                    future.result()
            else:
                assert_same_answers(future.result(), wanted)


def test_where_all_together_fail_each_is_tried_alone(loaded_of, monkeypatch):
    _, loaded = loaded_of("rnn")
    asked = [{"text": [["good"]], "price": [float(i)]} for i in range(3)]
    wanted = [loaded(request, "predict") for request in asked]
    merged = MergedRequests(loaded)
    gate = Gate(loaded, monkeypatch)
    answer = loaded.run

    def run(request):
        if request.rows > 1:
            raise MemoryError
        return answer(request)

    monkeypatch.setattr(loaded, "run", run)
    futures = ask_at_once(merged, gate, asked, "predict")
    for future, one in zip(futures, wanted, strict=True):
        assert_same_answers(future.result(), one)


def test_a_failure_of_the_model_reaches_who_asked(loaded_of, monkeypatch):
    _, loaded = loaded_of("rnn")
    merged = MergedRequests(loaded)

    def run(request):
        raise MemoryError("no room")

    monkeypatch.setattr(loaded, "run", run)
    with pytest.raises(MemoryError, match="no room"):
        merged(rows_of(TEXTS, 1), "predict")


@pytest.mark.parametrize(
    ("kind", "signature", "is_merged"),
    [
        ("rnn", "predict", True),
        ("rnn of steps", "predict", True),
        ("kmeans", "predict", True),
        ("kmeans", "cluster_centers", False),  # of no rows
        ("custom", "classify", True),
        ("custom", "serving_default", False),  # a sum over the rows
    ],
)
def test_only_what_answers_row_by_row_is_merged(loaded_of, kind, signature, is_merged):
    assert may_be_merged(loaded_of(kind)[1], signature) is is_merged


ANSWERS = {  # whether rows see each other
    "mean": (lambda x: x - x.mean(), True),  # of these the shapes tell nothing
    "first": (lambda x: x - x[:1], True),
    "sums": (lambda x: jnp.cumsum(x, 0), True),
    "filled": (lambda x: jnp.where(jnp.isnan(x), jnp.nanmean(x, 0), x), True),
    "large": (lambda x: jnp.where(x > 10, x.mean(0), x), True),
    "missing": (lambda x: jnp.where(jnp.isnan(x).any(), 0, x), True),
    "flat": (lambda x: x.reshape(-1), True),  # of these they do
    "products": (lambda x: x @ x.T, True),
    "twice": (lambda x: jnp.concatenate([x, x]), True),
    "serving_default": (lambda x: x * 2, False),
}


def company(features, mode):
    weight = est.get_variable("weight", (), 1.0, trainable=False)
    outputs = {name: answer(features["x"] * weight) for name, (answer, _) in ANSWERS.items()}
    return est.EstimatorSpec(mode, outputs["mean"], loss=weight, export_outputs=outputs)


@pytest.mark.parametrize("is_described", [True, False])
def test_rows_that_see_each_other_are_never_merged(is_described, tmp_path):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    estimator = est.Estimator(company, tmp_path / "model").train(lambda: {"x": x}, steps=1)
    kind = {"x": est.export.TensorSpec((None, 2))}
    receive = est.export.build_raw_serving_input_receiver_fn(kind) if is_described else None
    loaded = est.export.load(estimator.export_saved_model(tmp_path, receive))
    merged = MergedRequests(loaded)
    for name, (answer, see_each_other) in ANSWERS.items():
        assert may_be_merged(loaded, name) is not see_each_other, name
        np.testing.assert_allclose(merged({"x": x}, name)["output"], answer(x), rtol=1e-6)


def test_nothing_is_merged_if_that_is_not_wanted(tmp_path, monkeypatch):
    estimator = quiet(str(tmp_path / "model"))
    x = np.ones((3, 2), np.float32)
    estimator.train(lambda: ({"x": x}, np.ones(3, np.float32)), steps=1)
    loaded = est.export.load(estimator.export_saved_model(tmp_path))
    gate = Gate(loaded, monkeypatch)
    gate.open.set()
    MergedRequests(loaded, most_rows=0)({"x": x})
    assert gate.rows == [3]


def test_whoever_is_answered_waits_for_no_other_call(loaded_of, monkeypatch):
    """Callers that ask on and on share calls: each call answers about half of them."""
    _, loaded = loaded_of("rnn")
    merged = MergedRequests(loaded)
    answer, calls = loaded.run, []

    def slowly(request):
        calls.append(request.rows)
        time.sleep(0.02)
        return answer(request)

    def ask(_):
        for _ in range(10):
            merged({"text": [["good"]], "price": [1.0]}, "predict")

    monkeypatch.setattr(loaded, "run", slowly)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert len(calls) < 80 / 2.5


def test_where_it_cannot_be_tried_nothing_is_merged(loaded_of, monkeypatch):
    _, loaded = loaded_of("rnn")
    answer = loaded.run

    def run(request):
        if request.rows == 4:  # what is made up
            raise ValueError("Error refining shapes")
        return answer(request)

    monkeypatch.setattr(loaded, "run", run)
    assert not may_be_merged(loaded, "predict")
    given = MergedRequests(loaded)({"text": [["good"]], "price": [1.0]}, "predict")
    assert given["probabilities"].shape == (1, 2)
