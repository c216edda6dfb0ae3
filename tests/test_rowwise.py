"""Rowwise: each device scans its own rows, and the numbers are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import assert_close, make, values_of

import estimator as est
from estimator.context import Frame, run

UNITS = 5


def unroll(cell, inputs, lengths):
    """A simple recurrent network; steps past a row's length change nothing."""
    kernel, bias = cell

    def body(state, step):
        x, time = step
        new = jnp.tanh(jnp.concatenate([x, state], 1) @ kernel + bias)
        return jnp.where((time < lengths)[:, None], new, state), None

    start = jnp.zeros((inputs.shape[0], UNITS))
    steps = (jnp.swapaxes(inputs, 0, 1), jnp.arange(inputs.shape[1]))
    return jax.lax.scan(body, start, steps)[0]


def recurrent(features, labels, mode):
    cell = est.get_variable("kernel", (3 + UNITS, UNITS)), est.get_variable("bias", (UNITS,))
    state = est.rowwise(unroll, cell, features["x"], features["length"])
    answer = est.layers.dense(est.layers.dropout(state, 0.25, training=True), 1)[:, 0]
    if mode == est.ModeKeys.PREDICT:
        return est.EstimatorSpec(mode, predictions={"state": state})
    loss = jnp.mean((answer - labels) ** 2)
    metrics = {"answer": est.metrics.mean(answer)}
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1), eval_metric_ops=metrics)


def data(rows):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 7, 3)).astype(np.float32)
    return {"x": x, "length": rng.integers(0, 8, rows).astype(np.int32)}, x[:, 0, 0]


def test_a_scan_over_time_gives_the_numbers_of_one_device(tmp_path):
    batches = [data(8), data(6)]  # six rows do not divide: they go whole to each device
    made = []
    for devices in (None, est.DataParallel(jax.devices()[:4])):
        path = str(tmp_path / str(len(made)))
        settings = {"train_distribute": devices, "eval_distribute": devices}
        estimator = make(recurrent, path, **settings).train(lambda: batches * 5)
        answers = estimator.predict(lambda: [features for features, _ in batches])
        states = np.array([answer["state"] for answer in answers])
        made.append((values_of(estimator), estimator.evaluate(lambda: batches), states))
    (wanted_values, wanted_results, wanted_states), (values, results, states) = made
    assert_close(values, wanted_values, 1e-6)
    assert_close(results, wanted_results, 1e-6)
    np.testing.assert_allclose(states, wanted_states, rtol=1e-5, atol=1e-6)


def test_no_number_crosses_between_devices_inside_the_scan():
    mesh = jax.sharding.Mesh(
        np.array(jax.devices()[:2]), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    features, labels = data(8)
    rng = np.random.default_rng(1)
    cell = rng.normal(size=(3 + UNITS, UNITS)).astype(np.float32), np.zeros(UNITS, np.float32)

    def loss(cell, x, lengths, labels):
        frame = Frame(mesh=mesh)
        state = run(frame, lambda: est.rowwise(unroll, cell, x, lengths))
        return jnp.mean((state[:, 0] - labels) ** 2)

    split = jax.NamedSharding(mesh, jax.P("data"))
    rows = jax.device_put((features["x"], features["length"], labels), split)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(cell, *rows).compile()
    given = compiled(cell, *rows)
    wanted = jax.jit(jax.value_and_grad(loss_alone))(cell, *features.values(), labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), given, wanted)
    bodies = [body for body in compiled.as_text().split("\n\n") if "all-reduce(" in body]
    assert bodies, "the gradients must be added up somewhere"
    assert all("ENTRY" in body for body in bodies), "an all-reduce stands inside the scan"


def loss_alone(cell, x, lengths, labels):
    return jnp.mean((unroll(cell, x, lengths)[:, 0] - labels) ** 2)


def test_a_variable_asked_for_inside_is_the_same_variable_with_the_same_gradient(tmp_path):
    def model_fn(features, labels, mode):
        def scores(_, x):
            return x[:, 0] @ est.get_variable("inside", (3,), np.float32([1, 2, 3]))

        loss = jnp.mean((est.rowwise(scores, None, features["x"]) - labels) ** 2)
        return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))

    one = make(model_fn, str(tmp_path / "one")).train(lambda: data(8), steps=3)
    both = est.DataParallel(jax.devices()[:2])
    two = make(model_fn, str(tmp_path / "two"), train_distribute=both)
    two.train(lambda: data(8), steps=3)
    assert_close(values_of(two), values_of(one), 1e-6)


@pytest.mark.parametrize(
    "rows",
    [(np.zeros((2, 3)), np.zeros(3)), (np.zeros(()),)],
    ids=["unequal", "scalar"],
)
def test_rows_must_be_equally_many(rows):
    with pytest.raises(ValueError, match="needs arrays of equally many rows, got shapes"):
        run(Frame(), lambda: est.rowwise(lambda shared, *rows: rows[0], None, *rows))


def test_rowwise_works_inside_a_model_fn_only():
    with pytest.raises(RuntimeError, match="rowwise was called outside a model_fn"):
        est.rowwise(lambda shared, x: x, None, np.zeros(3))


@pytest.mark.parametrize("fn", [lambda shared, x: x.mean(), lambda shared, x: (x, x[:1])])
def test_a_function_that_makes_no_row_of_a_row_is_refused_on_one_device_too(fn):
    with pytest.raises(ValueError, match="of 3 rows the function made arrays of shapes"):
        run(Frame(), lambda: est.rowwise(fn, None, np.zeros((3, 2))))


def test_no_rows_at_all_say_how_to_call_it():
    with pytest.raises(ValueError, match=r"no rows were given. Call rowwise\(fn, shared, \*rows\)"):
        run(Frame(), lambda: est.rowwise(lambda x: x, np.zeros(3)))


def test_a_key_is_drawn_outside_on_one_device_too():
    def fn(shared, x):
        return x + jax.random.normal(est.next_rng_key(), x.shape)

    with pytest.raises(ValueError, match=r"next_rng_key\(\) inside .* or rowwise"):
        run(Frame(key=jax.random.key(0)), lambda: est.rowwise(fn, None, np.zeros((3, 2))))


@pytest.mark.parametrize("rows", [8, 6])
def test_a_sum_over_rows_is_that_of_one_device(rows):
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)

    def total(scale, x):
        return jax.lax.fori_loop(0, x.shape[0], lambda i, t: t + scale * x[i], jnp.zeros(3))

    mesh = est.DataParallel(jax.devices()[:4]).placement().mesh
    for frame in (Frame({}), Frame({}, mesh=mesh)):
        made = jax.jit(lambda x, frame=frame: run(frame, est.rowwise_sum, total, 2.0, x))(x)
        np.testing.assert_array_equal(made, 2 * x.sum(0))


def test_a_sum_of_no_rows_says_how_to_call_it():
    with pytest.raises(ValueError, match=r"rowwise_sum\(fn, shared, \*rows\)"):
        run(Frame({}), est.rowwise_sum, jnp.sum, None)
