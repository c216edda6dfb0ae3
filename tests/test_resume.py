"""A run that was killed, interrupted or broken goes on as if nothing had happened."""

import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import Notes, steps_of
from resuming import Nursery, assert_same, break_at, undisturbed
from train_process import content, make_net, shuffled

import estimator as est
from estimator import checkpoint

# Killed processes.


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


def test_a_run_killed_twice_ends_as_one_that_was_never_killed(nursery, model_dir):
    seed = random.randrange(2**32)
    print(f"killed at moments of random.Random({seed})")
    rng = random.Random(seed)
    call = {"model_dir": model_dir, "settings": {}, "source": {}, "limits": {"max_steps": 60}}
    for _ in range(2):
        kill = (rng.randint(1, 12), rng.random() * 0.03, signal.SIGKILL)
        assert nursery.train(kill, **call)[0] == -signal.SIGKILL
    assert nursery.train(**call)[0] == 0
    assert_same(content(model_dir), undisturbed(60))


def test_a_killed_run_over_a_finite_input_keeps_the_seeds_that_were_drawn(nursery, tmp_path):
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    call = {
        "model_dir": killed,
        "settings": {"random_seed": None, "save_checkpoints_steps": 2},
        "source": {"num_epochs": 3, "seed": None},
        "limits": {},
    }
    assert nursery.train((5, 0.0, signal.SIGKILL), **call)[0] == -signal.SIGKILL
    first = content(killed)
    assert 0 <= first["step"] < 17
    assert nursery.train(**call)[0] == 0
    drawn = first["position"]["state"]["seed"]
    ended = content(killed)
    assert ended["step"] == 17
    assert ended["seed"] == first["seed"]
    assert ended["position"]["state"] == {"examples": 129, "seed": drawn}
    estimator = make_net(whole, random_seed=first["seed"], save_checkpoints_steps=2)
    estimator.train(shuffled(num_epochs=3, seed=drawn))
    assert_same(content(killed) | {"position": None}, content(whole) | {"position": None})


def test_ctrl_c_in_a_process_saves_and_the_next_process_goes_on(nursery, model_dir):
    call = {
        "model_dir": model_dir,
        "settings": {"save_checkpoints_steps": 1000},
        "source": {},
        "limits": {"max_steps": 20},
    }
    code, steps = nursery.train((8, 0.0, signal.SIGINT), **call)
    assert code == 0
    assert 8 <= steps < 20
    assert content(model_dir)["step"] == steps
    assert not content(model_dir)["ended"]
    assert nursery.train(**call) == (0, 20 - steps)
    assert_same(content(model_dir), undisturbed(20))


# Exceptions.


class BreaksAtTheEnd(est.SessionRunHook):
    """Raises when everything is saved, before the call has noted that it has ended."""

    def end(self, session):
        session.wait_for_saves()
        raise RuntimeError("broken")


def test_a_run_that_an_exception_ended_is_continued_by_the_next_call(nets):
    estimator, _ = nets
    break_at(7, estimator, shuffled(), max_steps=20)
    assert steps_of(estimator) == [0, 3, 6]
    estimator.train(shuffled(), max_steps=20)
    assert_same(content(estimator.model_dir), undisturbed(20))


@pytest.mark.parametrize(
    "hook",
    [
        est.StepCounterHook(2),
        est.LoggingTensorHook(["loss"], at_end=True),
        est.FinalOpsHook("loss"),
    ],
    ids=lambda hook: type(hook).__name__,
)
def test_a_run_that_broke_after_its_last_save_is_ended_by_the_next_call(nets, hook):
    broken, again = nets
    with pytest.raises(RuntimeError, match="broken"):
        broken.train(shuffled(num_epochs=1), [BreaksAtTheEnd()])
    before = content(broken.model_dir)
    assert not before["ended"]
    again.train(shuffled(num_epochs=1), [hook])
    assert_same(content(again.model_dir), before | {"ended": True})


def test_max_steps_that_a_broken_run_has_reached_end_that_run(nets):
    broken, again = nets
    with pytest.raises(RuntimeError, match="broken"):
        broken.train(shuffled(), [BreaksAtTheEnd()], max_steps=6)
    assert content(broken.model_dir)["step"] == 6
    again.train(shuffled(), max_steps=6).train(shuffled(), max_steps=9)
    # After a call that has ended the next one begins its input afresh.
    assert content(again.model_dir)["position"]["state"]["examples"] == 3 * 8


def test_a_second_call_that_breaks_before_its_first_save_begins_its_input_again(nets, tmp_path):
    broken, _ = nets
    broken.train(shuffled(), max_steps=6)
    whole = make_net(shutil.copytree(broken.model_dir, tmp_path / "whole"))
    break_at(8, broken, shuffled(), max_steps=11)
    assert content(broken.model_dir)["step"] == 6
    for estimator in (whole, broken):
        estimator.train(shuffled(), max_steps=11)
    assert_same(content(broken.model_dir), content(whole.model_dir))


# Signals.


class Signals(est.SessionRunHook):
    """Sends signals to its own process after a step, and sees every step."""

    def __init__(self, step, *numbers):
        self.step = step
        self.numbers = numbers
        self.seen = []

    def after_run(self, run_context, run_values):
        self.seen.append(run_context.session.global_step)
        if self.seen[-1] == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_where_it_came_and_the_next_call_goes_on(nets, number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    estimator, _ = nets
    hook = Signals(8, number)
    assert estimator.train(shuffled(), [hook], max_steps=20) is estimator
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert hook.seen == list(range(1, 9))
    assert steps_of(estimator) == [0, 3, 6, 8]
    rest = Notes()
    estimator.train(shuffled(), [rest], max_steps=20)
    assert rest.steps == list(range(9, 21))
    assert_same(content(estimator.model_dir), undisturbed(20))


def test_a_second_ctrl_c_raises_at_once_and_the_next_call_goes_on(nets):
    before = signal.getsignal(signal.SIGINT)
    estimator, _ = nets
    with pytest.raises(KeyboardInterrupt):
        estimator.train(shuffled(), [Signals(8, signal.SIGINT, signal.SIGINT)], max_steps=20)
    assert signal.getsignal(signal.SIGINT) is before
    assert steps_of(estimator) == [0, 3, 6]
    estimator.train(shuffled(), max_steps=20)
    assert_same(content(estimator.model_dir), undisturbed(20))


def test_sigterm_and_then_ctrl_c_raises_too_but_a_second_sigterm_does_not(nets):
    estimator, _ = nets
    with pytest.raises(KeyboardInterrupt):
        estimator.train(shuffled(), [Signals(4, signal.SIGTERM, signal.SIGINT)], max_steps=9)
    estimator.train(shuffled(), [Signals(5, signal.SIGTERM, signal.SIGTERM)], max_steps=9)
    assert steps_of(estimator)[-1] == 5


def test_handlers_are_given_back_after_an_exception(nets):
    def mine(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, mine)
    try:
        break_at(2, nets[0], shuffled(), max_steps=9)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_train_works_and_installs_no_handlers(nets):
    class Looks(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            handlers.append(signal.getsignal(signal.SIGINT))

    handlers: list[Any] = []
    estimator, _ = nets
    thread = threading.Thread(target=estimator.train, args=(shuffled(), [Looks()], 4))
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)] * 4
    assert content(estimator.model_dir)["step"] == 4


def test_a_signal_before_the_first_step_is_no_error(nets):
    class SignalsAtOnce(est.SessionRunHook):
        def after_create_session(self, session, coord):
            os.kill(os.getpid(), signal.SIGTERM)

    at_end = est.LoggingTensorHook(["loss"], at_end=True)
    estimator = nets[0].train(shuffled(), [SignalsAtOnce(), at_end], steps=3)
    assert content(estimator.model_dir)["step"] == 0


# Another library's model.


def flax_model_fn(features, labels, mode):
    """A Flax module with batch normalisation and dropout."""
    import flax.linen as nn

    class Module(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dense(10)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
            return nn.Dense(3)(x)

    module, train = Module(), mode == est.ModeKeys.TRAIN
    tree = est.variable_tree(
        "flax",
        lambda key, x: module.init(key, x, False),
        features["x"],
        trainable={"params": True, "batch_stats": False},
    )
    rngs = {"dropout": est.next_rng_key()}
    logits, moved = module.apply(tree, features["x"], train, rngs=rngs, mutable=["batch_stats"])
    est.assign_tree("flax/batch_stats", moved["batch_stats"])
    if mode == est.ModeKeys.PREDICT:
        return est.EstimatorSpec(mode, predictions={"logits": logits})
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    accuracy = est.metrics.accuracy(labels, jnp.argmax(logits, -1))
    metrics = {"accuracy": accuracy}
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adam(0.02), eval_metric_ops=metrics)


def test_a_flax_model_trains_evaluates_predicts_and_resumes(tmp_path):
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    config = est.RunConfig(random_seed=5, save_checkpoints_steps=10)
    estimator = est.Estimator(flax_model_fn, whole, config)
    untrained = estimator.evaluate(shuffled(1))
    estimator.train(shuffled(), max_steps=35)
    trained = estimator.evaluate(shuffled(1))
    assert trained["loss"] < untrained["loss"] - 0.1
    assert trained["accuracy"] > untrained["accuracy"]
    start = checkpoint.read_variables(f"{whole}/checkpoints/0")
    mean = "flax/batch_stats/BatchNorm_0/mean"
    assert np.abs(estimator.get_variable_value(mean) - start[mean]).min() > 0
    assert len(list(estimator.predict(shuffled(1), "logits"))) == 43
    again = est.Estimator(flax_model_fn, broken, config)
    break_at(27, again, shuffled(), max_steps=35)
    again.train(shuffled(), max_steps=35)
    assert_same(content(broken), content(whole))
    assert again.evaluate(shuffled(1)) == trained


def test_an_estimator_tells_what_ended_its_last_train_call(nets):
    estimator, _ = nets
    estimator.train(shuffled(), hooks=[Signals(3, signal.SIGTERM)], max_steps=9)
    assert estimator.interrupted == "SIGTERM"
    estimator.train(shuffled(), max_steps=9)
    assert estimator.interrupted is None
