"""The traps of tracing that the store must not fall into, each with what it would have broken.

The bodies stand at module level on purpose: JAX caches the traces of inner transforms by function
identity, so a second model, or a second scope, could silently be given the variables of the first.
"""

import dataclasses
import functools
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
    metrics,
    summary,
    tag,
)
from estimator.batches import Batch
from estimator.binding import discover
from estimator.context import Frame, run
from estimator.model_fn import ModelFn
from estimator.variables import (
    apply,
    assign,
    get_variable,
    initialize,
    next_rng_key,
    trace,
    variable_scope,
)

SIZE = 3
X = np.float32([[0.1, -0.2, 0.3], [0.5, 0.4, -0.6]])


# The bodies. Each asks for `w` and for a named layer.


def affine(x):
    w = get_variable("w", (SIZE,))
    return jnp.tanh(layers.dense(x * w, SIZE, use_bias=False, name="layer"))


def scan_body(carry, x):
    carry = affine(carry + x)
    return carry, carry.sum()


def fori_body(i, x):
    return affine(x + i)


def while_condition(carry):
    return carry[0] < 2


def while_body(carry):
    return carry[0] + 1, affine(carry[1] + carry[0])


def other_branch(x):
    return x * get_variable("other", ())


def switch_off(x):
    return x * 0.0


jitted = jax.jit(affine)
checkpointed = jax.checkpoint(affine)
vmapped = jax.vmap(affine)
nested = jax.jit(jax.checkpoint(jax.vmap(affine)))


def custom(x):
    return jax.lax.map(affine, x)


# What each transform makes of the bodies, and the same in plain JAX: `plain(f, other, x)`.


def use_scan(x):
    return jax.lax.scan(scan_body, jnp.zeros_like(x[0]), x)[0]


def use_fori(x):
    return jax.lax.fori_loop(0, 2, fori_body, x)


def use_while(x):
    return jax.lax.while_loop(while_condition, while_body, (0, x))[1]


def use_cond(x):
    return jax.lax.cond(x.sum() > -100, affine, other_branch, x)


def use_switch(x):
    return jax.lax.switch(jnp.int32(1), [switch_off, affine, other_branch], x)


def plain_scan(f, x):
    return f(f(x[0]) + x[1])


def plain_twice(f, x):
    return f(f(x) + 1)


TRANSFORMS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "scan": (use_scan, plain_scan),
    "jit": (jitted, lambda f, x: f(x)),
    "remat": (checkpointed, lambda f, x: f(x)),
    "vmap": (vmapped, lambda f, x: f(x)),
    "map": (custom, lambda f, x: f(x)),
    "jit of remat of vmap": (nested, lambda f, x: f(x)),
    "cond": (use_cond, lambda f, x: f(x)),
    "switch": (use_switch, lambda f, x: f(x)),
    "fori_loop": (use_fori, plain_twice),
    "while_loop": (use_while, plain_twice),
}
each_transform = pytest.mark.parametrize("transform", TRANSFORMS)


def plain_affine(values, scope, x):
    return jnp.tanh((x * values[f"{scope}w"]) @ values[f"{scope}layer/kernel"])


def derivative(transform, fn, values):
    """Returns the gradient; of a while_loop the derivative in one direction, all that JAX has."""
    if transform != "while_loop":
        return jax.grad(fn)(values)
    direction = jax.tree.map(lambda x: jnp.ones_like(x) * 0.5, values)
    return jax.jvp(fn, (values,), (direction,))[1]


def check(transform, fn, plain, values):
    """Compares values and gradients, eagerly and under jit, with plain JAX."""
    store = lambda values: jnp.sum(apply(fn, values)(X)[0] ** 2)  # noqa: E731
    expected = lambda values: jnp.sum(plain(values) ** 2)  # noqa: E731
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(jax.jit(store)(values), expected(values))
    jax.tree.map(
        close,
        jax.jit(lambda v: derivative(transform, store, v))(values),
        derivative(transform, expected, values),
    )


@each_transform
def test_a_body_is_traced_anew_for_every_model(transform):
    net, plain = TRANSFORMS[transform]
    for seed in (0, 1):
        recipes, _ = trace(net, X)
        assert {"w", "layer/kernel"} <= recipes.variables.keys()
        values = initialize(recipes, seed)
        for _ in range(2):
            check(
                transform, net, lambda v: plain(functools.partial(plain_affine, v, ""), X), values
            )


@each_transform
def test_a_body_is_traced_anew_for_every_scope_of_one_trace(transform):
    net, plain = TRANSFORMS[transform]

    def both(x):
        with variable_scope("a"):
            first = net(x)
        with variable_scope("b"):
            return first, net(x), net(x)

    recipes, _ = trace(both, X)
    asked = {name for name in recipes.variables if not name.endswith("other")}
    assert asked == {f"{scope}/{name}" for scope in "ab" for name in ("w", "layer/kernel")}

    def plain_both(values):
        a, b = (functools.partial(plain_affine, values, f"{scope}/") for scope in "ab")
        return jnp.stack([plain(a, X), plain(b, X), plain(b, X)])

    check(transform, lambda x: jnp.stack(both(x)), plain_both, initialize(recipes, 0))


@each_transform
def test_a_body_sees_the_last_assignment(transform):
    net = TRANSFORMS[transform][0]

    def before_and_after(x):
        get_variable("w", (SIZE,), trainable=False)
        before = net(x)
        assign("w", jnp.zeros(SIZE))
        return before, net(x)

    values = initialize(trace(before_and_after, X)[0], 0)
    before, after = apply(before_and_after, values)(X)[0]
    assert np.abs(before).min() > 0
    np.testing.assert_array_equal(after, np.zeros_like(after))


def test_a_body_sees_an_assignment_made_in_an_inner_scope():
    def read(x):
        return x + get_variable("inner/n", (), trainable=False)

    body = jax.jit(read)

    def fn(x):
        before = body(x)
        with variable_scope("inner"):
            get_variable("n", (), trainable=False)
            with variable_scope("deeper"):
                pass
            assign("n", 5.0)
        return before, body(x)

    assert [float(x) for x in apply(fn, {"inner/n": np.float32(1)})(0.0)[0]] == [1, 5]


def test_the_cache_key_is_as_before_when_a_trace_ends():
    calls = []

    @jax.jit
    def body(x):
        calls.append(x)
        return x + 1

    def fn(x):
        get_variable("n", (), trainable=False)
        with variable_scope("a"):
            get_variable("n", (), trainable=False)
            assign("n", 1.0)
        assign("n", 2.0)
        return body(x)

    body(1.0)
    apply(fn, {"n": np.float32(0), "a/n": np.float32(0)})(1.0)
    with pytest.raises(ZeroDivisionError):
        apply(
            lambda: (get_variable("n", (), trainable=False), assign("n", 3.0), 1 / 0), {"n": 0.0}
        )()
    count = len(calls)
    body(2.0)
    assert len(calls) == count, "outside a trace nothing is traced anew"


def test_a_body_that_adds_a_variable_in_a_cached_trace_is_not_lost():
    for name in ("first", "second"):

        def fn(x, name=name):
            with variable_scope(name):
                return jitted(x)

        assert set(trace(fn, X)[0].variables) == {f"{name}/w", f"{name}/layer/kernel"}


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


@pytest.mark.parametrize("mode", [ModeKeys.EVAL, ModeKeys.PREDICT])
def test_a_body_works_in_every_mode_of_an_estimator(mode, model_dir):
    def model_fn(features, mode):
        net = use_scan(features["x"])
        loss = jnp.mean(net**2)
        return EstimatorSpec(
            mode,
            predictions=jitted(features["x"]),
            loss=loss,
            train_op=optax.sgd(0.1),
            eval_metric_ops={"norm": metrics.mean(net)},
        )

    estimator = Estimator(model_fn, model_dir).train(lambda: {"x": X}, steps=2)
    values = {
        name: estimator.get_variable_value(name)
        for name in estimator.get_variable_names()
        if name != "global_step"
    }
    f = functools.partial(plain_affine, values, "")
    if mode == ModeKeys.PREDICT:
        given = np.stack(list(estimator.predict(lambda: {"x": X})))
        np.testing.assert_allclose(given, f(X), rtol=1e-5)
    else:
        given = estimator.evaluate(lambda: {"x": X})
        np.testing.assert_allclose(given["norm"], plain_scan(f, X).mean(), rtol=1e-4)
