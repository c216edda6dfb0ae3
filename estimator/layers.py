"""Layers: functions that ask for their variables by TensorFlow's names.

    net = layers.dense(net, 10, activation=jax.nn.relu)     # dense/kernel, dense/bias
    logits = layers.dense(net, 3)                           # dense_1/kernel, dense_1/bias

A layer without a name is numbered in the order of the calls, so ask for layers in the same order in
every mode.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator.context import current_frame
from estimator.variables import Initializer, assign, get_variable, next_rng_key, variable_scope


def dense(
    inputs: Any,
    units: int,
    activation: Callable[[jax.Array], jax.Array] | None = None,
    use_bias: bool = True,
    kernel_initializer: Initializer | None = None,
    bias_initializer: Initializer = jax.nn.initializers.zeros,
    trainable: bool = True,
    name: str | None = None,
) -> jax.Array:
    """Returns `activation(inputs @ kernel + bias)`.

    >>> from estimator.variables import apply, trace
    >>> x = jnp.ones((2, 3))
    >>> list(trace(lambda x: dense(dense(x, 4), 2, use_bias=False), x)[0].variables)
    ['dense/kernel', 'dense/bias', 'dense_1/kernel']
    >>> values = {"dense/kernel": jnp.ones((3, 1)), "dense/bias": jnp.array([0.5])}
    >>> apply(lambda x: dense(x, 1), values)(x)[0].tolist()
    [[3.5], [3.5]]

    Args:
        inputs: floats of shape `(..., features)`.
        units: the size of the result's last dimension.
        activation: a function of the result; None: none.
        use_bias: whether to add a bias.
        kernel_initializer: Glorot uniform by default.
        bias_initializer: zeros by default.
        trainable: whether the optimizer updates kernel and bias.
        name: the scope of the variables; `dense`, `dense_1`, ... by default.

    Returns:
        Floats of shape `(..., units)`.

    Raises:
        ValueError: if the inputs have no features dimension of a known size, or units < 1.
    """
    inputs = jnp.asarray(inputs)
    if inputs.ndim < 1 or units < 1:
        raise ValueError(
            f"layers.dense: needs inputs of shape (..., features) and units >= 1, got inputs of "
            f"shape {inputs.shape} and units={units}."
        )
    with layer_scope("dense", name):
        dtype = _floating(inputs.dtype)
        shape = (inputs.shape[-1], units)
        kernel = get_variable("kernel", shape, kernel_initializer, dtype, trainable)
        outputs = inputs.astype(dtype) @ kernel
        if use_bias:
            outputs = outputs + get_variable("bias", (units,), bias_initializer, dtype, trainable)
    return outputs if activation is None else activation(outputs)


def dropout(
    inputs: Any, rate: float = 0.5, training: bool = False, name: str | None = None
) -> jax.Array:
    """Sets a part of the inputs to zero and scales up the rest, when training.

    >>> from estimator.variables import apply
    >>> net = apply(lambda x: dropout(x, rate=0.75, training=True), {}, jax.random.key(0))
    >>> sorted({float(x) for x in net(jnp.ones(100))[0]})
    [0.0, 4.0]

    Args:
        inputs: floats of any shape.
        rate: the part that is set to zero, in [0, 1).
        training: whether to drop anything; usually `mode == ModeKeys.TRAIN`.
        name: the scope of the random key; `dropout`, `dropout_1`, ... by default.

    Raises:
        ValueError: if the rate is outside [0, 1).

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    2014.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"layers.dropout: rate must be in [0, 1), got {rate}.")
    inputs = jnp.asarray(inputs)
    with layer_scope("dropout", name):
        if not training or rate == 0:
            return inputs
        kept = jax.random.bernoulli(next_rng_key(), 1.0 - rate, inputs.shape)
    return jnp.where(kept, inputs / (1.0 - rate), jnp.zeros_like(inputs))


def batch_normalization(
    inputs: Any,
    axis: int = -1,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    center: bool = True,
    scale: bool = True,
    training: bool = False,
    trainable: bool = True,
    name: str | None = None,
) -> jax.Array:
    """Normalises each feature over the batch, or with its moving averages outside training.

    The moving averages are assigned in TRAIN; no update op needs to be run. Statistics are kept in
    float32 or more, also where the inputs are half floats.

    >>> from estimator.variables import apply, initialize, trace
    >>> def net(x):
    ...     return batch_normalization(x, epsilon=0.0, training=True)
    >>> x = jnp.array([[1.0], [3.0]])
    >>> outputs, writes = apply(net, initialize(trace(net, x)[0], seed=0))(x)
    >>> outputs.ravel().tolist(), round(writes["batch_normalization/moving_mean"].item(), 4)
    ([-1.0, 1.0], 0.02)

    Args:
        inputs: floats of any shape but `()`.
        axis: the axis of the features.
        momentum: how much of the moving averages stays in each step.
        epsilon: is added to the variance.
        center: whether to add a `beta` that is learnt.
        scale: whether to multiply by a `gamma` that is learnt.
        training: whether to use the batch's own mean and variance.
        trainable: whether the optimizer updates beta and gamma.
        name: the scope; `batch_normalization`, `batch_normalization_1`, ... by default.

    Returns:
        Floats of the shape and dtype of the inputs; integers become float32.

    Raises:
        ValueError: if the inputs have no such axis.

    Source: Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1; as in TensorFlow the moving
    variance takes the batch's biased variance.
    """
    inputs = jnp.asarray(inputs)
    if not -inputs.ndim <= axis < inputs.ndim:
        raise ValueError(
            f"layers.batch_normalization: inputs of shape {inputs.shape} have no axis {axis}."
        )
    axis = axis % inputs.ndim
    others = tuple(i for i in range(inputs.ndim) if i != axis)
    broadcast = tuple(size if i == axis else 1 for i, size in enumerate(inputs.shape))
    size = (inputs.shape[axis],)
    out_dtype = _floating(inputs.dtype)
    dtype = jnp.float32 if out_dtype.itemsize < 4 else out_dtype
    outputs = inputs.astype(dtype)
    ones, zeros = jax.nn.initializers.ones, jax.nn.initializers.zeros
    with layer_scope("batch_normalization", name):
        gamma = get_variable("gamma", size, ones, dtype, trainable) if scale else None
        beta = get_variable("beta", size, zeros, dtype, trainable) if center else None
        mean = moving_mean = get_variable("moving_mean", size, zeros, dtype, trainable=False)
        variance = moving = get_variable("moving_variance", size, ones, dtype, trainable=False)
        if training:
            mean = jnp.mean(outputs, others)
            variance = jnp.var(outputs, others)
            assign("moving_mean", moving_mean * momentum + mean * (1 - momentum))
            assign("moving_variance", moving * momentum + variance * (1 - momentum))
    factor = jax.lax.rsqrt(variance + epsilon)
    outputs = (outputs - mean.reshape(broadcast)) * factor.reshape(broadcast)
    if gamma is not None:
        outputs = outputs * gamma.reshape(broadcast)
    if beta is not None:
        outputs = outputs + beta.reshape(broadcast)
    return outputs.astype(out_dtype)


@contextlib.contextmanager
def layer_scope(base: str, name: str | None) -> Iterator[str]:
    """Enters the scope of a layer: `name`, or the next free one of `base`, `base_1`, ...

    >>> from estimator.variables import trace
    >>> def scale(x):
    ...     with layer_scope("scale", None):
    ...         return x * get_variable("factor", ())
    >>> list(trace(lambda x: scale(scale(x)), 1.0)[0].variables)
    ['scale/factor', 'scale_1/factor']

    Args:
        base: what layers of this kind are called.
        name: the name that the user gave this one; None: none.

    Raises:
        ValueError: if a layer without a name stands in the body of an inner transform.
    """
    frame = current_frame(f"layers.{base}")
    if name is None:
        frame.refuse_inner_trace(
            f"layers.{base} without a name", f'Name the layer: layers.{base}(..., name="...").'
        )
        name = frame.unique_name(base)
    with variable_scope(name) as scope:
        yield scope


def _floating(dtype: Any) -> Any:
    return np.dtype(dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32)
