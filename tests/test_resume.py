"""A run that was killed, interrupted or damaged goes on as if nothing had happened."""

import functools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import steps_of
from train_process import content, make_net, net, shuffled

import estimator as est
from estimator import checkpoint


class Breaks(est.SessionRunHook):
    """Raises after a step, as a bug would end a run."""

    def __init__(self, step):
        self.step = step

    def after_run(self, run_context, run_values):
        if run_context.session.global_step >= self.step:
            raise RuntimeError("broken")


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


class Steps(est.SessionRunHook):
    """Notes the steps it sees."""

    def __init__(self):
        self.seen = []

    def after_run(self, run_context, run_values):
        self.seen.append(run_context.session.global_step)


def break_at(step, estimator, input_fn, **limits):
    with pytest.raises(RuntimeError, match="broken"):
        estimator.train(input_fn, [Breaks(step)], **limits)


def assert_same(actual: dict[str, Any], wanted: dict[str, Any], tolerance: float = 0.0) -> None:
    """Compares what two checkpoints hold: bit by bit, or arrays with a tolerance."""
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, np.ndarray) and tolerance and value.dtype.kind == "f":
            np.testing.assert_allclose(
                actual[name], value, rtol=tolerance, atol=tolerance, err_msg=name
            )
        elif isinstance(value, np.ndarray):
            assert actual[name].dtype == value.dtype, name
            assert actual[name].tobytes() == value.tobytes(), name
        else:
            assert actual[name] == value, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Gives what the last checkpoint holds of one call to some step that nothing has disturbed."""

    @functools.cache
    def run(max_steps: int) -> dict[str, Any]:
        model_dir = str(tmp_path_factory.mktemp("whole"))
        make_net(model_dir).train(shuffled(), max_steps=max_steps)
        return content(model_dir)

    return run


# Killed processes.


class Nursery:
    """Starts children that train, and kills them."""

    def __init__(self) -> None:
        tests = Path(__file__).parent
        path = os.pathsep.join([str(tests), str(tests.parent)])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(tests / "train_process.py")],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def train(self, kill: tuple[int, float, int] | None = None, **call: Any) -> tuple[int, int]:
        """Makes a child train, and returns its exit code and how many steps it was seen to make.

        `kill` holds a number of steps after which, a number of seconds later, a signal is sent.
        """
        self._in.write(json.dumps(call).encode() + b"\n")
        child = int(self._out.readline())
        dots = 0
        while self._out.read(1) == b".":
            dots += 1
            if kill is not None and dots == kill[0]:
                threading.Event().wait(kill[1])
                os.kill(child, kill[2])
        return int(self._out.readline()), dots

    def close(self) -> None:
        self._in.close()
        self._out.close()
        self._process.wait()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


def test_a_run_killed_five_times_ends_as_one_that_was_never_killed(nursery, whole, model_dir):
    seed = random.randrange(2**32)
    print(f"killed at moments of random.Random({seed})")
    rng = random.Random(seed)
    call = {"model_dir": model_dir, "settings": {}, "source": {}, "limits": {"max_steps": 60}}
    for _ in range(5):
        kill = (rng.randint(1, 12), rng.random() * 0.03, signal.SIGKILL)
        assert nursery.train(kill, **call)[0] == -signal.SIGKILL
    assert nursery.train(**call)[0] == 0
    assert_same(content(model_dir), whole(60))


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
    assert nursery.train((5, 0.0, signal.SIGKILL), **call)[0] == -signal.SIGKILL
    assert nursery.train(**call)[0] == 0
    drawn = first["position"]["state"]["seed"]
    ended = content(killed)
    assert ended["step"] == 17
    assert ended["seed"] == first["seed"]
    assert ended["position"]["state"] == {"examples": 129, "seed": drawn}
    estimator = make_net(whole, random_seed=first["seed"], save_checkpoints_steps=2)
    estimator.train(shuffled(num_epochs=3, seed=drawn))
    assert_same(content(killed) | {"position": None}, content(whole) | {"position": None})


def test_ctrl_c_in_a_process_saves_and_the_next_process_goes_on(nursery, whole, model_dir):
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
    assert_same(content(model_dir), whole(20))


# Exceptions.


class BreaksAtTheEnd(est.SessionRunHook):
    """Raises when everything is saved, before the call has noted that it has ended."""

    def end(self, session):
        session.wait_for_saves()
        raise RuntimeError("broken")


def test_a_run_that_an_exception_ended_is_continued_by_the_next_call(whole, model_dir):
    estimator = make_net(model_dir)
    break_at(7, estimator, shuffled(), max_steps=20)
    assert steps_of(estimator) == [0, 3, 6]
    estimator.train(shuffled(), max_steps=20)
    assert_same(content(model_dir), whole(20))


@pytest.mark.parametrize(
    "hook",
    [
        est.StepCounterHook(2),
        est.LoggingTensorHook(["loss"], at_end=True),
        est.FinalOpsHook("loss"),
    ],
    ids=lambda hook: type(hook).__name__,
)
def test_a_run_that_broke_after_its_last_save_is_ended_by_the_next_call(model_dir, hook):
    with pytest.raises(RuntimeError, match="broken"):
        make_net(model_dir).train(shuffled(num_epochs=1), [BreaksAtTheEnd()])
    before = content(model_dir)
    assert not before["ended"]
    make_net(model_dir).train(shuffled(num_epochs=1), [hook])
    assert_same(content(model_dir), before | {"ended": True})


def test_max_steps_that_a_broken_run_has_reached_end_that_run(model_dir):
    with pytest.raises(RuntimeError, match="broken"):
        make_net(model_dir).train(shuffled(), [BreaksAtTheEnd()], max_steps=6)
    assert content(model_dir)["step"] == 6
    make_net(model_dir).train(shuffled(), max_steps=6).train(shuffled(), max_steps=9)
    # After a call that has ended the next one begins its input afresh.
    assert content(model_dir)["position"]["state"]["examples"] == 3 * 8


def test_a_second_call_that_breaks_before_its_first_save_begins_its_input_again(tmp_path):
    whole, broken = make_net(str(tmp_path / "whole")), make_net(str(tmp_path / "broken"))
    for estimator in (whole, broken):
        estimator.train(shuffled(), max_steps=6)
    break_at(8, broken, shuffled(), max_steps=11)
    assert content(broken.model_dir)["step"] == 6
    for estimator in (whole, broken):
        estimator.train(shuffled(), max_steps=11)
    assert_same(content(broken.model_dir), content(whole.model_dir))


# Signals.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_where_it_came_and_the_next_call_goes_on(whole, model_dir, number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    estimator = make_net(model_dir, save_checkpoints_steps=1000)
    hook = Signals(8, number)
    assert estimator.train(shuffled(), [hook], max_steps=20) is estimator
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert hook.seen == list(range(1, 9))
    assert steps_of(estimator) == [0, 8]
    rest = Steps()
    estimator.train(shuffled(), [rest], max_steps=20)
    assert rest.seen == list(range(9, 21))
    assert_same(content(model_dir), whole(20))


def test_a_second_ctrl_c_raises_at_once_and_the_next_call_goes_on(whole, model_dir):
    before = signal.getsignal(signal.SIGINT)
    estimator = make_net(model_dir)
    with pytest.raises(KeyboardInterrupt):
        estimator.train(shuffled(), [Signals(8, signal.SIGINT, signal.SIGINT)], max_steps=12)
    assert signal.getsignal(signal.SIGINT) is before
    assert steps_of(estimator) == [0, 3, 6]
    estimator.train(shuffled(), max_steps=12)
    assert_same(content(model_dir), whole(12))


def test_sigterm_and_then_ctrl_c_raises_too_but_a_second_sigterm_does_not(model_dir):
    estimator = make_net(model_dir)
    with pytest.raises(KeyboardInterrupt):
        estimator.train(shuffled(), [Signals(4, signal.SIGTERM, signal.SIGINT)], max_steps=9)
    estimator.train(shuffled(), [Signals(5, signal.SIGTERM, signal.SIGTERM)], max_steps=9)
    assert steps_of(estimator)[-1] == 5


def test_handlers_are_given_back_after_an_exception(model_dir):
    def mine(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, mine)
    try:
        break_at(2, make_net(model_dir), shuffled(), max_steps=9)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_train_works_and_installs_no_handlers(model_dir):
    class Looks(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            handlers.append(signal.getsignal(signal.SIGINT))

    handlers: list[Any] = []
    estimator = make_net(model_dir)
    thread = threading.Thread(target=estimator.train, args=(shuffled(), [Looks()], 4))
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)] * 4
    assert content(model_dir)["step"] == 4


# Where the input goes on.


@pytest.mark.parametrize("again", [True, False], ids=["same object", "new object"])
def test_two_halves_are_one_whole_with_continue_input(whole, model_dir, again):
    first = make_net(model_dir, continue_input=True).train(shuffled(), max_steps=11)
    second = first if again else make_net(model_dir, continue_input=True)
    second.train(shuffled(), steps=9)
    assert_same(content(model_dir), whole(20))


def test_without_continue_input_the_second_call_begins_its_input_afresh(tmp_path):
    halves = make_net(str(tmp_path / "halves"))
    halves.train(shuffled(), steps=11).train(shuffled(), steps=9)
    assert content(halves.model_dir)["position"]["state"]["examples"] == 9 * 8
    whole = make_net(str(tmp_path / "whole"))

    def input_fn():
        yield from [batch for batch, _ in zip(shuffled()(), range(11), strict=False)]
        yield from [batch for batch, _ in zip(shuffled()(), range(9), strict=False)]

    whole.train(input_fn)
    same = content(whole.model_dir) | {"position": None}
    assert_same(content(halves.model_dir) | {"position": None}, same)


@pytest.mark.parametrize("other", [{"batch_size": 16}, {"seed": 4}, {"rows": 44}], ids=str)
def test_a_position_of_another_source_is_not_used(model_dir, caplog, other):
    estimator = make_net(model_dir)
    break_at(7, estimator, shuffled(), max_steps=20)
    with caplog.at_level(logging.WARNING, "estimator"):
        estimator.train(shuffled(**other), max_steps=10)
    assert "The input is not the one of" in caplog.text
    assert "begins anew" in caplog.text
    rows = 4 * other.get("batch_size", 8)
    assert content(model_dir)["position"]["state"]["examples"] == rows


def with_scaffold(features, labels, mode):
    """The same net; its inputs are scaled by what three batches say."""

    def init_fn(variables, batches):
        seen = [np.abs(np.asarray(next(batches)[0]["x"])).mean(0) for _ in range(3)]
        return {**variables, "scale": jnp.asarray(np.mean(seen, 0))}

    scale = est.get_variable("scale", (4,), trainable=False)
    spec = net({"x": features["x"] / scale}, labels, mode)
    return spec._replace(scaffold=est.Scaffold(init_fn))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    model_dir = str(tmp_path_factory.mktemp("straight"))
    config = est.RunConfig(random_seed=5, save_checkpoints_steps=6, prefetch=0)
    est.Estimator(with_scaffold, model_dir, config).train(shuffled(), max_steps=24)
    return content(model_dir)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_working_ahead_leaves_the_position_right(model_dir, straight, prefetch, block):
    config = est.RunConfig(
        random_seed=5, save_checkpoints_steps=6, prefetch=prefetch, steps_per_execution=block
    )

    class BreaksAtABlock(Breaks):
        def next_step(self, global_step):
            return None

    for step in (2, 14):
        estimator = est.Estimator(with_scaffold, model_dir, config)
        with pytest.raises(RuntimeError, match="broken"):
            estimator.train(shuffled(), [BreaksAtABlock(step)], max_steps=24)
        reached = content(model_dir)
        assert reached["step"] == step // 6 * 6
        assert reached["position"]["state"]["examples"] == 8 * reached["step"]
    est.Estimator(with_scaffold, model_dir, config).train(shuffled(), max_steps=24)
    assert_same(content(model_dir), straight, tolerance=0.0 if block == 1 else 1e-5)


# Iterators of the user's.


class Counting:
    """An iterator with a position, a dict that it goes on changing, or bytes."""

    def __init__(self, as_bytes=False, told=None):
        self.state = {"next": 0}
        self.as_bytes = as_bytes
        self.given = []
        if told is not None:
            self.fingerprint = told

    def __iter__(self):
        return self

    def __next__(self):
        i = self.state["next"]
        self.state["next"] += 1
        self.given.append(i)
        x = np.random.default_rng(i).normal(size=(8, 4)).astype(np.float32)
        return {"x": x}, (x[:, 0] > 0).astype(np.int32)

    def get_state(self):
        return json.dumps(self.state).encode() if self.as_bytes else self.state

    def set_state(self, state):
        assert isinstance(state, bytes) == self.as_bytes
        self.state = json.loads(state) if self.as_bytes else dict(state)


@pytest.mark.parametrize(
    ("as_bytes", "prefetch"), [(False, 0), (False, 2), (True, 2)], ids=["dict", "ahead", "bytes"]
)
def test_an_iterator_with_a_position_goes_on_where_the_killed_run_was(tmp_path, as_bytes, prefetch):
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    make_net(whole).train(lambda: Counting(as_bytes), max_steps=12)
    break_at(8, make_net(broken, prefetch=prefetch), lambda: Counting(as_bytes), max_steps=12)
    rest = Counting(as_bytes)
    make_net(broken, prefetch=prefetch).train(lambda: rest, max_steps=12)
    assert rest.given[:7] == [0, 6, 7, 8, 9, 10, 11]
    assert_same(content(broken), content(whole))


@pytest.mark.parametrize("told", [{"sizes": (3, 4)}, {"sizes": {1: 2}}], ids=str)
def test_a_fingerprint_that_json_changes_still_tells_its_source(model_dir, told):
    break_at(8, make_net(model_dir), lambda: Counting(told=told), max_steps=12)
    rest = Counting(told=told)
    make_net(model_dir).train(lambda: rest, max_steps=12)
    assert rest.given == [0, 6, 7, 8, 9, 10, 11]


def test_a_state_that_json_cannot_hold_is_refused_at_the_first_save(model_dir):
    class Strange(Counting):
        def get_state(self):
            return {"next": np.arange(3)}

    with pytest.raises(TypeError, match=r"the input position must be something JSON can hold"):
        make_net(model_dir).train(Strange, max_steps=12)
    make_net(model_dir).train(Counting, max_steps=4)


def test_a_generator_begins_anew(model_dir):
    def generator():
        for batch in Counting():
            given.append(batch)
            yield batch

    given: list[Any] = []
    break_at(8, make_net(model_dir), generator, max_steps=12)
    given.clear()
    make_net(model_dir).train(generator, max_steps=12)
    assert len(given) == 6
    np.testing.assert_array_equal(given[0][0]["x"], next(Counting())[0]["x"])


# Damage.


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path):
    path.unlink()


def damage_newest(model_dir: str, how: Any) -> None:
    """Damages the files of the newest checkpoint that hold its variables."""
    newest = checkpoint.latest_checkpoint(model_dir)
    assert newest is not None
    for path in (Path(newest) / "variables").rglob("d/*"):
        how(path)


def files_of(model_dir: str) -> dict[str, bytes]:
    paths = sorted((Path(model_dir) / "checkpoints").rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


@pytest.mark.parametrize("how", [flip, truncate, delete])
def test_a_damaged_checkpoint_is_passed_over_and_made_again(whole, model_dir, how):
    estimator = make_net(model_dir)
    break_at(10, estimator, shuffled(), max_steps=12)
    before = estimator.evaluate(shuffled(1), checkpoint_path=f"{model_dir}/checkpoints/6")
    damage_newest(model_dir, how)
    files = files_of(model_dir)
    message = r"checkpoints/9 is damaged, the one before it is used"
    with pytest.warns(RuntimeWarning, match=message):
        assert estimator.evaluate(shuffled(1)) == before
    with pytest.warns(RuntimeWarning, match=message):
        assert len(list(estimator.predict(shuffled(1)))) == 43
    assert files_of(model_dir) == files
    steps = Steps()
    with pytest.warns(RuntimeWarning, match=message):
        estimator.train(shuffled(), [steps], max_steps=12)
    assert steps.seen == [7, 8, 9, 10, 11, 12]
    assert os.path.isdir(f"{model_dir}/checkpoints/9.damaged")
    assert steps_of(estimator) == [0, 3, 6, 9, 12]
    assert_same(content(model_dir), whole(12))


def test_a_damaged_optimizer_state_harms_training_only(whole, model_dir):
    estimator = make_net(model_dir)
    break_at(7, estimator, shuffled(), max_steps=12)
    for path in Path(model_dir, "checkpoints", "6", "opt_state").rglob("d/*"):
        truncate(path)
    assert estimator.evaluate(shuffled(1))["global_step"] == 6
    with pytest.warns(RuntimeWarning, match="checkpoints/6 is damaged, .*opt_state"):
        estimator.train(shuffled(), max_steps=12)
    assert_same(content(model_dir), whole(12))


def test_a_damaged_last_checkpoint_is_made_again_by_the_same_max_steps(whole, model_dir):
    make_net(model_dir).train(shuffled(), max_steps=12)
    damage_newest(model_dir, flip)
    with pytest.warns(RuntimeWarning, match="checkpoints/12 is damaged"):
        make_net(model_dir).train(shuffled(), max_steps=12)
    assert_same(content(model_dir), whole(12))


def test_where_every_checkpoint_is_damaged_training_begins_anew(whole, model_dir):
    make_net(model_dir).train(shuffled(), max_steps=3)
    for step in (3, 0):
        flip(Path(model_dir, "checkpoints", str(step), "manifest.json"))
    with pytest.warns(RuntimeWarning, match="is damaged"):
        make_net(model_dir).train(shuffled(), max_steps=20)
    assert steps_of(make_net(model_dir))[-2:] == [18, 20]
    assert_same(content(model_dir), whole(20))


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_where_every_checkpoint_is_damaged_nothing_is_evaluated_as_if_untrained(model_dir, call):
    make_net(model_dir).train(shuffled(), max_steps=3)
    for step in (3, 0):
        flip(Path(model_dir, "checkpoints", str(step), "manifest.json"))
    with (
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),
        pytest.raises(est.DamagedCheckpointError, match=r"checkpoints/[03]"),
    ):
        list(getattr(make_net(model_dir), call)(shuffled(1)))


def test_a_signal_before_the_first_step_is_no_error(model_dir):
    class SignalsAtOnce(est.SessionRunHook):
        def after_create_session(self, session, coord):
            os.kill(os.getpid(), signal.SIGTERM)

    at_end = est.LoggingTensorHook(["loss"], at_end=True)
    make_net(model_dir).train(shuffled(), [SignalsAtOnce(), at_end], steps=3)
    assert content(model_dir)["step"] == 0


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
    break_at(27, est.Estimator(flax_model_fn, broken, config), shuffled(), max_steps=35)
    again = est.Estimator(flax_model_fn, broken, config).train(shuffled(), max_steps=35)
    assert_same(content(broken), content(whole))
    assert again.evaluate(shuffled(1)) == trained


# The directory.


def test_a_model_dir_deleted_between_calls_begins_at_zero_again(model_dir):
    estimator = make_net(model_dir)
    untrained = estimator.evaluate(shuffled(1))
    estimator.train(shuffled(), max_steps=6)
    first = content(model_dir)
    assert estimator.evaluate(shuffled(1))["global_step"] == 6
    shutil.rmtree(model_dir)
    assert estimator.evaluate(shuffled(1)) == untrained
    shutil.rmtree(model_dir)
    assert len(list(estimator.predict(shuffled(1)))) == 43
    assert estimator.latest_checkpoint() is None
    steps = Steps()
    estimator.train(shuffled(), [steps], max_steps=6)
    assert steps.seen == [1, 2, 3, 4, 5, 6]
    assert_same(content(model_dir), first)
    assert list(Path(model_dir).glob("events.out.tfevents.*"))


def test_two_estimators_of_one_model_dir_see_what_the_other_has_trained(whole, model_dir):
    one, two = (make_net(model_dir, continue_input=True) for _ in range(2))
    for turn, (trains, looks) in enumerate([(one, two), (two, one), (one, two)], start=1):
        trains.train(shuffled(), steps=4)
        seen = looks.evaluate(shuffled(1))
        assert seen["global_step"] == 4 * turn
        assert seen == trains.evaluate(shuffled(1))
        answers = [list(e.predict(shuffled(1, seed=1), "classes")) for e in (one, two)]
        assert answers[0] == answers[1]
    assert_same(content(model_dir), whole(12))


def test_a_model_dir_may_be_moved_to_another_place(whole, tmp_path):
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    estimator = make_net(here)
    break_at(8, estimator, shuffled(), max_steps=12)
    os.rename(here, there)
    moved = make_net(there)
    assert moved.evaluate(shuffled(1))["global_step"] == 6
    moved.train(shuffled(), max_steps=12)
    assert_same(content(there), whole(12))
    assert estimator.evaluate(shuffled(1))["global_step"] == 0


def test_live_variables_survive_neither_an_exception_nor_a_step_that_was_not_saved(model_dir):
    estimator = make_net(model_dir, save_checkpoints_steps=None, save_checkpoints_secs=None)
    estimator.train(shuffled(), max_steps=4)
    assert steps_of(estimator) == []
    assert estimator.evaluate(shuffled(1))["global_step"] == 0


def test_a_seed_drawn_by_one_object_is_that_of_the_next(model_dir):
    make_net(model_dir, random_seed=None).train(shuffled(), max_steps=3)
    seed = content(model_dir)["seed"]
    make_net(model_dir, random_seed=None).train(shuffled(), max_steps=6)
    assert content(model_dir)["seed"] == seed
    assert jax.random.key(seed).shape == ()
