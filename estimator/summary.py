"""Summaries and tags: values of a step that a model_fn makes known by name.

    summary.scalar("learning_rate", rate)       # TensorBoard's curves, every save_summary_steps
    summary.histogram("kernel", kernel)         # its distributions
    summary.image("digits", images)             # its pictures
    summary.text("architecture", "two layers")  # its texts
    tag("grad_norm", norm)                      # hooks fetch it: session.run("grad_norm")

A summary that no hook asks for is not computed. A tag is part of every step. A SummarySaverHook
writes the summaries: in TRAIN there is one by default; give one as an evaluation hook to see those
of an evaluation's first batch, beside its results; a summary named like a result gives way to it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from estimator.context import current_frame
from estimator.host_features import HostOutput

RESERVED = ("loss", "losses", "global_step", "summaries")

_CHANNELS = (1, 3, 4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Histogram:
    """All values of an array, to be counted where they are written."""

    values: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Image:
    """Images of shape `(images, height, width, channels)`.

    Attributes:
        pixels: the images.
        most: how many there can be; where it is 1, no number is part of the tag.
    """

    pixels: Any
    most: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Text:
    """Texts: some that are known before anything is computed, or one made on the host.

    Attributes:
        output: a `host_output` that gives strings, or None.
        lines: the texts, if there is no output.
    """

    output: HostOutput | None
    lines: tuple[str, ...] = dataclasses.field(metadata={"static": True})


def scalar(name: str, tensor: Any, family: str | None = None) -> None:
    """Makes a number known to TensorBoard.

    >>> from estimator.variables import trace
    >>> trace(lambda x: scalar("largest", x.max()), jnp.ones(3))[0].summaries
    ('largest',)

    Args:
        name: its tag; the present scope comes before it.
        tensor: an array of one element, or a metric: its value on this batch.
        family: what TensorBoard groups it under: comes before all of the tag.

    Raises:
        ValueError: if it has more than one element, or inside the body of an inner transform.
    """
    call = f'summary.scalar("{name}")'
    current_frame(call)
    _check_name(call, name, family)
    value = jnp.asarray(tensor)
    if value.size != 1 or jnp.iscomplexobj(value):
        raise ValueError(
            f"{call}: needs one real number, got {value.dtype} of shape {value.shape}. Write its "
            "mean, for example, or summary.histogram of all of them."
        )
    _note(call, name, family, value.reshape(()))


def histogram(name: str, values: Any, family: str | None = None) -> None:
    """Makes the distribution of many numbers known to TensorBoard.

    >>> from estimator.variables import trace
    >>> trace(lambda x: histogram("net", x), jnp.ones(3))[0].summaries
    ('net',)

    Args:
        name: its tag; the present scope comes before it.
        values: numbers of any shape; those that are not finite are left out, with a log warning.
        family: what TensorBoard groups it under.

    Raises:
        ValueError: inside the body of an inner transform.
    """
    call = f'summary.histogram("{name}")'
    current_frame(call)
    _check_name(call, name, family)
    _note(call, name, family, Histogram(jnp.asarray(values)))


def image(name: str, tensor: Any, max_outputs: int = 3, family: str | None = None) -> None:
    """Makes the first images of a batch known to TensorBoard.

    >>> from estimator.variables import trace
    >>> trace(lambda x: image("digits", x), jnp.ones((5, 8, 8, 1)))[0].summaries
    ('digits',)

    Args:
        name: its tag, `name/image/0` and so on; the present scope comes before it.
        tensor: images of shape `(batch, height, width, channels)` with 1 (grey), 3 (RGB) or 4
            (RGBA) channels: uint8, or floats, which are brought to 0 to 255 image by image. Floats
            that are all positive are scaled so that the largest is 255; else 0 becomes 128.
        max_outputs: how many images at the most.
        family: what TensorBoard groups it under.

    Raises:
        ValueError: if they are no images, or inside the body of an inner transform.
    """
    call = f'summary.image("{name}")'
    current_frame(call)
    _check_name(call, name, family)
    pixels = jnp.asarray(tensor)
    kind = pixels.dtype
    fits = pixels.ndim == 4 and pixels.shape[-1] in _CHANNELS and 0 not in pixels.shape[1:]
    if not fits or not (kind == jnp.uint8 or jnp.issubdtype(kind, jnp.floating)):
        raise ValueError(
            f"{call}: needs uint8 or floats of shape (batch, height, width, channels) with "
            f"{list(_CHANNELS)} channels, got {kind} of shape {pixels.shape}."
        )
    if max_outputs < 1:
        raise ValueError(f"{call}: max_outputs must be >= 1, got {max_outputs}.")
    _note(call, name, family, Image(pixels[:max_outputs], max_outputs))


def text(name: str, tensor: str | Sequence[str] | HostOutput, family: str | None = None) -> None:
    """Makes a text known to TensorBoard, which shows it as Markdown.

    >>> from estimator.variables import trace
    >>> trace(lambda: text("settings", ["rate 0.1", "4 layers"]))[0].summaries
    ('settings',)

    Args:
        name: its tag; the present scope comes before it.
        tensor: a str, several, or a `host_output` that makes strings of this step's arrays, such as
            `host_output(Lookup(names), ids)`.
        family: what TensorBoard groups it under.

    Raises:
        TypeError: if it is no text.
        ValueError: inside the body of an inner transform.
    """
    call = f'summary.text("{name}")'
    current_frame(call)
    _check_name(call, name, family)
    if isinstance(tensor, HostOutput):
        arrays = tuple(jnp.asarray(array) for array in tensor.arrays)
        _note(call, name, family, Text(HostOutput(tensor.recipe, arrays), ()))
        return
    lines = (tensor,) if isinstance(tensor, str) else tensor
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise TypeError(
            f"{call}: needs a str, a list of str, or a host_output that makes them, got {tensor!r}."
        )
    _note(call, name, family, Text(None, tuple(lines)))


def tag(name: str, value: Any) -> None:
    """Makes a value of each step known to hooks.

    >>> from estimator.variables import trace
    >>> trace(lambda x: tag("doubled", x * 2), jnp.ones(3))[0].tags
    ('doubled',)

    Args:
        name: the name to fetch it by; the present scope comes before it.
        value: an array, or a tree of arrays.

    Raises:
        ValueError: if the name is taken, or inside the body of an inner transform.
    """
    frame = current_frame(f'tag("{name}")')
    full = frame.full_name(name)
    if full in RESERVED or full in frame.tags:
        raise ValueError(f'tag("{full}"): the name is taken. Give the value another name.')
    _refuse_inner(frame, f'tag("{name}")')
    frame.tags[full] = jax.tree.map(jnp.asarray, value)


def _check_name(call: str, name: Any, family: Any) -> None:
    if not isinstance(name, str) or not isinstance(family, str | None):
        raise TypeError(
            f"{call}: the name, and the family if there is one, must be str, got {name!r} and "
            f"{family!r}. Write {call.split('(')[0]}(name, value)."
        )


def _note(call: str, name: str, family: str | None, value: Any) -> None:
    """Writes a summary down under a tag that no other has in this trace."""
    frame = current_frame(call)
    _refuse_inner(frame, call)
    full = frame.full_name(name)
    full = full if family is None else f"{family}/{full}"
    index = 0
    while (unique := f"{full}_{index}" if index else full) in frame.summaries:
        index += 1
    frame.summaries[unique] = value


def _refuse_inner(frame: Any, call: str) -> None:
    frame.refuse_inner_trace(call, "Return the value from the body and name it outside.")
