"""RNN cells: what one step of a recurrent network asks for, and what it computes.

    cell = StackedRNNCells([LSTMCell(64), GRUCell(32)])
    weights = cell_weights(cell, input_size=8)              # inside a model_fn: its variables
    output, state = cell.step(weights, inputs, cell.zero_state(batch))

Law: a step answers each row of a batch by itself, and is a pure function of arrays. Names, shapes
and first values of the variables are those of Keras (TensorFlow 2.15).
"""

import abc
import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est


class RNNCell(abc.ABC):
    """One step of a recurrent network; subclass it for a cell of your own.

    >>> @dataclasses.dataclass(frozen=True)
    ... class LeakyCell(RNNCell):
    ...     units: int
    ...     scope = "leaky_cell"
    ...
    ...     def weights(self, input_size):
    ...         return est.get_variable("kernel", (input_size, self.units))
    ...
    ...     def zero_state(self, batch):
    ...         return jnp.zeros((batch, self.units))
    ...
    ...     def step(self, weights, inputs, state):
    ...         state = 0.5 * state + inputs @ weights
    ...         return state, state
    >>> cell = LeakyCell(3)
    >>> cell.step(jnp.ones((2, 3)), jnp.ones((1, 2)), cell.zero_state(1))[0].tolist()
    [[2.0, 2.0, 2.0]]

    Attributes:
        units: the width of its output.
        scope: the name of the scope that its variables lie in.
    """

    units: int
    scope: str = "rnn_cell"

    @abc.abstractmethod
    def weights(self, input_size: int) -> Any:
        """Asks for its variables, by `est.get_variable`, in the present scope.

        It is called once, outside of any loop over time; `cell_weights` enters the scope before.

        Args:
            input_size: the width of its inputs.

        Returns:
            An array, or a tree of arrays.
        """

    @abc.abstractmethod
    def zero_state(self, batch: int) -> Any:
        """Returns the state before the first step.

        Args:
            batch: how many rows there are.

        Returns:
            An array, or a tree of arrays, whose first dimension is the batch's.
        """

    @abc.abstractmethod
    def step(self, weights: Any, inputs: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Returns the output of one step, and the state after it.

        Where a sequence has ended it is shown inputs of zeros, and what it makes of them is
        dropped; its values and its gradients must be finite there.

        Args:
            weights: what `weights` returned.
            inputs: floats of shape (batch, input_size).
            state: as `zero_state` makes it.

        Returns:
            Floats of shape (batch, units), and a state of the shapes of the one before.
        """


class GatedCell(RNNCell):
    """A cell whose step has two parts, of which only the first reads the weights.

    Its gradients are faster than those of other cells: `unroll` computes those of the weights, and
    of the inputs, in one product over all steps, and the second part anew instead of keeping it.
    Its state holds floats only.
    """

    @abc.abstractmethod
    def projected(self, weights: Any, inputs: jax.Array, state: Any) -> Any:
        """Returns what weights make of inputs and state, row by row: products, as a rule.

        Args:
            weights, inputs, state: as for `step`.

        Returns:
            An array, or a tree of arrays, whose first dimension is the batch's.
        """

    @abc.abstractmethod
    def combined(self, gates: Any, state: Any) -> tuple[jax.Array, Any]:
        """Returns what `step` returns.

        Args:
            gates: what `projected` returned.
            state: as for `step`.
        """

    @final
    def step(self, weights: Any, inputs: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Returns `combined(projected(weights, inputs, state), state)`."""
        return self.combined(self.projected(weights, inputs, state), state)


class CellWeights(NamedTuple):
    """The variables of a cell of Keras, whose columns are those of its gates, one after the other.

    Attributes:
        kernel: float32 of shape (input_size, gates * units).
        recurrent_kernel: float32 of shape (units, gates * units).
        bias: float32 of shape (gates * units,); of a GRU (2, gates * units).
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array


@final
@dataclasses.dataclass(frozen=True)
class SimpleRNNCell(GatedCell):
    """A simple recurrent cell: `h' = tanh(x W + h U + b)` (Elman, 1990).

    >>> cell = SimpleRNNCell(1)
    >>> weights = CellWeights(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.zeros(1))
    >>> cell.step(weights, jnp.array([[0.5]]), cell.zero_state(1))[0].tolist()
    [[0.462]]

    Args:
        units: the width of the output.

    Raises:
        ValueError: if units is no whole number of at least 1.

    Source: Elman, "Finding Structure in Time", 1990.
    """

    units: int
    scope = "simple_rnn_cell"

    def __post_init__(self) -> None:
        _check_units(self)

    def weights(self, input_size: int) -> CellWeights:
        return _weights(input_size, self.units, np.zeros(self.units, np.float32))

    def zero_state(self, batch: int) -> jax.Array:
        return jnp.zeros((batch, self.units), jnp.float32)

    def projected(self, weights: CellWeights, inputs: jax.Array, state: jax.Array) -> jax.Array:
        return inputs @ weights.kernel + state @ weights.recurrent_kernel + weights.bias

    def combined(self, gates: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        del state
        output = jnp.tanh(gates)
        return output, output


@final
@dataclasses.dataclass(frozen=True)
class LSTMCell(GatedCell):
    """A long short-term memory, with gates in the order i, f, c, o.

    Of `z = x W + h U + b`: `c' = sigmoid(z_f) c + sigmoid(z_i) tanh(z_c)` and
    `h' = sigmoid(z_o) tanh(c')`. The bias of f is 1 at first.

    >>> cell = LSTMCell(1)
    >>> weights = CellWeights(jnp.ones((1, 4)), jnp.ones((1, 4)), jnp.zeros(4))
    >>> cell.step(weights, jnp.array([[0.5]]), cell.zero_state(1))[0].tolist()
    [[0.174]]

    Args:
        units: the width of the output, and of the memory.

    Raises:
        ValueError: if units is no whole number of at least 1.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997.
    """

    units: int
    scope = "lstm_cell"

    def __post_init__(self) -> None:
        _check_units(self)

    def weights(self, input_size: int) -> CellWeights:
        # A memory that forgets nothing yet learns long sequences sooner (Gers et al., 2000).
        bias = np.repeat(np.array([0, 1, 0, 0], np.float32), self.units)
        return _weights(input_size, self.units, bias)

    def zero_state(self, batch: int) -> tuple[jax.Array, jax.Array]:
        zeros = jnp.zeros((batch, self.units), jnp.float32)
        return zeros, zeros

    def projected(
        self, weights: CellWeights, inputs: jax.Array, state: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        return inputs @ weights.kernel + state[0] @ weights.recurrent_kernel + weights.bias

    def combined(
        self, gates: jax.Array, state: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        i, f, c, o = jnp.split(gates, 4, axis=1)
        memory = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(c)
        output = jax.nn.sigmoid(o) * jnp.tanh(memory)
        return output, (output, memory)


@final
@dataclasses.dataclass(frozen=True)
class GRUCell(GatedCell):
    """A gated recurrent unit, with gates in the order z, r, h; it resets after the product.

    Of `a = x W + b_0` and `u = h U + b_1`: `z = sigmoid(a_z + u_z)`, `r = sigmoid(a_r + u_r)` and
    `h' = z h + (1 - z) tanh(a_h + r u_h)`.

    >>> cell = GRUCell(1)
    >>> weights = CellWeights(jnp.ones((1, 3)), jnp.ones((1, 3)), jnp.zeros((2, 3)))
    >>> cell.step(weights, jnp.array([[0.5]]), cell.zero_state(1))[0].tolist()
    [[0.174]]

    Args:
        units: the width of the output.

    Raises:
        ValueError: if units is no whole number of at least 1.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014; the
    variant `reset_after` of Keras.
    """

    units: int
    scope = "gru_cell"

    def __post_init__(self) -> None:
        _check_units(self)

    def weights(self, input_size: int) -> CellWeights:
        return _weights(input_size, self.units, np.zeros((2, 3 * self.units), np.float32))

    def zero_state(self, batch: int) -> jax.Array:
        return jnp.zeros((batch, self.units), jnp.float32)

    def projected(
        self, weights: CellWeights, inputs: jax.Array, state: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        of_inputs = inputs @ weights.kernel + weights.bias[0]
        of_state = state @ weights.recurrent_kernel + weights.bias[1]
        n = 2 * self.units
        return of_inputs[:, :n] + of_state[:, :n], of_inputs[:, n:], of_state[:, n:]

    def combined(
        self, gates: tuple[jax.Array, jax.Array, jax.Array], state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        update, reset = jnp.split(jax.nn.sigmoid(gates[0]), 2, axis=1)
        proposed = jnp.tanh(gates[1] + reset * gates[2])
        output = update * state + (1 - update) * proposed
        return output, output


@final
@dataclasses.dataclass(frozen=True)
class StackedRNNCells(RNNCell):
    """Cells on top of one another: each reads the output of the one below.

    >>> cell = StackedRNNCells([LSTMCell(4), GRUCell(3), LSTMCell(2)])
    >>> cell.units, list(est.variables.trace(lambda: cell_weights(cell, 5))[0].variables)[::3]
    (2, ['stacked_rnn_cells/lstm_cell/kernel',
         'stacked_rnn_cells/gru_cell/kernel',
         'stacked_rnn_cells/lstm_cell_1/kernel'])

    Args:
        cells: at least one cell, the lowest first.

    Raises:
        TypeError: if there is something else than cells.
        ValueError: if there are no cells.
    """

    cells: Sequence[RNNCell]
    scope = "stacked_rnn_cells"

    def __post_init__(self) -> None:
        cells = tuple(self.cells)
        for cell in cells:
            if not isinstance(cell, RNNCell):
                raise TypeError(
                    f"StackedRNNCells: needs cells such as LSTMCell(64), got {cell!r}. A cell of "
                    "your own is an instance of a subclass of RNNCell."
                )
        if not cells:
            raise ValueError("StackedRNNCells: no cells were given. Give at least one.")
        object.__setattr__(self, "cells", cells)
        object.__setattr__(self, "units", cells[-1].units)

    def weights(self, input_size: int) -> tuple[Any, ...]:
        made = []
        for cell, scope in zip(self.cells, _numbered([c.scope for c in self.cells]), strict=True):
            with est.variable_scope(scope):
                made.append(cell.weights(input_size))
            input_size = cell.units
        return tuple(made)

    def zero_state(self, batch: int) -> tuple[Any, ...]:
        return tuple(cell.zero_state(batch) for cell in self.cells)

    def step(
        self, weights: tuple[Any, ...], inputs: jax.Array, state: tuple[Any, ...]
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        states = []
        for cell, its_weights, its_state in zip(self.cells, weights, state, strict=True):
            inputs, new = cell.step(its_weights, inputs, its_state)
            states.append(new)
        return inputs, tuple(states)


def cell_weights(cell: RNNCell, input_size: int) -> Any:
    """Returns the weights of a cell, inside a model_fn: variables in the scope of its name.

    >>> list(est.variables.trace(lambda: cell_weights(LSTMCell(2), 3))[0].variables)
    ['lstm_cell/kernel', 'lstm_cell/recurrent_kernel', 'lstm_cell/bias']

    Args:
        cell: the cell.
        input_size: the width of its inputs.

    Returns:
        What `cell.weights` returns.
    """
    with est.variable_scope(cell.scope):
        return cell.weights(input_size)


def _weights(input_size: int, units: int, bias: np.ndarray) -> CellWeights:
    width = bias.shape[-1]
    orthogonal = jax.nn.initializers.orthogonal()
    return CellWeights(
        est.get_variable("kernel", (input_size, width), jax.nn.initializers.glorot_uniform()),
        est.get_variable("recurrent_kernel", (units, width), orthogonal),
        est.get_variable("bias", bias.shape, bias),
    )


def _check_units(cell: RNNCell) -> None:
    units = cell.units
    if not isinstance(units, numbers.Integral) or isinstance(units, bool) or units < 1:
        raise ValueError(
            f"{type(cell).__name__}: units must be a whole number of at least 1, got {units!r}."
        )


def _numbered(scopes: Sequence[str]) -> list[str]:
    """Returns the scopes, each with the first number that no scope before it has."""
    made: list[str] = []
    for scope in scopes:
        name, number = scope, 0
        while name in made:
            number += 1
            name = f"{scope}_{number}"
        made.append(name)
    return made
