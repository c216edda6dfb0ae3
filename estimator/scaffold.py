"""Scaffold: choosing first values from data, once, before a model is first trained.

    def init_fn(variables, batches):
        features, labels = next(batches)
        return {**variables, "clusters": features["x"][:3]}

    EstimatorSpec(mode, loss=loss, scaffold=Scaffold(init_fn))

The batches that are looked at are trained on afterwards, too.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from estimator.context import Frame, RawLeaf, run
from estimator.feed import Feed, Item
from estimator.model_fn import Scaffold
from estimator.steps import copy


class PreparedBatch(tuple[Any, Any]):
    """Features and labels as a model_fn sees them, with what `scaffold_apply` needs besides."""

    host: dict[str, Any]
    raw: dict[int, RawLeaf]

    @classmethod
    def of(cls, item: Item) -> "PreparedBatch":
        """Returns the pair for an item of a feed."""
        frame = Frame()
        batch = cls(item.binding.tree(frame, item.inputs))
        batch.host = item.binding.host_arrays(item.inputs)
        batch.raw = frame.raw
        return batch


def scaffold_apply(fn: Callable[..., Any], variables: Mapping[str, Any], batch: Any) -> Any:
    """Returns `fn(features, labels)`, where fn may ask for variables and use columns.

    Args:
        fn: a function that asks for variables or columns as a model_fn does.
        variables: the variables by name.
        batch: one of the batches that `init_fn` was given.

    Raises:
        TypeError: if the batch is another one.
    """
    if not isinstance(batch, PreparedBatch):
        raise TypeError(
            "scaffold_apply: the batch must be one that Scaffold's init_fn was given, whole, got "
            f"{type(batch).__name__}."
        )
    frame = Frame(variables, writable=False, host=batch.host)
    frame.raw = batch.raw
    return run(frame, fn, *batch)


def first_values(scaffold: Scaffold, values: dict[str, Any], feed: Feed) -> dict[str, Any]:
    """Returns what the scaffold's init_fn makes of the fresh variables.

    Raises:
        ValueError: if it changes names, shapes or dtypes.
    """
    if scaffold.init_fn is None:
        return values
    with feed.rehearsal() as items:
        made = dict(scaffold.init_fn(dict(values), _batches(items)))
    if made.keys() != values.keys():
        raise ValueError(
            f"Scaffold: init_fn returned the variables {sorted(made)}, but the model has "
            f"{sorted(values)}. Return all of them: {{**variables, name: value}}."
        )
    for name, value in made.items():
        kept = values[name]
        if jnp.shape(value) != kept.shape or jnp.result_type(value) != kept.dtype:
            raise ValueError(
                f"Scaffold: init_fn gave {name} the shape {jnp.shape(value)} and dtype "
                f"{jnp.result_type(value)}, but the model's has {kept.shape} and {kept.dtype}."
            )
    # Copies: init_fn may keep what it returned, and the first step donates its variables.
    return copy({name: jnp.asarray(value) for name, value in made.items()})


def _batches(items: Iterator[Item]) -> Iterator[PreparedBatch]:
    return (PreparedBatch.of(item) for item in items)
