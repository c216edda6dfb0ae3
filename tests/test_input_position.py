"""Where the input goes on: where the run that is continued was, or anew."""

import json
import logging
import shutil
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from resuming import Breaks, assert_same, break_at, undisturbed
from train_process import content, make_net, net, shuffled

import estimator as est

# Sources of the package.


def test_parts_are_one_whole_with_continue_input(model_dir):
    first, another = (make_net(model_dir, continue_input=True) for _ in range(2))
    first.train(shuffled(), max_steps=7).train(shuffled(), steps=4)
    another.train(shuffled(), steps=9)
    assert_same(content(model_dir), undisturbed(20))


def test_without_continue_input_the_second_call_begins_its_input_afresh(nets):
    halves, whole = nets
    halves.train(shuffled(), steps=11).train(shuffled(), steps=9)
    made = content(halves.model_dir)
    assert made["position"]["state"]["examples"] == 9 * 8
    shutil.rmtree(halves.model_dir)

    def input_fn():
        yield from [batch for batch, _ in zip(shuffled()(), range(11), strict=False)]
        yield from [batch for batch, _ in zip(shuffled()(), range(9), strict=False)]

    whole.train(input_fn)
    same = content(whole.model_dir) | {"position": None}
    assert_same(made | {"position": None}, same)


@pytest.mark.parametrize("other", [{"batch_size": 16}, {"seed": 4}, {"rows": 44}], ids=str)
def test_a_position_of_another_source_is_not_used(nets, caplog, other):
    estimator, _ = nets
    break_at(7, estimator, shuffled(), max_steps=20)
    with caplog.at_level(logging.WARNING, "estimator"):
        estimator.train(shuffled(**other), max_steps=10)
    assert "The input is not the one of" in caplog.text
    assert "begins anew" in caplog.text
    rows = 4 * other.get("batch_size", 8)
    assert content(estimator.model_dir)["position"]["state"]["examples"] == rows


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


@pytest.mark.parametrize(("prefetch", "block"), [(0, 1), (3, 4)])
def test_working_ahead_leaves_the_position_right(model_dir, straight, prefetch, block):
    config = est.RunConfig(
        random_seed=5, save_checkpoints_steps=6, prefetch=prefetch, steps_per_execution=block
    )

    class BreaksAtABlock(Breaks):
        def next_step(self, global_step):
            return None

    estimator = est.Estimator(with_scaffold, model_dir, config)
    for step in (2, 14):
        with pytest.raises(RuntimeError, match="broken"):
            estimator.train(shuffled(), [BreaksAtABlock(step)], max_steps=24)
        reached = content(model_dir)
        assert reached["step"] == step // 6 * 6
        assert reached["position"]["state"]["examples"] == 8 * reached["step"]
    estimator.train(shuffled(), max_steps=24)
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
    ("as_bytes", "prefetch"), [(False, 0), (True, 2)], ids=["dict", "bytes ahead"]
)
def test_an_iterator_with_a_position_goes_on_where_the_killed_run_was(
    nets, model_dir, as_bytes, prefetch
):
    whole = nets[0].train(lambda: Counting(as_bytes), max_steps=12)
    broken = make_net(model_dir, prefetch=prefetch)
    break_at(8, broken, lambda: Counting(as_bytes), max_steps=12)
    rest = Counting(as_bytes)
    broken.train(lambda: rest, max_steps=12)
    assert rest.given[:7] == [0, 6, 7, 8, 9, 10, 11]
    assert_same(content(model_dir), content(whole.model_dir))


@pytest.mark.parametrize("told", [{"sizes": (3, 4)}, {"sizes": {1: 2}}], ids=str)
def test_a_fingerprint_that_json_changes_still_tells_its_source(nets, told):
    broken, again = nets
    break_at(8, broken, lambda: Counting(told=told), max_steps=12)
    rest = Counting(told=told)
    again.train(lambda: rest, max_steps=12)
    assert rest.given == [0, 6, 7, 8, 9, 10, 11]


def test_a_state_that_json_cannot_hold_is_refused_at_the_first_save(nets):
    class Strange(Counting):
        def get_state(self):
            return {"next": np.arange(3)}

    with pytest.raises(TypeError, match=r"the input position must be something JSON can hold"):
        nets[0].train(Strange, max_steps=12)
    nets[1].train(Counting, max_steps=4)


def test_a_generator_begins_anew(nets):
    def generator():
        for batch in Counting():
            given.append(batch)
            yield batch

    given: list[Any] = []
    broken, again = nets
    break_at(8, broken, generator, max_steps=12)
    given.clear()
    again.train(generator, max_steps=12)
    assert len(given) == 6
    np.testing.assert_array_equal(given[0][0]["x"], next(Counting())[0]["x"])
