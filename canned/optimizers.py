"""Optimizers: TensorFlow's, as optax transformations, and what a model's `optimizer=` means.

    optimizer = ftrl(0.2, l1=0.01)
    state = optimizer.init(variables)
    updates, state = optimizer.update(gradients, state, variables)
    variables = optax.apply_updates(variables, updates)

The numbers are those of Keras's `OptimizerV2` of TensorFlow 2.15, which its Estimators use: optax's
own put epsilon elsewhere. A learning rate is a number or an optax schedule, a function of how many
steps there were before.

Law: a state holds float32 arrays of the shapes of the variables, and counts.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import estimator as est


class AdagradState(NamedTuple):
    """What Adagrad remembers: the sum of the squared gradients."""

    accumulator: Any


class AdamState(NamedTuple):
    """What Adam remembers: the steps, and running means of the gradient and of its square."""

    step: jax.Array
    m: Any
    v: Any


class RMSPropState(NamedTuple):
    """What RMSProp remembers: the running mean of the squared gradient."""

    rms: Any


class FtrlState(NamedTuple):
    """What FTRL remembers: the steps, the sum of the squared gradients and the linear term."""

    step: jax.Array
    accumulator: Any
    linear: Any


def sgd(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Returns gradient descent: `x -= lr g` (Robbins and Monro, 1951).

    >>> x = {"x": jnp.array([1.0, 2.0])}
    >>> optimizer = sgd(0.5)
    >>> optimizer.update(x, optimizer.init(x))[0]["x"].tolist()
    [-0.5, -1.0]

    Args:
        learning_rate: a number, or a function of the step.
    """
    return optax.scale_by_learning_rate(learning_rate)


def adagrad(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: float = 0.1,
    epsilon: float = 1e-7,
) -> optax.GradientTransformation:
    """Returns Adagrad: `a += g^2`, `x -= lr g / (sqrt(a) + epsilon)`.

    >>> x = {"x": jnp.array([3.0])}
    >>> optimizer = adagrad(0.5, initial_accumulator_value=7.0)
    >>> optimizer.update(x, optimizer.init(x))[0]["x"].tolist()
    [-0.375]

    Args:
        learning_rate: a number, or a function of the step.
        initial_accumulator_value: what a starts with.
        epsilon: keeps the quotient finite.

    Raises:
        ValueError: if initial_accumulator_value is below 0.

    Source: Duchi, Hazan and Singer, 2011.
    """
    _check_range("adagrad", 0, math.inf, initial_accumulator_value=initial_accumulator_value)

    def init(params: Any) -> AdagradState:
        return AdagradState(_filled(params, initial_accumulator_value))

    def update(gradients: Any, state: AdagradState, params: Any = None) -> Any:
        gradients = _float32(gradients)
        accumulator = jax.tree.map(lambda a, g: a + g * g, state.accumulator, gradients)
        # optax.adagrad divides by sqrt(a + epsilon) (both: Duchi et al., 2011).
        updates = jax.tree.map(lambda g, a: g / (jnp.sqrt(a) + epsilon), gradients, accumulator)
        return updates, AdagradState(accumulator)

    return _descent(init, update, learning_rate)


def adam(
    learning_rate: optax.ScalarOrSchedule,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
) -> optax.GradientTransformation:
    """Returns Adam: `x -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)`.

    m and v are running means: `m = beta_1 m + (1 - beta_1) g`, `v = beta_2 v + (1 - beta_2) g^2`,
    and t is 1 in the first step. This is the paper's faster form, whose epsilon is "epsilon hat":
    it stands beside `sqrt(v)` before v is corrected.

    >>> x = {"x": jnp.array([4.0, -9.0])}
    >>> optimizer = adam(0.5)
    >>> optimizer.update(x, optimizer.init(x))[0]["x"].tolist()
    [-0.50, 0.50]

    Args:
        learning_rate: a number, or a function of the step.
        beta_1: how much of m is kept in a step.
        beta_2: how much of v is kept in a step.
        epsilon: keeps the quotient finite.

    Source: Kingma and Ba, 2015, end of section 2.
    """

    def init(params: Any) -> AdamState:
        return AdamState(jnp.zeros([], jnp.int32), _filled(params, 0.0), _filled(params, 0.0))

    def update(gradients: Any, state: AdamState, params: Any = None) -> Any:
        gradients, step = _float32(gradients), optax.safe_increment(state.step)
        # The same float32 numbers for means and corrections: 1 - 0.999 has lost four digits.
        b1, b2, t = jnp.float32(beta_1), jnp.float32(beta_2), step.astype(jnp.float32)
        m = jax.tree.map(lambda m, g: m + (g - m) * (1 - b1), state.m, gradients)
        v = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - b2), state.v, gradients)
        scale = jnp.sqrt(1 - b2**t) / (1 - b1**t)
        updates = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + epsilon), m, v)
        return updates, AdamState(step, m, v)

    return _descent(init, update, learning_rate)


def rms_prop(
    learning_rate: optax.ScalarOrSchedule,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
) -> optax.GradientTransformation:
    """Returns RMSProp: `r = rho r + (1 - rho) g^2`, `x -= lr g / (sqrt(r) + epsilon)`.

    With momentum it is `d = momentum d + lr g / sqrt(r + epsilon)`, `x -= d`; TensorFlow, too, puts
    epsilon elsewhere then.

    >>> x = {"x": jnp.array([4.0, -9.0])}
    >>> optimizer = rms_prop(0.5, rho=0.75)
    >>> optimizer.update(x, optimizer.init(x))[0]["x"].tolist()
    [-1.00, 1.00]

    Args:
        learning_rate: a number, or a function of the step.
        rho: how much of r is kept in a step.
        momentum: how much of d is kept in a step.
        epsilon: keeps the quotient finite.

    Raises:
        ValueError: if momentum is not from 0 to 1.

    Source: Tieleman and Hinton, 2012, lecture 6.5.
    """
    _check_range("rms_prop", 0, 1, momentum=momentum)

    def init(params: Any) -> RMSPropState:
        return RMSPropState(_filled(params, 0.0))

    def root(r: jax.Array) -> jax.Array:
        return jnp.sqrt(r + epsilon) if momentum else jnp.sqrt(r) + epsilon

    def update(gradients: Any, state: RMSPropState, params: Any = None) -> Any:
        gradients = _float32(gradients)
        rms = jax.tree.map(lambda r, g: rho * r + (1 - rho) * (g * g), state.rms, gradients)
        updates = jax.tree.map(lambda g, r: g / root(r), gradients, rms)
        return updates, RMSPropState(rms)

    descent = _descent(init, update, learning_rate)
    if not momentum:
        return descent
    return optax.chain(descent, optax.trace(momentum, accumulator_dtype=jnp.float32))


def ftrl(
    learning_rate: optax.ScalarOrSchedule,
    learning_rate_power: float = -0.5,
    initial_accumulator_value: float = 0.1,
    l1: float = 0.0,
    l2: float = 0.0,
    beta: float = 0.0,
) -> optax.GradientTransformation:
    """Returns FTRL-Proximal, which keeps weights at exactly 0 that are not worth their l1.

    With p = -learning_rate_power and `b = a + g^2`, a step is

        z += g - (b^p - a^p) / lr x
        x = (sign(z) l1 - z) / ((beta + b^p) / lr + 2 l2)  if |z| > l1, else 0
        a = b

    x follows from z, and z starts with 0: start x with 0, too. From elsewhere the first step leaves
    only `1 - (a / b)^p` of it. Where the gradient is 0, x stays: a batch without some ids says
    nothing of their weights.

    >>> x, gradients = {"x": jnp.zeros(2)}, {"x": jnp.array([3.0, -0.5])}
    >>> optimizer = ftrl(0.5, initial_accumulator_value=7.0, l1=1.0)
    >>> optimizer.update(gradients, optimizer.init(x), x)[0]["x"].tolist()
    [-0.25, 0.0]

    Args:
        learning_rate: a number, or a function of the step.
        learning_rate_power: how the rate falls with the squared gradients; 0: not at all.
        initial_accumulator_value: what a starts with.
        l1: the strength of the penalty `l1 |x|`.
        l2: the strength of the penalty `l2 x^2`.
        beta: what makes the first steps smaller.

    Raises:
        ValueError: if learning_rate_power is above 0, or one of the following arguments below 0;
            in `update`, if it is not given the variables.

    Source: McMahan et al., 2013, algorithm 1, as TensorFlow's kernel SparseApplyFtrl computes it:
    the paper's lambda_2 is 2 l2.
    """
    _check_range("ftrl", -math.inf, 0, learning_rate_power=learning_rate_power)
    at_start = {"initial_accumulator_value": initial_accumulator_value}
    _check_range("ftrl", 0, math.inf, **at_start, l1=l1, l2=l2, beta=beta)

    def init(params: Any) -> FtrlState:
        accumulator = _filled(params, initial_accumulator_value)
        return FtrlState(jnp.zeros([], jnp.int32), accumulator, _filled(params, 0.0))

    def power(a: jax.Array) -> jax.Array:
        return jnp.sqrt(a) if learning_rate_power == -0.5 else a**-learning_rate_power

    def update(gradients: Any, state: FtrlState, params: Any = None) -> Any:
        if params is None:
            raise ValueError(
                "ftrl: update needs the variables, got params=None. Call "
                "optimizer.update(gradients, state, variables)."
            )
        gradients, params = _float32(gradients), _float32(params)
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        lr = jnp.asarray(rate, jnp.float32)

        def next_linear(z: jax.Array, g: jax.Array, a: jax.Array, x: jax.Array) -> jax.Array:
            return z + g - (power(a + g * g) - power(a)) / lr * x

        def difference(z: jax.Array, b: jax.Array, g: jax.Array, x: jax.Array) -> jax.Array:
            quadratic = power(b) / lr + 2 * (l2 + beta / (2 * lr))
            # Not `|z| > l1`, as TensorFlow asks: NaN would become 0 and go unnoticed.
            new = jnp.where(jnp.abs(z) <= l1, 0, (jnp.sign(z) * l1 - z) / quadratic)
            return jnp.where(g == 0, 0, new - x)

        a = state.accumulator
        linear = jax.tree.map(next_linear, state.linear, gradients, a, params)
        accumulator = jax.tree.map(lambda a, g: a + g * g, a, gradients)
        updates = jax.tree.map(difference, linear, accumulator, gradients, params)
        return updates, FtrlState(optax.safe_increment(state.step), accumulator, linear)

    return optax.GradientTransformation(init, update)


def clip_by_own_norm(max_norm: float) -> optax.GradientTransformation:
    """Returns a transformation that makes each variable's gradient at most so long, by itself.

    That is Keras's `clipnorm`; `optax.clip_by_global_norm` looks at all variables together.

    >>> gradients = {"a": jnp.array([30.0, 40.0]), "b": jnp.array([0.5])}
    >>> clip = clip_by_own_norm(5.0)
    >>> [g.tolist() for g in clip.update(gradients, clip.init(gradients))[0].values()]
    [[3.0, 4.0], [0.5]]

    Args:
        max_norm: the largest Euclidean norm of a gradient, above 0.

    Raises:
        ValueError: if max_norm is not above 0.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_by_own_norm: max_norm is {max_norm}, and must be above 0.")

    def clipped(g: jax.Array) -> jax.Array:
        return g * (max_norm / jnp.maximum(jnp.sqrt(jnp.sum(g * g)), max_norm))

    return optax.stateless_with_tree_map(lambda g, _: clipped(g))


def by_scope(
    optimizers: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Returns an optimizer that hands each variable to the optimizer of its name's first scope.

    >>> x = {"dnn/logits/kernel": jnp.ones(1), "linear/bias_weights": jnp.ones(1)}
    >>> optimizer = by_scope({"dnn": sgd(0.25), "linear": sgd(0.5)})
    >>> [u.tolist() for u in optimizer.update(x, optimizer.init(x), x)[0].values()]
    [[-0.25], [-0.5]]

    Args:
        optimizers: optimizers by scope, as in {"dnn": adagrad(0.05), "linear": ftrl(0.2)}.

    Returns:
        An optimizer of a flat dict of variables.

    Raises:
        ValueError: in `init`, if a variable lies in none of the scopes.
    """

    def scopes(variables: Mapping[str, Any]) -> dict[str, str]:
        found = {name: name.partition("/")[0] for name in variables}
        for name, scope in found.items():
            if scope not in optimizers:
                raise ValueError(
                    f'by_scope: no optimizer for the variable "{name}": there are optimizers for '
                    f'the scopes {sorted(optimizers)}. Give one for "{scope}" too, or make the '
                    "variable in one of these scopes."
                )
        return found

    return optax.partition(optimizers, scopes)


def named_optimizer(
    given: Any,
    *,
    where: str,
    learning_rate: optax.ScalarOrSchedule | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Returns the optimizer that a canned model's argument `optimizer=` means.

    >>> optimizer = named_optimizer("SGD", where="DNNClassifier")
    >>> optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)))[0].tolist()
    [-0.01]

    Args:
        given: 'Adagrad', 'Adam', 'Ftrl', 'RMSProp' or 'SGD'; or an optax transformation, returned
            as it is; or a function without arguments that returns one.
        where: the model's name, for messages.
        learning_rate: of an optimizer given by name; None: Keras's, 0.001, of SGD 0.01.
        clip_norm: how long the gradient of each variable may be at most, for an optimizer given by
            name; None: as long as it is.

    Raises:
        ValueError: if there is no optimizer of this name.
        TypeError: if it is nothing of the kind.
    """
    if isinstance(given, str):
        if given not in _NAMED:
            meant = {name.lower(): name for name in _NAMED}.get(given.lower(), given)
            raise ValueError(
                f'{where}: there is no optimizer "{given}".{est.did_you_mean(meant, _NAMED)} The '
                f"names are {list(_NAMED)}; or give an optax transformation."
            )
        make, usual = _NAMED[given]
        optimizer = make(usual if learning_rate is None else learning_rate)
        if clip_norm is None:
            return optimizer
        return optax.chain(clip_by_own_norm(clip_norm), optimizer)
    made = given
    if callable(given) and not _is_transformation(given):
        made = _called(given, where)
    if not _is_transformation(made):
        what = f"optimizer={given!r}" + ("" if made is given else f" returned {made!r}")
        raise TypeError(
            f"{where}: {what}, which is no optax transformation. Give a name of {list(_NAMED)}, an "
            "optax transformation such as optax.adam(1e-3), or a function without arguments that "
            "returns one."
        )
    return made


# By name: what makes the optimizer, and Keras's learning rate.
_NAMED: dict[str, tuple[Callable[..., optax.GradientTransformation], float]] = {
    "Adagrad": (adagrad, 0.001),
    "Adam": (adam, 0.001),
    "Ftrl": (ftrl, 0.001),
    "RMSProp": (rms_prop, 0.001),
    "SGD": (sgd, 0.01),
}


def _is_transformation(given: Any) -> bool:
    # A class has these attributes, too: it is a function that makes a transformation.
    attributes = [getattr(given, name, None) for name in ("init", "update")]
    return not isinstance(given, type) and all(map(callable, attributes))


def _called(function: Callable[..., Any], where: str) -> Any:
    parameters = inspect.signature(function).parameters.values()
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in many]
    if needed:
        raise TypeError(
            f"{where}: optimizer={function!r} is a function that needs the arguments {needed}, and "
            "it is called without any. Give the optimizer that it returns, such as "
            "optax.adam(1e-3), or a function without arguments."
        )
    return function()


def _descent(
    init: Callable[[Any], Any],
    update: Callable[..., Any],
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    direction = optax.GradientTransformation(init, update)
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))


def _filled(params: Any, value: float) -> Any:
    return jax.tree.map(lambda x: jnp.full(jnp.shape(x), value, jnp.float32), params)


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def _check_range(where: str, least: float, most: float, **settings: float) -> None:
    for name, value in settings.items():
        if not least <= value <= most:
            raise ValueError(f"{where}: {name} is {value}, and must be from {least} to {most}.")
