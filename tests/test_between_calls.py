"""What hooks keep, and what one call leaves for the next or for one inside of it, is right."""

from typing import Any

import numpy as np
import pytest
from models import compiled_programs, endless, line, make
from resuming import undisturbed
from train_process import content, make_net, ordered, shuffled

import estimator as est
from estimator import checkpoint

# Hooks that keep what they were given.


class Keeps(est.SessionRunHook):
    """Keeps a variable, as it was at each step."""

    def __init__(self):
        self.by_run = []
        self.by_session = []
        self.then = []

    def before_run(self, run_context):
        return est.SessionRunArgs("dense/kernel")

    def after_run(self, run_context, run_values):
        self.by_run.append(run_values.results)
        self.by_session.append(run_context.session.run(["dense/kernel"])[0])
        self.then.append(np.array(run_values.results))


def test_a_variable_that_a_hook_keeps_in_training_does_not_change(nets):
    keeps = Keeps()
    nets[0].train(shuffled(), [keeps], steps=4).train(shuffled(), steps=4)
    for kept in (keeps.by_run, keeps.by_session):
        np.testing.assert_array_equal(np.array(kept), np.array(keeps.then))
    assert len({x.tobytes() for x in keeps.then}) == 4


@pytest.mark.parametrize("call", ["evaluate", "predict"])
@pytest.mark.parametrize("loaded", [False, True], ids=["live", "loaded"])
def test_a_variable_that_a_hook_keeps_in_evaluation_outlives_later_training(nets, call, loaded):
    keeps = Keeps()
    nets[0].train(shuffled(), steps=2)
    estimator = nets[loaded]
    answers = getattr(estimator, call)(shuffled(1), hooks=[keeps])
    assert len(list(answers)) > 0
    estimator.train(shuffled(), steps=2)
    for kept in (keeps.by_run, keeps.by_session):
        np.testing.assert_array_equal(np.array(kept), np.array(keeps.then))


# What is kept between calls.


def test_a_second_evaluation_compiles_nothing_and_reads_no_checkpoint(nets, monkeypatch):
    trained, estimator = nets
    trained.train(shuffled(), steps=2)
    first = estimator.evaluate(shuffled(1), steps=1)

    def never(*_, **__):
        raise AssertionError("the checkpoint is read again")

    monkeypatch.setattr(checkpoint, "_read_item", never)
    programs = compiled_programs()
    for _ in range(2):
        assert estimator.evaluate(shuffled(1), steps=1) == first
    assert compiled_programs() == programs


def test_a_second_evaluation_of_an_untrained_model_compiles_nothing(model_dir):
    estimator = make_net(model_dir)
    first = estimator.evaluate(shuffled(1), steps=1)
    programs = compiled_programs()
    assert estimator.evaluate(shuffled(1), steps=1) == first
    assert compiled_programs() == programs


def test_the_devices_of_an_evaluation_are_not_those_of_the_training_after_it(nets):
    class Devices(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            seen.append(len(run_context.session.run("dense/kernel").devices()))

    seen: list[int] = []
    model_dir = nets[0].train(shuffled(), steps=2).model_dir
    estimator = make_net(model_dir, eval_distribute=est.DataParallel())
    estimator.evaluate(shuffled(1))
    estimator.train(shuffled(), [Devices()], steps=2)
    estimator.evaluate(shuffled(1), hooks=[Devices()], steps=1)
    estimator.train(shuffled(), [Devices()], steps=1)
    assert seen == [1, 1, seen[2], 1]


# Calls inside of calls.


@pytest.mark.parametrize("inside", ["listener", "hook"])
def test_predicting_and_evaluating_while_training_sees_the_last_checkpoint(nets, inside):
    estimator, apart = nets
    seen: list[Any] = []
    once = ordered(1)

    def look():
        answers = list(estimator.predict(lambda: once, "probabilities"))
        results = estimator.evaluate(lambda: once)
        path = estimator.latest_checkpoint()
        again = apart.evaluate(lambda: once, checkpoint_path=path)
        assert again == results
        seen.append(int(results["global_step"]))
        assert len(answers) == 8

    class Listener(est.CheckpointSaverListener):
        def after_save(self, session, global_step_value):
            look()
            assert seen[-1] == global_step_value

    class Hook(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            if run_context.session.global_step % 2 == 0:
                look()

    given = {"hooks": [Hook()]} if inside == "hook" else {"saving_listeners": [Listener()]}
    estimator.train(shuffled(), max_steps=8, **given)
    assert seen == ([0, 3, 6, 8] if inside == "listener" else [0, 3, 6, 6])
    wanted = undisturbed(8)
    for name, value in content(estimator.model_dir).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)


def test_a_generator_of_answers_half_read_in_a_hook_goes_on_after_the_training(nets):
    class Hook(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            if run_context.session.global_step == 5:
                opened.append(estimator.predict(shuffled(1), "probabilities"))
                answers.append(next(opened[0])["probabilities"])

    opened: list[Any] = []
    answers: list[Any] = []
    estimator, apart = nets
    estimator.train(shuffled(), [Hook()], max_steps=8).train(shuffled(), steps=3)
    answers += [a["probabilities"] for a in opened[0]]
    path = f"{apart.model_dir}/checkpoints/3"
    wanted = apart.predict(shuffled(1), "probabilities", checkpoint_path=path)
    np.testing.assert_array_equal(answers, [a["probabilities"] for a in wanted])


def test_two_training_hooks_of_the_spec_begin_anew_in_each_call(model_dir):
    class Counts(est.SessionRunHook):
        def __init__(self):
            self.calls = []

        def begin(self):
            self.calls.append(0)

        def after_run(self, run_context, run_values):
            self.calls[-1] += 1

    hooks: list[Any] = []

    def model_fn(features, labels, mode, params):
        hooks.append(Counts())
        return line(features, labels, mode, params)._replace(training_hooks=[hooks[-1]])

    estimator = make(model_fn, model_dir)
    estimator.train(endless, steps=3).train(endless, steps=2)
    assert [hook.calls for hook in hooks if hook.calls] == [[3, 2]]
