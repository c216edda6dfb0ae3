"""What a model asks of the raw batch and of its answers: recipes, on the host, once a batch."""

import dataclasses
import threading
from collections import Counter
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from estimator import (
    Estimator,
    EstimatorSpec,
    HostRecipe,
    Lookup,
    ModeKeys,
    OutputRecipe,
    RunConfig,
    Trim,
    host_feature,
    host_output,
    layers,
    metrics,
)
from estimator.batches import Batch
from estimator.context import Frame
from estimator.host_features import HostOutput, compute
from estimator.variables import apply, trace

pytestmark = pytest.mark.usefixtures("strict_promotion")

CALLS: list[tuple[str, str]] = []


@dataclasses.dataclass(frozen=True)
class Lengths(HostRecipe):
    """The lengths of strings; notes which batch it saw, and in which thread."""

    key: str = "text"
    dtype: ClassVar[Any] = np.dtype("int32")
    dims: ClassVar[tuple[str | int, ...]] = ("batch",)

    def __call__(self, features, labels):
        CALLS.append((str(features[self.key][0]), threading.current_thread().name))
        return np.array([len(text) for text in features[self.key]], np.int32)


@dataclasses.dataclass(frozen=True)
class ClassIds(HostRecipe):
    """Ids of labels that are strings."""

    vocabulary: tuple[str, ...]
    dtype: ClassVar[Any] = np.dtype("int32")
    dims: ClassVar[tuple[str | int, ...]] = ("batch",)

    def __call__(self, features, labels):
        return np.array([self.vocabulary.index(label) for label in labels], np.int32)


@dataclasses.dataclass(frozen=True)
class Choose(OutputRecipe):
    table: Any

    def __call__(self, *arrays):
        return self.table[arrays[0]]


def asked(recipe, features, labels=None):
    batch = Batch(features, labels)
    return trace(lambda: host_feature(recipe), frame=Frame(host=batch.host))[1], batch


# Which recipes are taken.


@dataclasses.dataclass
class Thawed(HostRecipe):
    dtype: ClassVar[Any] = np.dtype("int32")
    dims: ClassVar[tuple[str | int, ...]] = ()

    def __call__(self, features, labels):
        return np.int32(1)


@dataclasses.dataclass(frozen=True)
class WithFunction(Lengths):
    function: Any = len


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Thawed(), "host_feature: a recipe must be a frozen dataclass.*HostRecipe.*Thawed"),
        (Lookup(("a",)), "host_feature: a recipe must be .* inherits from HostRecipe, got Lookup"),
        ("text", "host_feature: a recipe must be a frozen dataclass.*got 'text'"),
        (WithFunction(), "len.* JSON cannot hold"),
    ],
)
def test_host_feature_takes_frozen_recipes_of_data_only(recipe, message):
    with pytest.raises(TypeError, match=message):
        asked(recipe, {"text": ["a"]})


def test_host_output_takes_frozen_recipes_of_data_only():
    with pytest.raises(TypeError, match=r"host_output: a recipe must .*OutputRecipe, got Lengths"):
        host_output(Lengths(), np.zeros(1))


# What a host recipe makes.


def test_a_host_feature_has_the_shape_and_dtype_of_the_first_batch():
    out, _ = asked(Lengths(), {"text": ["a", "bcd"]})
    assert (out.shape, out.dtype) == ((2,), np.int32)


def test_a_recipe_runs_once_a_batch_however_often_it_is_asked_for():
    CALLS.clear()
    _, batch = asked(Lengths(), {"text": ["hello"]})
    trace(lambda: host_feature(Lengths()), frame=Frame(host=batch.host))
    batch.host(Lengths())
    assert len(CALLS) == 1


def test_a_recipe_sees_labels_as_they_came():
    out, batch = asked(ClassIds(("no", "yes")), {"x": np.zeros(2)}, ["yes", "no"])
    assert out.shape == (2,)
    np.testing.assert_array_equal(batch.host(ClassIds(("no", "yes"))), [1, 0])


def declares(result, dtype="int32", dims=("batch",)):
    @dataclasses.dataclass(frozen=True)
    class Declared(HostRecipe):
        def __call__(self, features, labels):
            return result

    Declared.dtype, Declared.dims = np.dtype(dtype), dims
    return Declared()


@pytest.mark.parametrize(
    ("result", "dtype", "dims", "message"),
    [
        (np.int32([1]), "float32", ("batch",), r"made a int32 array of shape \(1,\).*float32"),
        (np.int32([[1]]), "int32", ("batch",), r"int32 array of shape \(1, 1\).*declares int32"),
        (np.int32(1), "int32", ("batch",), r"shape \(\), but declares int32 \['batch'\]"),
        (np.int32([[1, 2]]), "int32", ("batch", 3), r"shape \(1, 2\).*\['batch', 3\]"),
        ([1.0], "float32", ("batch",), r"made a float64 array.*Mend its __call__"),
    ],
)
def test_what_a_recipe_makes_is_checked_against_what_it_declares(result, dtype, dims, message):
    with pytest.raises(ValueError, match=message):
        asked(declares(result, dtype, dims), {"x": np.zeros(1)})


def test_named_dimensions_take_any_size():
    made = compute(declares(np.zeros((2, 7, 3), "f4"), "float32", ("batch", "length", 3)), {}, None)
    assert made.shape == (2, 7, 3)


@pytest.mark.parametrize(("wide", "narrow"), [("int64", "int32"), ("float64", "float32")])
def test_a_64_bit_result_reaches_jax_with_32_bits(wide, narrow):
    recipe = declares(np.array([1, -2], wide), wide)
    out, batch = asked(recipe, {"x": np.zeros(2)})
    assert out.dtype == batch.host(recipe).dtype == narrow
    np.testing.assert_array_equal(batch.host(recipe), [1, -2])


def test_an_integer_that_does_not_fit_is_refused_by_name():
    with pytest.raises(OverflowError, match=r"host_feature\(.*Declared.* holds 1099511627776"):
        asked(declares(np.int64([1, 2**40]), "int64"), {"x": np.zeros(2)})


def test_apply_and_traces_without_a_batch_say_what_is_missing():
    with pytest.raises(ValueError, match="there is no batch to compute it from"):
        trace(lambda: host_feature(Lengths()))
    with pytest.raises(ValueError, match="not asked for when the model_fn was first traced"):
        apply(lambda: host_feature(Lengths()), {})()
    given = apply(lambda: host_feature(Lengths()), {}, host={Lengths().name: np.int32([4])})
    assert given()[0].tolist() == [4]


# Output recipes.


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        ([0, 2, 1], ["a", "c", "b"]),
        ([-1, 3, 2**31], ["?", "?", "?"]),
        ([[0], [1]], [["a"], ["b"]]),
        ([], []),
    ],
)
def test_lookup_gives_names_and_a_default(ids, names):
    given = Lookup(("a", "b", "c"), default="?")(np.array(ids, np.int64))
    assert given.dtype == object
    assert given.tolist() == names


@pytest.mark.parametrize(
    ("axis", "lengths", "shape"),
    [(1, [3, 5], (2, 5, 4)), (2, [1, 2], (2, 8, 2)), (1, [], (2, 0, 4)), (1, [9, 9], (2, 8, 4))],
)
def test_trim_cuts_to_the_longest(axis, lengths, shape):
    assert Trim(axis)(np.zeros((2, 8, 4)), np.array(lengths, np.int32)).shape == shape


@pytest.mark.parametrize("table", [np.array(["a", "b"]), {0: "a", 1: "b"}])
def test_a_host_output_passes_through_jit_whatever_it_holds(table):
    def fn(x):
        return {"name": host_output(Choose(table), x), "x": x}

    step, again = jax.jit(fn), jax.jit(lambda tree: tree)
    outputs = jax.device_get(again(step(np.int32(1))))
    assert isinstance(outputs["name"], HostOutput)
    assert outputs["name"].recipe == Choose(table)
    assert jax.tree.map(jnp.add, again(outputs), step(np.int32(1)))["name"].arrays == (2,)


def test_a_host_output_is_finished_on_numpy_arrays():
    kinds = []

    @dataclasses.dataclass(frozen=True)
    class Kind(OutputRecipe):
        def __call__(self, *arrays):
            kinds.extend(type(array) for array in arrays)
            return arrays[0]

    host_output(Kind(), jnp.ones(2), np.ones(2)).finish()
    assert kinds == [np.ndarray, np.ndarray]


# Strings never reach JAX.

USES = {
    "layer": lambda city: layers.dense(city, 3),
    "operator": lambda city: 1 + city,
    "comparison": lambda city: city == "Rome",
    "jnp.asarray": jnp.asarray,
    "jitted function": jnp.sum,
    "primitive": lambda city: jax.lax.neg(city),
    "numpy": np.asarray,
    "shape": lambda city: city.shape,
    "length": len,
    "one_hot": lambda city: jax.nn.one_hot(city, 3),
}


@pytest.mark.parametrize(
    ("use", "mode"),
    [*((use, "train") for use in USES), ("layer", "evaluate"), ("layer", "predict")],
)
def test_a_string_feature_used_directly_names_columns_and_host_feature(use, mode, tmp_path):
    def model_fn(features, mode):
        used = USES[use](features["city"])
        return EstimatorSpec(mode, predictions=used, loss=jnp.sum(used), train_op=optax.sgd(0.1))

    estimator = Estimator(model_fn, tmp_path)
    call = {
        "train": lambda fn: estimator.train(fn, steps=1),
        "evaluate": estimator.evaluate,
        "predict": lambda fn: list(estimator.predict(fn)),
    }
    message = r'features\["city"\] holds strings.*indicator_column.*estimator.host_feature'
    with pytest.raises((TypeError, ValueError), match=f"(?s){message}"):
        call[mode](lambda: {"city": np.array(["Rome", "Oslo"]), "x": np.ones(2, np.float32)})


# Inside an Estimator.


def text_model(features, labels, mode):
    length = host_feature(Lengths()).astype(jnp.float32)
    logits = layers.dense(length[:, None], 2)
    names = host_output(Lookup(("short", "long")), jnp.argmax(logits, -1))
    if mode == ModeKeys.PREDICT:
        return EstimatorSpec(mode, predictions={"name": names, "length": host_feature(Lengths())})
    ids = host_feature(ClassIds(("short", "long")))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, ids).mean()
    return EstimatorSpec(
        mode,
        loss=loss,
        train_op=optax.sgd(0.01),
        eval_metric_ops={"length": metrics.mean(length)},
    )


TEXTS = [["a", "hello"], ["b", "hey"], ["c", "you there"], ["d", "good"], ["e", "bye"]]


def text_input():
    for texts in TEXTS:
        yield {"text": texts}, ["short" if len(text) == 1 else "long" for text in texts]


def run_call(call, estimator):
    if call == "train":
        estimator.train(text_input)
    elif call == "evaluate":
        return estimator.evaluate(text_input)
    else:
        return list(estimator.predict(text_input))
    return None


@pytest.mark.parametrize("call", ["train", "evaluate", "predict"])
@pytest.mark.parametrize("prefetch", [None, 0])
def test_a_recipe_runs_once_for_each_batch_ahead_of_the_device(call, prefetch, model_dir):
    estimator = Estimator(text_model, model_dir, RunConfig(random_seed=0, prefetch=prefetch))
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(2):
            CALLS.clear()
            run_call(call, estimator)
            assert Counter(text for text, _ in CALLS) == Counter("abcde")
            ahead = "MainThread" if prefetch == 0 else "estimator-prefetch"
            assert [thread for _, thread in CALLS] == ["MainThread"] + [ahead] * 4


def test_answers_and_metrics_come_from_the_raw_batches(model_dir):
    estimator = Estimator(text_model, model_dir, RunConfig(random_seed=0))
    answers = run_call("predict", estimator)
    assert [int(a["length"]) for a in answers] == [len(t) for texts in TEXTS for t in texts]
    assert {type(a["name"]) for a in answers} == {str}
    lengths = [len(t) for texts in TEXTS for t in texts]
    result = run_call("evaluate", estimator)
    np.testing.assert_allclose(result["length"], np.mean(lengths), rtol=1e-6)


def test_a_string_that_nobody_uses_does_no_harm(model_dir):
    def model_fn(features, mode):
        loss = jnp.mean(layers.dense(features["x"], 1) ** 2)
        return EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))

    def input_fn():
        for city in (["Rome", "Oslo"], ["Bonn", "Bern"]):
            yield {"city": city, "x": np.ones((2, 1), np.float32)}

    estimator = Estimator(model_fn, model_dir).train(input_fn)
    assert estimator.get_variable_value("global_step") == 2


def test_a_constant_batch_is_prepared_once(model_dir):
    batch = ({"text": ["a", "bb"]}, ["short", "long"])
    estimator = Estimator(text_model, model_dir, RunConfig(random_seed=0, prefetch=0))
    CALLS.clear()
    estimator.train(lambda: batch, steps=20)
    assert len(CALLS) == 1
