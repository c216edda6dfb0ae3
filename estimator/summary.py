"""Summaries and tags: values of a step that a model_fn makes known by name.

    summary.scalar("learning_rate", rate)       # written to TensorBoard every save_summary_steps
    tag("grad_norm", norm)                      # hooks fetch it: session.run("grad_norm")

A summary that no hook asks for is not computed. A tag is part of every step.
"""

from typing import Any

import jax
import jax.numpy as jnp

from estimator.context import current_frame

RESERVED = ("loss", "losses", "global_step", "summaries")


def scalar(name: str, tensor: Any) -> None:
    """Makes a number known to TensorBoard, in TRAIN.

    >>> from estimator.variables import trace
    >>> trace(lambda x: scalar("largest", x.max()), jnp.ones(3))[0].summaries
    ('largest',)

    Args:
        name: its tag; the present scope comes before it.
        tensor: an array of one element, or a metric: its value on this batch.

    Raises:
        ValueError: if it has more than one element, or inside the body of an inner transform.
    """
    frame = current_frame(f'summary.scalar("{name}")')
    value = jnp.asarray(tensor)
    if value.size != 1:
        raise ValueError(
            f'summary.scalar("{name}"): needs one number, got an array of shape {value.shape}. '
            "Write its mean, for example."
        )
    _refuse_inner(frame, f'summary.scalar("{name}")')
    full = frame.full_name(name)
    index = 0
    while (unique := f"{full}_{index}" if index else full) in frame.summaries:
        index += 1
    frame.summaries[unique] = value.reshape(())


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


def _refuse_inner(frame: Any, call: str) -> None:
    frame.refuse_inner_trace(call, "Return the value from the body and name it outside.")
