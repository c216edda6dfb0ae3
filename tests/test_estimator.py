"""The Estimator: what the constructor promises, and what is kept between calls."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from models import (
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
