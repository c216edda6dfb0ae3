"""Random keys, scopes, trees of other libraries, and traces, all by name in one store."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import first_values

from estimator import Estimator, EstimatorSpec, RunConfig, layers
from estimator.variables import (
    Recipes,
    VariableRecipe,
    apply,
    assign,
    assign_tree,
    get_global_step,
    get_variable,
    initialize,
    next_rng_key,
    trace,
    variable_scope,
    variable_tree,
)

X = np.ones((2, 4), np.float32)
pytestmark = pytest.mark.usefixtures("strict_promotion")


def names_of(fn, *args) -> list[str]:
    return list(trace(fn, *args)[0].variables)


# Random keys.


def drawn(key=None, step=0, scopes=("",), count=1) -> list[int]:
    def fn():
        keys = []
        for scope in scopes:
            for _ in range(count):
                if scope:
                    with variable_scope(scope):
                        keys.append(next_rng_key())
                else:
                    keys.append(next_rng_key())
        return keys

    key = jax.random.fold_in(jax.random.key(0 if key is None else key), step)
    return [int(jax.random.bits(k)) for k in apply(fn, {}, key)()[0]]


def test_the_same_seed_step_scope_and_count_draw_the_same_key():
    assert drawn(scopes=("", "a"), count=2) == drawn(scopes=("", "a"), count=2)


@pytest.mark.parametrize("change", [{"key": 1}, {"step": 1}, {"scopes": ("a",)}])
def test_another_seed_step_or_scope_draws_another_key(change):
    assert not set(drawn(count=3)) & set(drawn(count=3, **change))


def test_all_keys_of_a_step_differ():
    keys = drawn(scopes=("", "a", "b", "a"), count=3)
    assert len(set(keys)) == 12, "the second visit of a scope goes on where the first stopped"


def test_keys_of_one_scope_do_not_depend_on_other_scopes():
    assert drawn(scopes=("b",)) == drawn(scopes=("a", "b"))[1:]


def test_a_resumed_run_draws_the_masks_it_would_have_drawn():
    def masks(first, last):
        keys = [jax.random.fold_in(jax.random.key(7), step) for step in range(first, last)]
        nets = [apply(lambda x: layers.dropout(x, training=True), {}, key) for key in keys]
        return [net(X)[0].tolist() for net in nets]

    assert masks(0, 4) == masks(0, 2) + masks(2, 4)


def drawing_model(features, mode):
    drawn = jax.random.uniform(next_rng_key())
    history = get_variable("history", (4,), jax.nn.initializers.zeros, trainable=False)
    assign("history", history.at[get_global_step()].set(drawn))
    return EstimatorSpec(mode, predictions=drawn + features, loss=drawn)


def drawing(model_dir):
    return Estimator(drawing_model, model_dir, RunConfig(random_seed=5))


def test_a_resumed_train_call_draws_the_keys_of_a_straight_one(tmp_path):
    batches = [np.zeros(1, np.float32)] * 4
    straight = drawing(tmp_path / "a").train(lambda: iter(batches), steps=4)
    for _ in range(2):
        resumed = drawing(tmp_path / "b").train(lambda: iter(batches), steps=2)
    history = straight.get_variable_value("history")
    assert len(set(history.tolist())) == 4
    np.testing.assert_array_equal(resumed.get_variable_value("history"), history)


def test_outside_train_the_keys_depend_on_the_batch_too(model_dir):
    estimator = drawing(model_dir)
    batches = [np.zeros(1, np.float32)] * 3
    answers = [float(x) for x in estimator.predict(lambda: iter(batches))]
    assert len(set(answers)) == 3
    assert answers == [float(x) for x in estimator.predict(lambda: iter(batches))]
    np.testing.assert_allclose(
        estimator.evaluate(lambda: iter(batches))["loss"], np.mean(answers), rtol=1e-6
    )


def test_apply_without_a_key_cannot_draw_one():
    with pytest.raises(ValueError, match=r"given no key.*apply\(fn, values, rng\)"):
        apply(next_rng_key, {})()


def test_the_global_step_is_an_int32_scalar():
    for step in (None, 3, np.int64(3), jnp.int32(3)):
        given = apply(get_global_step, {}, step=step)()[0]
        assert (given.shape, given.dtype, int(given)) == ((), np.int32, step or 0)
    assert trace(get_global_step)[1].dtype == np.int32


# Scopes and layer names.


def names_a(x):
    x = layers.dense(x, 3)
    x = layers.dense(x, 3, name="dense_1")
    x = layers.dense(x, 3)
    return layers.dense(x, 3, name="out")


def names_b(x):
    x = layers.dense(x, 3, name="dense")
    with variable_scope("tower"):
        x = layers.dense(layers.dense(x, 3), 3)
    return layers.dense(x, 3)


def names_c(x):
    with variable_scope("dense"):
        pass
    variable_tree("dense_1", lambda key: {})
    return layers.dense(x, 3)


@pytest.mark.parametrize(
    ("fn", "scopes"),
    [
        (names_a, ["dense", "dense_1", "dense_2", "out"]),
        (names_b, ["dense", "tower/dense", "tower/dense_1", "dense_1"]),
        (names_c, ["dense_2"]),
    ],
)
def test_layers_are_numbered_as_in_tensorflow(fn, scopes):
    kernels = [n.removesuffix("/kernel") for n in names_of(fn, X) if n.endswith("kernel")]
    assert kernels == scopes


def test_a_scope_entered_again_shares_its_variables():
    def tower(x):
        with variable_scope("tower"):
            return layers.dense(layers.dense(x, 4), 4)

    assert names_of(lambda x: tower(tower(x)), X) == names_of(tower, X)


def test_scopes_nest_and_are_left_after_an_error():
    def fn():
        with variable_scope("a/b") as scope, variable_scope("c") as inner:
            names = [scope, inner]
        with pytest.raises(KeyError), variable_scope("bad"):
            raise KeyError
        get_variable("w", ())
        return names

    names = []
    assert names_of(lambda: names.extend(fn())) == ["w"]
    assert names == ["a/b", "a/b/c"]


# Trees of other libraries.


def plain_init(key, x):
    return {"w": jax.random.normal(key, x.shape[-1:]), "inner": [jnp.zeros(()), np.int32(3)]}


def test_a_tree_of_dicts_and_lists_becomes_variables_by_path():
    def fn(x):
        tree = variable_tree("net", plain_init, x)
        return x * tree["w"] + tree["inner"][0]

    recipes, out = trace(fn, X)
    assert list(recipes.variables) == ["net/inner/0", "net/inner/1", "net/w"]
    assert [r.trainable for r in recipes.variables.values()] == [True, False, True]
    assert out.shape == X.shape
    values = initialize(recipes, 0)
    assert int(values["net/inner/1"]) == 3
    np.testing.assert_allclose(apply(fn, values)(X)[0], X * values["net/w"], rtol=1e-6)


def test_the_examples_of_a_tree_count_only_by_shape():
    def init(key, x):
        return x + jax.random.normal(key, x.shape)

    one = first_values(lambda x: variable_tree("t", init, x), X)
    other = first_values(lambda x: variable_tree("t", init, x), 7 * X)
    assert list(one) == ["t"], "a tree that is one array has the name of the tree"
    np.testing.assert_array_equal(one["t"], other["t"])


def test_a_tree_is_made_once_for_all_its_leaves():
    calls = []

    def init(key):
        calls.append(key)
        return [jnp.zeros(2)] * 5

    recipes, _ = trace(lambda: variable_tree("t", init))
    calls.clear()
    initialize(recipes, 0)
    assert len(calls) == 1


def test_a_random_key_in_a_tree_is_refused():
    with pytest.raises(ValueError, match=r"t/rng is a random key.*next_rng_key"):
        trace(lambda: variable_tree("t", lambda key: {"rng": key}))


def test_assign_tree_writes_every_leaf_by_path():
    def fn(x):
        with variable_scope("outer"):
            tree = variable_tree("t", plain_init, x, trainable=False)
            assign_tree("t/inner", [jnp.float32(8), jnp.int32(9)])
            assign_tree("t/w", tree["w"] + 1)

    values = first_values(fn, X)
    writes = apply(fn, values)(X)[1]
    assert float(writes["outer/t/inner/0"]) == 8
    assert int(writes["outer/t/inner/1"]) == 9
    np.testing.assert_array_equal(writes["outer/t/w"], values["outer/t/w"] + 1)


def test_assign_tree_refuses_leaves_that_are_not_there():
    def fn():
        variable_tree("t", lambda key: {"a": jnp.zeros(())}, trainable=False)
        assign_tree("t", {"b": jnp.zeros(())})

    with pytest.raises(ValueError, match=r't/b.*no such variable. Did you mean "t/a"'):
        trace(fn)


class FlaxNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(3)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


def flax_fn(x, train):
    module = FlaxNet()
    init = functools.partial(module.init, train=False)
    tree = variable_tree("net", init, x, trainable={"params": True, "batch_stats": False})
    if not train:
        return module.apply(tree, x, train)
    rngs = {"dropout": next_rng_key()}
    outputs, changed = module.apply(tree, x, train, mutable=["batch_stats"], rngs=rngs)
    assign_tree("net", changed)
    return outputs


def test_a_flax_model_trains_its_params_and_assigns_its_batch_statistics():
    x = np.float32([[1, 2], [3, 5]])
    with jax.numpy_dtype_promotion("standard"):
        recipes, _ = trace(lambda x: flax_fn(x, True), x)
        values = initialize(recipes, 0)
        key = jax.random.key(3)
        (outputs, writes) = apply(lambda x: flax_fn(x, True), values, key)(x)
        again = apply(lambda x: flax_fn(x, True), values, key)(x)[0]
        evaluated = apply(lambda x: flax_fn(x, False), {**values, **writes})(x)[0]

    trainable = {name for name, r in recipes.variables.items() if r.trainable}
    assert trainable == {
        f"net/params/{p}"
        for p in ("Dense_0/kernel", "Dense_0/bias", "BatchNorm_0/scale", "BatchNorm_0/bias")
    }
    stats = {"net/batch_stats/BatchNorm_0/mean", "net/batch_stats/BatchNorm_0/var"}
    assert writes.keys() == stats == recipes.variables.keys() - trainable
    net = x @ values["net/params/Dense_0/kernel"]
    np.testing.assert_allclose(
        writes["net/batch_stats/BatchNorm_0/mean"], 0.01 * net.mean(0), rtol=1e-4
    )
    np.testing.assert_array_equal(outputs, again)
    assert evaluated.shape == (2, 3)


# Traces.


def test_a_trace_tells_which_arguments_are_computed_with():
    def fn(batch):
        return batch["a"] * get_variable("w", ()) + len(batch["b"])

    recipes, _ = trace(fn, {"a": np.float32(1), "b": np.zeros(3, np.float32), "c": np.int32(1)})
    assert recipes.used == {0}


def test_a_trace_computes_nothing_and_gives_shapes():
    recipes, out = trace(lambda x: {"y": layers.dense(x, 3)}, jax.ShapeDtypeStruct((2, 4), "f4"))
    assert isinstance(recipes, Recipes)
    assert out == {"y": jax.ShapeDtypeStruct((2, 3), np.float32)}
    kernel = recipes.variables["dense/kernel"]
    assert isinstance(kernel, VariableRecipe)
    assert kernel.describe() == "dense/kernel float32[4, 3]"


def test_apply_is_pure_and_works_under_every_transform():
    def fn(x):
        return jnp.sum(layers.dense(x, 3) ** 2)

    values = initialize(trace(fn, X)[0], 0)
    net = lambda v, x: apply(fn, v)(x)[0]  # noqa: E731
    expected = jnp.sum((X @ values["dense/kernel"] + values["dense/bias"]) ** 2)
    np.testing.assert_allclose(net(values, X), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(net)(values, X), expected, rtol=1e-5)
    two = jax.vmap(net, (None, 0))(values, np.stack([X, X]))
    np.testing.assert_allclose(two, [expected, expected], rtol=1e-5)
    plain = jax.grad(lambda v: jnp.sum((X @ v["dense/kernel"] + v["dense/bias"]) ** 2))(values)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), jax.grad(net)(values, X), plain
    )
