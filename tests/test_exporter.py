"""Exporters: what they export, what they keep, and what survives a restart."""

import json
import math
import os

import pytest

import estimator as est
from estimator.exporter import collect


class Server:
    """Stands for an Estimator: writes exports that say what they were asked for."""

    def __init__(self, directory):
        self.directory = directory
        self.time = 1_700_000_000
        self.calls = []

    def export_saved_model(self, export_dir_base, serving_input_receiver_fn, **given):
        self.time += 1
        path = os.path.join(export_dir_base, str(self.time))
        os.makedirs(path)
        self.calls.append((serving_input_receiver_fn, given))
        return path.encode()

    def offer(self, exporter, step, is_final=False, **results):
        """Returns whether the exporter exports, and checks that it then says where."""
        directory = os.path.join(self.directory, exporter.name)
        count = len(self.calls)
        path = exporter.export(
            self, directory, f"ckpt-{step}", {"global_step": step, **results}, is_final
        )
        if len(self.calls) == count:
            return False
        assert path == os.path.join(directory, str(self.time)).encode()
        assert os.path.isdir(path)
        return True

    def kept(self, exporter):
        directory = os.path.join(self.directory, exporter.name)
        return sorted(name for name in os.listdir(directory) if name.isdigit())


@pytest.fixture
def server(tmp_path):
    return Server(str(tmp_path))


def receiver():
    raise AssertionError("exporters hand it on uncalled")


@pytest.mark.parametrize("make_exporter", [est.FinalExporter, est.LatestExporter, est.BestExporter])
def test_what_is_given_is_handed_on(server, make_exporter):
    exporter = make_exporter(
        "x", serving_input_receiver_fn=receiver, assets_extra={"a": "b"}, as_text=True
    )
    assert exporter.name == "x"
    assert server.offer(exporter, 5, is_final=True, loss=0.5)
    given = {"assets_extra": {"a": "b"}, "as_text": True, "checkpoint_path": "ckpt-5"}
    assert server.calls == [(receiver, given)]


def test_the_final_exporter_exports_at_the_end_only(server):
    exporter = est.FinalExporter("final")
    assert not server.offer(exporter, 5, loss=0.5)
    assert server.offer(exporter, 5, is_final=True, loss=0.5)


def test_the_latest_exporter_exports_each_checkpoint_once_and_keeps_the_latest(server):
    exporter = est.LatestExporter("latest", exports_to_keep=2)
    for step in (1, 2, 3):
        assert server.offer(exporter, step, loss=0.5)
    kept = server.kept(exporter)
    assert kept == [str(server.time - 1), str(server.time)]
    assert not server.offer(exporter, 3, is_final=True, loss=0.5)
    assert server.kept(exporter) == kept


def test_the_best_exporter_exports_improvements_only(server):
    exporter = est.BestExporter(exports_to_keep=None)
    losses = [0.5, 0.6, 0.5, math.nan, 0.4, 0.1, 0.2]
    exported = [server.offer(exporter, i, loss=loss) for i, loss in enumerate(losses)]
    assert exported == [True, False, False, False, True, True, False]
    assert len(server.kept(exporter)) == 3


def test_a_restart_never_exports_a_worse_model(server):
    assert server.offer(est.BestExporter("best"), 5, loss=0.5, accuracy=0.9)
    again = est.BestExporter("best")
    assert not server.offer(again, 6, loss=0.6)
    assert not server.offer(again, 5, loss=0.5)
    assert server.offer(again, 7, loss=0.4, accuracy=0.8)
    with open(os.path.join(server.directory, "best", "best.json")) as file:
        best = json.load(file)
    results = {"global_step": 7, "loss": 0.4, "accuracy": 0.8}
    assert best == {"global_step": 7, "export": str(server.time), "results": results}


def test_the_best_may_be_that_of_any_metric_in_either_direction(server):
    high = est.BestExporter("high", metric="auc", mode="max")
    low = est.BestExporter("low", metric="auc", mode="min")
    values = [0.5, 0.7, 0.4, 0.6, 0.8]
    told = {
        exporter.name: [server.offer(exporter, i, loss=0, auc=v) for i, v in enumerate(values)]
        for exporter in (high, low)
    }
    assert told == {
        "high": [True, True, False, False, True],
        "low": [True, False, True, False, False],
    }


def test_the_best_may_be_told_by_a_function(server):
    def compare(best_eval_result, current_eval_result):
        return current_eval_result["auc"] > best_eval_result["auc"] + 0.1

    exporter = est.BestExporter("best", compare_fn=compare)
    assert server.offer(exporter, 1, auc=0.5)
    assert not server.offer(exporter, 2, auc=0.55)
    assert server.offer(exporter, 3, auc=0.65)


def test_a_first_evaluation_that_is_no_number_is_not_the_best(server):
    exporter = est.BestExporter("best")
    assert not server.offer(exporter, 1, loss=math.nan)
    assert server.offer(exporter, 2, loss=9.0)


def test_a_metric_that_is_not_reported_is_an_error_that_lists_those_that_are(server):
    exporter = est.BestExporter("best", metric="acc", mode="max")
    with pytest.raises(ValueError, match=r"no metric 'acc'.*'accuracy', 'global_step'"):
        server.offer(exporter, 1, accuracy=0.5)


def test_a_best_json_of_somebody_else_is_named(server):
    directory = os.path.join(server.directory, "best")
    os.makedirs(directory)
    for text in ("", "[]", '{"results": 3}'):
        with open(os.path.join(directory, "best.json"), "w") as file:
            file.write(text)
        with pytest.raises(ValueError, match=r"best\.json is not what BestExporter has written"):
            server.offer(est.BestExporter("best"), 1, loss=0.5)


def test_only_directories_named_by_ten_digits_are_collected(tmp_path):
    for name in ("1700000001", "1700000002", "1700000003", "170000000", "temp-1700000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("")
    (tmp_path / "best.json").write_text("")
    collect(f"{tmp_path}/", 2)  # a slash at the end is no other directory
    assert sorted(os.listdir(tmp_path)) == [
        "170000000",
        "1700000002",
        "1700000003",
        "best.json",
        "temp-1700000000",
    ]
    collect(str(tmp_path), None)
    collect(str(tmp_path / "none"), 1)
    assert len(os.listdir(tmp_path)) == 5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: est.FinalExporter(""), "FinalExporter: name must be a text"),
        (lambda: est.LatestExporter("x", exports_to_keep=0), "positive int or None, got 0"),
        (lambda: est.BestExporter("x", exports_to_keep=-1), "positive int or None, got -1"),
        (lambda: est.BestExporter("x", compare_fn=3), "compare_fn must be a function"),
        (lambda: est.BestExporter("x", compare_fn=lambda a, b: True), "best_eval_result"),
        (lambda: est.BestExporter("x", metric="auc"), "give metric and mode"),
        (lambda: est.BestExporter("x", mode="max"), "give metric and mode"),
        (lambda: est.BestExporter("x", metric="auc", mode="up"), "give metric and mode"),
        (
            lambda: est.BestExporter(
                "x",
                metric="auc",
                mode="max",
                compare_fn=lambda best_eval_result, current_eval_result: True,
            ),
            "not both",
        ),
    ],
)
def test_exporters_say_no_to_what_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_receiver_that_is_no_function_is_refused_at_once():
    with pytest.raises(TypeError, match="serving_input_receiver_fn must be a function"):
        est.BestExporter("x", {"a": 1})


def test_a_format_of_ones_own_is_one_method(server):
    class Weights(est.BestExporter):
        def write(self, estimator, export_path, checkpoint_path):
            os.makedirs(export_path, exist_ok=True)
            path = os.path.join(export_path, checkpoint_path)
            with open(path, "w") as file:
                file.write("weights")
            return path

    results = {"loss": 0.5, "global_step": 1}
    path = Weights("w").export(server, server.directory, "ckpt-1", results, False)
    assert os.path.exists(path)


def test_a_format_of_ones_own_says_where_it_was_written(server):
    class Silent(est.LatestExporter):
        def write(self, estimator, export_path, checkpoint_path):
            return None

    with pytest.raises(TypeError, match="write must return the path of the export, got None"):
        Silent("s").export(server, server.directory, "ckpt-1", {"loss": 0.5}, False)
