"""Dense layers: products, tables, masks and the shapes around them.

net = embedding(ids, input_dim=1000, output_dim=16)     # embedding/embeddings
net = dropout(flatten(net), 0.5, training=mode == ModeKeys.TRAIN)
logits = dense(net, 3)                                  # dense/kernel, dense/bias
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from estimator.layer_scope import activated, floating, layer_scope
from estimator.variables import Initializer, get_variable, next_rng_key

_EMBEDDING_RANGE = 0.05


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
        dtype = floating(inputs.dtype)
        shape = (inputs.shape[-1], units)
        kernel = get_variable("kernel", shape, kernel_initializer, dtype, trainable)
        outputs = inputs.astype(dtype) @ kernel
        if use_bias:
            outputs = outputs + get_variable("bias", (units,), bias_initializer, dtype, trainable)
    return activated("dense", outputs, activation)


def dropout(
    inputs: Any,
    rate: float = 0.5,
    noise_shape: Sequence[int | None] | None = None,
    seed: int | None = None,
    training: bool = False,
    name: str | None = None,
) -> jax.Array:
    """Sets a part of the inputs to zero and scales up the rest, when training.

    >>> from estimator.variables import apply
    >>> net = apply(lambda x: dropout(x, rate=0.75, training=True), {}, jax.random.key(0))
    >>> sorted({float(x) for x in net(jnp.ones(100))[0]})
    [0.0, 4.0]

    Args:
        inputs: floats of any shape.
        rate: the part that is set to zero, in [0, 1).
        noise_shape: the shape of the mask, which broadcasts to that of the inputs; None in it: the
            size of the inputs. `(None, 1, None)` drops a feature in all time steps or in none.
        seed: another seed gives another mask; the mask differs from step to step all the same.
        training: whether to drop anything; usually `mode == ModeKeys.TRAIN`.
        name: the scope of the random key; `dropout`, `dropout_1`, ... by default.

    Raises:
        ValueError: if the rate is outside [0, 1), or noise_shape does not broadcast.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    2014.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"layers.dropout: rate must be in [0, 1), got {rate}.")
    inputs = jnp.asarray(inputs)
    inputs = inputs.astype(floating(inputs.dtype))
    shape = _mask_shape(inputs.shape, noise_shape)
    with layer_scope("dropout", name):
        if not training or rate == 0:
            return inputs
        key = next_rng_key()
        key = key if seed is None else jax.random.fold_in(key, seed)
        kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(kept, inputs / (1.0 - rate), jnp.zeros_like(inputs))


def embedding(
    inputs: Any,
    input_dim: int,
    output_dim: int,
    embeddings_initializer: Initializer | None = None,
    trainable: bool = True,
    name: str | None = None,
) -> jax.Array:
    """Returns the row of a table for each id.

    >>> from estimator.variables import apply
    >>> values = {"embedding/embeddings": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    >>> apply(lambda ids: embedding(ids, 2, 2), values)(jnp.array([1, -1]))[0].tolist()
    [[3.0, 4.0], [0.0, 0.0]]

    Args:
        inputs: ids, integers of any shape. -1 is missing: its row is zeros. An id that the table
            does not have gives NaN, which no mean hides.
        input_dim: how many rows the table has.
        output_dim: the size of a row.
        embeddings_initializer: uniform in [-0.05, 0.05) by default.
        trainable: whether the optimizer updates the table.
        name: the scope of the table; `embedding`, `embedding_1`, ... by default.

    Returns:
        Float32 of shape `(*inputs.shape, output_dim)`.

    Raises:
        TypeError: if the ids are no integers.
        ValueError: if the table would be empty.
    """
    inputs = jnp.asarray(inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.integer):
        raise TypeError(
            f"layers.embedding: ids must be integers, got {inputs.dtype} of shape {inputs.shape}. "
            "Convert them, ids.astype(jnp.int32), or use layers.dense for numbers."
        )
    if input_dim < 1 or output_dim < 1:
        raise ValueError(
            "layers.embedding: needs input_dim >= 1 and output_dim >= 1, got "
            f"input_dim={input_dim} and output_dim={output_dim}."
        )
    initializer = embeddings_initializer or _uniform
    with layer_scope("embedding", name):
        table = get_variable(
            "embeddings", (input_dim, output_dim), initializer, jnp.float32, trainable
        )
    signed = jnp.issubdtype(inputs.dtype, jnp.signedinteger)
    missing = inputs == -1 if signed else jnp.zeros(inputs.shape, bool)
    rows = table.at[jnp.where(missing, 0, inputs)].get(
        mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
    )
    return jnp.where(missing[..., None], jnp.zeros_like(rows), rows)


def flatten(inputs: Any, name: str | None = None, data_format: str = "channels_last") -> jax.Array:
    """Makes one row of each example.

    >>> flatten(jnp.zeros((5, 4, 3))).shape
    (5, 12)

    Args:
        inputs: an array of shape `(batch, ...)`.
        name: accepted as in TensorFlow; there is no variable to name.
        data_format: `"channels_first"` moves axis 1 behind the others first, so that both formats
            give the same rows.

    Returns:
        An array of shape `(batch, values of an example)`.

    Raises:
        ValueError: if the inputs have no batch dimension, or there is no such format.
    """
    del name
    inputs = jnp.asarray(inputs)
    if inputs.ndim < 1 or data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            "layers.flatten: needs inputs of shape (batch, ...) and a data_format of "
            f'"channels_last" or "channels_first", got shape {inputs.shape} and {data_format!r}.'
        )
    if data_format == "channels_first" and inputs.ndim > 2:
        inputs = jnp.moveaxis(inputs, 1, -1)
    # Not -1: it cannot be told for a batch of no rows.
    return inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))


def _mask_shape(
    shape: tuple[int, ...], noise_shape: Sequence[int | None] | None
) -> tuple[int, ...]:
    if noise_shape is None:
        return shape
    given = tuple(noise_shape)
    if len(given) == len(shape):
        made = tuple(n if g is None else g for g, n in zip(given, shape, strict=True))
        if all(m in (1, n) for m, n in zip(made, shape, strict=True)):
            return made
    raise ValueError(
        f"layers.dropout: noise_shape {given} does not broadcast to the inputs' shape {shape}. "
        "Give 1, the size itself, or None for each dimension."
    )


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -_EMBEDDING_RANGE, _EMBEDDING_RANGE)
