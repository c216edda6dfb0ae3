"""Unroll: a cell over the steps of padded sequences.

    weights = cell_weights(cell, inputs.shape[2])
    outputs, last = est.rowwise(functools.partial(unroll, cell), weights, inputs, lengths)

Law: padding changes neither an answer nor a gradient, whatever it holds.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from canned.rnn_cells import GatedCell, RNNCell, StackedRNNCells


def unroll(
    cell: RNNCell, weights: Any, inputs: jax.Array, lengths: jax.Array, backward: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns the outputs of a cell at all steps, and the one at the last step it reads.

    A pure function of arrays, row by row. Of cells with gates it can be differentiated in reverse
    mode only (`jax.grad`, `jax.vjp`; not `jax.jvp`).

    >>> from canned.rnn_cells import CellWeights, SimpleRNNCell
    >>> weights = CellWeights(jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.zeros(1))
    >>> inputs = jnp.array([[[0.5], [1.0], [jnp.nan]], [[jnp.nan], [jnp.nan], [jnp.nan]]])
    >>> outputs, last = unroll(SimpleRNNCell(1), weights, inputs, jnp.array([2, 0]))
    >>> outputs[:, :, 0].tolist(), last.tolist()
    ([[0.462, 0.762, 0.762], [0.0, 0.0, 0.0]], [[0.762], [0.0]])

    Args:
        cell: the cell.
        weights: its weights, as `cell_weights` returns them.
        inputs: floats of shape (batch, steps, width).
        lengths: how many steps each sequence has, int32 of shape (batch,).
        backward: whether each sequence is read from its own end to its beginning.

    Returns:
        Outputs of shape (batch, steps, units), in the order of the inputs: behind the end of a
        sequence its last output is repeated. And that last output, of shape (batch, units): the one
        at the end of a sequence; if it is read backward, the one at its beginning. Both are zeros
        for an empty sequence.

    Raises:
        ValueError: if the shapes do not fit, or the cell's step makes others than it should.
    """
    inputs, lengths = jnp.asarray(inputs), jnp.asarray(lengths)
    if inputs.ndim != 3 or lengths.shape != inputs.shape[:1]:
        raise ValueError(
            "unroll: needs inputs of shape (batch, steps, width) and lengths of shape (batch,), "
            f"got shapes {inputs.shape} and {lengths.shape}."
        )
    alive = jnp.arange(inputs.shape[1], dtype=lengths.dtype)[:, None] < lengths
    # By time. Zeros in place of padding: a NaN times a gradient of 0 is NaN.
    steps = _where(alive, jnp.swapaxes(inputs, 0, 1), jnp.zeros((), inputs.dtype))
    last, outputs = _layers(cell, weights, steps, alive, backward)
    if backward:
        outputs = _where(alive, outputs, last)
    return jnp.swapaxes(outputs, 0, 1), last


def _layers(
    cell: RNNCell, weights: Any, inputs: jax.Array, alive: jax.Array, backward: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns the last output, and all of them by time."""
    if isinstance(cell, StackedRNNCells):
        last = inputs
        for layer, its_weights in zip(cell.cells, weights, strict=True):
            last, inputs = _layers(layer, its_weights, inputs, alive, backward)
        return last, inputs
    start = _start(cell, weights, inputs)
    if isinstance(cell, GatedCell):
        return _gated(cell, backward, weights, inputs, alive, start)

    def step(carry: Any, at: Any) -> Any:
        x, valid = at
        new = _where(valid, cell.step(weights, x, carry[1]), carry)
        return new, new[0]

    (last, _), outputs = jax.lax.scan(step, start, (inputs, alive), reverse=backward)
    return last, outputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gated(
    cell: GatedCell, backward: bool, weights: Any, inputs: jax.Array, alive: jax.Array, start: Any
) -> tuple[jax.Array, jax.Array]:
    """Does what a plain scan does.

    The gradient of a plain scan adds to that of the weights at each step, in a product of one
    batch. Here the scan backward in time makes the gradients of the gates, and one product over
    all steps makes those of weights and inputs of them.
    """
    return _gated_forward(cell, backward, weights, inputs, alive, start)[0]


def _gated_forward(
    cell: GatedCell, backward: bool, weights: Any, inputs: jax.Array, alive: jax.Array, start: Any
) -> Any:
    def step(carry: Any, at: Any) -> Any:
        x, valid = at
        state = carry[1]
        gates = cell.projected(weights, x, state)
        new = _where(valid, cell.combined(gates, state), carry)
        return new, (new[0], gates, state)

    (last, _), kept = jax.lax.scan(step, start, (inputs, alive), reverse=backward)
    outputs, gates, states = kept
    return (last, outputs), (weights, inputs, alive, gates, states)


def _gated_backward(cell: GatedCell, backward: bool, kept: Any, gradients: Any) -> Any:
    weights, inputs, alive, gates, states = kept
    of_last, of_outputs = gradients

    def step(carry: Any, at: Any) -> Any:
        of_output, x, valid, gates, state = at
        carry = carry[0] + of_output, carry[1]
        zeros = jax.tree.map(jnp.zeros_like, carry)
        of_gates, through = jax.vjp(cell.combined, gates, state)[1](_where(valid, carry, zeros))
        (by_weights,) = jax.vjp(lambda s: cell.projected(weights, x, s), state)[1](of_gates)
        of_state = jax.tree.map(jnp.add, through, by_weights)
        return _where(valid, (zeros[0], of_state), carry), of_gates

    def projected(weights: Any, inputs: jax.Array) -> Any:
        return cell.projected(weights, inputs, _flat(states))

    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape[1:], s.dtype), states)
    steps = (of_outputs, inputs, alive, gates, states)
    of_start, of_gates = jax.lax.scan(step, (of_last, nothing), steps, reverse=not backward)
    of_weights, of_inputs = jax.vjp(projected, weights, _flat(inputs))[1](_flat(of_gates))
    return of_weights, of_inputs.reshape(inputs.shape), None, of_start


_gated.defvjp(_gated_forward, _gated_backward)


def _start(cell: RNNCell, weights: Any, inputs: jax.Array) -> tuple[jax.Array, Any]:
    """Returns an output of zeros, and the state before the first step, as a step makes them."""
    batch = inputs.shape[1]
    state = jax.tree.map(jnp.asarray, cell.zero_state(batch))
    x = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
    output, made = jax.eval_shape(cell.step, weights, x, state)
    before, after = _shapes(state), _shapes(made)
    by_row = all(leaf.shape[:1] == (batch,) for leaf in jax.tree.leaves(state))
    if output.shape != (batch, cell.units) or before != after or not by_row:
        raise ValueError(
            f"{type(cell).__name__}: for {batch} rows, step must return an output of shape "
            f"{(batch, cell.units)} and a state of the shapes that zero_state makes, the batch "
            f"first; got an output of shape {output.shape} and a state of {after} from {before}."
        )
    state = jax.tree.map(lambda s, m: s.astype(m.dtype), state, made)
    return jnp.zeros(output.shape, output.dtype), state


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def _flat(tree: Any) -> Any:
    """Returns all steps of all rows, one after the other."""
    return jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), tree)


def _where(condition: jax.Array, first: Any, second: Any) -> Any:
    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        more = (1,) * (a.ndim - condition.ndim)
        return jnp.where(condition.reshape(*condition.shape, *more), a, b)

    return jax.tree.map(choose, first, second)
