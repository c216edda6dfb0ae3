"""The traps of tracing that the store must not fall into, each with what it would have broken."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from estimator import (
    Estimator,
    EstimatorSpec,
    FinalOpsHook,
    HostRecipe,
    LoggingTensorHook,
    ModeKeys,
    NanTensorHook,
    host_feature,
    layers,
    summary,
    tag,
)
from estimator.batches import Batch
from estimator.binding import discover
from estimator.context import Frame, run
from estimator.model_fn import ModelFn
from estimator.variables import assign, get_variable, next_rng_key, trace

SIZE = 3
X = np.float32([[0.1, -0.2, 0.3], [0.5, 0.4, -0.6]])

# Calls that have no meaning inside a body.


@dataclasses.dataclass(frozen=True)
class Rows(HostRecipe):
    key: str = "x"
    times: int = 1
    dtype: ClassVar[Any] = np.dtype("float32")
    dims: ClassVar[tuple[str | int, ...]] = ("batch",)

    def __call__(self, features, labels):
        return np.ones(len(features[self.key]), np.float32) * self.times


def assigns_inside(x):
    get_variable("n", (), trainable=False)
    assign("n", 1.0)


CALLS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "next_rng_key": (lambda x: next_rng_key(), r"next_rng_key\(\).*Draw the key outside.*split"),
    "assign": (assigns_inside, 'assign."n".*Return the value from the body and assign it outside'),
    "tag": (lambda x: tag("t", x), 'tag."t".*Return the value from the body and name it outside'),
    "scalar": (lambda x: summary.scalar("s", x.sum()), 'summary.scalar."s".*name it outside'),
    "host_feature": (lambda x: host_feature(Rows()), "host_feature.*Ask for it outside"),
    "dense": (lambda x: layers.dense(x, 2), r'Name the layer: layers.dense\(..., name="..."\)'),
    "dropout": (lambda x: layers.dropout(x), "Name the layer: layers.dropout"),
    "named dropout": (
        lambda x: layers.dropout(x, training=True, name="drop"),
        "next_rng_key.*Draw the key outside",
    ),
    "batch_normalization": (
        lambda x: layers.batch_normalization(x, training=True, name="norm"),
        "assign.*Return the value from the body",
    ),
}
INNER: dict[str, Callable[[Any, Any], Any]] = {
    "scan": lambda f, x: jax.lax.scan(lambda c, x: (c, f(x)), 0, x[None]),
    "jit": lambda f, x: jax.jit(f)(x),
    "remat": lambda f, x: jax.checkpoint(f)(x),
    "vmap": lambda f, x: jax.vmap(f)(x[None]),
    "grad": lambda f, x: jax.grad(lambda x: (f(x), x.sum())[1])(x),
    "cond": lambda f, x: jax.lax.cond(True, f, f, x),
    "fori_loop": lambda f, x: jax.lax.fori_loop(0, 2, lambda i, c: (f(c), c)[1], x),
    "while_loop": lambda f, x: jax.lax.while_loop(lambda c: False, lambda c: (f(c), c)[1], x),
}


@pytest.mark.parametrize("discovering", [True, False])
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_inside_a_body_is_an_error_that_says_what_to_do(call, inner, discovering):
    inside, message = CALLS[call]

    def fn(x):
        return INNER[inner](lambda x: (inside(x), x)[1], x)

    host = Batch({"x": X}).host
    values = {"n": np.float32(0), **{f"norm/{n}": np.ones(SIZE, np.float32) for n in NORM}}
    frame = Frame(None, host=host) if discovering else Frame(values, key=jax.random.key(0))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        jax.make_jaxpr(lambda x: run(frame, fn, x))(X)


NORM = ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.mark.parametrize("call", CALLS)
def test_the_same_call_is_fine_outside_a_body(call):
    inside = CALLS[call][0]
    frame = Frame(host=Batch({"x": X}).host)
    jax.make_jaxpr(lambda x: jax.grad(lambda x: (run(frame, inside, x), x.sum())[1])(x))(X)


# Caches by function identity, names of recipes.

FLAG = False


def asks_by_flag(x):
    return x * get_variable("on" if FLAG else "off", ())


def test_the_same_function_is_traced_anew_when_a_global_has_changed(monkeypatch):
    assert list(trace(asks_by_flag, X)[0].variables) == ["off"]
    monkeypatch.setattr(f"{__name__}.FLAG", True)
    assert list(trace(asks_by_flag, X)[0].variables) == ["on"]


@dataclasses.dataclass(frozen=True)
class Renamed(Rows):
    @property
    def name(self):
        return "rows"


def test_two_host_recipes_of_one_name_and_other_settings_are_an_error():
    def fn():
        return host_feature(Renamed(times=1)) + host_feature(Renamed(times=2))

    with pytest.raises(ValueError, match=r'named "rows".*times=1.*times=2.*another name'):
        trace(fn, frame=Frame(host=Batch({"x": X}).host))


def test_two_equal_host_recipes_are_one():
    recipes, _ = trace(
        lambda: host_feature(Rows()) + host_feature(Rows()), frame=Frame(host=Batch({"x": X}).host)
    )
    assert list(recipes.host) == [Rows().name]


# Dead tracers.


def linear_model(features, train_op=None, hooks=lambda loss: ()):
    loss = jnp.mean(layers.dense(features["x"], 1) ** 2)
    train_op = optax.sgd(0.1) if train_op is None else train_op(features["x"])
    return EstimatorSpec(
        ModeKeys.TRAIN, loss=loss, train_op=train_op, training_hooks=list(hooks(loss))
    )


def train_ops():
    yield "learning rate", lambda x: optax.sgd(x.mean())
    yield "momentum", lambda x: optax.sgd(0.1, momentum=x.mean())
    yield "clipping", lambda x: optax.chain(optax.clip(x.max()), optax.sgd(0.1))
    yield "initial state", lambda x: optax.inject_hyperparams(optax.sgd)(learning_rate=x.mean())
    yield "schedule", lambda x: optax.sgd(lambda count: 0.1 * x.mean() + count)
    yield "adam", lambda x: optax.adam(x.mean())


@pytest.mark.parametrize("train_op", [op for _, op in train_ops()], ids=[n for n, _ in train_ops()])
def test_a_train_op_that_holds_a_traced_array_is_refused(train_op):
    model_fn = ModelFn(lambda features: linear_model(features, train_op), None, None)
    with pytest.raises(
        ValueError, match=r"train_op holds a value that model_fn computed.*schedule"
    ):
        discover(model_fn, ModeKeys.TRAIN, Batch({"x": X}))


def test_a_train_op_that_holds_a_traced_array_is_refused_by_train(model_dir):
    estimator = Estimator(
        lambda features: linear_model(features, lambda x: optax.sgd(x.mean())), model_dir
    )
    with pytest.raises(ValueError, match="train_op holds a value that model_fn computed"):
        estimator.train(lambda: {"x": X}, steps=1)


@pytest.mark.parametrize(
    "train_op",
    [
        optax.sgd(0.1),
        optax.adam(optax.cosine_decay_schedule(0.1, 10)),
        optax.MultiSteps(optax.adagrad(0.1), 2),
        optax.sgd(jnp.float32(0.1)),
        optax.contrib.reduce_on_plateau(),
    ],
)
def test_a_train_op_of_numbers_and_schedules_is_taken(train_op):
    model_fn = ModelFn(lambda features: linear_model(features, lambda x: train_op), None, None)
    binding = discover(model_fn, ModeKeys.TRAIN, Batch({"x": X}))
    assert binding.spec.train_op is train_op


@pytest.mark.parametrize(
    "make",
    [
        lambda loss: LoggingTensorHook({"loss": loss}, every_n_iter=1),
        lambda loss: LoggingTensorHook([loss], every_n_iter=1),
        lambda loss: NanTensorHook(loss),
        lambda loss: FinalOpsHook({"answer": loss}),
    ],
)
def test_a_hook_that_holds_a_traced_array_is_refused_where_it_is_made(make, model_dir):
    model_fn = lambda features: linear_model(features, hooks=lambda loss: [make(loss)])  # noqa: E731
    message = r"Hook was given a traced array.*Tag the value.*give the hook its name"
    with pytest.raises(TypeError, match=message):
        discover(ModelFn(model_fn, None, None), ModeKeys.TRAIN, Batch({"x": X}))
    with pytest.raises(TypeError, match=message):
        Estimator(model_fn, model_dir).train(lambda: {"x": X}, steps=1)
