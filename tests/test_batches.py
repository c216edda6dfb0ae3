"""Batches: their kinds, their leaves, and what stays on the host."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from estimator import SparseTensor
from estimator.batches import (
    ArrayLeaf,
    Batch,
    HostLeaf,
    Unavailable,
    rebuild,
    to_device_dtype,
)

Pair = namedtuple("Pair", "left right")
F4 = np.zeros((4, 2), np.float32)
RAGGED = [[1, 2], [3]]
SPARSE = SparseTensor([[0, 0], [1, 0]], ["a", "b"], (2, 2))

pytestmark = pytest.mark.usefixtures("strict_promotion")


# Kinds of batches.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((F4,), (F4[:3],)),
        ((F4,), (F4[:0],)),
        ((F4,), (jnp.asarray(F4),)),
        ((F4.astype(np.float64),), (F4.tolist(),)),
        ((np.int32([1]),), (np.int64([1, 2]),)),
        ((np.int32([1]),), ([1, 2],)),
        ((np.uint32([1]),), (np.uint64([1]),)),
        (({"a": F4, "b": F4},), ({"b": F4, "a": F4},)),
        (((F4, [F4]),), ((F4, [F4]),)),
        ((["a", "b"],), (np.array(["abc"]),)),
        ((RAGGED,), ([[1], [1, 2, 3]],)),
        ((SPARSE,), (SPARSE._replace(dense_shape=(3, 3)),)),
        (({"a": F4}, np.int32([0, 1, 2, 3])), ({"a": F4[:2]}, [1, 0])),
    ],
)
def test_sizes_and_how_numbers_are_held_make_no_other_kind(one, other):
    assert Batch(*one).layout == Batch(*other).layout
    assert hash(Batch(*one).layout) == hash(Batch(*other).layout)


@pytest.mark.parametrize(
    "other",
    [
        ({"a": F4},),
        ({"a": F4, "b": F4}, F4),
        ({"a": F4, "c": F4},),
        ({"a": F4, "b": F4[:, 0]},),
        ({"a": F4, "b": F4.astype(np.int32)},),
        ({"a": F4, "b": F4.astype(np.float16)},),
        ({"a": F4, "b": F4 > 0},),
        ({"a": F4, "b": ["a", "b"]},),
        ({"a": F4, "b": RAGGED},),
        ({"a": F4, "b": None},),
        ({"a": F4, "b": {"c": F4}},),
        ({"a": F4, "b": (F4,)},),
        ((F4, F4),),
        (Pair(F4, F4),),
        (F4,),
        ({},),
    ],
)
def test_other_keys_dtypes_ranks_or_labels_make_another_kind(other):
    assert Batch({"a": F4, "b": F4}).layout != Batch(*other).layout


KINDS = [
    ({"a": F4},),
    ({"a": F4}, F4),
    ({"a": F4}, {"y": F4}),
    ({"a": F4}, (F4,)),
    ({"a": {"b": F4}},),
    ({"a": (F4,)},),
    ({"b": F4},),
    ({"a": F4[:, 0]},),
    ({"a": F4.astype(np.int32)},),
    ({"a": F4.tolist()},),
    ({"a": RAGGED},),
    (F4,),
    (F4, F4),
    ((F4,),),
    ((),),
    ({},),
    (jnp.asarray(F4),),
    ({"a": F4, "b": F4}, F4),
    ({"b": F4, "a": F4}, F4),
]


@pytest.mark.parametrize("given", KINDS, ids=lambda given: str(Batch(*given).describe()))
def test_a_batch_taken_apart_like_another_one_is_the_same_as_without(given):
    plain = Batch(*given)
    for other in KINDS:
        quick = Batch(*given, like=Batch(*other))
        assert quick.layout == plain.layout
        assert quick.kinds == plain.kinds
        assert quick.lengths == plain.lengths
        jax.tree.map(np.testing.assert_array_equal, quick.leaves, plain.leaves)


def test_the_lengths_are_checked_also_in_a_batch_like_another():
    with pytest.raises(ValueError, match=r"labels has length 3, the features \[4\]"):
        Batch({"a": F4}, F4[:3], like=Batch({"a": F4}, F4))


# Leaves and their names.


def test_dicts_and_tuples_are_structure_and_lists_are_leaves():
    batch = Batch({"b": (F4, [1, 2, 3, 4]), "a": {7: F4}}, Pair(F4[:, 0], np.int32([1, 2, 3, 4])))
    assert batch.paths == [
        'features["a"][7]',
        'features["b"][0]',
        'features["b"][1]',
        "labels[0]",
        "labels[1]",
    ]
    assert batch.lengths == {4}
    assert len(batch.arrays) == 5


def test_a_batch_describes_itself_by_names_dtypes_and_shapes():
    batch = Batch({"a": F4, "city": ["Rome"] * 4}, np.int32([1, 2, 3, 4]))
    assert batch.describe() == 'features["a"] float32[4, 2], features["city"], labels int32[4]'


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        ({"b": (F4, [1, 2, 3, 4]), "a": {7: F4}}, Pair(F4, F4)),
        (F4, None),
        ((), {}),
        ({"a": None}, None),
    ],
)
def test_rebuild_puts_other_leaves_into_the_same_structure(features, labels):
    batch = Batch(features, labels)
    numbers = list(range(len(batch.leaves)))
    made = rebuild(batch.layout, numbers)
    assert Batch(*rebuild(batch.layout, batch.leaves)).layout == batch.layout
    assert type(made[1]) is type(labels)
    assert jax.tree.leaves(made) == numbers


def test_rebuild_gives_fresh_dicts():
    batch = Batch({"a": {"b": F4}})
    first, _ = rebuild(batch.layout, batch.leaves)
    first["a"]["c"] = 1
    first["d"] = 2
    assert rebuild(batch.layout, batch.leaves)[0] == {"a": {"b": F4}}
    assert batch.features.keys() == {"a"}


@pytest.mark.parametrize(
    ("leaf", "holds"),
    [
        (["a", "b"], "strings"),
        (np.array(["a", "b"]), "strings"),
        (np.array([b"a", b"b"]), "strings"),
        (np.array(["a", None], object), "object values"),
        (np.array([1, 2], object), "object values"),
        (RAGGED, "a list that is no array (strings, or rows of different lengths)"),
        ([["a"], ["b", "c"]], "a list that is no array (strings, or rows of different lengths)"),
        (["a", None], "a list that is no array (strings, or rows of different lengths)"),
        (SPARSE, "a SparseTensor"),
        (None, "a NoneType"),
        (object(), "a object"),
        (np.array(["2020-01-01"], "M8[D]"), r"datetime64\[D\] values"),
        (pd.Series(["a", "b"], dtype=object), "a Series"),
    ],
)
def test_what_is_not_numbers_stays_on_the_host(leaf, holds):
    batch = Batch({"x": leaf})
    (kind,) = batch.kinds
    assert isinstance(kind, HostLeaf)
    assert kind.holds == holds.replace("\\", "")
    assert batch.arrays == {}
    if isinstance(leaf, np.ndarray | SparseTensor):
        assert batch.leaves[0] is leaf


@pytest.mark.parametrize(
    ("leaf", "dtype", "ndim"),
    [
        (3, np.int32, 0),
        (2.5, np.float32, 0),
        (True, np.bool_, 0),
        ([[1.5, 2]], np.float32, 2),
        (np.float64([1]), np.float32, 1),
        (np.int8([1]), np.int8, 1),
        (np.complex128([1]), np.complex64, 1),
        (jnp.ones(2, jnp.bfloat16), jnp.bfloat16, 1),
        (np.asarray(jnp.ones(2, jnp.float8_e4m3fn)), jnp.float8_e4m3fn, 1),
        (pd.Series([1.0, 2.0]), np.float32, 1),
    ],
)
def test_numbers_go_to_the_device_in_the_dtype_that_jax_uses(leaf, dtype, ndim):
    (kind,) = Batch({"x": leaf}).kinds
    assert (kind.dtype, kind.ndim) == (np.dtype(dtype), ndim)
    narrowed = np.asarray(leaf).dtype == np.float64
    assert kind == ArrayLeaf(np.dtype(dtype), ndim, narrowed)


# Rows.


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        ({"a": F4}, np.zeros(3), r'labels has length 3, the features \[4\].*"a"\] float32\[4, 2\]'),
        ({"a": F4}, {"y": np.zeros(4), "z": [1]}, r'labels\["z"\] has length 1'),
        ({"city": ["a", "b"]}, np.zeros(3), r"labels has length 3, the features \[2\]"),
        ({"a": F4}, ["x", "y"], r"labels has length 2, the features \[4\]"),
        (F4, F4[:0], r"labels has length 0, the features \[4\]"),
        ({"a": SPARSE}, [1, 2, 3], r"labels has length 3, the features \[2\]"),
        ({"a": F4}, SPARSE, r"labels has length 2, the features \[4\]"),
        ({"a": RAGGED}, [1, 2, 3], r"labels has length 3, the features \[2\]"),
    ],
)
def test_labels_of_another_length_are_refused_naming_both(features, labels, message):
    with pytest.raises(ValueError, match=message):
        Batch(features, labels)


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        ({"a": F4, "n": np.float32(3)}, np.zeros(4)),
        ({"n": np.float32(3)}, np.zeros(4)),
        ({"a": F4}, np.float32(1)),
        ({"a": F4, "b": F4[:2]}, F4[:2]),
        ({}, np.zeros(4)),
    ],
)
def test_only_what_has_rows_must_have_as_many(features, labels):
    assert Batch(features, labels).labels is labels


# 64-bit numbers.


@pytest.mark.parametrize(
    ("leaf", "bad"),
    [
        (np.int64([1, 2**31]), "2147483648"),
        (np.int64([[1, -(2**31) - 1]]), "-2147483649"),
        (np.uint64([2**63]), "9223372036854775808"),
        (np.uint64([2**32]), "4294967296"),
    ],
)
def test_an_integer_past_32_bits_is_refused_by_name(leaf, bad):
    with pytest.raises(OverflowError, match=rf'features\["id"\] holds {bad}, which.*hashed column'):
        to_device_dtype(leaf, 'features["id"]')


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (np.int64([2**31 - 1, -(2**31)]), np.int32),
        (np.uint64([2**32 - 1]), np.uint32),
        (np.float64([0.1]), np.float32),
        (np.int64([]), np.int32),
        (np.int64(5), np.int32),
    ],
)
def test_64_bit_numbers_that_fit_get_the_dtype_of_the_device(leaf, dtype):
    made = to_device_dtype(leaf, "x")
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, leaf.astype(dtype))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float32", "float16", "bool"])
def test_other_numbers_are_not_copied(dtype):
    leaf = np.ones(3, dtype)
    assert to_device_dtype(leaf, "x") is leaf


# Copies.


def test_a_copy_shares_no_memory():
    features = {
        "a": F4.copy(),
        "b": (np.zeros(4), jnp.zeros(4)),
        "ragged": [[1], [2, 3], [], []],
        "sparse": SparseTensor(np.zeros((1, 2)), np.array(["a"]), (4, 1)),
        "text": np.array(["a"] * 4, object),
    }
    batch = Batch(features, np.zeros(4))
    copied = batch.copy()
    assert copied.layout == batch.layout
    for leaf, other in zip(batch.leaves, copied.leaves, strict=True):
        assert leaf is not other
        if isinstance(leaf, np.ndarray):
            assert not np.shares_memory(leaf, other)
    features["a"][:] = 1
    features["ragged"][0][0] = 7
    features["sparse"].indices[:] = 9
    features["text"][0] = "b"
    assert copied.features["a"].max() == 0
    assert copied.features["ragged"][0] == [1]
    assert copied.features["sparse"].indices.max() == 0
    assert copied.features["text"][0] == "a"


# What is not there.


USES = {
    "add": lambda x: x + 1,
    "add to an array": lambda x: np.ones(2) + x,
    "add to a jax array": lambda x: jnp.ones(2) + x,
    "divmod": lambda x: divmod(x, 2),
    "shift": lambda x: 1 << x,
    "compare": lambda x: x == 1,
    "test": bool,
    "length": len,
    "iterate": list,
    "index": lambda x: x[0],
    "attribute": lambda x: x.dtype,
    "hasattr": lambda x: getattr(x, "shape", None),
    "numpy": np.asarray,
    "jax": jnp.asarray,
    "jitted function": jnp.sum,
    "primitive": jax.lax.neg,
    "scan": lambda x: jax.lax.scan(lambda c, x: (c, x), 0, x),
    "vmap": jax.vmap(jnp.sin),
    "ones_like": jnp.ones_like,
    "hash": hash,
}


@pytest.mark.parametrize("use", USES)
def test_every_use_of_what_is_not_there_says_why_and_is_noted(use):
    touched = []
    stand_in = Unavailable("city holds strings", lambda: touched.append(use))
    with pytest.raises((TypeError, ValueError), match="city holds strings"):
        USES[use](stand_in)
    assert touched


def test_handing_on_what_is_not_there_is_no_use():
    stand_in = Unavailable("city holds strings", lambda: pytest.fail("used"))
    assert jax.tree.leaves({"city": stand_in})[0] is stand_in
    assert stand_in is not None
    assert isinstance(stand_in, Unavailable)
    assert f"{stand_in}" == repr(stand_in) == "<not an array: city holds strings>"
