"""The history: what is noted, what survives a kill, and what is forgotten."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from models import batches, endless, line, make, quiet

import estimator as est
from estimator.history import FILE, History


def test_training_values_and_evaluations_are_plain_records(model_dir):
    estimator = make(line, model_dir, log_step_count_steps=2, save_summary_steps=0)
    assert estimator.history == []
    estimator.train(endless, steps=5)
    results = estimator.evaluate(lambda: batches(2), name="far")
    train, evaluation = estimator.history[:-1], estimator.history[-1]
    assert [(r["mode"], r["global_step"]) for r in train] == [("train", n) for n in (1, 3, 5)]
    assert all(isinstance(r["loss"], float) for r in train)
    assert ["global_step/sec" in r for r in train] == [False, True, True]
    wall_time = evaluation.pop("wall_time")
    assert wall_time >= train[-1]["wall_time"]
    plain = {name: value.item() for name, value in results.items()}
    assert evaluation == {"mode": "eval", "eval_name": "far", **plain}
    lines = (Path(model_dir) / FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines][:-1] == train


def test_a_change_of_what_is_returned_changes_no_record(model_dir):
    History(model_dir).add_evaluation(None, 1, {"loss": 0.5})
    estimator = quiet(model_dir)
    estimator.history[0]["loss"] = 7
    estimator.history.clear()
    assert estimator.history[0]["loss"] == 0.5


def test_what_is_no_number_is_left_out_and_arrays_are_lists(model_dir):
    history = History(model_dir)
    results = {
        "text": "a",
        "nan": np.float32(np.nan),
        "counts": np.array([[1, 2]]),
        "half": jnp.bfloat16(0.5),
        "flag": np.True_,
        "mode": 3,
    }
    history.add_evaluation(None, 4, results)
    (record,) = History(model_dir).records()
    assert np.isnan(record.pop("nan"))
    del record["wall_time"]
    assert record == {
        "mode": "eval",
        "eval_name": None,
        "global_step": 4,
        "counts": [[1, 2]],
        "half": 0.5,
        "flag": True,
    }


def test_the_last_evaluation_of_a_step_counts_in_the_order_of_steps(model_dir):
    history = History(model_dir)
    for step, loss in [(4, 1.0), (2, 2.0), (4, 3.0)]:
        history.add_evaluation("a", step, {"loss": loss})
    history.add_evaluation(None, 3, {"loss": 9.0})
    history.add_training(1, {"loss": 9.0})
    assert list(history.evaluations("a").items()) == [
        (2, {"global_step": 2, "loss": 2.0}),
        (4, {"global_step": 4, "loss": 3.0}),
    ]


@pytest.mark.parametrize(
    "tail", ['{"mode": "eval", "glo', "null\n", "[1]\n", '{"mode": 1}\n', "\xff"]
)
def test_a_line_that_a_kill_has_broken_off_is_passed_over(model_dir, tail):
    History(model_dir).add_training(1, {"loss": 0.5})
    path = os.path.join(model_dir, FILE)
    with open(path, "a", encoding="latin-1") as file:
        file.write(tail)
    history = History(model_dir)
    history.add_training(2, {"loss": 0.25})
    assert [r["global_step"] for r in history.records()] == [1, 2]
    assert [r["global_step"] for r in History(model_dir).records()] == [1, 2]


def test_only_what_was_added_is_read(model_dir, monkeypatch):
    history, other = History(model_dir), History(model_dir)
    for step in range(50):
        other.add_training(step, {"loss": 0.5})
    assert len(history.records()) == 50
    read = []
    monkeypatch.setattr("estimator.history._record", lambda line: read.append(line))
    other.add_training(50, {"loss": 0.5})
    history.evaluations()
    history.evaluations()
    assert len(read) == 1


def test_what_another_process_adds_is_seen(model_dir):
    history, other = History(model_dir), History(model_dir)
    history.add_training(1, {"loss": 0.5})
    other.add_training(2, {"loss": 0.5})
    assert [r["global_step"] for r in history.records()] == [1, 2]


def test_a_run_forgets_what_came_after_the_step_it_begins_at(model_dir):
    estimator = quiet(model_dir, save_checkpoints_steps=2)
    estimator.train(endless, steps=2)
    for step in (0, 2, 3, 40):
        History(model_dir).add_evaluation(None, step, {"loss": 0.5})
    estimator.train(endless, steps=1)
    assert [r["global_step"] for r in estimator.history] == [0, 2]
    assert os.listdir(model_dir).count(FILE) == 1


def test_the_history_costs_no_wait_for_the_device(model_dir):
    estimator = make(line, model_dir, save_summary_steps=0, log_step_count_steps=1)
    seen = []

    class Reader(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            seen.append([r["global_step"] for r in estimator.history])

    estimator.train(endless, [Reader()], steps=3)
    # A loss is read when the next one is due; the last one when the run is over.
    assert seen == [[], [1], [1, 2]]
    assert [r["global_step"] for r in estimator.history] == [1, 2, 3]


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(OSError, match="cannot write the history"):
        History(str(path)).add_training(1, {"loss": 0.5})


def test_curves_are_drawn_for_each_metric(model_dir):
    history = History(model_dir)
    for step in (10, 0):
        history.add_training(step, {"loss": 1.0 / (step + 1)})
        history.add_evaluation(None, step, {"loss": 0.5, "accuracy": 0.1 * step, "counts": [1, 2]})
        history.add_evaluation("far", step, {"loss": 0.75})
    figure = est.plot_history(model_dir)
    loss, accuracy = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ["loss", "accuracy"]
    drawn = {curve.get_label(): curve.get_xydata().tolist() for curve in loss.get_lines()}
    assert drawn == {
        "train": [[0, 1], [10, 1 / 11]],
        "eval": [[0, 0.5], [10, 0.5]],
        "eval far": [[0, 0.75], [10, 0.75]],
    }
    (curve,) = accuracy.get_lines()
    assert curve.get_xydata().tolist() == [[0, 0], [10, 1]]
    assert len(est.plot_history(model_dir, "accuracy").axes) == 1
    with pytest.raises(ValueError, match=r'no metric .accurracy.. Did you mean "accuracy"'):
        est.plot_history(model_dir, ["accurracy"])
    with pytest.raises(ValueError, match="no history"):
        est.plot_history(f"{model_dir}_1")
