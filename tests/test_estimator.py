"""The Estimator: what the constructor and train promise, and what is kept between calls."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from models import (
    ListenerNotes,
    Notes,
    Traced,
    assert_close,
    batches,
    endless,
    features_only,
    joined,
    line,
    make,
    noisy,
    steps_of,
    values_of,
)

import estimator as est
from estimator import checkpoint

# The constructor.


def test_model_dir_may_come_from_the_argument_the_config_or_both_if_equal(tmp_path):
    path = str(tmp_path / "m")
    config = est.RunConfig(model_dir=path)
    assert est.Estimator(line, path).model_dir == path
    assert est.Estimator(line, tmp_path / "m").model_dir == path
    assert est.Estimator(line, config=config).model_dir == path
    both = est.Estimator(line, path, config)
    assert both.model_dir == both.config.model_dir == path


def test_two_different_model_dirs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="but with different values: 'a' and 'b'"):
        est.Estimator(line, "a", est.RunConfig(model_dir="b"))


def test_an_empty_model_dir_is_refused():
    with pytest.raises(ValueError, match="model_dir is empty"):
        est.Estimator(line, "")


def test_without_a_model_dir_a_temporary_directory_is_made_and_logged(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    estimator = est.Estimator(line)
    assert Path(estimator.model_dir).parent == tmp_path
    assert os.path.isdir(estimator.model_dir)
    assert estimator.model_dir in caplog.text


def test_the_constructor_writes_nothing(model_dir):
    est.Estimator(line, model_dir)
    assert not os.path.exists(model_dir)


@pytest.mark.parametrize("config", [{"model_dir": "a"}, "a", 3])
def test_a_config_of_another_type_is_refused(config):
    with pytest.raises(ValueError, match="config must be an instance of RunConfig, got"):
        est.Estimator(line, config=config)


@pytest.mark.parametrize("warm_start", [3, ["a"]])
def test_a_warm_start_of_another_type_is_refused(model_dir, warm_start):
    with pytest.raises(TypeError, match="warm_start_from must be a path, a dict"):
        est.Estimator(line, model_dir, warm_start_from=warm_start)


def test_params_are_a_copy_at_each_access(model_dir):
    estimator = est.Estimator(line, model_dir, params={"sizes": [1]})
    estimator.params["sizes"].append(2)
    assert estimator.params == {"sizes": [1]}


def test_params_that_are_changed_after_the_constructor_change_nothing(model_dir):
    params = {"sizes": [1]}
    estimator = est.Estimator(line, model_dir, params=params)
    params["sizes"].append(2)
    assert estimator.params == {"sizes": [1]}


def test_params_that_a_trace_changes_are_whole_again_in_the_next(model_dir):
    def greedy(features, labels, mode, params):
        assert params.pop("left") == 1
        return line(features, labels, mode, {"rate": params["rate"]})

    estimator = make(greedy, model_dir, params={"left": 1, "rate": 0.1})
    estimator.train(lambda: batches(2))
    estimator.evaluate(lambda: batches(2))
    assert estimator.params == {"left": 1, "rate": 0.1}


def test_without_params_a_model_fn_and_an_input_fn_are_given_an_empty_dict(model_dir):
    seen = []

    def model_fn(features, labels, mode, params):
        seen.append(params)
        return line(features, labels, mode, params)

    def input_fn(params):
        seen.append(params)
        return batches(1)

    estimator = make(model_fn, model_dir)
    estimator.train(input_fn)
    assert estimator.params == {}
    assert all(params == {} for params in seen), seen


def test_the_model_fn_property_is_called_without_params(model_dir):
    def model_fn(features, labels, mode, params):
        assert params == {"rate": 3}
        return est.EstimatorSpec(mode, predictions=features["x"])

    estimator = est.Estimator(model_fn, model_dir, params={"rate": 3})
    spec = estimator.model_fn({"x": np.ones(2)}, None, est.ModeKeys.PREDICT, estimator.config)
    assert spec.predictions.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "params", "_feed", "eval_dir"])
def test_a_subclass_that_overrides_a_member_is_refused(name):
    with pytest.raises(ValueError, match=rf"Mine overrides \['{name}'\]"):
        type("Mine", (est.Estimator,), {name: lambda self: None})


def test_a_subclass_may_have_a_constructor_and_methods_of_its_own(model_dir):
    class Line(est.Estimator):
        def __init__(self, model_dir):
            super().__init__(line, model_dir)

        def kernel(self):
            return self.get_variable_value("line/kernel")

    assert Line(model_dir).train(lambda: batches(1)).kernel().shape == (2,)


# train: arguments.


@pytest.mark.parametrize("name", ["steps", "max_steps"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [(0, ValueError, "> 0, given: 0"), (-1, ValueError, "> 0, given: -1")]
    + [(v, TypeError, "must be an int, got") for v in (1.5, "3", True)],
)
def test_train_refuses_a_number_of_steps_that_is_none(model_dir, name, value, error, message):
    with pytest.raises(error, match=f"train: .*{name} {message}"):
        make(line, model_dir).train(lambda: batches(1), **{name: value})


def test_train_refuses_steps_and_max_steps_together(model_dir):
    with pytest.raises(ValueError, match="can not provide both steps and max_steps, got 1 and 2"):
        make(line, model_dir).train(lambda: batches(1), steps=1, max_steps=2)


@pytest.mark.parametrize(
    ("argument", "kind"),
    [("hooks", "SessionRunHook"), ("saving_listeners", "CheckpointSaverListener")],
)
@pytest.mark.parametrize("given", [object(), Notes, ListenerNotes])
def test_train_refuses_hooks_and_listeners_of_another_type(model_dir, argument, kind, given):
    with pytest.raises(TypeError, match=f"train: {argument} must be {kind} objects, got"):
        make(line, model_dir).train(lambda: batches(1), **{argument: [given]})


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_evaluate_and_predict_refuse_hooks_of_another_type(model_dir, call):
    with pytest.raises(TypeError, match=f"{call}: hooks must be SessionRunHook objects, got"):
        getattr(make(line, model_dir), call)(lambda: batches(1), hooks=[ListenerNotes()])


@pytest.mark.parametrize("input_fn", [batches(1), None, {"x": np.ones(3)}])
def test_an_input_fn_that_is_no_function_is_refused(model_dir, input_fn):
    with pytest.raises(TypeError, match="input_fn"):
        make(line, model_dir).train(input_fn)
    with pytest.raises(TypeError, match="input_fn"):
        make(line, model_dir).predict(input_fn)


@pytest.mark.parametrize("names", ["", "mode", "params", "config", "mode, params, config"])
def test_input_fn_is_given_what_its_signature_names(model_dir, names):
    wanted = {"mode": "train", "params": {"rate": 0.5}}
    given = {}
    body = f"lambda {names}: take({', '.join(f'{n}={n}' for n in names.split(', ') if n)})"

    def take(**arguments):
        given.update(arguments)
        return batches(1)

    estimator = make(line, model_dir, params={"rate": 0.5})
    estimator.train(eval(body, {"take": take}))
    wanted["config"] = estimator.config
    assert given == {name: wanted[name] for name in names.split(", ") if name}


# train: steps.


def test_train_returns_the_estimator(model_dir):
    estimator = make(line, model_dir)
    assert estimator.train(lambda: batches(1)) is estimator


def test_steps_count_on_from_call_to_call_and_max_steps_does_not(model_dir):
    estimator = make(line, model_dir)
    steps = []
    for limits in ({"steps": 3}, {"steps": 2}, {"max_steps": 7}, {}):
        estimator.train(endless if limits else lambda: batches(2), **limits)
        steps.append(int(estimator.get_variable_value("global_step")))
    assert steps == [3, 5, 7, 9]


def test_another_estimator_goes_on_from_the_checkpoint_as_the_same_one_would(tmp_path):
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    one = make(noisy, first).train(endless, steps=3).train(endless, steps=3)
    make(noisy, second).train(endless, steps=3)
    two = make(noisy, second).train(endless, steps=3)
    assert_close(values_of(two), values_of(one))


def test_two_halves_are_one_whole_where_the_input_continues(tmp_path):
    x, y = joined(batches(5))
    input_fn = est.numpy_input_fn(x, y, batch_size=4, num_epochs=None, shuffle=True, seed=3)
    whole = make(noisy, str(tmp_path / "a")).train(input_fn, steps=8)
    halves = make(noisy, str(tmp_path / "b"), continue_input=True)
    halves.train(input_fn, steps=3).train(input_fn, steps=5)
    assert_close(values_of(halves), values_of(whole))


def test_max_steps_already_reached_makes_nothing_happen(model_dir):
    estimator = make(line, model_dir).train(lambda: batches(3))
    before = sorted(os.walk(model_dir))
    hook, listener = Notes(), ListenerNotes()

    def never():
        raise AssertionError("the input is not wanted")

    for max_steps in (1, 3):
        estimator.train(never, [hook], max_steps=max_steps, saving_listeners=[listener])
    assert hook.log == listener.log == []
    assert sorted(os.walk(model_dir)) == before


@pytest.mark.parametrize("limits", [{}, {"steps": 3}, {"max_steps": 3}])
def test_train_on_an_empty_input_is_an_error(model_dir, limits):
    with pytest.raises(ValueError, match="train: the input is empty"):
        make(line, model_dir).train(lambda: iter(()), **limits)


@pytest.mark.parametrize(("limits", "steps"), [({}, 1), ({"steps": 3}, 3), ({"max_steps": 4}, 4)])
def test_plain_arrays_are_one_batch_that_train_repeats_as_often_as_it_is_told(
    model_dir, limits, steps
):
    (batch,) = batches(1)
    estimator = make(line, model_dir).train(lambda: batch, **limits)
    assert estimator.get_variable_value("global_step") == steps
    again = make(line, model_dir + "-again").train(lambda: [batch] * steps)
    assert_close(values_of(estimator), values_of(again))


def test_plain_arrays_are_one_batch_for_evaluate_and_predict(model_dir):
    estimator, (batch,) = make(line, model_dir), batches(1)
    hook = Notes()
    estimator.evaluate(lambda: batch, hooks=[hook])
    assert len(hook.results) == 1
    assert len(list(estimator.predict(lambda: batch))) == len(batch[1])


def test_an_input_of_one_batch_more_than_steps_is_not_read_beyond(model_dir):
    taken = []

    def input_fn():
        for batch in batches(9):
            taken.append(batch)
            yield batch

    make(line, model_dir).train(input_fn, steps=3)
    assert len(taken) == 3


def test_an_error_of_the_input_is_raised_after_the_steps_before_it(model_dir):
    hook = Notes()

    def input_fn():
        yield from batches(2)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        make(line, model_dir).train(input_fn, hooks=[hook])
    assert hook.steps == [1, 2]


def test_a_generator_that_refills_its_arrays_trains_on_what_it_gave(tmp_path):
    made = batches(8)

    def refilling():
        x, y = np.zeros((4, 2), np.float32), np.zeros(4, np.float32)
        for features, labels in made:
            x[:], y[:] = features["x"], labels
            yield {"x": x}, y

    wanted = make(line, str(tmp_path / "a")).train(lambda: made)
    for i, prefetch in enumerate((0, 3)):
        for k in (1, 4):
            path = str(tmp_path / f"{i}{k}")
            estimator = make(line, path, prefetch=prefetch, steps_per_execution=k)
            assert_close(values_of(estimator.train(refilling)), values_of(wanted), 1e-6)


# train: checkpoints.


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [0, 5]),
        ({"save_checkpoints_steps": 2}, [0, 2, 4, 5]),
        ({"save_checkpoints_steps": 5}, [0, 5]),
        ({"save_checkpoints_steps": 1, "keep_checkpoint_max": 2}, [4, 5]),
        ({"save_checkpoints_steps": 1, "keep_checkpoint_max": None}, [0, 1, 2, 3, 4, 5]),
        ({"save_checkpoints_steps": None, "save_checkpoints_secs": None}, []),
    ],
)
def test_checkpoints_are_saved_when_the_config_says(model_dir, settings, steps):
    estimator = make(line, model_dir, **settings).train(lambda: batches(5))
    assert steps_of(estimator) == steps
    latest = estimator.latest_checkpoint()
    assert latest == (estimator.all_checkpoints()[-1] if steps else None)
    assert latest is None or latest == os.path.join(model_dir, "checkpoints", "5")


def test_the_first_save_of_a_second_call_is_counted_from_its_start(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=2, keep_checkpoint_max=None)
    estimator.train(lambda: batches(3)).train(lambda: batches(5))
    assert steps_of(estimator) == [0, 2, 3, 5, 7, 8]


def test_saving_listeners_without_a_saver_are_an_error(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=None, save_checkpoints_secs=None)
    with pytest.raises(ValueError, match="saving_listeners are called around saves, but no"):
        estimator.train(lambda: batches(1), saving_listeners=[ListenerNotes()])


def test_a_saver_among_the_hooks_replaces_the_default_one(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=1)
    listener = ListenerNotes()
    saver = est.CheckpointSaverHook(model_dir, save_steps=2)
    for _ in range(2):
        estimator.train(lambda: batches(3), [saver], saving_listeners=[listener])
    assert steps_of(estimator) == [0, 2, 3, 5, 6]
    assert listener.log.count(["listener", "after_save", 3]) == 2, "the start is announced, too"
    assert listener.log.count(["listener", "end", 6]) == 1


def test_a_listener_that_asks_to_stop_ends_the_run(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=2)
    listener = ListenerNotes(stop_at=4)
    estimator.train(endless, steps=100, saving_listeners=[listener])
    assert steps_of(estimator) == [0, 2, 4]
    assert listener.log[-1] == ["listener", "end", 4]


def test_a_listener_may_evaluate_the_checkpoint_that_was_just_saved(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=2)
    seen = []

    class Evaluates(est.CheckpointSaverListener):
        def after_save(self, session, global_step_value):
            seen.append(estimator.evaluate(lambda: batches(2)))

    estimator.train(lambda: batches(4), saving_listeners=[Evaluates()])
    assert [results["global_step"] for results in seen] == [0, 2, 4]
    assert seen[0]["loss"] > seen[1]["loss"] > seen[2]["loss"]
    assert estimator.evaluate(lambda: batches(2)) == seen[2]


# What is known of a trained model.


@pytest.mark.parametrize("call", ["get_variable_names", "get_variable_value"])
def test_asking_an_untrained_model_for_variables_is_an_error(model_dir, call):
    arguments = ["line/bias"] if call == "get_variable_value" else []
    with pytest.raises(ValueError, match="Could not find a trained model in model_dir"):
        getattr(make(line, model_dir), call)(*arguments)


def test_variables_are_known_by_name(model_dir):
    estimator = make(line, model_dir).train(lambda: batches(3))
    assert estimator.get_variable_names() == ["global_step", "line/bias", "line/kernel"]
    assert estimator.get_variable_value("line/kernel").dtype == np.float32
    with pytest.raises(KeyError, match="line/kernle"):
        estimator.get_variable_value("line/kernle")


def test_a_relative_model_dir_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    estimator = make(line, "runs/line").train(lambda: batches(2))
    assert steps_of(estimator) == [0, 2]
    assert estimator.evaluate(lambda: batches(2))["global_step"] == 2
    assert steps_of(make(line, tmp_path / "runs" / "line").train(lambda: batches(1))) == [0, 2, 3]


# What is kept between calls.


def test_compiled_steps_are_used_again_by_the_next_call(model_dir):
    traced = Traced()
    estimator = make(traced, model_dir)

    def all_calls():
        estimator.train(endless, steps=3)
        estimator.evaluate(lambda: batches(2))
        list(estimator.predict(lambda: features_only(2)))
        list(estimator.predict(lambda: features_only(2), ["y"]))

    all_calls()
    once = dict(traced.counts)
    all_calls()
    assert traced.counts == once


@pytest.mark.parametrize(
    "model_fn", [line, lambda features, labels, mode, params: noisy(features, labels, mode)]
)
def test_no_step_is_compiled_twice_in_a_call_or_after_a_restart(model_dir, model_fn):
    traced = Traced(model_fn)
    make(traced, model_dir, save_summary_steps=0).train(endless, steps=1)
    once = traced.counts["train"]
    for steps in (1, 6):
        again = Traced(model_fn)
        make(again, model_dir, save_summary_steps=0).train(endless, steps=steps)
        assert again.counts["train"] == once


def test_live_variables_serve_the_next_calls_without_a_look_at_the_disk(model_dir, monkeypatch):
    estimator = make(noisy, model_dir).train(endless, steps=3)

    def never(*args, **kwargs):
        raise AssertionError("the variables are live")

    monkeypatch.setattr(checkpoint, "read_variables", never)
    monkeypatch.setattr(checkpoint, "read_opt_state", never)
    for _ in range(2):
        estimator.evaluate(lambda: batches(2))
        list(estimator.predict(lambda: features_only(2)))
        estimator.train(endless, steps=2)


def test_variables_are_read_anew_where_someone_else_has_trained(model_dir):
    one, other = make(line, model_dir), make(line, model_dir)
    one.train(endless, steps=2)
    other.train(endless, steps=2)
    assert one.evaluate(lambda: batches(2)) == other.evaluate(lambda: batches(2))
    assert one.train(endless, steps=1).get_variable_value("global_step") == 5


def test_after_an_exception_the_last_checkpoint_counts(model_dir):
    estimator = make(line, model_dir, save_checkpoints_steps=2)

    class Breaks(Notes):
        def after_run(self, run_context, run_values):
            super().after_run(run_context, run_values)
            if run_context.session.global_step == 3:
                raise ArithmeticError("enough")

    with pytest.raises(ArithmeticError, match="enough"):
        estimator.train(endless, [Breaks()], steps=10)
    assert steps_of(estimator) == [0, 2]
    assert estimator.evaluate(lambda: batches(2))["global_step"] == 2
    fresh = make(line, model_dir)
    assert estimator.evaluate(lambda: batches(2)) == fresh.evaluate(lambda: batches(2))


def test_a_killed_run_goes_on_with_the_batches_it_would_have_seen(tmp_path):
    x, y = joined(batches(5))
    input_fn = est.numpy_input_fn(x, y, batch_size=3, num_epochs=2, shuffle=True, seed=3)
    whole = make(noisy, str(tmp_path / "a")).train(input_fn)

    class Breaks(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            if run_context.session.global_step == 5:
                raise ArithmeticError("enough")

    killed = make(noisy, str(tmp_path / "b"), save_checkpoints_steps=2)
    with pytest.raises(ArithmeticError, match="enough"):
        killed.train(input_fn, [Breaks()])
    killed.train(input_fn)
    assert_close(values_of(killed), values_of(whole))


def test_a_signal_saves_ends_the_call_and_the_next_call_goes_on(tmp_path):
    import signal

    x, y = joined(batches(5))
    input_fn = est.numpy_input_fn(x, y, batch_size=2, num_epochs=1, shuffle=False)
    whole = make(noisy, str(tmp_path / "a")).train(input_fn)

    class Interrupts(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            if run_context.session.global_step == 5:
                signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    estimator = make(noisy, str(tmp_path / "b"))
    estimator.train(input_fn, [Interrupts()])
    assert signal.getsignal(signal.SIGTERM) is before
    assert steps_of(estimator) == [0, 5]
    assert_close(values_of(estimator.train(input_fn)), values_of(whole))


def test_train_works_in_another_thread(model_dir):
    estimator = make(line, model_dir)
    thread = threading.Thread(target=estimator.train, args=[lambda: batches(2)])
    thread.start()
    thread.join()
    assert steps_of(estimator) == [0, 2]


def test_64_bit_labels_that_do_not_fit_are_refused_by_name(model_dir):
    features, labels = batches(1)[0]
    big = (labels * 0 + 2**40).astype(np.int64)
    with pytest.raises(OverflowError, match="labels"):
        make(line, model_dir).train(lambda: (features, big))


def test_a_second_kind_of_batch_may_not_bring_new_variables(model_dir):
    def model_fn(features, labels, mode, params):
        if "extra" in features:
            est.get_variable("extra", ())
        return line(features, labels, mode, params)

    (features, labels), other = batches(2)
    odd = ({**other[0], "extra": np.ones(4, np.float32)}, other[1])
    with pytest.raises(ValueError, match=r"missing \['extra'\]"):
        make(model_fn, model_dir).train(lambda: [(features, labels), odd])
    estimator = make(model_fn, model_dir + "2").train(lambda: [(features, labels)])
    with pytest.raises(ValueError, match="extra"):
        estimator.evaluate(lambda: [(features, labels), odd])
