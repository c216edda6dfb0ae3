"""RNN cells and their unrolling: variables, formulas, gradients; padding changes nothing."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import estimator as est
from canned.rnn_cells import (
    CellWeights,
    GRUCell,
    LSTMCell,
    RNNCell,
    SimpleRNNCell,
    StackedRNNCells,
    cell_weights,
)
from canned.unroll import unroll

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROWS, STEPS, WIDTH = 6, 6, 2
LENGTHS = np.array([6, 0, 1, 3, 4, 2], np.int32)
ALIVE = np.arange(STEPS) < LENGTHS[:, None]


@dataclasses.dataclass(frozen=True)
class OwnCell(RNNCell):
    """A user's cell: its output is not its state, and its state is a dict."""

    units: int
    scope = "own_cell"

    def weights(self, input_size):
        return {"kernel": est.get_variable("kernel", (input_size, self.units))}

    def zero_state(self, batch):
        return {"sum": jnp.zeros((batch, self.units)), "steps": jnp.zeros((batch, 1))}

    def step(self, weights, inputs, state):
        total = 0.5 * state["sum"] + jnp.sin(inputs @ weights["kernel"])
        steps = state["steps"] + 1
        return total / steps, {"sum": total, "steps": steps}


class Plain(RNNCell):
    """A cell as `unroll` takes it if it knows nothing of it: a scan, and JAX's gradient of it."""

    def __init__(self, cell):
        self.cell = cell
        self.units = cell.units

    def weights(self, input_size):
        return self.cell.weights(input_size)

    def zero_state(self, batch):
        return self.cell.zero_state(batch)

    def step(self, weights, inputs, state):
        return self.cell.step(weights, inputs, state)


BASIC = [SimpleRNNCell(3), LSTMCell(3), GRUCell(3)]
STACK = StackedRNNCells([LSTMCell(3), OwnCell(2), LSTMCell(3)])
CELLS = [*BASIC, STACK, OwnCell(3)]


def name_of(cell):
    if isinstance(cell, bool):
        return "backward" if cell else "forward"
    if isinstance(cell, StackedRNNCells):
        return "+".join(name_of(c) for c in cell.cells)
    return type(cell).__name__


each_cell = pytest.mark.parametrize("cell", CELLS, ids=name_of)
# The direction knows nothing of the cell; the stack has both a fast gradient and a plain scan.
STACKS = [(STACK, False), (STACK, True)]
WAYS = [*((cell, False) for cell in CELLS if cell is not STACK), *STACKS]
each_way = pytest.mark.parametrize(("cell", "backward"), WAYS, ids=name_of)
few_ways = pytest.mark.parametrize(("cell", "backward"), [(BASIC[2], False), *STACKS], ids=name_of)


# An independent account, in float64, of one row at a time.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def exact_step(cell, weights, x, state):
    match cell:
        case StackedRNNCells():
            new = []
            for layer, its_weights, its_state in zip(cell.cells, weights, state, strict=True):
                x, made = exact_step(layer, its_weights, x, its_state)
                new.append(made)
            return x, new
        case OwnCell():
            total = 0.5 * state[0] + np.sin(x @ weights["kernel"])
            return total / (state[1] + 1), (total, state[1] + 1)
    W, U, b = weights
    h, c = state
    n = cell.units
    of = [slice(gate * n, (gate + 1) * n) for gate in range(4)]
    match cell:
        case SimpleRNNCell():
            h = np.tanh(x @ W + h @ U + b)
        case LSTMCell():
            i, f, g, o = (x @ W[:, s] + h @ U[:, s] + b[s] for s in of)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        case GRUCell():
            z, r = (sigmoid(x @ W[:, s] + b[0, s] + h @ U[:, s] + b[1, s]) for s in of[:2])
            s = of[2]
            proposed = np.tanh(x @ W[:, s] + b[0, s] + r * (h @ U[:, s] + b[1, s]))
            h = z * h + (1 - z) * proposed
    return h, (h, c)


def exact_start(cell):
    if isinstance(cell, StackedRNNCells):
        return [exact_start(layer) for layer in cell.cells]
    return np.zeros(cell.units), np.zeros(1 if isinstance(cell, OwnCell) else cell.units)


def exact_unroll(cell, weights, inputs, lengths, backward):
    outputs = np.zeros((*inputs.shape[:2], cell.units))
    last = np.zeros((inputs.shape[0], cell.units))
    for row, length in enumerate(lengths):
        state = exact_start(cell)
        for t in reversed(range(length)) if backward else range(length):
            last[row], state = exact_step(cell, weights, inputs[row, t], state)
            outputs[row, t] = last[row]
        outputs[row, length:] = last[row]
    return outputs, last


def finite_differences(fn, tree):
    """Returns the gradient of `fn`, a number of a tree of float64 arrays, which it moves."""
    made = jax.tree.map(np.zeros_like, tree)
    for array, gradient in zip(jax.tree.leaves(tree), jax.tree.leaves(made), strict=True):
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + 1e-5
            above = fn()
            array[index] = value - 1e-5
            gradient[index] = (above - fn()) / 2e-5
            array[index] = value
    return made


# What the tests are made of.


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights_of(cell, width=WIDTH):
    _, shapes = est.variables.trace(lambda: cell_weights(cell, width))
    leaves, structure = jax.tree.flatten(shapes)
    values = [0.7 * drawn(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, values)


def wide(tree):
    return jax.tree.map(lambda a: np.array(a, np.float64), tree)


@functools.cache
def gradients(cell, backward=False):
    """Returns the values, and the gradients of a loss of all of them."""

    def loss(weights, inputs, lengths, of_outputs, of_last):
        outputs, last = unroll(cell, weights, inputs, lengths, backward)
        return jnp.sum(outputs * of_outputs) + jnp.sum(last * of_last), (outputs, last)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def unrolled(cell, weights, inputs, lengths=LENGTHS, backward=False):
    """Returns outputs and last outputs, by a program that other tests need as well."""
    rest = case(cell)[3:]
    return gradients(cell, backward)(weights, inputs, lengths, *rest)[0][1]


def case(cell):
    of_outputs, of_last = drawn(8, ROWS, STEPS, cell.units), drawn(9, ROWS, cell.units)
    return weights_of(cell), drawn(7, ROWS, STEPS, WIDTH), LENGTHS, of_outputs, of_last


def assert_close(made, wanted, tolerance=2e-6):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    jax.tree.map(check, made, wanted)


def assert_same(made, wanted):
    jax.tree.map(np.testing.assert_array_equal, made, wanted)


# Variables.


def recipes(cell, width):
    def ask():
        with est.variable_scope("rnn"):
            return cell_weights(cell, width)

    return est.variables.trace(ask)[0]


@pytest.mark.parametrize(
    ("cell", "scope", "gates", "bias"),
    [
        (SimpleRNNCell(4), "simple_rnn_cell", 1, np.zeros(4)),
        (LSTMCell(4), "lstm_cell", 4, np.repeat([0.0, 1.0, 0.0, 0.0], 4)),
        (GRUCell(4), "gru_cell", 3, np.zeros((2, 12))),
    ],
    ids=["SimpleRNNCell", "LSTMCell", "GRUCell"],
)
def test_variables_have_the_names_shapes_and_first_values_of_keras(cell, scope, gates, bias):
    values = est.variables.initialize(recipes(cell, 30), seed=0)
    names = [f"rnn/{scope}/{name}" for name in ("kernel", "recurrent_kernel", "bias")]
    assert sorted(values) == sorted(names)
    kernel, recurrent, first_bias = (np.asarray(values[name]) for name in names)
    assert kernel.shape == (30, gates * 4)
    limit = np.sqrt(6 / (30 + gates * 4))
    assert 0.9 * limit < np.abs(kernel).max() <= limit
    assert recurrent.shape == (4, gates * 4)
    assert_close(recurrent @ recurrent.T, np.eye(4))
    assert_same(first_bias, bias)


def test_cells_in_a_stack_are_numbered_by_kind_and_read_the_one_below():
    class Odd(OwnCell):
        scope = "own_cell_1"  # as if it had been numbered

    cells = [LSTMCell(3), GRUCell(4), Odd(2), OwnCell(5), LSTMCell(np.int64(1)), OwnCell(3)]
    variables = recipes(StackedRNNCells(cells), 7).variables
    shapes = {name: v.shape for name, v in variables.items() if name.endswith("/kernel")}
    assert shapes == {
        "rnn/stacked_rnn_cells/lstm_cell/kernel": (7, 12),
        "rnn/stacked_rnn_cells/gru_cell/kernel": (3, 12),
        "rnn/stacked_rnn_cells/own_cell_1/kernel": (4, 2),
        "rnn/stacked_rnn_cells/own_cell/kernel": (2, 5),
        "rnn/stacked_rnn_cells/lstm_cell_1/kernel": (5, 4),
        "rnn/stacked_rnn_cells/own_cell_2/kernel": (1, 3),
    }


# Formulas.


@each_cell
def test_a_step_is_its_formula(cell):
    weights, inputs = weights_of(cell), drawn(1, STEPS, ROWS, WIDTH)
    state, exact = cell.zero_state(ROWS), [exact_start(cell)] * ROWS
    for x in inputs:
        output, state = cell.step(weights, x, state)
        for row in range(ROWS):
            wanted, exact[row] = exact_step(cell, wide(weights), wide(x[row]), exact[row])
            assert_close(output[row], wanted)


@each_way
def test_values_and_gradients_are_those_of_the_formulas(cell, backward):
    args = case(cell)
    (_, values), made = gradients(cell, backward)(*args)
    weights, inputs, _, of_outputs, of_last = wide(args)

    def loss():
        outputs, last = exact_unroll(cell, weights, inputs, LENGTHS, backward)
        return np.sum(outputs * of_outputs) + np.sum(last * of_last)

    assert_close(values, exact_unroll(cell, weights, inputs, LENGTHS, backward))
    assert_close(made, finite_differences(loss, (weights, inputs)), 2e-5)


@pytest.mark.parametrize(("cell", "backward"), [w for w in WAYS if w[0] != OwnCell(3)], ids=name_of)
def test_fast_gradients_and_layer_by_layer_are_a_plain_scan_step_by_step(cell, backward):
    wanted = gradients(Plain(cell), backward)(*case(cell))
    assert_close(gradients(cell, backward)(*case(cell)), wanted)


def test_backward_is_forward_over_reversed_sequences():
    cell = STACK
    weights, inputs, lengths, *_ = case(cell)
    time = np.where(ALIVE, LENGTHS[:, None] - 1 - np.arange(STEPS), np.arange(STEPS))
    turned = np.take_along_axis(inputs, time[..., None], 1)
    outputs, last = unrolled(cell, weights, turned, lengths)
    wanted = np.take_along_axis(np.asarray(outputs), time[..., None], 1), last
    assert_close(unrolled(cell, weights, inputs, lengths, True), wanted)


# Padding and rows.


@each_way
def test_what_the_padding_holds_changes_no_bit(cell, backward):
    weights, inputs, lengths, *rest = case(cell)
    wanted = gradients(cell, backward)(weights, inputs, lengths, *rest)
    assert_same(wanted[1][1][~ALIVE], np.zeros((np.sum(~ALIVE), WIDTH)))
    for garbage in (0, 1e30, np.nan, np.inf):
        padded = np.where(ALIVE[..., None], inputs, np.float32(garbage))
        assert_same(gradients(cell, backward)(weights, padded, lengths, *rest), wanted)


@few_ways
def test_more_padding_changes_neither_values_nor_gradients(cell, backward):
    weights, inputs, lengths, of_outputs, of_last = case(cell)
    (loss, values), wanted = gradients(cell, backward)(*case(cell))
    more = np.full((ROWS, 3, WIDTH), np.nan, np.float32)
    none = np.zeros((ROWS, 3, cell.units), np.float32)
    longer, of_longer = (np.concatenate(a, 1) for a in ((inputs, more), (of_outputs, none)))
    (new_loss, new), made = gradients(cell, backward)(weights, longer, lengths, of_longer, of_last)
    assert_close((new_loss, new[0][:, :STEPS], new[1]), (loss, *values))
    assert_close((made[0], made[1][:, :STEPS]), wanted)
    assert_same(made[1][:, STEPS:], np.zeros_like(more))


@each_way
def test_the_last_output_is_repeated_behind_the_end_and_zeros_if_there_is_none(cell, backward):
    weights, inputs, lengths, *_ = case(cell)
    outputs, last = unrolled(cell, weights, inputs, lengths, backward)
    for row, length in enumerate(LENGTHS):
        wanted = np.zeros(cell.units)
        if length:
            wanted = outputs[row, 0 if backward else length - 1]
        assert_same(last[row], wanted)
        assert_same(outputs[row, length:], np.broadcast_to(wanted, (STEPS - length, cell.units)))


@each_way
def test_a_sequence_of_one_is_one_step(cell, backward):
    weights, inputs, _, *_ = case(cell)
    output, _ = cell.step(weights, inputs[:, 0], cell.zero_state(ROWS))
    outputs, last = unrolled(cell, weights, inputs, np.ones(ROWS, np.int32), backward)
    assert_close((outputs[:, 0], last), (output, output))


@each_way
def test_permuted_rows_have_permuted_answers(cell, backward):
    weights, inputs, lengths, *_ = case(cell)
    outputs, last = unrolled(cell, weights, inputs, lengths, backward)
    order = np.array([3, 0, 4, 2, 5, 1])
    permuted = unrolled(cell, weights, inputs[order], lengths[order], backward)
    assert_close(permuted, (outputs[order], last[order]))


@few_ways
def test_gradients_of_a_batch_are_the_sums_of_those_of_its_parts(cell, backward):
    weights, *rows = case(cell)
    (_, (outputs, last)), (of_weights, of_inputs) = gradients(cell, backward)(weights, *rows)
    total = jax.tree.map(np.zeros_like, weights)
    for part in (slice(0, 3), slice(3, 6)):
        (_, values), made = gradients(cell, backward)(weights, *(array[part] for array in rows))
        assert_close((*values, made[1]), (outputs[part], last[part], of_inputs[part]))
        total = jax.tree.map(np.add, total, made[0])
    assert_close(total, of_weights)


@pytest.mark.parametrize("cell", [STACK, OwnCell(3)], ids=name_of)
def test_no_rows_and_no_steps_give_no_outputs(cell):
    for rows, steps in ((0, 3), (2, 0)):
        lengths = np.zeros(rows, np.int32)
        outputs, last = unroll(cell, weights_of(cell), drawn(0, rows, steps, WIDTH), lengths)
        assert outputs.shape == (rows, steps, cell.units)
        assert_same(last, np.zeros((rows, cell.units)))


def test_gradients_of_rows_split_over_devices_are_those_of_one():
    cell, rows = LSTMCell(3), jax.P("rows")
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("rows",))
    specs = {"in_specs": (jax.P(), rows, rows), "out_specs": rows, "check_vma": False}
    split = jax.shard_map(functools.partial(unroll, cell), mesh=mesh, **specs)

    def loss(weights, inputs, lengths, of_outputs, of_last):
        outputs, last = split(weights, inputs, lengths)
        return jnp.sum(outputs * of_outputs) + jnp.sum(last * of_last)

    made = jax.jit(jax.value_and_grad(loss, (0, 1)))(*case(cell))
    (wanted, _), of_both = gradients(cell)(*case(cell))
    assert_close(made, (wanted, of_both))


def test_a_model_unrolls_by_rows_with_its_variables():
    cell = LSTMCell(3)

    def net(features):
        weights = cell_weights(cell, WIDTH)
        return est.rowwise(functools.partial(unroll, cell), weights, features["x"], features["n"])

    made, variables = est.preview(net, {"x": case(cell)[1], "n": LENGTHS})
    weights = CellWeights(*(variables[f"lstm_cell/{name}"] for name in CellWeights._fields))
    assert_close(made, unrolled(cell, weights, case(cell)[1]))


# What is refused.


@pytest.mark.parametrize("kind", [SimpleRNNCell, LSTMCell, GRUCell])
@pytest.mark.parametrize("units", [0, -1, 2.5, "3", None, True])
def test_units_that_are_no_whole_number_of_at_least_1_are_refused(kind, units):
    message = f"{kind.__name__}: units must be a whole number of at least 1, got {units!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(units)


def test_a_stack_of_no_cells_or_of_something_else_is_refused():
    with pytest.raises(ValueError, match="no cells were given"):
        StackedRNNCells([])
    with pytest.raises(TypeError, match=r"needs cells such as LSTMCell\(64\), got .*GRUCell"):
        StackedRNNCells([LSTMCell(2), GRUCell])


def test_inputs_and_lengths_that_do_not_fit_are_refused():
    weights = weights_of(BASIC[0])
    for inputs, lengths in ((drawn(0, 5, 2), LENGTHS), (drawn(0, 4, 3, 2), LENGTHS)):
        with pytest.raises(ValueError, match=r"inputs of shape \(batch, steps, width\)"):
            unroll(BASIC[0], weights, inputs, lengths)


@pytest.mark.parametrize(
    ("start", "change"),
    [
        ((1, 3), lambda h: (h[:, :2], h)),
        ((1, 3), lambda h: (h, h[:, :2])),
        ((3,), lambda h: (h, h)),
    ],
    ids=["output", "state", "state without a batch"],
)
def test_a_cell_whose_step_makes_other_shapes_is_refused_by_name(start, change):
    class Wrong(OwnCell):
        def zero_state(self, batch):
            return jnp.zeros(start)

        def step(self, weights, inputs, state):
            return change(state)

    with pytest.raises(ValueError, match=r"Wrong: for 1 rows, step must return .* \(1, 3\)"):
        unroll(Wrong(3), {}, drawn(0, 1, 2, 2), np.ones(1, np.int32))
