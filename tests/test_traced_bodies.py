"""The body of a transform asks for the variables of the model and scope that it is traced for.

The bodies stand at module level on purpose: JAX caches the traces of inner transforms by function
identity, so a second model, or a second scope, could silently be given the variables of the first.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from estimator import Estimator, EstimatorSpec, RunConfig, layers, metrics
from estimator.variables import apply, assign, get_variable, initialize, trace, variable_scope

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


def with_derivative(transform, fn, values):
    """Returns the value and the gradient; of a while_loop the derivative in one direction."""
    if transform != "while_loop":
        return jax.value_and_grad(fn)(values)
    direction = jax.tree.map(lambda x: jnp.ones_like(x) * 0.5, values)
    return jax.jvp(fn, (values,), (direction,))


def check(transform, fn, plain, values):
    """Compares values and gradients with those of plain JAX."""
    store = lambda values: jnp.sum(apply(fn, values)(X)[0] ** 2)  # noqa: E731
    expected = lambda values: jnp.sum(plain(values) ** 2)  # noqa: E731
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        jax.jit(lambda v: with_derivative(transform, store, v))(values),
        with_derivative(transform, expected, values),
    )


@each_transform
def test_a_body_is_traced_anew_for_every_model(transform):
    net, plain = TRANSFORMS[transform]
    for seed in (0, 1):
        recipes, _ = trace(net, X)
        assert {"w", "layer/kernel"} <= recipes.variables.keys()
        values = initialize(recipes, seed)
        check(transform, net, lambda v: plain(functools.partial(plain_affine, v, ""), X), values)


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


def test_a_body_works_in_every_mode_of_an_estimator(model_dir):
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

    estimator = Estimator(model_fn, model_dir, RunConfig(random_seed=0))
    estimator.train(lambda: {"x": X}, steps=2)
    values = {
        name: estimator.get_variable_value(name)
        for name in estimator.get_variable_names()
        if name != "global_step"
    }
    f = functools.partial(plain_affine, values, "")
    predicted = np.stack(list(estimator.predict(lambda: {"x": X})))
    np.testing.assert_allclose(predicted, f(X), rtol=1e-5)
    results = estimator.evaluate(lambda: {"x": X})
    np.testing.assert_allclose(results["norm"], plain_scan(f, X).mean(), rtol=1e-4)
