"""Normalisation layers: values brought to mean 0 and variance 1, over the batch or over features.

net = batch_normalization(net, training=mode == ModeKeys.TRAIN)     # moving averages are kept
net = layer_normalization(net)                                      # each example by itself
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator.layer_scope import at_least_float32, floating, layer_scope
from estimator.variables import Initializer, assign, get_variable

_ZEROS: Initializer = jax.nn.initializers.zeros
_ONES: Initializer = jax.nn.initializers.ones


def batch_normalization(
    inputs: Any,
    axis: int = -1,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    center: bool = True,
    scale: bool = True,
    beta_initializer: Initializer = _ZEROS,
    gamma_initializer: Initializer = _ONES,
    moving_mean_initializer: Initializer = _ZEROS,
    moving_variance_initializer: Initializer = _ONES,
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
        beta_initializer: zeros by default.
        gamma_initializer: ones by default.
        moving_mean_initializer: zeros by default.
        moving_variance_initializer: ones by default.
        training: whether to use the batch's own mean and variance.
        trainable: whether the optimizer updates beta and gamma.
        name: the scope; `batch_normalization`, `batch_normalization_1`, ... by default.

    Returns:
        Floats of the shape and dtype of the inputs; integers become float32.

    Raises:
        ValueError: if the inputs have no such axis.

    Source: Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1. The moving variance takes
    the batch's biased variance.
    """
    inputs = jnp.asarray(inputs)
    (axis,) = _checked_axes("batch_normalization", inputs, axis)
    others = tuple(i for i in range(inputs.ndim) if i != axis)
    shape = tuple(size if i == axis else 1 for i, size in enumerate(inputs.shape))
    size = (inputs.shape[axis],)
    dtype = at_least_float32(inputs.dtype)
    outputs = inputs.astype(dtype)
    with layer_scope("batch_normalization", name):
        gamma = get_variable("gamma", size, gamma_initializer, dtype, trainable) if scale else None
        beta = get_variable("beta", size, beta_initializer, dtype, trainable) if center else None
        mean = moving_mean = get_variable(
            "moving_mean", size, moving_mean_initializer, dtype, trainable=False
        )
        variance = moving = get_variable(
            "moving_variance", size, moving_variance_initializer, dtype, trainable=False
        )
        if training and inputs.size:  # nothing has no mean
            mean = jnp.mean(outputs, others)
            variance = jnp.var(outputs, others)
            assign("moving_mean", moving_mean * momentum + mean * (1 - momentum))
            assign("moving_variance", moving * momentum + variance * (1 - momentum))
    factor = jax.lax.rsqrt(variance + epsilon)
    outputs = (outputs - mean.reshape(shape)) * factor.reshape(shape)
    return _scaled(outputs, gamma, beta, shape).astype(floating(inputs.dtype))


def layer_normalization(
    inputs: Any,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-3,
    center: bool = True,
    scale: bool = True,
    beta_initializer: Initializer = _ZEROS,
    gamma_initializer: Initializer = _ONES,
    trainable: bool = True,
    name: str | None = None,
) -> jax.Array:
    """Normalises each example by itself, over its features.

    >>> from estimator.variables import apply, initialize, trace
    >>> x = jnp.array([[1.0, 3.0], [2.0, 2.0]])
    >>> values = initialize(trace(layer_normalization, x)[0], seed=0)
    >>> apply(lambda x: layer_normalization(x, epsilon=1e-9), values)(x)[0].tolist()
    [[-1.0, 1.0], [0.0, 0.0]]

    Args:
        inputs: floats of any shape but `()`.
        axis: the axis of the features, or several.
        epsilon: is added to the variance.
        center: whether to add a `beta` that is learnt.
        scale: whether to multiply by a `gamma` that is learnt.
        beta_initializer: zeros by default.
        gamma_initializer: ones by default.
        trainable: whether the optimizer updates beta and gamma.
        name: the scope; `layer_normalization`, `layer_normalization_1`, ... by default.

    Returns:
        Floats of the shape and dtype of the inputs; integers become float32.

    Raises:
        ValueError: if the inputs have no such axis.

    Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, equation 4.
    """
    inputs = jnp.asarray(inputs)
    axes = _checked_axes("layer_normalization", inputs, axis)
    size = tuple(inputs.shape[i] for i in axes)
    shape = tuple(n if i in axes else 1 for i, n in enumerate(inputs.shape))
    dtype = at_least_float32(inputs.dtype)
    outputs = inputs.astype(dtype)
    with layer_scope("layer_normalization", name):
        gamma = get_variable("gamma", size, gamma_initializer, dtype, trainable) if scale else None
        beta = get_variable("beta", size, beta_initializer, dtype, trainable) if center else None
    mean = jnp.mean(outputs, axes, keepdims=True)
    variance = jnp.var(outputs, axes, keepdims=True)
    outputs = (outputs - mean) * jax.lax.rsqrt(variance + epsilon)
    return _scaled(outputs, gamma, beta, shape).astype(floating(inputs.dtype))


def _checked_axes(layer: str, inputs: jax.Array, axis: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the axes, counted from the front, in their order."""
    given = np.ravel(axis).tolist()
    for one in given:
        if not -inputs.ndim <= one < inputs.ndim:
            raise ValueError(f"layers.{layer}: inputs of shape {inputs.shape} have no axis {one}.")
    return tuple(sorted({one % inputs.ndim for one in given}))


def _scaled(
    outputs: jax.Array, gamma: jax.Array | None, beta: jax.Array | None, shape: tuple[int, ...]
) -> jax.Array:
    outputs = outputs if gamma is None else outputs * gamma.reshape(shape)
    return outputs if beta is None else outputs + beta.reshape(shape)
