"""Layer scopes: how a layer names its variables, and the dtype it computes in.

    with layer_scope("dense", name):                # dense, dense_1, ... or the name it was given
        kernel = get_variable("kernel", shape)      # dense/kernel

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
from estimator.variables import variable_scope


@contextlib.contextmanager
def layer_scope(base: str, name: str | None) -> Iterator[str]:
    """Enters the scope of a layer: `name`, or the next free one of `base`, `base_1`, ...

    >>> from estimator.variables import get_variable, trace
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


def activated(
    layer: str, outputs: jax.Array, activation: Callable[[jax.Array], jax.Array] | None
) -> jax.Array:
    """Returns the activation of a layer's outputs; None: the outputs.

    >>> activated("dense", jnp.array([-1.0, 2.0]), jax.nn.relu).tolist()
    [0.0, 2.0]

    Raises:
        TypeError: if the activation is no function.
    """
    if activation is None:
        return outputs
    if not callable(activation):
        raise TypeError(
            f"layers.{layer}: activation must be a function such as jax.nn.relu, got "
            f"{activation!r}."
        )
    return activation(outputs)


def floating(dtype: Any) -> Any:
    """Returns the dtype a layer computes in: that of its inputs, float32 for integers.

    >>> floating(np.int32), floating(np.float16)
    (dtype('float32'), dtype('float16'))
    """
    return np.dtype(dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32)


def at_least_float32(dtype: Any) -> Any:
    """Returns the dtype for statistics over many values: half floats would lose them.

    >>> at_least_float32(jnp.bfloat16)
    dtype('float32')
    """
    dtype = floating(dtype)
    return np.dtype(jnp.float32) if dtype.itemsize < 4 else dtype
