"""Laws of all hooks: cadence, order, resuming, a second run, other calls, refusals, no change."""

import itertools
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from models import (
    Notes,
    assert_close,
    batches,
    endless,
    features_only,
    joined,
    line,
    noisy,
    quiet,
    scalars,
    steps_of,
    values_of,
)
from test_timers import UNSAVED

import estimator as est

# Each with a working setting, made of a directory, a cadence and a name to fetch.
HOOKS = {
    "CheckpointSaverHook": lambda d, n, name: est.CheckpointSaverHook(d, save_steps=n),
    "FinalOpsHook": lambda d, n, name: est.FinalOpsHook(name),
    "GlobalStepWaiterHook": lambda d, n, name: est.GlobalStepWaiterHook(0),
    "LoggingTensorHook": lambda d, n, name: est.LoggingTensorHook([name], n, at_end=True),
    "NanTensorHook": lambda d, n, name: est.NanTensorHook(name, every_n_iter=n),
    "ProfilerHook": lambda d, n, name: est.ProfilerHook(save_steps=n, output_dir=d),
    "StepCounterHook": lambda d, n, name: est.StepCounterHook(n, output_dir=d),
    "StopAtStepHook": lambda d, n, name: est.StopAtStepHook(num_steps=n + 5),
    "SummarySaverHook": lambda d, n, name: est.SummarySaverHook(n, output_dir=d),
}
REFUSED = [
    ("CheckpointSaverHook", "evaluate", "Give a CheckpointSaverHook to train"),
    ("CheckpointSaverHook", "predict", "Give a CheckpointSaverHook to train"),
    ("StepCounterHook", "evaluate", "StepCounterHook.*train"),
    ("StepCounterHook", "predict", "StepCounterHook.*train"),
    ("SummarySaverHook", "predict", 'SummarySaverHook: this run has no "summaries"'),
]
METHODS = ["begin", "after_create_session", "before_run", "after_run", "end", "close"]
CALLS = ["train", "evaluate", "predict"]
all_hooks = pytest.mark.parametrize("kind", HOOKS)
all_calls = pytest.mark.parametrize("call", CALLS)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Estimators by block size that save nothing: each call begins at step 0."""
    path = tmp_path_factory.mktemp("lines")
    return {k: quiet(str(path / str(k)), summed, steps_per_execution=k, **UNSAVED) for k in (1, 5)}


@pytest.fixture(autouse=True)
def no_traces(monkeypatch):
    """Real traces are slow, and tested with the hook."""
    monkeypatch.setattr("jax.profiler.start_trace", lambda path: None)
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: None)


def steps_in(directory, tag):
    """Returns the steps at which a tag was written."""
    return [step for step, _ in scalars(str(directory)).get(tag, [])]


class Breaks(est.SessionRunHook):
    """Raises in one of its methods, in a run after the step given."""

    def __init__(self, where="after_run", step=1):
        def breaks(context=None, *_):
            if where != "after_run" or context.session.batches == step:
                raise ArithmeticError("enough")

        setattr(self, where, breaks)


class Watches(est.SessionRunHook):
    """Writes down the batches at which the timer of another hook fired, and the last batch."""

    def __init__(self, hook):
        self.acted = []
        self.batches = None
        self.session = None
        if hasattr(hook, "_timer"):
            update = hook._timer.update_last_triggered_step
            hook._timer.update_last_triggered_step = lambda step: self.note() or update(step)

    def note(self):
        self.acted.append(self.session.batches)

    def after_create_session(self, session, coord):
        self.session = session
        self.acted = []

    def end(self, session):
        self.batches = session.batches

    def next_step(self, global_step):
        return None


def summed(features, labels, mode, params):
    """The line, with a summary in training and evaluation."""
    spec = line(features, labels, mode, params)
    if mode != est.ModeKeys.PREDICT:
        est.summary.scalar("sum", jnp.sum(features["x"]))
    return spec


def run(estimator, call, hooks, count=3):
    """Makes one call to its end, over so many batches."""
    data = features_only(count) if call == "predict" else batches(count)
    answer = getattr(estimator, call)(lambda: data, hooks=hooks)
    return list(answer) if call == "predict" else answer


def working(directory, call, n=2):
    """Returns a hook of each kind that works in a call, by kind."""
    name = "y" if call == "predict" else "loss"
    refused = {kind for kind, where, _ in REFUSED if where == call}
    return {kind: HOOKS[kind](directory, n, name) for kind in HOOKS if kind not in refused}


def spied(hook, name, log):
    """Returns the hook; its calls are written down."""
    inside = []

    def spy(method, inner):
        def called(*args):
            if not inside:  # the profiler closes itself after a step
                log.append((name, method))
            inside.append(method)
            try:
                return inner(*args)
            finally:
                inside.pop()

        return called

    for method in METHODS:
        setattr(hook, method, spy(method, getattr(hook, method)))
    return hook


def test_the_table_holds_every_hook_of_the_package():
    public = {name for name in est.__all__ if name.endswith("Hook")}
    assert HOOKS.keys() == public - {"SessionRunHook", "InMemoryEvaluatorHook"}


# Cadence.


def acting_steps(kind, every, last):
    """Returns the steps that a hook of some cadence acts at, in a run from step 0."""
    saves, looks = [*range(0, last, every), last], [1, *range(every, last + 1, every)]
    known = {"CheckpointSaverHook": saves, "NanTensorHook": looks}
    return known.get(kind, [*range(1, last + 1, every)])


@pytest.mark.parametrize("every", [3, 5])
@all_hooks
def test_a_hook_acts_at_the_same_steps_with_blocks_of_five(lines, tmp_path, kind, every):
    wanted = acting_steps(kind, every, 12)
    for k, estimator in lines.items():
        hook = HOOKS[kind](str(tmp_path / str(k)), every, "loss")
        watch = Watches(hook)
        estimator.train(endless, [watch, hook], steps=12)
        assert watch.acted == (wanted if hasattr(hook, "_timer") else [])
        assert watch.batches == (every + 5 if kind == "StopAtStepHook" else 12)


@all_hooks
@pytest.mark.parametrize("k", [1, 5])
def test_a_hook_waits_for_a_step_to_come_or_for_none(lines, tmp_path, kind, k):
    hook, told = HOOKS[kind](str(tmp_path), 3, "loss"), []
    inner = hook.next_step
    hook.next_step = lambda step: told.append((step, inner(step))) or told[-1][1]
    lines[k].train(endless, [hook], steps=8)
    assert all(wake is None or wake > step for step, wake in told)


# Order.


@all_calls
@all_hooks
def test_a_hook_is_called_in_order_and_around_each_step_it_sees(lines, tmp_path, kind, call):
    hooks = working(str(tmp_path), call)
    log = []
    hook = hooks.get(kind, est.SessionRunHook())  # a refusal is tested below
    others = [spied(est.SessionRunHook(), name, log) for name in ("first", "last")]
    run(lines[1], call, [others[0], spied(hook, "hook", log), others[1]])
    for name in ("first", "hook", "last"):
        calls = [method for who, method in log if who == name]
        steps = calls.count("before_run")
        assert calls == [*METHODS[:2], *METHODS[2:4] * steps, *METHODS[4:]]
        assert steps == 3 or name == "hook"
    phases = itertools.groupby(log, key=lambda entry: entry[1])
    orders = [[name for name, _ in group] for _, group in phases]
    assert all(order == [n for n in ("first", "hook", "last") if n in order] for order in orders)
    assert len(orders) == 2 + 2 * 3 + 2


@all_calls
@pytest.mark.parametrize("where", METHODS[:5])
@pytest.mark.parametrize("place", ["before", "after"])
def test_an_exception_of_another_hook_closes_all_once_and_ends_none(
    lines, tmp_path, call, where, place
):
    log = []
    hooks = [spied(hook, kind, log) for kind, hook in working(str(tmp_path), call).items()]
    breaking = spied(Breaks(where), "breaking", log)
    hooks = [breaking, *hooks] if place == "before" else [*hooks, breaking]
    with pytest.raises(ArithmeticError, match="enough"):
        run(lines[1], call, hooks)
    closed = [name for name, method in log if method == "close"]
    assert sorted(closed) == sorted(["breaking", *working(str(tmp_path), call)])
    ended = [name for name, method in log if method == "end"]
    assert ended == (
        closed if where == "end" and place == "after" else ["breaking"][: where == "end"]
    )


@all_calls
def test_an_exception_of_the_input_closes_all_and_ends_none(lines, tmp_path, call):
    def broken():
        yield from batches(2)
        raise ArithmeticError("enough")

    log = []
    hooks = [spied(hook, kind, log) for kind, hook in working(str(tmp_path), call).items()]
    with pytest.raises(ArithmeticError, match="enough"):
        list(getattr(lines[1], call)(broken, hooks=hooks) or ())
    assert [name for name, method in log if method == "close"] == list(working("", call))
    assert "end" not in [method for _, method in log]


def test_answers_that_nobody_reads_on_close_the_hooks_and_do_not_end_them(lines, tmp_path):
    log = []
    hooks = [spied(hook, kind, log) for kind, hook in working(str(tmp_path), "predict").items()]
    answers = lines[1].predict(lambda: features_only(3), hooks=hooks)
    assert log == []
    next(answers)
    answers.close()
    assert [name for name, method in log if method == "close"] == list(working("", "predict"))
    assert "end" not in [method for _, method in log]


@all_calls
@pytest.mark.parametrize("error", [None, "in flight"])
def test_a_close_that_fails_closes_the_others_too_and_hides_no_error(lines, call, error):
    log = []
    hooks = [Breaks("close"), spied(Notes(), "last", log)]
    if error is not None:
        hooks[1].before_run = lambda context: (_ for _ in ()).throw(LookupError(error))
    kind = (ArithmeticError, "enough") if error is None else (LookupError, error)
    with pytest.raises(kind[0], match=kind[1]):
        run(lines[1], call, hooks)
    assert ("last", "close") in log


# Resuming.

WHOLE = 9


def rows():
    x, y = joined(batches(5))
    return est.numpy_input_fn(x, y, batch_size=4, num_epochs=None, shuffle=True, seed=3)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("cut") / "model")
    return quiet(path, noisy, continue_input=True, save_checkpoints_steps=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The variables of one run without any of the hooks."""
    estimator = quiet(str(tmp_path_factory.mktemp("whole") / "model"), noisy)
    return values_of(estimator.train(rows(), steps=WHOLE))


@all_hooks
def test_a_run_cut_in_two_and_killed_ends_as_one_without_the_hook(cut, tmp_path, whole, kind):
    shutil.rmtree(cut.model_dir, ignore_errors=True)
    own = kind == "CheckpointSaverHook"
    hook = HOOKS[kind](cut.model_dir if own else str(tmp_path / "hook"), 3, "loss")
    cut.train(rows(), [hook], max_steps=3)
    with pytest.raises(ArithmeticError, match="enough"):
        cut.train(rows(), [hook, Breaks(step=4)], max_steps=WHOLE)
    assert steps_of(cut)[-1] == 6, "the step after it is lost"
    cut.train(rows(), [hook], max_steps=WHOLE)
    assert_close(values_of(cut), whole)


@pytest.mark.parametrize("k", [1, 5])
def test_all_hooks_together_change_no_number(lines, tmp_path, k):
    found = []
    for hooks in ({}, working(str(tmp_path / "all"), "train")):
        saver = est.CheckpointSaverHook(str(tmp_path / str(len(hooks))), save_steps=100)
        lines[k].train(endless, [saver, *hooks.values()], steps=7)
        path = tmp_path / str(len(hooks))
        found.append({n: est.load_variable(path, n) for n, _ in est.list_variables(path)})
    assert_close(found[1], found[0], 0.0 if k == 1 else 1e-6)  # blocks are another program


# A second run.


@all_hooks
def test_a_hook_counts_anew_after_a_run_that_ended_or_broke(model_dir, tmp_path, kind):
    directory = model_dir if kind == "CheckpointSaverHook" else str(tmp_path / "hook")
    hook = HOOKS[kind](directory, 3, "loss")
    watch = Watches(hook)
    estimator = quiet(model_dir).train(endless, [watch, hook], steps=5)
    with pytest.raises(ArithmeticError, match="enough"):
        estimator.train(endless, [watch, hook, Breaks(step=2)])
    estimator.train(endless, [watch, hook], steps=10)
    wanted = acting_steps(kind, 3, 10)
    stop = 8 if kind == "StopAtStepHook" else 10
    assert (watch.acted, watch.batches) == (wanted if hasattr(hook, "_timer") else [], stop)


def test_final_ops_has_no_values_of_the_run_before(lines):
    hook = est.FinalOpsHook("loss")
    lines[1].train(endless, [hook], steps=1)
    assert hook.final_ops_values is not None

    def broken():
        yield batches(1)[0]
        raise ArithmeticError("enough")

    with pytest.raises(ArithmeticError, match="enough"):
        lines[1].train(broken, [hook])
    assert hook.final_ops_values is None


# Where nothing is trained.


@pytest.mark.parametrize(("kind", "call", "message"), REFUSED)
def test_a_hook_that_cannot_work_says_so_before_a_batch_is_seen(
    lines, tmp_path, kind, call, message
):
    notes = Notes()
    with pytest.raises(ValueError, match=message):
        run(lines[1], call, [notes, HOOKS[kind](str(tmp_path), 1, "loss")])
    assert notes.steps == []


def test_a_summary_hook_writes_nothing_of_an_evaluation_without_summaries(model_dir, tmp_path):
    hook = est.SummarySaverHook(save_steps=1, output_dir=str(tmp_path / "other"))
    run(quiet(model_dir, **UNSAVED), "evaluate", [hook])
    assert scalars(str(tmp_path / "other")) == {}


@pytest.mark.parametrize("call", CALLS[1:])
def test_a_number_of_steps_to_stop_after_counts_batches(lines, call):
    notes = Notes()
    run(lines[1], call, [est.StopAtStepHook(num_steps=2), notes])
    assert len(notes.steps) == 2


@pytest.mark.parametrize("call", CALLS[1:])
@pytest.mark.parametrize("every", [1, 2])
def test_the_profiler_traces_batches_where_nothing_is_trained(lines, tmp_path, call, every):
    hook = est.ProfilerHook(save_steps=every, output_dir=str(tmp_path))
    watch = Watches(hook)
    run(lines[1], call, [watch, hook], count=5)
    assert watch.acted == list(range(1, 6, every))


@pytest.mark.parametrize("call", CALLS[1:])
@pytest.mark.parametrize("fails", [True, False])
def test_a_value_that_is_no_number_is_found_where_nothing_is_trained(lines, call, fails):
    name = "loss" if call == "evaluate" else "y"
    data = [({"x": np.full((4, 2), x, np.float32)}, np.zeros(4)) for x in (1.0, np.nan, 1.0)]
    hook, notes = est.NanTensorHook(name, fail_on_nan_loss=fails, every_n_iter=1), Notes()
    given = {"hooks": [hook, notes]}
    if fails:
        with pytest.raises(est.NanLossDuringTrainingError, match=f"{name} was not a finite"):
            list(getattr(lines[1], call)(lambda: data, **given))
    else:
        list(getattr(lines[1], call)(lambda: data, **given))
        assert notes.log[-1][1] == "end"
    assert len(notes.steps) == (1 if fails else 2)


# Refusals.


@pytest.mark.parametrize("call", CALLS[1:])
@pytest.mark.parametrize("kind", ["FinalOpsHook", "LoggingTensorHook", "NanTensorHook"])
def test_an_unknown_name_is_refused_before_a_batch_is_seen(lines, kind, call):
    near = "loss" if call == "evaluate" else "double"
    notes = Notes()
    message = f'{kind}: there is no "{near[:-1]}" to fetch.*Did you mean "{near}"'
    with pytest.raises(ValueError, match=message):
        run(lines[1], call, [notes, HOOKS[kind]("", 1, near[:-1])])
    assert notes.steps == []


# What is written.


def test_all_hooks_of_a_run_write_one_file_in_a_directory(lines, tmp_path):
    places = [str(tmp_path), os.path.relpath(tmp_path), str(tmp_path) + os.sep]
    hooks = [
        est.SummarySaverHook(save_steps=3, output_dir=places[0]),
        est.SummarySaverHook(save_steps=5, output_dir=places[1]),
        est.StepCounterHook(every_n_steps=2, output_dir=places[2]),
    ]
    for _ in range(2):
        lines[1].train(endless, hooks, steps=4)
    assert len(os.listdir(tmp_path)) == 1
    assert steps_in(tmp_path, "loss") == [1, 1, 4] * 2
    assert steps_in(tmp_path, "global_step/sec") == [3, 3]


@pytest.mark.parametrize(
    "given", [lambda d: {"output_dir": d}, lambda d: {"summary_writer": est.EventWriter(d)}]
)
def test_summaries_of_a_run_that_fails_are_written_too(lines, tmp_path, given):
    hook = est.SummarySaverHook(save_steps=1, **given(str(tmp_path)))
    with pytest.raises(ArithmeticError, match="enough"):
        lines[1].train(endless, [hook, Breaks(step=3)])
    assert steps_in(tmp_path, "loss") == [1, 2, 3]


@all_calls
@pytest.mark.parametrize("place", [None, "other"])
def test_what_a_hook_writes_is_there_when_the_call_returns(model_dir, tmp_path, call, place):
    class Writes(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            session = run_context.session
            path = None if place is None else str(tmp_path / place)
            session.summary_writer(path).add_scalars(session.batches, {"mine": 1.0})

    run(quiet(model_dir, **UNSAVED), call, [Writes()])
    home = {"evaluate": os.path.join(model_dir, "eval")}.get(call, model_dir)
    found = scalars(home if place is None else str(tmp_path / place))
    assert [step for step, _ in found["mine"]] == [1, 2, 3]
