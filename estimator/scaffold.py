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

from estimator.context import Frame, run
from estimator.feed import Feed, Item
from estimator.model_fn import Scaffold
from estimator.steps import compiled_whole, copy


class PreparedBatch(tuple[Any, Any]):
    """Features and labels as a model_fn sees them, with what `scaffold_apply` needs besides."""

    item: Item
    programs: dict[Any, Callable[..., Any]]

    @classmethod
    def of(cls, item: Item, programs: dict[Any, Callable[..., Any]]) -> "PreparedBatch":
        """Returns the pair for an item of a feed.

        Args:
            item: what the feed gave.
            programs: what `scaffold_apply` has compiled for batches of this feed.
        """
        batch = cls(item.binding.tree(Frame(), item.inputs))
        batch.item = item
        batch.programs = programs
        return batch


def scaffold_apply(fn: Callable[..., Any], variables: Mapping[str, Any], batch: Any) -> Any:
    """Returns `fn(features, labels)`, where fn may ask for variables and use columns.

    It is compiled, once for all batches of one kind and size.

    Args:
        fn: a pure function that asks for variables or columns as a model_fn does.
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
    binding, inputs = batch.item.binding, batch.item.inputs

    def applied(values: Any, inputs: Any) -> Any:
        frame = Frame(values, writable=False, host=binding.host_arrays(inputs))
        return run(frame, fn, *binding.tree(frame, inputs))

    program = batch.programs.setdefault((fn, binding), compiled_whole(applied))
    return program(dict(variables), inputs)


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
    programs: dict[Any, Callable[..., Any]] = {}
    return (PreparedBatch.of(item, programs) for item in items)
