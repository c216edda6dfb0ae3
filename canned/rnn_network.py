"""The network of a recurrent model: from features to logits.

    network = RNNNetwork(sequence_columns, [], cells_of([32], "lstm", None, "doc"), units=3, ...)
    logits, lengths = network(features, mode)       # (batch, 3), (batch,)

It knows no labels: what is made of the logits is a matter of heads.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import estimator as est
import feature_columns as fc
from canned.head_model import checked_dropout
from canned.rnn_cells import (
    GRUCell,
    LSTMCell,
    RNNCell,
    SimpleRNNCell,
    StackedRNNCells,
    cell_weights,
)
from canned.unroll import unroll
from estimator import layers

_CELLS: dict[str, Callable[[int], RNNCell]] = {
    "simple_rnn": SimpleRNNCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
}
_POOLINGS = ("last", "mean", "max")


class Cells(NamedTuple):
    """A cell, and the name of the scope that its variables lie in."""

    cell: RNNCell
    scope: str


def cells_of(
    units: Any, cell_type: Any, rnn_cell_fn: Callable[[], RNNCell] | None, who: str
) -> Cells:
    """Returns the cell that the arguments of a recurrent model mean.

    >>> cells_of(8, "gru", None, "doc").scope, cells_of([8], "gru", None, "doc").scope
    ('gru', 'rnn')

    Args:
        units: how many units each layer has, in a list; or a number.
        cell_type: the name of a kind of cells, or a class; None: `"simple_rnn"`.
        rnn_cell_fn: returns a cell, in place of both.
        who: the name of the model, for error messages.

    Raises:
        ValueError, TypeError: if they do not go together, or there is no such cell.
    """
    if rnn_cell_fn is not None:
        if units is not None or cell_type is not None:
            raise ValueError(
                f"{who}: units and cell_type must not be specified when using rnn_cell_fn, got "
                f"units={units!r} and cell_type={cell_type!r}."
            )
        return Cells(_checked_cell(rnn_cell_fn(), "rnn_cell_fn", who), "rnn")
    if units is None:
        raise ValueError(
            f"{who}: units and rnn_cell_fn are both None. Give units=[32] and cell_type='lstm', "
            "for example."
        )
    kind = "simple_rnn" if cell_type is None else cell_type
    if isinstance(kind, str):
        if kind not in _CELLS:
            raise ValueError(
                f"{who}: cell_type must be one of {list(_CELLS)}, or a class of cells, got "
                f"{kind!r}.{est.did_you_mean(kind, list(_CELLS))}"
            )
        make = _CELLS[kind]
    elif callable(kind):
        make = kind
    else:
        raise TypeError(f"{who}: cell_type must be a name or a class of cells, got {kind!r}.")
    sizes, alone = _sizes(units, who)
    if alone and not isinstance(kind, str):
        raise ValueError(
            f"{who}: units={units!r} goes with the name of a cell_type. Give [{units!r}] with a "
            "class of cells."
        )
    cells = [_checked_cell(make(size), "cell_type", who) for size in sizes]
    cell = cells[0] if len(cells) == 1 else StackedRNNCells(cells)
    return Cells(cell, kind if alone else "rnn")


class RNNNetwork:
    """The layers of a recurrent model.

    Args:
        sequence: what of the features makes the steps.
        context: dense columns that are given to each step, besides.
        cells: the cell.
        units: how many logits there are.
        return_sequences: whether there are logits for each step.
        bidirectional: whether other cells read each sequence from its end, too.
        dropout: which part of the outputs is dropped in training; None: nothing.
        pooling: what the logits of a sequence are made of: `"last"`, `"mean"` or `"max"`.
        who: the name of the model, for error messages.

    Raises:
        ValueError: if an argument is not what it should be.
    """

    def __init__(
        self,
        sequence: Iterable[Any],
        context: Iterable[Any],
        cells: Cells,
        units: int,
        return_sequences: bool,
        bidirectional: bool,
        dropout: float | None,
        pooling: str,
        who: str,
    ) -> None:
        if pooling not in _POOLINGS or (return_sequences and pooling != "last"):
            raise ValueError(
                f"{who}: pooling must be one of {list(_POOLINGS)}, and goes with "
                f"return_sequences=False; got {pooling!r}."
                f"{est.did_you_mean(str(pooling), list(_POOLINGS))}"
            )
        self.sequence = list(sequence)
        self._context = list(context)
        self._cells = cells
        self._units = units
        self._return_sequences = return_sequences
        self._bidirectional = bidirectional
        self._dropout = checked_dropout(dropout, who)
        self._pooling = pooling

    def __call__(self, features: Mapping[str, Any], mode: str) -> tuple[jax.Array, jax.Array]:
        """Returns logits, of shape (batch, units) or (batch, steps, units), and the lengths."""
        steps, lengths = fc.sequence_input_layer(features, self.sequence)
        if self._context:
            context = fc.input_layer(features, self._context, name="dense_features")
            steps = fc.concatenate_context_input(context, steps)
        est.summary.histogram("sequence_length", lengths)
        with est.variable_scope("rnn_model"):
            net = self._outputs(steps, lengths)
            if self._dropout:
                training = mode == est.ModeKeys.TRAIN
                net = layers.dropout(net, self._dropout, training=training)
            return layers.dense(net, self._units, name="logits"), lengths

    def _outputs(self, steps: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns the outputs of the highest layer: of all steps, or one for each sequence."""
        if not self._bidirectional:
            return self._read(self._cells.scope, steps, lengths, backward=False)
        scopes = [f"bidirectional/{way}_{self._cells.scope}" for way in ("forward", "backward")]
        both = [self._read(scope, steps, lengths, scope == scopes[1]) for scope in scopes]
        return jnp.concatenate(both, -1)

    def _read(self, scope: str, steps: jax.Array, lengths: jax.Array, backward: bool) -> jax.Array:
        cell = self._cells.cell
        with est.variable_scope(scope):
            weights = cell_weights(cell, steps.shape[2])
        read = functools.partial(unroll, cell, backward=backward)
        outputs, last = est.rowwise(read, weights, steps, lengths)
        if self._return_sequences:
            made: jax.Array = outputs
        elif self._pooling == "last":
            made = last
        else:
            made = _pooled(self._pooling, outputs, lengths)
        return made


def _pooled(pooling: str, outputs: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns the mean or the largest of the outputs of each sequence; zeros for an empty one."""
    there = (jnp.arange(outputs.shape[1]) < lengths[:, None])[..., None]
    if pooling == "mean":
        count = jnp.maximum(lengths, 1)[:, None]
        return jnp.sum(jnp.where(there, outputs, 0), 1) / count
    largest = jnp.max(jnp.where(there, outputs, -jnp.inf), 1)
    return jnp.where(lengths[:, None] > 0, largest, 0)


def _sizes(units: Any, who: str) -> tuple[list[int], bool]:
    """Returns the units of each layer, and whether they were one number."""
    try:
        return [operator.index(units)], True
    except TypeError:
        pass
    try:
        sizes = [operator.index(size) for size in units]
    except TypeError:
        sizes = []
    if not sizes:
        raise ValueError(
            f"{who}: units must be a list of whole numbers, one for each layer, or a number; got "
            f"{units!r}."
        )
    return sizes, False


def _checked_cell(cell: Any, what: str, who: str) -> RNNCell:
    if not isinstance(cell, RNNCell):
        raise ValueError(
            f"{who}: {what} must make cells of a subclass of canned.RNNCell, got {cell!r}."
        )
    return cell
