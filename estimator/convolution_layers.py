"""Convolution layers: filters and windows that slide over images.

    net = conv2d(images, 32, 3, padding="same", activation=jax.nn.relu)     # conv2d/kernel, /bias
    net = max_pooling2d(net, 2, strides=2)

Images have shape `(batch, height, width, channels)`; with `data_format="channels_first"`
`(batch, channels, height, width)`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator.layer_scope import activated, at_least_float32, floating, layer_scope
from estimator.variables import Initializer, get_variable

Pair = int | Sequence[int]

_FORMATS = {"channels_last": ("NHWC", (1, 2), 3), "channels_first": ("NCHW", (2, 3), 1)}


def conv2d(
    inputs: Any,
    filters: int,
    kernel_size: Pair,
    strides: Pair = (1, 1),
    padding: str = "valid",
    data_format: str = "channels_last",
    dilation_rate: Pair = (1, 1),
    activation: Callable[[jax.Array], jax.Array] | None = None,
    use_bias: bool = True,
    kernel_initializer: Initializer | None = None,
    bias_initializer: Initializer = jax.nn.initializers.zeros,
    trainable: bool = True,
    name: str | None = None,
) -> jax.Array:
    """Returns `activation(inputs * kernel + bias)`, where `*` slides the kernel over the image.

    >>> from estimator.variables import apply, trace
    >>> net = lambda x: conv2d(x, filters=8, kernel_size=3)
    >>> recipes, out = trace(net, jnp.ones((2, 28, 28, 1)))
    >>> out.shape, recipes.variables["conv2d/kernel"].shape
    ((2, 26, 26, 8), (3, 3, 1, 8))

    Args:
        inputs: floats of shape `(batch, height, width, channels)`.
        filters: the number of the result's channels.
        kernel_size: height and width of the kernel; one number for both.
        strides: how far the kernel moves at a time.
        padding: `"valid"`: the kernel stays inside the image; `"same"`: zeros around it give the
            result the size of the image, divided by the strides.
        data_format: `"channels_last"` or `"channels_first"`.
        dilation_rate: the distance between two points that the kernel reads.
        activation: a function of the result; None: none.
        use_bias: whether to add a bias.
        kernel_initializer: Glorot uniform by default.
        bias_initializer: zeros by default.
        trainable: whether the optimizer updates kernel and bias.
        name: the scope of the variables; `conv2d`, `conv2d_1`, ... by default.

    Returns:
        Floats of shape `(batch, new height, new width, filters)`.

    Raises:
        ValueError: if the inputs are no images or smaller than the kernel, or a number is below 1.
    """
    inputs = _images("conv2d", inputs, data_format)
    layout, _, channels = _FORMATS[data_format]
    size = _pair("conv2d", "kernel_size", kernel_size)
    strides = _pair("conv2d", "strides", strides)
    dilation = _pair("conv2d", "dilation_rate", dilation_rate)
    reach = ((size[0] - 1) * dilation[0] + 1, (size[1] - 1) * dilation[1] + 1)
    padding = _padding("conv2d", padding, inputs.shape, reach, data_format)
    if filters < 1:
        raise ValueError(f"layers.conv2d: filters must be >= 1, got {filters}.")
    dtype = floating(inputs.dtype)
    with layer_scope("conv2d", name):
        shape = (*size, inputs.shape[channels], filters)
        kernel = get_variable("kernel", shape, kernel_initializer, dtype, trainable)
        outputs = jax.lax.conv_general_dilated(
            inputs.astype(dtype),
            kernel,
            strides,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=(layout, "HWIO", layout),
        )
        if use_bias:
            bias = get_variable("bias", (filters,), bias_initializer, dtype, trainable)
            outputs = outputs + jnp.expand_dims(bias, (1, 2) if channels == 1 else ())
    return activated("conv2d", outputs, activation)


def max_pooling2d(
    inputs: Any,
    pool_size: Pair,
    strides: Pair,
    padding: str = "valid",
    data_format: str = "channels_last",
    name: str | None = None,
) -> jax.Array:
    """Returns the largest value of each window.

    >>> max_pooling2d(jnp.arange(16.0).reshape(1, 4, 4, 1), 2, strides=2).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]

    Args:
        inputs: numbers of shape `(batch, height, width, channels)`.
        pool_size: height and width of the window; one number for both.
        strides: how far the window moves at a time.
        padding: `"valid"`: the window stays inside the image; `"same"`: it may reach over the edge.
        data_format: `"channels_last"` or `"channels_first"`.
        name: accepted as in TensorFlow; there is no variable to name.

    Returns:
        Numbers of shape `(batch, new height, new width, channels)`.

    Raises:
        ValueError: if the inputs are no images, or too small for the window.
    """
    del name
    inputs = _images("max_pooling2d", inputs, data_format)
    least = np.array(_least(inputs.dtype), inputs.dtype)
    window = _window("max_pooling2d", inputs, pool_size, strides, padding, data_format)
    return jax.lax.reduce_window(inputs, least, jax.lax.max, *window)


def average_pooling2d(
    inputs: Any,
    pool_size: Pair,
    strides: Pair,
    padding: str = "valid",
    data_format: str = "channels_last",
    name: str | None = None,
) -> jax.Array:
    """Returns the mean of each window; what lies beyond the edge of the image does not count.

    >>> average_pooling2d(jnp.arange(16.0).reshape(1, 4, 4, 1), 2, strides=2).ravel().tolist()
    [2.5, 4.5, 10.5, 12.5]

    Args:
        inputs: floats of shape `(batch, height, width, channels)`.
        pool_size: height and width of the window; one number for both.
        strides: how far the window moves at a time.
        padding: `"valid"`: the window stays inside the image; `"same"`: it may reach over the edge.
        data_format: `"channels_last"` or `"channels_first"`.
        name: accepted as in TensorFlow; there is no variable to name.

    Returns:
        Floats of shape `(batch, new height, new width, channels)`.

    Raises:
        ValueError: if the inputs are no images, or too small for the window.
    """
    del name
    inputs = _images("average_pooling2d", inputs, data_format)
    dtype = floating(inputs.dtype)
    inputs = inputs.astype(at_least_float32(dtype))
    zero = np.array(0, inputs.dtype)
    window = _window("average_pooling2d", inputs, pool_size, strides, padding, data_format)
    sums = jax.lax.reduce_window(inputs, zero, jax.lax.add, *window)
    counts = jax.lax.reduce_window(jnp.ones_like(inputs[:1]), zero, jax.lax.add, *window)
    return (sums / counts).astype(dtype)


def _least(dtype: Any) -> float | int:
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf
    return 0 if dtype.kind == "b" else np.iinfo(dtype).min


def _images(layer: str, inputs: Any, data_format: str) -> jax.Array:
    inputs = jnp.asarray(inputs)
    if data_format not in _FORMATS:
        raise ValueError(
            f"layers.{layer}: data_format must be one of {sorted(_FORMATS)}, got {data_format!r}."
        )
    if inputs.ndim != 4:
        raise ValueError(
            f"layers.{layer}: needs images of shape (batch, height, width, channels), got shape "
            f"{inputs.shape}. For images of one channel reshape to (batch, height, width, 1)."
        )
    return inputs


def _pair(layer: str, name: str, given: Pair) -> tuple[int, int]:
    pair = tuple(np.ravel(given).tolist())
    pair = pair * 2 if np.ndim(given) == 0 else pair
    if len(pair) != 2 or not all(isinstance(size, int) and size >= 1 for size in pair):
        raise ValueError(f"layers.{layer}: {name} must be one or two numbers >= 1, got {given!r}.")
    return pair[0], pair[1]


def _padding(layer: str, padding: str, shape: Any, reach: tuple[int, int], data_format: str) -> str:
    """Returns the padding as lax names it, having checked that the window fits."""
    kind = str(padding).upper()
    if kind not in ("VALID", "SAME"):
        raise ValueError(f'layers.{layer}: padding must be "valid" or "same", got {padding!r}.')
    sizes = tuple(shape[axis] for axis in _FORMATS[data_format][1])
    if kind == "VALID" and any(n < r for n, r in zip(sizes, reach, strict=True)):
        raise ValueError(
            f"layers.{layer}: images of {sizes[0]} x {sizes[1]} are smaller than the window of "
            f'{reach[0]} x {reach[1]} (data_format="{data_format}"). Take a smaller one, or '
            'padding="same".'
        )
    return kind


def _window(
    layer: str, inputs: jax.Array, pool_size: Pair, strides: Pair, padding: str, data_format: str
) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    """Returns window, strides and padding as `lax.reduce_window` takes them."""
    size, step = _pair(layer, "pool_size", pool_size), _pair(layer, "strides", strides)
    window, moves = [1] * 4, [1] * 4
    for axis, n, s in zip(_FORMATS[data_format][1], size, step, strict=True):
        window[axis], moves[axis] = n, s
    return tuple(window), tuple(moves), _padding(layer, padding, inputs.shape, size, data_format)
