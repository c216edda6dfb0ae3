"""TensorFlow's optimizers take the steps of their formulas; names mean optimizers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import estimator as est
from canned.optimizers import (
    adagrad,
    adam,
    by_scope,
    clip_by_own_norm,
    ftrl,
    named_optimizer,
    rms_prop,
    sgd,
)

STEPS = 20


def falling(step):
    """A learning rate that is 0.5, 0.25, 0.1666..."""
    return 0.5 / (jnp.float32(step) + 1)


# The formulas, one variable at a time, in float64: each is `start(x) -> slots` and
# `step(x, g, slots, lr, t) -> x`, with t from 1, and changes its slots in place.


def sgd_loop():
    return lambda x: {}, lambda x, g, slots, lr, t: x - lr * g


def adagrad_loop(initial_accumulator_value=0.1, epsilon=1e-7):
    def step(x, g, slots, lr, t):
        slots["a"] = slots["a"] + g**2
        return x - lr * g / (np.sqrt(slots["a"]) + epsilon)

    return lambda x: {"a": np.full(x.shape, initial_accumulator_value)}, step


def adam_loop(beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    def step(x, g, slots, lr, t):
        slots["m"] = beta_1 * slots["m"] + (1 - beta_1) * g
        slots["v"] = beta_2 * slots["v"] + (1 - beta_2) * g**2
        rate = lr * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        return x - rate * slots["m"] / (np.sqrt(slots["v"]) + epsilon)

    return lambda x: {"m": np.zeros(x.shape), "v": np.zeros(x.shape)}, step


def rms_prop_loop(rho=0.9, momentum=0.0, epsilon=1e-7):
    def step(x, g, slots, lr, t):
        slots["r"] = rho * slots["r"] + (1 - rho) * g**2
        if not momentum:
            return x - lr * g / (np.sqrt(slots["r"]) + epsilon)
        slots["d"] = momentum * slots["d"] + lr * g / np.sqrt(slots["r"] + epsilon)
        return x - slots["d"]

    return lambda x: {"r": np.zeros(x.shape), "d": np.zeros(x.shape)}, step


def ftrl_loop(learning_rate_power=-0.5, initial_accumulator_value=0.1, l1=0.0, l2=0.0, beta=0.0):
    def element(x, g, a, z, lr):
        b = a + g * g
        before, after = a**-learning_rate_power, b**-learning_rate_power
        z = z + g - (after - before) / lr * x
        quadratic = after / lr + 2 * (l2 + beta / (2 * lr))
        new = (np.sign(z) * l1 - z) / quadratic if abs(z) > l1 else 0.0
        return (x if g == 0 else new), b, z

    def step(x, g, slots, lr, t):
        made = np.vectorize(element, otypes=3 * [np.float64])(x, g, slots["a"], slots["z"], lr)
        x, slots["a"], slots["z"] = made
        return x

    def start(x):
        return {"a": np.full(x.shape, initial_accumulator_value), "z": np.zeros(x.shape)}

    return start, step


CASES = [
    (sgd, sgd_loop, {}),
    (adagrad, adagrad_loop, {}),
    (adagrad, adagrad_loop, {"initial_accumulator_value": 0.0, "epsilon": 0.5}),
    (adam, adam_loop, {}),
    (adam, adam_loop, {"beta_1": 0.0, "beta_2": 0.5, "epsilon": 0.5}),
    (rms_prop, rms_prop_loop, {}),
    (rms_prop, rms_prop_loop, {"rho": 0.5, "epsilon": 0.5}),
    (rms_prop, rms_prop_loop, {"momentum": 0.9}),
    (rms_prop, rms_prop_loop, {"rho": 0.5, "momentum": 0.5, "epsilon": 0.5}),
    (ftrl, ftrl_loop, {}),
    (ftrl, ftrl_loop, {"initial_accumulator_value": 0.0}),
    (ftrl, ftrl_loop, {"l1": 0.7}),
    (ftrl, ftrl_loop, {"l2": 0.7}),
    (ftrl, ftrl_loop, {"beta": 0.7}),
    (ftrl, ftrl_loop, {"l1": 0.3, "l2": 0.2, "beta": 0.1}),
    (ftrl, ftrl_loop, {"learning_rate_power": -0.8, "l1": 0.1, "l2": 0.2, "beta": 0.3}),
    (ftrl, ftrl_loop, {"learning_rate_power": 0.0}),
]
EACH_OPTIMIZER = [adagrad(0.1), adam(0.1), rms_prop(0.1, momentum=0.5), ftrl(0.1), sgd(falling)]
of_each = pytest.mark.parametrize(
    "optimizer", EACH_OPTIMIZER, ids=["adagrad", "adam", "rms_prop", "ftrl", "sgd"]
)


def variables():
    random = np.random.default_rng(0)
    tree = {"kernel": random.normal(size=(3, 2)), "nested": [random.normal(size=4), np.float64(2)]}
    return jax.tree.map(np.float32, tree)


def gradients_of_steps():
    """Gradients by step; of two of them everything is 0, and of one element always."""
    random = np.random.default_rng(1)
    made = [
        jax.tree.map(lambda x: np.float32(random.normal(size=x.shape)), variables())
        for _ in range(STEPS)
    ]
    made[4] = made[5] = jax.tree.map(np.zeros_like, made[4])
    for gradients in made:
        gradients["kernel"][1, 1] = 0
    return made


def trained(optimizer, x, of_steps):
    """Returns the variables after each step."""

    @jax.jit
    def step(x, state, gradients):
        updates, state = optimizer.update(gradients, state, x)
        return optax.apply_updates(x, updates), state

    state, after = optimizer.init(x), []
    for gradients in of_steps:
        x, state = step(x, state, gradients)
        after.append(x)
    return after


def trained_in_numpy(loop, learning_rate, x, of_steps):
    start, step = loop
    leaves = [np.float64(leaf) for leaf in jax.tree.leaves(x)]
    slots, after = [start(leaf) for leaf in leaves], []
    for t, gradients in enumerate(of_steps, 1):
        lr = float(learning_rate(t - 1)) if callable(learning_rate) else learning_rate
        by_leaf = zip(leaves, jax.tree.leaves(gradients), slots, strict=True)
        leaves = [step(x, np.float64(g), of_x, lr, t) for x, g, of_x in by_leaf]
        after.append(leaves)
    return after


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize(
    ("make", "loop", "settings", "learning_rate"),
    [(*case, falling) for case in CASES] + [(*case, 0.3) for case in CASES if not case[2]],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_each_step_is_that_of_the_formula(make, loop, settings, learning_rate):
    x, of_steps = variables(), gradients_of_steps()
    after = trained(make(learning_rate, **settings), x, of_steps)
    wanted = trained_in_numpy(loop(**settings), learning_rate, x, of_steps)
    for made, leaves in zip(after, wanted, strict=True):
        for leaf, exact in zip(jax.tree.leaves(made), leaves, strict=True):
            assert leaf.dtype == jnp.float32
            np.testing.assert_allclose(leaf, exact, rtol=2e-5, atol=2e-6)


def test_ftrl_takes_the_steps_of_tensorflows_baseline_regressor():
    """BaselineRegressor of TensorFlow 2.15: Ftrl at 0.3, six steps on all examples."""
    labels = jnp.array(
        [-0.278, 1.199, 4.084, -1.974, 1.714, -0.16, -2.616, -0.444, 0.867, 0.966, 5.134, -1.159]
    )
    optimizer, x = ftrl(0.3), {"baseline/bias": jnp.zeros(1)}
    gradient = jax.grad(lambda x: jnp.mean((x["baseline/bias"] - labels) ** 2))
    state, update = optimizer.init(x), jax.jit(optimizer.update)
    for _ in range(6):
        updates, state = update(gradient(x), state, x)
        x = optax.apply_updates(x, updates)
    np.testing.assert_allclose(x["baseline/bias"], [0.588040292263031], rtol=0, atol=5e-5)


def test_ftrl_with_l1_makes_exact_zeros_and_only_where_the_gradients_are_small():
    gradients = {"x": np.float32([0.01, -0.02, 1.0, -1.0])}
    x = trained(ftrl(0.3, l1=0.5), {"x": jnp.ones(4)}, [gradients] * STEPS)[-1]["x"]
    assert x[:2].tolist() == [0.0, 0.0]
    assert x[2] < 0 < x[3]


def test_ftrl_leaves_alone_what_a_batch_says_nothing_of():
    after = trained(ftrl(0.3), {"x": jnp.ones(2)}, [{"x": np.float32([0, 1])}] * 3)
    assert [step["x"][0] for step in after] == [1.0, 1.0, 1.0]
    assert after[-1]["x"][1] < 0.1


def test_ftrl_does_not_hide_nan_behind_a_zero():
    after = trained(ftrl(0.3, l1=0.5), {"x": jnp.ones(2)}, [{"x": np.float32([np.nan, 1])}])
    assert jnp.isnan(after[0]["x"]).tolist() == [True, False]


def test_ftrl_says_that_it_needs_the_variables():
    x = jnp.ones(2)
    with pytest.raises(ValueError, match=r"ftrl: update needs the variables, got params=None"):
        ftrl(0.3).update(x, ftrl(0.3).init(x))


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (adagrad, {"initial_accumulator_value": -1.0}, r"adagrad: initial_accumulator_value is -1"),
        (rms_prop, {"momentum": 1.5}, r"rms_prop: momentum is 1.5, and must be from 0 to 1\."),
        (ftrl, {"learning_rate_power": 0.5}, r"ftrl: learning_rate_power is 0.5.*from -inf to 0"),
        (ftrl, {"initial_accumulator_value": -0.1}, r"ftrl: initial_accumulator_value is -0.1"),
        (ftrl, {"l1": -1.0}, r"ftrl: l1 is -1.0, and must be from 0 to inf\."),
        (ftrl, {"l2": -1.0}, r"ftrl: l2 is -1.0"),
        (ftrl, {"beta": float("nan")}, r"ftrl: beta is nan"),
    ],
)
def test_settings_out_of_range_are_named(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(0.1, **settings)


# Laws of all optimizers.


@of_each
def test_states_are_float32_and_counts_whatever_the_variables_are(optimizer):
    x = {"x": jnp.full((2, 3), 1.0078125, jnp.bfloat16)}  # its square needs more digits
    wide = jax.tree.map(jnp.float32, x)
    wanted = optimizer.update(wide, optimizer.init(wide), wide)[1]
    before = optimizer.init(x)
    after = optimizer.update(x, before, x)[1]
    for state in (before, after):
        for leaf in jax.tree.leaves(state):
            assert (leaf.shape, leaf.dtype) in [((2, 3), jnp.float32), ((), jnp.int32)]
    jax.tree.map(np.testing.assert_array_equal, after, wanted)


@of_each
def test_states_pass_through_jit_and_donation(optimizer):
    step = jax.jit(optimizer.update, donate_argnums=1)
    x = jax.tree.map(jnp.asarray, variables())
    eager, donated = optimizer.init(x), optimizer.init(x)
    for gradients in gradients_of_steps()[:3]:
        wanted, eager = optimizer.update(gradients, eager, x)
        given = jax.tree.leaves(donated)
        made, donated = step(gradients, donated, x)
        assert all(leaf.is_deleted() for leaf in given)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), made, wanted)
    assert jax.tree.structure(donated) == jax.tree.structure(eager)


@of_each
def test_a_scan_over_steps_keeps_the_structure_of_the_state(optimizer):
    of_steps = gradients_of_steps()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_steps)

    def step(carry, gradients):
        x, state = carry
        updates, state = optimizer.update(gradients, state, x)
        return (optax.apply_updates(x, updates), state), None

    x = jax.tree.map(jnp.asarray, variables())
    (scanned, _), _ = jax.lax.scan(step, (x, optimizer.init(x)), stacked)
    looped = trained(optimizer, x, of_steps)[-1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), scanned, looped)


# Clipping.


def test_each_gradient_is_clipped_by_its_own_norm():
    gradients = {"long": jnp.array([[6.0], [8.0]]), "short": jnp.array([3.0, 4.0])}
    clipped = clip_by_own_norm(5.0).update(gradients, optax.EmptyState())[0]
    np.testing.assert_allclose(clipped["long"], [[3.0], [4.0]], rtol=1e-6)
    np.testing.assert_array_equal(clipped["short"], gradients["short"])


def test_a_zero_gradient_stays_zero_when_clipped():
    gradients = {"zero": jnp.zeros(3), "one": jnp.array(2.0), "none": jnp.zeros((0, 2))}
    clipped = clip_by_own_norm(1.0).update(gradients, optax.EmptyState())[0]
    assert clipped["zero"].tolist() == [0.0, 0.0, 0.0]
    assert clipped["one"] == 1.0
    assert clipped["none"].shape == (0, 2)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_a_norm_that_is_not_above_zero_is_an_error(max_norm):
    with pytest.raises(ValueError, match=f"max_norm is {max_norm}, and must be above 0"):
        clip_by_own_norm(max_norm)


# Scopes.


def test_each_scope_has_its_own_optimizer():
    x = {
        "dnn/hiddenlayer_0/kernel": jnp.ones((2, 2)),
        "dnn/logits/bias": jnp.ones(1),
        "linear/linear_model/bias_weights": jnp.ones(1),
    }
    of_steps = [{name: k * leaf for name, leaf in x.items()} for k in (1.0, -2.0, 0.5)]
    optimizers = {"dnn": adagrad(0.1), "linear": ftrl(0.2, l1=0.01)}
    after = trained(by_scope(optimizers), x, of_steps)
    for scope, optimizer in optimizers.items():

        def part(tree, scope=scope):
            return {name: leaf for name, leaf in tree.items() if name.startswith(scope)}

        alone = trained(optimizer, part(x), [part(g) for g in of_steps])
        for together, wanted in zip(after, alone, strict=True):
            jax.tree.map(np.testing.assert_array_equal, part(together), wanted)


def test_a_scope_may_have_no_variables():
    x = {"dnn/bias": jnp.ones(1)}
    after = trained(by_scope({"dnn": sgd(0.25), "linear": ftrl(0.2)}), x, [x])
    assert after[0]["dnn/bias"].tolist() == [0.75]


def test_a_variable_without_optimizer_is_named():
    optimizer = by_scope({"linear": sgd(0.1), "dnn": sgd(0.1)})
    with pytest.raises(
        ValueError,
        match=r'no optimizer for the variable "dnn_2/bias": there are optimizers for the scopes '
        r"\['dnn', 'linear'\]",
    ):
        optimizer.init({"dnn/bias": jnp.ones(1), "dnn_2/bias": jnp.ones(1)})


def test_an_estimator_checkpoints_the_state_of_each_scope_and_goes_on_from_it(tmp_path):
    def model_fn(features, labels, mode):
        logits = sum(est.layers.dense(features["x"], 1, name=name) for name in ("dnn", "linear"))
        clipped = named_optimizer("Adam", where="Model", learning_rate=0.1, clip_norm=1.0)
        train_op = by_scope({"dnn": clipped, "linear": ftrl(0.2, l1=0.01)})
        return est.EstimatorSpec(mode, loss=jnp.mean((logits - labels) ** 2), train_op=train_op)

    x, y = np.float32([[1, 2], [3, -1], [0.5, 0]]), np.float32([[1], [2], [3]])
    input_fn = est.numpy_input_fn({"x": x}, y, batch_size=3, num_epochs=None, shuffle=False)
    values = {}
    for calls in ([4], [2, 2]):
        model_dir = str(tmp_path / str(len(calls)))
        estimator = est.Estimator(model_fn, model_dir, config=est.RunConfig(random_seed=0))
        for steps in calls:
            estimator.train(input_fn, steps=steps)
        names = [name for name, _ in est.list_variables(model_dir)]
        values[len(calls)] = {name: est.load_variable(model_dir, name) for name in names}
    jax.tree.map(np.testing.assert_array_equal, values[1], values[2])


# Names.

NAMED = {"Adagrad": adagrad, "Adam": adam, "Ftrl": ftrl, "RMSProp": rms_prop, "SGD": sgd}


def assert_same_steps(one, other):
    x, of_steps = variables(), gradients_of_steps()[:3]
    jax.tree.map(
        np.testing.assert_array_equal, trained(one, x, of_steps), trained(other, x, of_steps)
    )


@pytest.mark.parametrize("name", NAMED)
def test_a_name_means_the_optimizer_with_the_learning_rate_or_keras_own(name):
    usual = 0.01 if name == "SGD" else 0.001
    assert_same_steps(named_optimizer(name, where="Model"), NAMED[name](usual))
    given = named_optimizer(name, where="Model", learning_rate=falling)
    assert_same_steps(given, NAMED[name](falling))


def test_a_named_optimizer_is_preceded_by_clipping():
    clipped = named_optimizer("SGD", where="Model", learning_rate=0.5, clip_norm=0.25)
    assert_same_steps(clipped, optax.chain(clip_by_own_norm(0.25), sgd(0.5)))


def test_a_transformation_is_returned_as_it_is():
    for given in (optax.adam(1e-3), adagrad(0.1), by_scope({})):
        made = named_optimizer(given, where="Model", learning_rate=0.5, clip_norm=0.25)
        assert made is given


def test_a_function_is_called_once_and_its_result_returned_as_it_is():
    given, calls = optax.adam(1e-3), itertools.count()
    made = named_optimizer(lambda *_, x=0: next(calls) == x and given, where="Model", clip_norm=1.0)
    assert made is given


def test_a_class_is_a_function_that_makes_an_optimizer():
    class MyOptimizer:
        def init(self, params):
            return ()

        def update(self, gradients, state, params=None):
            return gradients, state

    assert isinstance(named_optimizer(MyOptimizer, where="Model"), MyOptimizer)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "Adagard",
            r'RNNClassifier: there is no optimizer "Adagard"\. Did you mean "Adagrad"\? The names '
            r"are \['Adagrad', 'Adam', 'Ftrl', 'RMSProp', 'SGD'\]",
        ),
        ("rmsprop", r'no optimizer "rmsprop"\. Did you mean "RMSProp"\?'),
        ("sgd", r'no optimizer "sgd"\. Did you mean "SGD"\?'),
        ("Lion", r'no optimizer "Lion"\. The names are'),
        ("", r'no optimizer ""\. The names are'),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_names(given, message):
    with pytest.raises(ValueError, match=message):
        named_optimizer(given, where="RNNClassifier")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"RNNClassifier: optimizer=None, which is no optax transformation\. Give a name of"),
        (0.1, r"optimizer=0\.1, which is no optax transformation"),
        (lambda: "Adam", r"optimizer=<function .* returned 'Adam', which is no optax"),
        (optax.adam, r"optimizer=<function adam .* needs the arguments \['learning_rate'\]"),
        (adagrad, r"is called without any\. Give the optimizer that it returns"),
    ],
)
def test_what_is_no_optimizer_is_an_error_that_says_what_to_give(given, message):
    with pytest.raises(TypeError, match=message):
        named_optimizer(given, where="RNNClassifier")
