"""A batch that comes again is prepared once, unless it may have changed meanwhile."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import estimator as est
from estimator.feed import Feed
from estimator.model import Model
from estimator.model_fn import ModelFn
from estimator.sources import open_source

LOOKED_AT = []


@dataclasses.dataclass(frozen=True)
class Noted(est.HostCheck):
    """Notes that a batch is prepared."""

    def __call__(self, values):
        LOOKED_AT.append(values)


def model_fn(features, mode):
    est.host_check(features, Noted())
    loss = jnp.mean(est.layers.dense(features, 1) ** 2)
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))


class Fresh:
    """Gives what it holds four times, and never changes it."""

    fresh_batches = True

    def __init__(self, batch):
        self.left = [batch] * 4

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        return self.left.pop()


def writable():
    return np.ones((4, 2), np.float32)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("source", "prepared"),
    [
        (lambda: Fresh(writable()), 1),
        (lambda: iter([read_only(writable())] * 4), 1),
        (lambda: iter([read_only(read_only(writable())[:2])] * 4), 1),
        (lambda: iter([np.frombuffer(bytes(32), np.float32).reshape(4, 2)] * 4), 1),
        (lambda: iter([read_only(writable()) for _ in range(4)]), 4),
        (lambda: iter([writable()] * 4), 4),
        (lambda: iter([read_only(writable()[:2])] * 4), 4),
    ],
    ids=[
        "fresh source",
        "read-only",
        "view of read-only",
        "bytes",
        "other arrays",
        "writable",
        "read-only view of writable",
    ],
)
@pytest.mark.parametrize("config", [{}, {"prefetch": 2}, {"steps_per_execution": 2}], ids=str)
def test_the_very_arrays_of_before_are_prepared_once(source, prepared, config, model_dir):
    LOOKED_AT.clear()
    config = est.RunConfig(random_seed=0, save_summary_steps=None, **config)
    estimator = est.Estimator(model_fn, model_dir, config).train(source)
    assert len(LOOKED_AT) == prepared
    assert estimator.get_variable_value("global_step") == 4


def test_a_batch_that_comes_again_stays_on_the_device():
    source = open_source(Fresh(writable()), repeat=False)
    model = Model(ModelFn(model_fn, None, est.RunConfig()))
    feed = Feed(source, model.bindings(est.ModeKeys.TRAIN))
    given = [feed.take().inputs[0] for _ in range(4)]
    assert isinstance(given[1], jax.Array)
    assert given[1].unsafe_buffer_pointer() == given[3].unsafe_buffer_pointer()


def test_a_refilled_array_is_another_batch(model_dir):
    array = np.zeros((1, 1), np.float32)

    def refilled():
        for value in (1.0, 2.0, 3.0):
            array[:] = value
            yield array

    def mean_fn(features, mode):
        return est.EstimatorSpec(
            mode, loss=jnp.mean(features), eval_metric_ops={"x": est.metrics.mean(features)}
        )

    results = est.Estimator(mean_fn, model_dir).train(refilled).evaluate(refilled)
    assert results["x"] == 2.0
