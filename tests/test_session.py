"""The session: what hooks can fetch, and what a run promises them."""

import signal

import numpy as np
import pytest
from models import (
    Notes,
    batches,
    endless,
    line,
    noisy,
    quiet,
    steps_of,
)

import estimator as est
from estimator.session import giving_back

# What hooks can fetch.


def test_hooks_fetch_variables_tags_and_the_loss_by_name_in_any_structure(model_dir):
    hook = Notes(fetches={"a": "loss", "b": ["biggest", ("hidden/kernel", "global_step")]})
    quiet(model_dir, noisy).train(endless, [hook], steps=2)
    result = hook.results[-1]
    assert result["a"].shape == result["b"][0].shape == ()
    assert result["b"][1][0].shape == (2, 8)
    assert result["b"][1][1] == 2
    assert isinstance(result["b"], list)
    assert isinstance(result["b"][1], tuple)


@pytest.mark.parametrize(
    ("make_hook", "message"),
    [
        (lambda n: est.LoggingTensorHook([n], every_n_iter=1), 'LoggingTensorHook: there is no "'),
        (lambda n: est.FinalOpsHook(n), 'FinalOpsHook: there is no "'),
        (lambda n: est.NanTensorHook(n), 'NanTensorHook: there is no "'),
        (lambda n: Notes(fetches=n), 'session.run: there is no "'),
    ],
)
@pytest.mark.parametrize(
    ("name", "near"), [("hidden/kernl", "hidden/kernel"), ("bigest", "biggest"), ("los", "loss")]
)
def test_an_unknown_name_gets_the_nearest_one(model_dir, make_hook, message, name, near):
    hook = make_hook(name)
    with pytest.raises(ValueError, match=f'{message}{name}" to fetch.*Did you mean "{near}"'):
        quiet(model_dir, noisy).train(endless, [hook], steps=1)


def test_what_is_no_name_is_refused(model_dir):
    with pytest.raises(TypeError, match=r"session\.run takes a name, or a list"):
        quiet(model_dir).train(endless, [Notes(fetches=3)], steps=1)


class Keeps(Notes):
    """Keeps the arrays it was given."""

    def after_create_session(self, session, coord):
        super().after_create_session(session, coord)
        self.results.append(session.run(self.fetches))


@pytest.mark.parametrize("k", [1, 5])
def test_a_variable_that_a_hook_keeps_is_not_changed_by_later_steps(model_dir, k):
    hook = Keeps(fetches="line/kernel")
    hook.next_step = lambda step: None
    estimator = quiet(model_dir, steps_per_execution=k).train(endless, [hook], steps=11)
    kept = [np.array(value) for value in hook.results]
    assert len(kept) == 1 + (11 if k == 1 else 3)
    assert kept[0].tolist() == [0.5, -0.25]
    np.testing.assert_array_equal(kept[-1], estimator.get_variable_value("line/kernel"))
    assert len({value.tobytes() for value in kept}) == len(kept)


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_a_variable_that_a_hook_keeps_of_another_call_is_not_taken_by_training(model_dir, call):
    estimator = quiet(model_dir).train(endless, steps=3)
    hook = Notes(fetches="line/kernel")
    answer = getattr(estimator, call)(lambda: batches(2), hooks=[hook])
    if call == "predict":
        list(answer)
    wanted = estimator.get_variable_value("line/kernel")
    estimator.train(endless, steps=3)
    for kept in hook.results:
        np.testing.assert_array_equal(np.array(kept), wanted)


@pytest.mark.parametrize("hook", [est.FinalOpsHook, lambda x: est.LoggingTensorHook([x], 1)])
def test_a_hook_made_of_a_traced_array_is_refused(model_dir, hook):
    def model_fn(features, labels, mode, params):
        spec = line(features, labels, mode, params)
        return spec._replace(training_hooks=[hook(spec.loss)])

    with pytest.raises(TypeError, match=r"was given a traced array.*estimator\.tag"):
        quiet(model_dir, model_fn).train(endless, steps=1)


# The run.


def test_a_hook_that_asks_to_stop_lets_the_others_see_the_step(model_dir):
    class Stops(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            run_context.request_stop()

    before, after = Notes("before"), Notes("after")
    estimator = quiet(model_dir).train(endless, [before, Stops(), after], steps=9)
    assert before.steps == after.steps == [1]
    assert before.log[-1] == ["before", "end", 1]
    assert steps_of(estimator) == [0, 1]


@pytest.mark.parametrize("where", ["begin", "after_create_session", "before_run", "after_run"])
def test_an_exception_skips_the_end(model_dir, where):
    notes = Notes()

    def breaks(*args):
        raise ArithmeticError("enough")

    hook = est.SessionRunHook()
    setattr(hook, where, breaks)
    estimator = quiet(model_dir)
    with pytest.raises(ArithmeticError, match="enough"):
        estimator.train(endless, [notes, hook], steps=3)
    assert ["A", "end", 0] not in notes.log
    assert ["A", "end", 1] not in notes.log
    assert steps_of(estimator) == ([] if where == "begin" else [0])
    estimator.train(endless, steps=2)
    assert steps_of(estimator) == [0, 2]


def test_chief_hooks_come_first_and_training_hooks_last(model_dir):
    log = []

    def model_fn(features, labels, mode, params):
        return line(features, labels, mode, params)._replace(
            training_hooks=[Notes("spec", log)], training_chief_hooks=[Notes("chief", log)]
        )

    quiet(model_dir, model_fn).train(lambda: batches(1), [Notes("user", log)])
    assert [name for name, call, *_ in log if call == "end"] == ["chief", "user", "spec"]
    assert [name for name, call, *_ in log if call == "after_run"] == ["chief", "user", "spec"]


def test_a_signal_that_comes_while_the_model_fn_is_traced_ends_the_call_before_its_first_step(
    model_dir,
):
    def model_fn(features, labels, mode, params):
        if mode == est.ModeKeys.TRAIN and not estimator.interrupted and not sent:
            sent.append(1)
            signal.raise_signal(signal.SIGINT)
        return line(features, labels, mode, params)

    sent = []
    estimator = quiet(model_dir, model_fn)
    estimator.train(lambda: batches(3))
    assert estimator.interrupted == "SIGINT"
    assert steps_of(estimator) == [0]
    assert steps_of(estimator.train(lambda: batches(3))) == [0, 3]


def test_what_is_given_back_is_given_back_though_some_of_it_fails(caplog):
    given = []

    def fails(name):
        given.append(name)
        raise OSError(name)

    with (
        pytest.raises(OSError, match="first"),
        giving_back(lambda: fails("first"), lambda: given.append("second"), lambda: fails("third")),
    ):
        given.append("block")
    assert given == ["block", "first", "second", "third"]
    assert caplog.messages == ["third"]
    with pytest.raises(ArithmeticError, match="block"), giving_back(lambda: fails("last")):
        raise ArithmeticError("block")
    assert caplog.messages == ["third", "last"]
