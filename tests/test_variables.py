"""The laws of the store: what a function asks for by name, and what it is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import first_values

from estimator import layers
from estimator.context import Frame, current_frame, run
from estimator.variables import (
    apply,
    assign,
    get_global_step,
    get_variable,
    initialize,
    next_rng_key,
    trace,
    variable_scope,
    variable_tree,
)

ones, zeros = jax.nn.initializers.ones, jax.nn.initializers.zeros
X = np.ones((2, 4), np.float32)
pytestmark = pytest.mark.usefixtures("strict_promotion")

# A name is one variable.


def test_a_name_asked_for_twice_is_given_twice():
    def fn():
        return get_variable("w", (3,)), get_variable("w", (3,))

    recipes, _ = trace(fn)
    assert list(recipes.variables) == ["w"]
    first, second = apply(fn, {"w": np.float32([1, 2, 3])})()[0]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("discovering", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((4, 3), (4, 2), r"w.*shape \(4, 2\) now and \(4, 3\) before.*another name"),
        ((4,), 5, r"w.*shape \(5,\) now and \(4,\) before"),
        ((4,), (), r"w.*shape \(\) now and \(4,\) before"),
    ],
)
def test_another_shape_is_an_error_that_shows_both(first, second, message, discovering):
    def fn():
        get_variable("w", first)
        get_variable("w", second)

    values = None if discovering else {"w": np.zeros(first, np.float32)}
    with pytest.raises(ValueError, match=message):
        run(Frame(values), fn)


def test_another_dtype_is_an_error_that_shows_both():
    def fn():
        get_variable("w", (3,))
        get_variable("w", (3,), dtype=np.int32)

    with pytest.raises(ValueError, match="dtype int32 now and float32 before"):
        trace(fn)


def test_a_known_variable_is_asked_for_by_name_alone():
    def fn():
        get_variable("w", (3,), dtype=np.int32)
        return get_variable("w")

    assert trace(fn)[1].shape == (3,)
    lonely = apply(lambda: get_variable("w"), {"w": np.int32([1, 2])})
    assert lonely()[0].tolist() == [1, 2]


def test_a_model_without_the_variable_names_those_it_has():
    fn = apply(lambda: get_variable("dense/kernal", (3,)), {"dense/kernel": np.zeros(3)})
    with pytest.raises(
        ValueError, match=r"no such variable; it has \['dense/kernel'\].*Did you mean"
    ):
        fn()


def test_a_model_with_a_variable_of_another_shape_shows_both():
    fn = apply(lambda: get_variable("w", (3,)), {"w": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match=r'"w".*asked for with shape \(3,\).*has shape \(4,\)'):
        fn()


@pytest.mark.parametrize("name", ["", "/", None, 3])
@pytest.mark.parametrize("ask", [lambda n: get_variable(n, ()), lambda n: variable_scope(n)])
def test_a_name_must_be_a_str_with_letters(name, ask):
    def fn():
        entered = ask(name)
        with entered:
            pass

    with pytest.raises(ValueError, match="needs a name, got"):
        trace(fn)


CALLS = {
    "get_variable": lambda: get_variable("w", ()),
    "assign": lambda: assign("w", 1),
    "next_rng_key": next_rng_key,
    "get_global_step": get_global_step,
    "variable_tree": lambda: variable_tree("t", lambda key: 1),
    "variable_scope": lambda: variable_scope("s").__enter__(),
    "layers.dense": lambda: layers.dense(X, 3),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_outside_a_model_fn_says_where_it_belongs(call):
    with pytest.raises(RuntimeError, match=f"{call}.* outside a model_fn.*trace"):
        CALLS[call]()


def test_a_frame_ends_with_its_trace_even_after_an_error():
    with pytest.raises(ZeroDivisionError):
        trace(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="outside a model_fn"):
        current_frame("an example")


# First values.


def test_the_first_value_depends_on_the_seed_and_the_name():
    def fn():
        get_variable("a", (5,))
        get_variable("b", (5,))

    values = first_values(fn)
    again, other = first_values(fn), first_values(fn, seed=1)
    for name in values:
        np.testing.assert_array_equal(values[name], again[name])
        assert not np.array_equal(values[name], other[name])
    assert not np.array_equal(values["a"], values["b"])


def test_another_layer_changes_no_other_layers_values():
    def small(x):
        return layers.dense(x, 3)

    def large(x):
        with variable_scope("before"):
            x = layers.dense(x, 7)
        variable_tree("tree", lambda key: jax.random.normal(key, (2,)))
        return layers.dense(x[:, :4], 3)

    few, many = first_values(small, X), first_values(large, X)
    assert few.keys() < many.keys()
    for name, value in few.items():
        np.testing.assert_array_equal(value, many[name])


def test_seeds_count_with_their_lowest_32_bits():
    def fn():
        get_variable("w", (5,))

    np.testing.assert_array_equal(
        first_values(fn, seed=2**32 + 7)["w"], first_values(fn, seed=7)["w"]
    )
    np.testing.assert_array_equal(
        first_values(fn, seed=-1)["w"], first_values(fn, seed=2**32 - 1)["w"]
    )


def test_initialisation_is_one_jitted_call_without_a_forward_pass():
    forward, made = [], []

    def spy(key, shape, dtype):
        made.append(isinstance(key, jax.core.Tracer))
        return jnp.zeros(shape, dtype)

    def fn(x):
        forward.append("pass")
        for i in range(3):
            x = x * get_variable(f"w{i}", (4,), spy)
        return x

    recipes, _ = trace(fn, X)
    assert (len(forward), made) == (1, [])
    initialize(recipes, 0)
    assert (len(forward), made) == (1, [True] * 3)


def test_initialisation_puts_the_variables_where_it_is_told():
    recipes, _ = trace(lambda: get_variable("w", (4, 2)))
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    values = initialize(recipes, 0, sharding)
    assert values["w"].sharding == sharding
    np.testing.assert_array_equal(values["w"], initialize(recipes, 0)["w"])


@pytest.mark.parametrize(
    ("shape", "initializer", "dtype", "expected"),
    [
        ((2,), None, np.int32, np.int32([0, 0])),
        ((2,), ones, None, np.float32([1, 1])),
        ((2,), 3.0, None, np.float32([3, 3])),
        ((2,), 3, np.float32, np.float32([3, 3])),
        (None, np.float64([1, 2]), None, np.float32([1, 2])),
        (None, np.arange(3), None, np.int32([0, 1, 2])),
        ((2, 2), np.float32([1, 2]), None, np.float32([[1, 2], [1, 2]])),
        ((), np.bool_(True), None, np.bool_(True)),
    ],
)
def test_initializers_may_be_functions_arrays_or_numbers(shape, initializer, dtype, expected):
    value = first_values(lambda: get_variable("w", shape, initializer, dtype))["w"]
    assert value.dtype == expected.dtype
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("shape", [(200, 100), (300,), ()])
def test_the_default_initializer_is_glorot_uniform(shape):
    value = first_values(lambda: get_variable("w", shape))["w"]
    fans = sum(shape) if len(shape) == 2 else 2 * max(sum(shape), 1)
    limit = np.sqrt(6 / fans)
    assert value.dtype == np.float32
    assert np.abs(value).max() <= limit
    if shape:
        assert np.abs(value).max() > 0.9 * limit
        assert abs(value.mean()) < 0.1 * limit


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: get_variable("w"), "new variable needs a shape"),
        (
            lambda: get_variable("w", (3,), "zeros"),
            "initializer is 'zeros'.*Give a JAX initializer",
        ),
        (lambda: get_variable("w", (3,), [1, 2, 3]), r"initializer is \[1, 2, 3\]"),
        (lambda: get_variable("w", (3,), np.zeros(4)), r"shape \(4,\).*not broadcast.*\(3,\)"),
        (lambda: get_variable("w", (3,), np.zeros((2, 3))), r"shape \(2, 3\).*not broadcast"),
    ],
)
def test_what_is_no_initializer_is_refused_where_it_is_given(ask, message):
    with pytest.raises(ValueError, match=message):
        trace(ask)


def test_an_initializer_that_makes_another_shape_is_named():
    recipes, _ = trace(lambda: get_variable("w", (3,), lambda k, s, d: jnp.zeros((4,), d)))
    with pytest.raises(ValueError, match=r"initializer of w float32\[3\] made.*shape \(4,\)"):
        initialize(recipes, 0)


@pytest.mark.parametrize(
    "looks",
    [
        lambda x: lambda key, shape, dtype: jnp.broadcast_to(x.mean(), shape),
        lambda x: lambda key, shape, dtype: x[0, :3] + jnp.zeros(shape, dtype),
        lambda x: lambda key, shape, dtype: np.asarray(x)[0, :3],
    ],
)
def test_an_initializer_that_looks_at_the_batch_is_named_and_explained(looks):
    def fn(x):
        get_variable("good", (3,))
        return get_variable("bad", (3,), looks(x))

    recipes, _ = trace(fn, X)
    with pytest.raises(ValueError, match=r"initializer of bad float32\[3\].*batch.*Scaffold"):
        initialize(recipes, 0)


def test_an_initial_array_of_the_batch_is_refused_where_it_is_given():
    with pytest.raises(ValueError, match=r'"w".*traced array.*cannot depend on the batch'):
        trace(lambda x: get_variable("w", initializer=x[0]), X)


# Trainable or assigned.


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_])
def test_integers_are_never_trainable(dtype):
    recipes, _ = trace(lambda: get_variable("n", (), dtype=dtype))
    assert not recipes.variables["n"].trainable


def test_trainable_is_what_was_asked_for():
    def fn():
        get_variable("a", ())
        get_variable("b", (), trainable=False)

    assert [r.trainable for r in trace(fn)[0].variables.values()] == [True, False]


def counting(x):
    before = get_variable("n", (), zeros, trainable=False)
    assign("n", before + x)
    between = get_variable("n")
    assign("n", jnp.float32(10) * x)
    return before, between, get_variable("n")


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_the_last_assignment_wins_and_is_what_is_read_from_then_on(wrap):
    net = wrap(lambda values, x: apply(counting, values)(x))
    given, writes = net({"n": np.float32(4)}, np.float32(2))
    assert [float(x) for x in given] == [4, 6, 20]
    assert {name: float(x) for name, x in writes.items()} == {"n": 20}


def test_outside_train_assignments_are_dropped():
    given, writes = apply(counting, {"n": np.float32(4)}, train=False)(np.float32(2))
    assert [float(x) for x in given] == [4, 4, 4]
    assert writes == {}


def test_an_assigned_value_takes_the_dtype_of_the_variable():
    def fn():
        get_variable("n", (), dtype=np.int32)
        assign("n", np.int64(5))

    writes = apply(fn, {"n": np.int32(0)})()[1]
    assert (writes["n"].dtype, int(writes["n"])) == (np.int32, 5)


def assigns(value, shape=(3,), trainable=False, name="moving"):
    get_variable("moving", shape, trainable=trainable)
    assign(name, value)


@pytest.mark.parametrize("values", [None, {"moving": np.zeros(3, np.float32)}])
@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda: assigns(np.zeros(3), trainable=True), "moving.*trainable.*trainable=False"),
        (lambda: assigns(np.zeros(3), name="mowing"), 'no such variable. Did you mean "moving"'),
        (lambda: assigns(np.zeros((3, 1))), r"value has shape \(3, 1\).*variable \(3,\)"),
        (lambda: assigns(0.0), r"value has shape \(\).*variable \(3,\)"),
    ],
)
@pytest.mark.parametrize("writable", [True, False])
def test_a_wrong_assignment_is_an_error_in_every_mode(fn, message, values, writable):
    with pytest.raises(ValueError, match=message):
        run(Frame(values, writable=writable), fn)


def test_gradients_flow_to_what_was_not_assigned():
    def loss(values):
        def fn():
            w = get_variable("w", ())
            get_variable("m", (), trainable=False)
            assign("m", w * 2)
            return get_variable("m") * w

        return apply(fn, values)()[0]

    gradient = jax.grad(loss)({"w": np.float32(3), "m": np.float32(0)})
    assert {name: float(g) for name, g in gradient.items()} == {"w": 12, "m": 0}
