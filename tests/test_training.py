"""train_and_evaluate: when it evaluates, exports and stops, and what it says no to."""

import json
import logging
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from models import (
    ListenerNotes,
    Notes,
    Traced,
    batches,
    endless,
    line,
    make,
    poisoned,
    quiet,
    steps_of,
)

import estimator as est

GOLDEN = json.loads((Path(__file__).parent / "golden" / "loops.json").read_text())


class Recorder(est.Exporter):
    """Notes what it is called with, and returns a path of its own."""

    def __init__(self, name="rec"):
        self.calls = []
        self._name = name

    @property
    def name(self):
        return self._name

    def export(self, estimator, export_path, checkpoint_path, eval_result, is_the_final_export):
        step = int(eval_result["global_step"])
        assert step == int(os.path.basename(checkpoint_path))
        assert est.load_variable(checkpoint_path, "global_step") == step
        assert export_path == os.path.join(estimator.model_dir, "export", self.name)
        self.calls.append((step, is_the_final_export))
        return f"{export_path}/{step}".encode()


class StopAt(est.SessionRunHook):
    """Asks to stop at a step."""

    def __init__(self, step):
        self.step = step

    def after_run(self, run_context, run_values):
        if run_context.session.global_step == self.step:
            run_context.request_stop()


def held_out():
    return batches(2, seed=1)


def evaluated(estimator, name=None):
    """Returns the steps of all evaluations so far, in the order they were made."""
    records = [r for r in estimator.history if r["mode"] == "eval"]
    return [r["global_step"] for r in records if r["eval_name"] == name]


def run(estimator, eval_spec=None, max_steps=10, hooks=None, input_fn=endless, **settings):
    """Trains and evaluates; the settings are those of the EvalSpec."""
    eval_spec = eval_spec or est.EvalSpec(held_out, **{"throttle_secs": 0, **settings})
    train_spec = est.TrainSpec(input_fn, max_steps=max_steps, hooks=hooks)
    return est.train_and_evaluate(estimator, train_spec, eval_spec)


def test_calls_and_exports_come_in_the_order_of_tensorflow(model_dir):
    wanted = GOLDEN["train_and_evaluate"]
    log, recorder = [], Recorder()
    estimator = make(line, model_dir, save_checkpoints_steps=4, keep_checkpoint_max=0)
    train_spec = est.TrainSpec(endless, max_steps=10, saving_listeners=[ListenerNotes(log)])
    eval_spec = est.EvalSpec(
        held_out, hooks=[Notes("eval", log)], exporters=recorder, throttle_secs=0
    )
    metrics, exports = est.train_and_evaluate(estimator, train_spec, eval_spec)
    assert log == wanted["order"]
    assert [["rec", f"model.ckpt-{s}", s, final] for s, final in recorder.calls] == wanted[
        "exports"
    ]
    assert steps_of(estimator) == wanted["checkpoints"]
    assert {*metrics} == {"error", "loss", "global_step"}
    assert exports == [f"{model_dir}/export/rec/10".encode()]


def test_what_is_evaluated_is_what_the_checkpoint_holds(model_dir):
    estimator = quiet(model_dir, save_checkpoints_steps=5)
    run(estimator, every_n_steps=5)
    for record in estimator.history:
        path = os.path.join(model_dir, "checkpoints", str(record["global_step"]))
        results = estimator.evaluate(held_out, checkpoint_path=path)
        assert results["loss"] == record["loss"]
        assert results["error"] == record["error"]


def test_evaluations_on_the_way_neither_load_nor_trace_again(model_dir, caplog):
    caplog.set_level(logging.INFO)
    model_fn = Traced()
    estimator = quiet(model_dir, model_fn, save_checkpoints_steps=2)
    run(estimator, max_steps=2)
    counts = dict(model_fn.counts)
    run(estimator, max_steps=12, every_n_steps=1)
    assert evaluated(estimator) == [2, *range(3, 13)]
    assert model_fn.counts == counts
    assert "Restoring" not in caplog.text


@pytest.mark.parametrize(
    ("throttle_secs", "steps"), [(0, [4, 8, 10]), (600, [4, 10])], ids=["none", "long"]
)
def test_checkpoints_that_come_too_soon_are_not_evaluated(model_dir, caplog, throttle_secs, steps):
    caplog.set_level(logging.INFO)
    estimator = quiet(model_dir, save_checkpoints_steps=4)
    run(estimator, throttle_secs=throttle_secs)
    assert evaluated(estimator) == steps
    assert ("No evaluation at step 8" in caplog.text) == (throttle_secs > 0)


def test_evaluations_by_steps_need_no_checkpoints_of_their_own(model_dir):
    estimator = quiet(model_dir, save_checkpoints_steps=100)
    run(estimator, every_n_steps=3)
    assert evaluated(estimator) == [3, 6, 9, 10]
    assert steps_of(estimator) == [0, 10]


def test_evaluations_by_steps_save_what_exporters_are_given(model_dir):
    recorder = Recorder()
    estimator = quiet(model_dir, save_checkpoints_steps=100)
    run(estimator, every_n_steps=4, exporters=[recorder])
    assert recorder.calls == [(4, False), (8, False), (10, True)]
    assert steps_of(estimator) == [0, 4, 8, 10]


def test_a_second_run_goes_on_by_multiples_of_the_global_step(model_dir):
    estimator = quiet(model_dir, save_checkpoints_steps=100)
    run(estimator, max_steps=5, every_n_steps=4)
    run(estimator, max_steps=13, every_n_steps=4)
    assert evaluated(estimator) == [4, 5, 8, 12, 13]


def test_blocks_of_steps_are_cut_where_an_evaluation_is_due(model_dir):
    estimator = quiet(model_dir, save_checkpoints_steps=100, steps_per_execution=4)
    run(estimator, max_steps=12, every_n_steps=6)
    other = quiet(f"{model_dir}_1", save_checkpoints_steps=100)
    run(other, max_steps=12, every_n_steps=6)
    losses = [[r["loss"] for r in e.history] for e in (estimator, other)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_max_steps_that_are_reached_already_are_evaluated_and_exported(model_dir):
    estimator = quiet(model_dir, save_checkpoints_steps=4)
    estimator.train(endless, max_steps=10)
    recorder = Recorder()
    metrics, exports = run(estimator, exporters=recorder)
    assert (metrics["global_step"], recorder.calls) == (10, [(10, True)])
    assert exports == [f"{model_dir}/export/rec/10".encode()]


@pytest.mark.parametrize(
    "ending",
    [
        {"input_fn": lambda: batches(6)},
        {"input_fn": lambda: batches(6), "max_steps": None},
        {"hooks": [StopAt(6)]},
    ],
    ids=["input, max_steps", "input", "hook"],
)
@pytest.mark.parametrize("every", [None, 3, 4])
def test_a_run_that_ends_before_max_steps_exports_too(model_dir, ending, every):
    recorder = Recorder()
    estimator = quiet(model_dir, save_checkpoints_steps=3)
    metrics, _ = run(estimator, every_n_steps=every, exporters=recorder, **ending)
    assert metrics["global_step"] == 6
    # Nobody knew at step 6 that it was the last one.
    last = [(4, False)] if every == 4 else [(3, False), (6, False)]
    assert recorder.calls == [*last, (6, True)]
    assert evaluated(estimator) == [step for step, _ in recorder.calls[:-1]] + [6] * (every == 4)


def test_several_evaluations_are_told_apart_by_name(model_dir):
    a, b = Recorder("a"), Recorder("b")
    specs = [
        est.EvalSpec(held_out, name="near", throttle_secs=0, exporters=a),
        est.EvalSpec(lambda: batches(1, seed=2), name="far", every_n_steps=5, exporters=b),
    ]
    estimator = quiet(model_dir, save_checkpoints_steps=4)
    metrics, exports = run(estimator, specs)
    assert evaluated(estimator, "near") == [4, 5, 8, 10]
    assert evaluated(estimator, "far") == [5, 10]
    assert a.calls[-1] == b.calls[-1] == (10, True)
    assert exports == [f"{model_dir}/export/{name}/10".encode() for name in "ab"]
    assert metrics["loss"] == estimator.evaluate(held_out)["loss"]
    assert {"eval_near", "eval_far"} <= {*os.listdir(model_dir)}


def test_evaluations_take_at_most_so_many_batches_and_the_hooks_they_are_given(model_dir):
    notes = Notes()
    run(quiet(model_dir), est.EvalSpec(held_out, steps=1, hooks=[notes], every_n_steps=5))
    assert [entry[1] for entry in notes.log].count("after_run") == 2


def test_several_devices_train_and_evaluate_as_one_does(model_dir):
    two = est.DataParallel(jax.devices()[:2])
    losses = []
    for name, devices in (("one", {}), ("two", {"train_distribute": two, "eval_distribute": two})):
        estimator = quiet(f"{model_dir}_{name}", **devices)
        run(estimator, max_steps=4, every_n_steps=2)
        losses.append([r["loss"] for r in estimator.history])
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_a_loss_that_is_no_number_is_not_evaluated(model_dir):
    def input_fn():
        xs = [np.full((4, 2), np.nan if i == 5 else 0.1, np.float32) for i in range(1, 9)]
        return [({"x": x}, np.zeros(4, np.float32)) for x in xs]

    estimator = quiet(model_dir, poisoned, save_checkpoints_steps=2, nan_policy="stop")
    recorder = Recorder()
    spec = est.EvalSpec(lambda: batches(1), every_n_steps=3, exporters=recorder)
    metrics, _ = run(estimator, spec, input_fn=input_fn)
    assert metrics["global_step"] == 4
    assert evaluated(estimator) == [3, 4]
    assert recorder.calls == [(3, False), (4, True)]


class Signal(est.SessionRunHook):
    """Sends SIGTERM in a step."""

    def __init__(self, step):
        self.step = step

    def after_run(self, run_context, run_values):
        if run_context.session.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("when", [{}, {"every_n_steps": 4}], ids=["checkpoints", "steps"])
def test_a_signal_ends_the_run_without_a_last_evaluation(model_dir, when):
    recorder = Recorder()
    estimator = quiet(model_dir, save_checkpoints_steps=4)
    metrics, _ = run(estimator, hooks=[Signal(5)], exporters=recorder, **when)
    assert estimator.interrupted == "SIGTERM"
    assert (metrics["global_step"], recorder.calls) == (4, [(4, False)])
    assert steps_of(estimator) == [0, 4, 5]
    run(estimator, exporters=recorder, **when)
    # By checkpoints the one of the signal comes first, and the next is four steps later.
    between = [(8, False)] if when else [(5, False), (9, False)]
    assert recorder.calls == [(4, False), *between, (10, True)]


def test_a_signal_in_the_last_step_leaves_the_end_to_the_next_call(model_dir):
    recorder = Recorder()
    estimator = quiet(model_dir, save_checkpoints_steps=4)
    assert run(estimator, hooks=[Signal(10)], exporters=recorder)[0]["global_step"] == 8
    metrics, _ = run(estimator, exporters=recorder)
    assert estimator.interrupted is None
    assert (metrics["global_step"], recorder.calls[-1]) == (10, (10, True))


class BrokenOffError(RuntimeError):
    """Stands for a kill."""


class KillsAtTheEnd(Recorder):
    """An exporter that breaks off the last export."""

    def export(self, estimator, export_path, checkpoint_path, eval_result, is_the_final_export):
        if is_the_final_export:
            raise BrokenOffError
        return None


@pytest.mark.parametrize(
    "ending",
    [{"input_fn": lambda: batches(6), "max_steps": None}, {"hooks": [StopAt(6)]}],
    ids=["input", "hook"],
)
def test_a_run_broken_off_in_its_last_export_goes_on_there(model_dir, ending):
    settings = {"every_n_steps": 4, **ending}
    with pytest.raises(BrokenOffError):
        run(quiet(model_dir), exporters=KillsAtTheEnd(), **settings)
    recorder = Recorder()
    estimator = quiet(model_dir)
    metrics, _ = run(estimator, exporters=recorder, **settings)
    assert (metrics["global_step"], recorder.calls) == (6, [(6, True)])
    metrics, _ = run(estimator, exporters=recorder, **(settings | {"max_steps": 8, "hooks": None}))
    assert metrics["global_step"] == 8


def test_a_saver_of_ones_own_serves_one_run_after_the_other(model_dir):
    recorder = Recorder()
    saver = est.CheckpointSaverHook(model_dir, save_steps=4)
    estimator = quiet(model_dir)
    for last in (8, 16):
        run(estimator, hooks=[saver], exporters=recorder, max_steps=last)
    assert recorder.calls == [(4, False), (8, True), (12, False), (16, True)]


def test_listeners_hear_of_the_saves_for_evaluations(model_dir):
    log = []
    estimator = quiet(model_dir, save_checkpoints_steps=4, keep_checkpoint_max=0)
    train = est.TrainSpec(endless, max_steps=8, saving_listeners=[ListenerNotes(log)])
    est.train_and_evaluate(
        estimator, train, est.EvalSpec(held_out, every_n_steps=3, exporters=Recorder())
    )
    assert [entry[2] for entry in log if entry[1] == "after_save"] == [0, 3, 4, 6, 8]
    assert steps_of(estimator) == [0, 3, 4, 6, 8]


def train_spec(**settings):
    return est.TrainSpec(endless, **{"max_steps": 2, **settings})


def eval_spec(**settings):
    return est.EvalSpec(held_out, **settings)


class Nameless(Recorder):
    def __init__(self):
        super().__init__("")


@pytest.mark.parametrize(
    ("make_spec", "error", "message"),
    [
        (lambda: est.TrainSpec(batches(1)), TypeError, "input_fn must be a function"),
        (lambda: train_spec(max_steps=0), ValueError, "max_steps > 0, given: 0"),
        (lambda: train_spec(max_steps=2.5), TypeError, "max_steps must be an int"),
        (lambda: train_spec(hooks=[3]), TypeError, "SessionRunHook objects, got 3"),
        (lambda: train_spec(saving_listeners=[Notes()]), TypeError, "CheckpointSaverListener"),
        (lambda: est.EvalSpec(None), TypeError, "input_fn must be a function"),
        (lambda: eval_spec(steps=0), ValueError, "steps > 0, given: 0"),
        (lambda: eval_spec(name=3), TypeError, "name must be a text"),
        (lambda: eval_spec(hooks=[3]), TypeError, "SessionRunHook objects, got 3"),
        (lambda: eval_spec(start_delay_secs=-1), ValueError, "start_delay_secs >= 0, given: -1"),
        (lambda: eval_spec(throttle_secs=-1), ValueError, "throttle_secs >= 0, given: -1"),
        (lambda: eval_spec(every_n_steps=0), ValueError, "every_n_steps > 0, given: 0"),
        (lambda: eval_spec(exporters=[3]), TypeError, "must be Exporters, got 3"),
        (lambda: eval_spec(exporters=3), TypeError, "must be Exporters, got 3"),
        (lambda: eval_spec(exporters=Recorder), TypeError, "must be Exporters, got"),
        (lambda: eval_spec(exporters=Nameless()), ValueError, "must have a name"),
        (lambda: eval_spec(exporters=[Recorder()] * 2), ValueError, "different names"),
    ],
)
def test_specs_say_no_to_what_cannot_be(make_spec, error, message):
    with pytest.raises(error, match=message):
        make_spec()


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (held_out, TypeError, "eval_spec must be an EvalSpec"),
        ([], ValueError, "empty list"),
        ([eval_spec(), eval_spec()], ValueError, "different names, .None. are twice"),
        (
            [eval_spec(exporters=Recorder()), eval_spec(name="b", exporters=Recorder())],
            ValueError,
            "different names, .'rec'. are twice",
        ),
    ],
)
def test_wrong_evaluations_are_refused_before_training(model_dir, spec, error, message):
    with pytest.raises(error, match=message):
        est.train_and_evaluate(quiet(model_dir), train_spec(), spec)
    assert not os.path.exists(model_dir)


def test_wrong_arguments_are_refused_before_training(model_dir):
    estimator = quiet(model_dir)
    with pytest.raises(TypeError, match="estimator must be an Estimator"):
        est.train_and_evaluate(line, train_spec(), eval_spec())
    with pytest.raises(TypeError, match="train_spec must be a TrainSpec"):
        est.train_and_evaluate(estimator, eval_spec(), train_spec())
    off = quiet(model_dir, save_checkpoints_steps=None, save_checkpoints_secs=None)
    with pytest.raises(ValueError, match="none is ever saved"):
        est.train_and_evaluate(off, train_spec(), eval_spec())
    saver = est.CheckpointSaverHook(f"{model_dir}_1", save_steps=2)
    with pytest.raises(ValueError, match=r"but checkpoints of .* are evaluated"):
        est.train_and_evaluate(estimator, train_spec(hooks=[saver]), eval_spec())
    best = est.BestExporter(metric="error", mode="min")
    with pytest.raises(ValueError, match="input of the evaluation is empty"):
        est.train_and_evaluate(estimator, train_spec(), est.EvalSpec(lambda: [], exporters=best))
    assert not os.path.exists(model_dir)


def test_a_saver_of_ones_own_may_save_what_is_evaluated(model_dir):
    off = quiet(model_dir, save_checkpoints_steps=None, save_checkpoints_secs=None)
    run(off, hooks=[est.CheckpointSaverHook(model_dir, save_steps=5)])
    assert evaluated(off) == [5, 10]
