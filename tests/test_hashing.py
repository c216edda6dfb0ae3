"""Hashing: fingerprints are TensorFlow's, whichever implementation makes them."""

import subprocess
import sys

import numpy as np
import pytest

from feature_columns.hashing import fingerprint64, fingerprint64_in_numpy, fingerprint_cat64

HASH_KEY = np.uint64(0xDECAFCAFFE)  # what TensorFlow's crosses begin with


def in_numpy(values):
    return fingerprint64_in_numpy([v.encode() if isinstance(v, str) else v for v in values])


both = pytest.mark.parametrize("fingerprint", [fingerprint64, in_numpy])


@both
def test_fingerprints_are_those_that_tensorflow_recorded(fingerprint):
    whole = {"": 0x9AE16A3B2F90404F, "a": 0xB3454265B6DF75E3, "hello": 0xB48BE5A931380CE8}
    assert fingerprint(list(whole)).tolist() == list(whole.values())
    rest = {"a": 939, "b": 822, "hello": 296, "1": 849, "-1": 430, "世界": 811}
    assert (fingerprint(list(rest)) % np.uint64(1000)).tolist() == list(rest.values())


@both
def test_a_text_and_its_bytes_have_one_fingerprint(fingerprint):
    texts = ["", "Ünïcödé", "世界" * 50, "\0", "a\0"]
    np.testing.assert_array_equal(fingerprint(texts), fingerprint([t.encode() for t in texts]))


@both
def test_no_text_has_no_fingerprint(fingerprint):
    given = fingerprint([])
    assert (given.dtype, given.shape) == (np.uint64, (0,))


def test_numpy_and_the_library_agree_on_bytes_of_every_length():
    farmhash = pytest.importorskip("farmhash")
    draw = np.random.default_rng(0)
    texts = [draw.bytes(length) for length in range(301) for _ in range(3)]
    draw.shuffle(texts)
    wanted = [farmhash.Fingerprint64(text) for text in texts]
    assert fingerprint64_in_numpy(texts).tolist() == wanted
    assert fingerprint64(texts).tolist() == wanted


def test_without_the_library_numpy_does_it():
    """None in `sys.modules` is what Python finds where a package is missing."""
    code = (
        "import sys; sys.modules['farmhash'] = None\n"
        "from feature_columns.hashing import fingerprint64\n"
        "print(hex(fingerprint64(['hello'])[0]))"
    )
    answer = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert answer.strip() == "0xb48be5a931380ce8"


@pytest.mark.parametrize(
    ("first", "second", "buckets", "wanted"),
    [
        (fingerprint64(["a", "a", "b", "b"]), fingerprint64(["x", "y"] * 2), 100, [92, 47, 4, 5]),
        (np.uint64([1, 2]), fingerprint64(["x"]), 1000, [859, 569]),
    ],
    ids=["strings", "integers"],
)
def test_a_cross_is_the_chain_that_tensorflow_recorded(first, second, buckets, wanted):
    crossed = fingerprint_cat64(fingerprint_cat64(HASH_KEY, first), second)
    assert (crossed % np.uint64(buckets)).tolist() == wanted


def test_the_order_of_a_cross_matters():
    a, b = fingerprint64(["a"]), fingerprint64(["b"])
    assert fingerprint_cat64(a, b) != fingerprint_cat64(b, a)
