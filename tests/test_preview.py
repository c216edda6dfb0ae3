"""What a function asks of one raw batch: leaves by their place, checks, shared variables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import estimator as est
from estimator import layers
from estimator.variables import trace


@dataclasses.dataclass(frozen=True)
class BelowThree(est.HostCheck):
    def __call__(self, values):
        if (values >= 3).any():
            raise ValueError(f"{values.max()} is not below 3")


@dataclasses.dataclass(frozen=True)
class Ragged(est.HostRecipe):
    """Rows of different lengths, filled up."""

    path: tuple
    dtype = np.dtype("int32")
    dims = ("batch", "length", "count")
    fill = -1

    def __call__(self, features, labels):
        rows = est.raw_value(self.path, features, labels)
        return np.array(rows, np.int32)[..., None].repeat(3, axis=2)


def test_a_preview_makes_variables_and_answers():
    def net(features, labels):
        return layers.dense(features["x"], 1) + labels[:, None]

    made, variables = est.preview(net, {"x": np.ones((2, 3)), "name": ["a", "b"]}, [1.0, 2.0])
    assert made.tolist() == (variables["dense/kernel"].sum() + np.float32([[1], [2]])).tolist()
    again = est.preview(net, {"x": np.ones((2, 3))}, [0.0, 0.0], variables=variables)[0]
    np.testing.assert_allclose(again, made - np.float32([[1], [2]]), atol=1e-6)
    other = est.preview(net, {"x": np.ones((2, 3))}, [0.0, 0.0], seed=1)[0]
    assert other.tolist() != again.tolist()


def test_a_leaf_is_known_by_its_place_whatever_it_is_called():
    def net(features, labels):
        other = {"a": features["x"], "b": features["deep"][1], "c": features["x"] + 1}
        return [est.raw_path(value) for value in (*other.values(), labels["y"])]

    features = {"x": np.ones(2), "deep": (["p", "q"], ["r", "s"])}
    paths = est.preview(net, features, {"y": np.ones(2)})[0]
    assert paths == [("features", "x"), ("features", "deep", 1), None, ("labels", "y")]
    assert est.raw_value(paths[1], features) == ["r", "s"]


def test_lengths_and_counts_are_filled_up_to_round_sizes():
    def net(features):
        return est.host_feature(Ragged(est.raw_path(features["x"])))

    made = est.preview(net, {"x": np.arange(10).reshape(2, 5)})[0]
    assert made.shape == (2, 8, 4)
    assert made[1, :, 0].tolist() == [5, 6, 7, 8, 9, -1, -1, -1]
    assert made[1, 0].tolist() == [5, 5, 5, -1]


def checked_fn(features, labels, mode):
    est.host_check(features["x"], BelowThree())
    est.host_check(features["x"] + 1, BelowThree())  # computed: not looked at
    est.host_check(labels, BelowThree())
    x = features["x"].astype(jnp.float32)
    loss = jnp.mean((x * est.get_variable("w", ()) - labels) ** 2)
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("wrong", ["features", "labels", None])
def test_values_are_looked_at_in_every_batch(model_dir, wrong, block):
    x, y = np.tile([0, 1, 2], 8), np.zeros(24)
    if wrong is not None:
        {"features": x, "labels": y}[wrong][-1] = 3
    input_fn = est.numpy_input_fn({"x": x}, y, batch_size=2, num_epochs=1, shuffle=False)
    config = est.RunConfig(steps_per_execution=block)
    estimator = est.Estimator(checked_fn, model_dir, config)
    if wrong is None:
        estimator.train(input_fn)
        return
    with pytest.raises(ValueError, match="is not below 3"):
        estimator.train(input_fn)


def test_what_is_checked_but_on_a_device_is_not_fetched():
    def net(features):
        return est.host_check(features["x"], BelowThree())

    assert est.preview(net, {"x": jnp.array([5])})[0] is None
    with pytest.raises(ValueError, match="5 is not below 3"):
        est.preview(net, {"x": np.array([5])})


def test_a_name_that_begins_with_a_slash_is_whole():
    def net():
        with est.variable_scope("tower"):
            est.get_variable("/table", (2,))
            with est.variable_scope("/other"):
                est.get_variable("w", (3,))
                layers.dense(jnp.ones((1, 2)), 1)
        with est.variable_scope("other"):
            return est.get_variable("/table") + est.get_variable("w")[:2]

    assert sorted(trace(net)[0].variables) == [
        "other/dense/bias",
        "other/dense/kernel",
        "other/w",
        "table",
    ]


def test_what_is_shared_is_made_once_in_each_trace():
    made = []

    def table():
        made.append(1)
        return est.get_variable("table", (2, 2))

    def net():
        with est.variable_scope("a"):
            first = est.shared("table", table)
        with est.variable_scope("b"):
            assert first is est.shared("table", table)

    assert [list(trace(net)[0].variables) for _ in range(2)] == [["a/table"]] * 2
    assert len(made) == 2


def test_what_is_shared_is_not_made_in_a_body():
    def net(x):
        make = lambda: est.get_variable("w", ())  # noqa: E731
        return jax.lax.scan(lambda carry, _: (carry + est.shared("w", make), None), x, None, 2)

    with pytest.raises(ValueError, match=r'shared\("w"\) inside jax.lax.scan.*Ask for it outside'):
        trace(net, 1.0)


def test_what_a_model_does_not_look_at_may_be_of_any_kind(model_dir):
    traces = []

    def model_fn(features, labels, mode):
        traces.append(mode)
        return est.EstimatorSpec(mode, predictions=features["x"] * 2)

    kinds = [["a", "b"], [["a"], []], np.ones(2), np.ones((2, 3), np.int32), [None, "a"]]
    batches = [{"x": np.ones(2, np.float32), "unused": kind} for kind in kinds]
    estimator = est.Estimator(model_fn, model_dir)
    assert [float(y) for y in estimator.predict(lambda: iter(batches))] == [2.0] * 10
    alone = len(traces)
    estimator.predict(lambda: iter(batches))
    assert len(traces) == alone
    batches.append({"x": np.ones((2, 1), np.float32), "unused": ["a", "b"]})
    assert len(list(estimator.predict(lambda: iter(batches)))) == 12
    assert len(traces) > alone


def test_a_model_that_asks_of_what_kind_a_leaf_is_is_traced_for_each(model_dir):
    def model_fn(features, labels, mode):
        numbers = isinstance(features["y"], jax.Array)
        return est.EstimatorSpec(mode, predictions=features["x"] * (10 if numbers else 1))

    batches = [{"x": np.float32([1]), "y": y} for y in (["a"], np.ones(1), [None], np.ones(1))]
    answers = est.Estimator(model_fn, model_dir).predict(lambda: iter(batches))
    assert [float(answer) for answer in answers] == [1, 10, 1, 10]


@pytest.mark.parametrize("buckets", [(), (4, 4), (8, 4), (0, 4), "16", 16, (1.5,), (True,)])
def test_length_buckets_ascend(buckets):
    with pytest.raises(ValueError, match="length_buckets must be positive ints in ascending order"):
        est.RunConfig(length_buckets=buckets)


def test_length_buckets_are_kept():
    assert est.RunConfig(length_buckets=[16, np.int64(64)]).length_buckets == (16, 64)
