"""Hashing: TensorFlow's fingerprints of strings, and of combinations of them.

    fingerprint64(["hello", b"you"])            # uint64: FarmHash's Fingerprint64 of each
    fingerprint_cat64(a, b)                     # of two fingerprints, one

Law: the numbers are those of TensorFlow, on every machine and for ever: a table that was trained on
hashed ids finds its rows again.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

_K0 = np.uint64(0xC3A5C85C97CB3127)
_K1 = np.uint64(0xB492B66FBE98F273)
_K2 = np.uint64(0x9AE16A3B2F90404F)
_CAT = np.uint64(0xC6A4A7935BD1E995)
_47 = np.uint64(47)

Hashes = Any  # arrays of uint64, one number for each string


def fingerprint64(values: Iterable[str | bytes]) -> np.ndarray:
    """Returns the fingerprint of each string.

    >>> [hex(number) for number in fingerprint64(["", "a", b"hello"]).tolist()]
    ['0x9ae16a3b2f90404f', '0xb3454265b6df75e3', '0xb48be5a931380ce8']

    Args:
        values: strings, encoded as UTF-8, or bytes.

    Returns:
        uint64 of shape `(number of strings,)`.

    Source: Google's FarmHash, `farmhashna::Hash64`, which is `Fingerprint64`.
    """
    return _implementation()(values if isinstance(values, list) else list(values))


def fingerprint_cat64(first: Hashes, second: Hashes) -> np.ndarray:
    """Returns the fingerprint of a pair of fingerprints, as TensorFlow's crosses make it.

    >>> int(fingerprint_cat64(np.uint64(0xDECAFCAFFE), fingerprint64(["a"]))[0]) % 1000
    915

    Args:
        first: uint64 of any shape.
        second: uint64 of a shape that broadcasts to it.

    Source: TensorFlow, `FingerprintCat64`.
    """
    with np.errstate(over="ignore"):
        first, second = np.asarray(first, np.uint64), np.asarray(second, np.uint64)
        result = first ^ _CAT ^ (_shift_mix(second * _CAT) * _CAT)
        return _shift_mix(_shift_mix(result * _CAT) * _CAT)


def fingerprint64_in_numpy(values: list[str | bytes]) -> np.ndarray:
    """Returns the fingerprints without any library, all texts of one length at a time.

    >>> hex(fingerprint64_in_numpy([b"hello"])[0])
    '0xb48be5a931380ce8'
    """
    texts = [value.encode() if isinstance(value, str) else value for value in values]
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    hashes = np.empty(len(texts), np.uint64)
    with np.errstate(over="ignore"):
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            joined = b"".join([texts[row] for row in rows])
            hashes[rows] = _of_length(np.frombuffer(joined, np.uint8).reshape(len(rows), length))
    return hashes


@functools.cache
def _implementation() -> Callable[[list[str | bytes]], np.ndarray]:
    try:
        import farmhash

        one = farmhash.Fingerprint64  # of str, too; another package of this name lacks it
    except (ImportError, AttributeError):
        return fingerprint64_in_numpy
    return lambda values: np.fromiter(map(one, values), np.uint64, len(values))


def _of_length(texts: np.ndarray) -> np.ndarray:
    """Hashes bytes of shape (texts, length)."""
    length = texts.shape[1]
    if length > 64:
        return _over_64(texts)
    if length > 32:
        return _33_to_64(texts)
    if length > 16:
        return _17_to_32(texts)
    return _up_to_16(texts)


def _up_to_16(texts: np.ndarray) -> np.ndarray:
    count, length = texts.shape
    size = np.uint64(length)
    factor = _K2 + size * np.uint64(2)
    if length >= 8:
        a, b = _word(texts, 0) + _K2, _word(texts, length - 8)
        c = _rotated(b, 37) * factor + a
        d = (_rotated(a, 25) + b) * factor
        return _mixed(c, d, factor)
    if length >= 4:
        a = _word(texts, 0, 4)
        return _mixed(size + (a << np.uint64(3)), _word(texts, length - 4, 4), factor)
    if length > 0:
        a, b, c = (texts[:, i].astype(np.uint64) for i in (0, length >> 1, length - 1))
        y, z = a + (b << np.uint64(8)), size + (c << np.uint64(2))
        return _shift_mix(y * _K2 ^ z * _K0) * _K2
    return np.full(count, _K2)


def _17_to_32(texts: np.ndarray) -> np.ndarray:
    length = texts.shape[1]
    factor = _K2 + np.uint64(length * 2)
    a, b = _word(texts, 0) * _K1, _word(texts, 8)
    c, d = _word(texts, length - 8) * factor, _word(texts, length - 16) * _K2
    u = _rotated(a + b, 43) + _rotated(c, 30) + d
    return _mixed(u, a + _rotated(b + _K2, 18) + c, factor)


def _33_to_64(texts: np.ndarray) -> np.ndarray:
    length = texts.shape[1]
    factor = _K2 + np.uint64(length * 2)
    a, b = _word(texts, 0) * _K2, _word(texts, 8)
    c, d = _word(texts, length - 8) * factor, _word(texts, length - 16) * _K2
    y = _rotated(a + b, 43) + _rotated(c, 30) + d
    z = _mixed(y, a + _rotated(b + _K2, 18) + c, factor)
    e, f = _word(texts, 16) * factor, _word(texts, 24)
    g = (y + _word(texts, length - 32)) * factor
    h = (z + _word(texts, length - 24)) * factor
    u = _rotated(e + f, 43) + _rotated(g, 30) + h
    return _mixed(u, e + _rotated(f + a, 18) + g, factor)


def _over_64(texts: np.ndarray) -> np.ndarray:
    count, length = texts.shape
    seed = np.uint64(81)
    x = np.full(count, seed) * _K2 + _word(texts, 0)
    y = np.full(count, seed * _K1 + np.uint64(113))
    z = _shift_mix(y * _K2 + np.uint64(113)) * _K2
    v = w = (np.zeros(count, np.uint64), np.zeros(count, np.uint64))
    for start in range(0, (length - 1) // 64 * 64, 64):
        x, y, z, v, w = _round(texts, start, x, y, z, v, w, _K1, np.uint64(1))
    factor = _K1 + ((z & np.uint64(0xFF)) << np.uint64(1))
    w = (w[0] + np.uint64((length - 1) & 63), w[1])
    v = (v[0] + w[0], v[1])
    w = (w[0] + v[0], w[1])
    x, y, z, v, w = _round(texts, length - 64, x, y, z, v, w, factor, np.uint64(9))
    u = _mixed(v[0], w[0], factor) + _shift_mix(y) * _K0 + z
    return _mixed(u, _mixed(v[1], w[1], factor) + x, factor)


def _round(
    texts: np.ndarray, start: int, x: Any, y: Any, z: Any, v: Any, w: Any, factor: Any, nine: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """Takes in 64 bytes; `nine` is 9 in the last round and 1 before."""
    x = _rotated(x + y + v[0] + _word(texts, start + 8), 37) * factor
    y = _rotated(y + v[1] + _word(texts, start + 48), 42) * factor
    x = x ^ (w[1] * nine)
    y = y + v[0] * nine + _word(texts, start + 40)
    z = _rotated(z + w[0], 33) * factor
    v = _weak(texts, start, v[1] * factor, x + w[0])
    w = _weak(texts, start + 32, z + w[1], y + _word(texts, start + 16))
    return z, y, x, v, w


def _weak(texts: np.ndarray, start: int, a: Any, b: Any) -> tuple[Any, Any]:
    w, x, y, z = (_word(texts, start + 8 * i) for i in range(4))
    a = a + w
    b = _rotated(b + a + z, 21)
    c = a
    a = a + x + y
    return a + z, b + _rotated(a, 44) + c


def _word(texts: np.ndarray, start: int, size: int = 8) -> np.ndarray:
    """Returns little-endian numbers of so many bytes from `start` on, as uint64."""
    words = np.ascontiguousarray(texts[:, start : start + size]).view(f"<u{size}")
    return words[:, 0].astype(np.uint64)


def _mixed(u: Any, v: Any, factor: Any) -> Any:
    a = (u ^ v) * factor
    b = (v ^ a ^ (a >> _47)) * factor
    return (b ^ (b >> _47)) * factor


def _shift_mix(value: Any) -> Any:
    return value ^ (value >> _47)


def _rotated(value: Any, by: int) -> Any:
    return (value >> np.uint64(by)) | (value << np.uint64(64 - by))
