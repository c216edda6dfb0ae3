"""Rowwise: a function of single rows, computed by each device for the rows it holds.

    def unroll(cell, inputs, lengths):      # answers each row by itself: a scan over time
        ...

    outputs = rowwise(unroll, cell, inputs, lengths)

Law: the numbers do not depend on the devices. On one device it is a plain call.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from estimator.context import current_frame


def rowwise(fn: Callable[..., Any], shared: Any, *rows: Any) -> Any:
    """Returns `fn(shared, *rows)`, each device computing the rows of the batch that it holds.

    Under `DataParallel` XLA splits most functions well by itself. A `scan` over time it does not:
    it adds up the gradients of the weights over all devices at every time step. Here each device
    scans alone, and gradients are added up once.

    >>> from estimator.variables import apply
    >>> def scores(kernel, x):
    ...     return x @ kernel
    >>> net = apply(lambda x: rowwise(scores, jnp.ones((3, 1)), x), {})
    >>> net(jnp.ones((2, 3)))[0].tolist()
    [[3.0], [3.0]]

    Args:
        fn: a pure function, which gives each row an answer that does not depend on the others: one
            that takes a mean over rows, for example, would take it over those of a device. It asks
            for no layers or random keys itself: hand in variables and keys.
        shared: what all rows need: an array, or a tree of arrays; weights, for example.
        *rows: arrays, or trees of arrays, whose first dimension is the batch's.

    Returns:
        What `fn` returns: arrays whose first dimension is the batch's.

    Raises:
        ValueError: if there are no rows, or they are not equally many.
    """
    return _by_device("rowwise", fn, shared, rows, summed=False)


def rowwise_sum(fn: Callable[..., Any], shared: Any, *rows: Any) -> Any:
    """Returns `fn(shared, *rows)`, a sum over the rows: each device adds up those that it holds.

    For sums that XLA does not split by itself: over blocks of rows in a loop, for example.

    >>> from estimator.variables import apply
    >>> def total(scale, x):
    ...     return (scale * x).sum(0)
    >>> net = apply(lambda x: rowwise_sum(total, 2.0, x), {})
    >>> net(jnp.ones((3, 2)))[0].tolist()
    [6.0, 6.0]

    Args:
        fn: a pure function that adds up something of each row: that of some rows, and that of the
            others, added, must be that of all. It asks for no layers or random keys itself.
        shared: what all rows need: an array, or a tree of arrays.
        *rows: arrays, or trees of arrays, whose first dimension is the batch's.

    Returns:
        What `fn` returns: numbers, or arrays of shapes that do not depend on the rows.

    Raises:
        ValueError: if there are no rows, or they are not equally many.
    """
    return _by_device("rowwise_sum", fn, shared, rows, summed=True)


def _by_device(
    who: str, fn: Callable[..., Any], shared: Any, rows: tuple[Any, ...], summed: bool
) -> Any:
    frame = current_frame(who)
    mesh = frame.mesh
    if not rows:
        raise ValueError(
            f"{who}: no rows were given. Call {who}(fn, shared, *rows); where rows share nothing, "
            "shared is None."
        )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(rows)]
    counts = {shape[:1] for shape in shapes}
    if len(counts) != 1 or () in counts:
        raise ValueError(
            f"{who}: needs arrays of equally many rows, got shapes {shapes}. What all rows share "
            "goes into `shared`."
        )
    ((count,),) = counts
    # Rows that do not divide are on every device, as the batch is.
    if mesh is None or mesh.size == 1 or count == 0 or count % mesh.size:
        with frame.inner_trace():
            out = fn(shared, *rows)
        made = [jnp.shape(leaf) for leaf in jax.tree.leaves(out)]
        if not summed and any(shape[:1] != (count,) for shape in made):
            raise ValueError(
                f"{who}: of {count} rows the function made arrays of shapes {made}. Their first "
                "dimension must be that of the rows: it answers each row by itself."
            )
        return out
    split = PartitionSpec(mesh.axis_names)
    specs = (PartitionSpec(), *[split] * len(rows))

    def on_one(shared: Any, *rows: Any) -> Any:
        out = fn(shared, *rows)
        return jax.lax.psum(out, mesh.axis_names) if summed else out

    # Replication is not checked: the author of a scan would have to mark its first carry, zeros.
    by_device = jax.shard_map(
        on_one,
        mesh=mesh,
        in_specs=specs,
        out_specs=PartitionSpec() if summed else split,
        check_vma=False,
    )
    return by_device(shared, *rows)
