"""What feature columns answer, slow and obvious, and the forms in which a feature may come.

    reference_ids(Hashed(1000), [["hello", ""], [None, "a"]])   # [[(0, 296)], [(1, 939)]]
    all_forms([["hello", ""], [None, "a"]])                     # lists, arrays, SparseTensors, ...

Law: an answer is found one value at a time, in Python's own integers, and by nothing of
`feature_columns`. A feature is a list of rows, a row a list of cells. `None` and NaN are no value.
Neither are "" and -1, unless `everything` that is there is a value, as in sparse features and in
crosses.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse

import estimator as est

Rows = Sequence[Sequence[Any]]
Forms = Iterator[tuple[str, Any]]
Placed = list[list[tuple[int, int]]]  # for each row the place and the id of each value

NAN = float("nan")
DEFAULT_HASH_KEY = 0xDECAFCAFFE
K0, K1, K2 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F
K_CAT = 0xC6A4A7935BD1E995


@dataclasses.dataclass(frozen=True)
class Identity:
    """Integers that are ids."""

    buckets: int
    default: int | None = None

    def id_of(self, value: int) -> int:
        if self.default is not None and not 0 <= value < self.buckets:
            return self.default
        return int(value)


@dataclasses.dataclass(frozen=True)
class Hashed:
    """Hashes of strings, or of integers in decimal."""

    buckets: int

    def id_of(self, value: Any) -> int:
        return fingerprint(text_of(value)) % self.buckets


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Places in a list of words, strings or integers."""

    words: tuple[Any, ...]
    default: int = -1
    oov_buckets: int = 0

    @property
    def buckets(self) -> int:
        return len(self.words) + self.oov_buckets

    def id_of(self, value: Any) -> int:
        for place, word in enumerate(self.words):
            if text_of(word) == text_of(value):
                return place
        if self.oov_buckets:
            return len(self.words) + fingerprint(text_of(value)) % self.oov_buckets
        return self.default


def is_there(cell: Any, everything: bool = False) -> bool:
    if cell is None or cell != cell:
        return False
    return everything or cell not in ("", b"", -1)


def text_of(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else str(int(value)).encode()


def reference_ids(spec: Any, rows: Rows, everything: bool = False) -> Placed:
    """Returns for each row the place and the id of each value."""
    return [
        [(j, spec.id_of(cell)) for j, cell in enumerate(row) if is_there(cell, everything)]
        for row in rows
    ]


def reference_buckets(boundaries: Sequence[float], rows: Rows) -> Placed:
    """Returns the places and ids of numbers: of boundaries that are not above, how many?"""
    count = len(boundaries) + 1
    return [
        [(j, j * count + sum(bound <= cell for bound in boundaries)) for j, cell in enumerate(row)]
        for row in rows
    ]


def reference_raw(rows: Rows) -> list[list[int]]:
    """Returns what a cross chains for each value of a raw feature; "" and -1 are values."""
    return [
        [
            fingerprint(text_of(cell)) if isinstance(cell, str | bytes) else int(cell)
            for cell in row
            if is_there(cell, everything=True)
        ]
        for row in rows
    ]


def reference_cross(parts: list[list[list[int]]], buckets: int, key: int | None = None) -> Placed:
    """Returns the places and ids of a cross of features, each the numbers in each of its rows."""
    answer = []
    for row in zip(*parts, strict=True):
        ids = []
        for combination in itertools.product(*row):  # the last is fastest
            hashed = (key or DEFAULT_HASH_KEY) % 2**64
            for number in combination:
                hashed = fingerprint_cat(hashed, number % 2**64)
            ids.append(hashed % buckets)
        answer.append(list(enumerate(ids)))
    return answer


def reference_lengths(rows: Rows, everything: bool = False) -> list[int]:
    """Returns the place of each row's last value, plus one; a cell may be a list of cells."""

    def holds(cell: Any) -> bool:
        return any(map(holds, cell)) if isinstance(cell, list) else is_there(cell, everything)

    return [max((j + 1 for j, cell in enumerate(row) if holds(cell)), default=0) for row in rows]


def reference_steps(
    rows: Rows, width: int, everything: bool = False
) -> tuple[list[list[list[float]]], list[int]]:
    """Returns the steps of flat rows of numbers, NaN where there is none, and how many they are.

    If `everything` is a value, then NaN is one, too.
    """
    answer = []
    for row in rows:
        steps = []
        for j, cell in enumerate(row):
            there = cell is not None and (everything or cell == cell)
            while there and len(steps) <= j // width:
                steps.append([NAN] * width)
            if there:
                steps[j // width][j % width] = float(cell)
        answer.append(steps)
    return answer, [len(steps) for steps in answer]


def reference_counts(placed: Placed, buckets: int) -> list[list[int]]:
    """Returns how often each id occurs in each row; others than the column's do not count."""
    return [[sum(i == bucket for _, i in row) for bucket in range(buckets)] for row in placed]


def filled(placed: list[list[tuple[int, Any]]], width: int, fill: Any) -> list[list[Any]]:
    """Returns rows of one width, `fill` where there is nothing."""
    return [[dict(row).get(j, fill) for j in range(width)] for row in placed]


def fingerprint_cat(first: int, second: int) -> int:
    """Source: TensorFlow, `FingerprintCat64`."""
    result = first ^ K_CAT ^ (_shift_mix(second * K_CAT) * K_CAT % 2**64)
    return _shift_mix(_shift_mix(result * K_CAT) * K_CAT)


def fingerprint(text: bytes) -> int:
    """Source: FarmHash, `farmhashna::Hash64`."""
    size = len(text)
    if size <= 16:
        return _hash_0_to_16(text)
    if size <= 32:
        return _hash_17_to_32(text)
    if size <= 64:
        return _hash_33_to_64(text)
    x = (81 * K2 + _fetch(text, 0)) % 2**64
    y = (81 * K1 + 113) % 2**64
    z = _shift_mix(y * K2 + 113) * K2 % 2**64
    v, w = (0, 0), (0, 0)
    for start in range(0, (size - 1) // 64 * 64, 64):
        x, y, z, v, w = _block(text[start : start + 64], x, y, z, v, w, K1, 1)
    mul = K1 + ((z & 0xFF) << 1)
    w = (w[0] + ((size - 1) & 63), w[1])
    v = (v[0] + w[0], v[1])
    w = (w[0] + v[0], w[1])
    x, y, z, v, w = _block(text[-64:], x, y, z, v, w, mul, 9)
    return _hash_16(
        _hash_16(v[0], w[0], mul) + _shift_mix(y) * K0 + z, _hash_16(v[1], w[1], mul) + x, mul
    )


def _hash_0_to_16(text: bytes) -> int:
    size = len(text)
    mul = K2 + size * 2
    if size >= 8:
        a, b = _fetch(text, 0) + K2, _fetch(text, size - 8)
        return _hash_16(_rotate(b, 37) * mul + a, (_rotate(a, 25) + b) * mul, mul)
    if size >= 4:
        return _hash_16(size + (_fetch(text, 0, 4) << 3), _fetch(text, size - 4, 4), mul)
    if size > 0:
        y, z = text[0] + (text[size >> 1] << 8), size + (text[size - 1] << 2)
        return _shift_mix((y * K2 % 2**64) ^ (z * K0 % 2**64)) * K2 % 2**64
    return K2


def _hash_17_to_32(text: bytes) -> int:
    size = len(text)
    mul = K2 + size * 2
    a, b = _fetch(text, 0) * K1, _fetch(text, 8)
    c, d = _fetch(text, size - 8) * mul, _fetch(text, size - 16) * K2
    return _hash_16(_rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + K2, 18) + c, mul)


def _hash_33_to_64(text: bytes) -> int:
    size = len(text)
    mul = K2 + size * 2
    a, b = _fetch(text, 0) * K2, _fetch(text, 8)
    c, d = _fetch(text, size - 8) * mul, _fetch(text, size - 16) * K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _hash_16(y, a + _rotate(b + K2, 18) + c, mul)
    e, f = _fetch(text, 16) * mul, _fetch(text, 24)
    g, h = (y + _fetch(text, size - 32)) * mul, (z + _fetch(text, size - 24)) * mul
    return _hash_16(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, mul)


def _block(text: bytes, x: int, y: int, z: int, v: Any, w: Any, mul: int, nine: int) -> Any:
    x = _rotate(x + y + v[0] + _fetch(text, 8), 37) * mul % 2**64
    y = _rotate(y + v[1] + _fetch(text, 48), 42) * mul % 2**64
    x ^= w[1] * nine % 2**64
    y += v[0] * nine + _fetch(text, 40)
    z = _rotate(z + w[0], 33) * mul
    v = _weak(text[:32], v[1] * mul, x + w[0])
    w = _weak(text[32:], z + w[1], y + _fetch(text, 16))
    return z % 2**64, y % 2**64, x, v, w


def _weak(text: bytes, a: int, b: int) -> tuple[int, int]:
    a += _fetch(text, 0)
    b = _rotate(b + a + _fetch(text, 24), 21)
    c = a
    a += _fetch(text, 8) + _fetch(text, 16)
    b += _rotate(a, 44)
    return (a + _fetch(text, 24)) % 2**64, (b + c) % 2**64


def _fetch(text: bytes, start: int, size: int = 8) -> int:
    return int.from_bytes(text[start : start + size], "little")


def _hash_16(u: int, v: int, mul: int) -> int:
    a = _shift_mix(((u ^ v) % 2**64) * mul)
    return _shift_mix(((v ^ a) % 2**64) * mul) * mul % 2**64


def _shift_mix(number: int) -> int:
    number %= 2**64
    return number ^ (number >> 47)


def _rotate(number: int, by: int) -> int:
    number %= 2**64
    return (number >> by) | (number << (64 - by)) % 2**64


# Forms that a feature can take: a name, for messages, and the feature. In `lists` and `dense` ones
# "" and -1 are missing unless `everything` is a value; `sparse` ones hold what is there.


def objects(cells: Any) -> np.ndarray:
    array = np.empty(len(cells), object)
    for i, cell in enumerate(cells):
        array[i] = cell
    return array


def lists(rows: Any) -> Forms:
    yield "lists", rows
    yield "tuples", [tuple(row) for row in rows]
    yield "arrays in a list", [objects(row) for row in rows]
    yield "an object array of lists", objects(rows)
    yield "an object array of arrays", objects([objects(row) for row in rows])
    yield "None, and NaN, for a row", [(row or (None, NAN)[i % 2]) for i, row in enumerate(rows)]
    yield "lists that hold nothing more", [[*row, None] for row in rows]
    if all(len(row) == 1 for row in rows):
        yield "a list of values", [row[0] for row in rows]
        yield "an object array of values", objects([row[0] for row in rows])


def padded(rows: Any, fill: Any) -> list[list[Any]]:
    width = max(map(len, rows), default=0)
    return [[*row, *[fill] * (width - len(row))] for row in rows]


def table(rows: Any, dtype: Any, fill: Any = None) -> np.ndarray:
    """Returns a two-dimensional array, also of no rows."""
    full = padded(rows, fill)
    array = np.empty((len(full), len(full[0]) if full else 0), dtype)
    for i, row in enumerate(full):
        for j, cell in enumerate(row):
            array[i, j] = cell
    return array


def dense(rows: Any, everything: bool = False) -> Forms:
    yield "a dense object array", table(rows, object)
    yield "a wider dense object array", table([[*row, NAN] for row in rows], object)
    cells = [cell for row in padded(rows, None) for cell in row]
    there = [cell for cell in cells if is_there(cell, everything)]
    if everything and len(there) < len(cells):
        return  # nothing in an array of strings, or of integers, would be missing
    if any(isinstance(cell, str | bytes) for cell in cells):
        yield from dense_texts(rows, there)
    elif any(isinstance(cell, int) for cell in cells):
        yield from dense_ints(rows, there)


def dense_texts(rows: Any, there: list[Any]) -> Forms:
    def mapped(convert: Any) -> list[list[Any]]:
        return [
            [convert(x) if isinstance(x, str | bytes) else convert("") for x in r] for r in rows
        ]

    encoded = [x.encode() if isinstance(x, str) else x for x in there]
    ends_in_nul = any(x.endswith(b"\0") for x in encoded)  # numpy cuts it off
    if not ends_in_nul:
        as_bytes = mapped(lambda x: x.encode() if isinstance(x, str) else x)
        yield "dense bytes", table(as_bytes, f"S{max(map(len, encoded), default=1)}", b"")
    try:
        decoded = mapped(lambda x: x.decode() if isinstance(x, bytes) else x)
    except UnicodeDecodeError:
        return
    if not ends_in_nul:
        longest = max((len(x) for row in decoded for x in row), default=1)
        yield "dense strings", table(decoded, f"U{longest}", "")
        yield "numpy's strings in lists", [[np.str_(x) for x in row] for row in decoded]
    yield "dense strings of any length", table(decoded, np.dtypes.StringDType(), "")


def dense_ints(rows: Any, there: list[Any]) -> Forms:
    full = [[x if is_there(x, everything=True) else -1 for x in row] for row in rows]
    yield "numpy's integers in lists", [[np.int64(x) for x in row] for row in full]
    yield "arrays of integers in a list", [np.array(row, np.int64) for row in full]
    for dtype in (np.int64, np.int32, np.int8, np.uint64):
        cells = [-1, *there] if len(there) < sum(map(len, padded(rows, 0))) else there
        if all(np.iinfo(dtype).min <= x <= np.iinfo(dtype).max for x in cells):
            yield f"dense {dtype.__name__}", table(full, dtype, -1)
            if all(len(row) == 1 for row in rows):
                yield f"{dtype.__name__} of one dimension", table(full, dtype, -1)[:, 0]


def sparse(rows: Any, everything: bool = False) -> Forms:
    width = max(map(len, rows), default=0)
    cells = [(j, i, x) for i, r in enumerate(rows) for j, x in enumerate(r)]
    stored = [(i, j, x) for j, i, x in cells if is_there(x, everything)]
    by_column = [(i, j, x) for j, i, x in sorted(cells, key=lambda c: c[:2]) if (i, j, x) in stored]
    for order, found in (("", stored), (", backwards", stored[::-1]), (", by column", by_column)):
        index = np.array([(i, j) for i, j, _ in found], np.int64).reshape(-1, 2)
        values = [x for _, _, x in found]
        yield f"a SparseTensor{order}", est.SparseTensor(index, values, (len(rows), width))
        array = est.SparseTensor(index.tolist(), objects(values), np.array([len(rows), width + 3]))
        yield f"a wide SparseTensor of an array{order}", array
        if not all(isinstance(x, int) for x in values):
            continue
        for dtype in (np.int64, np.int32):
            if all(np.iinfo(dtype).min <= x <= np.iinfo(dtype).max for x in values):
                array = np.array(values, dtype)
                name = f"{dtype.__name__}{order}"
                yield (
                    f"a SparseTensor of {name}",
                    est.SparseTensor(index, array, (len(rows), width)),
                )
                coo = scipy.sparse.coo_array((array, tuple(index.T)), (len(rows), width))
                yield f"scipy's coo of {name}", coo
                yield f"scipy's csr of {name}", coo.tocsr()
                yield f"scipy's csc matrix of {name}", scipy.sparse.csc_matrix(coo)


def all_forms(rows: Any, everything: bool = False) -> list[tuple[str, Any]]:
    """Returns the forms of the same values: of raw features in a cross `everything` is one."""
    forms = [*lists(rows), *dense(rows, everything), *sparse(rows, everything)]
    assert len(forms) > 10
    return forms


def steps_forms(rows: Any, everything: bool = False) -> Forms:
    """Yields the forms of rows of steps of values; `everything` is a value in sparse ones only."""
    shape = (len(rows), max(map(len, rows), default=0))
    depth = max((len(step) for row in rows for step in row), default=0)
    cells = [
        (i, t, j, x) for i, r in enumerate(rows) for t, s in enumerate(r) for j, x in enumerate(s)
    ]
    stored = [cell for cell in cells if is_there(cell[3], everything)]
    for order, found in (("", stored), (", backwards", stored[::-1])):
        index = np.array([cell[:3] for cell in found], np.int64).reshape(-1, 3)
        tensor = est.SparseTensor(index, [cell[3] for cell in found], (*shape, depth))
        yield f"a SparseTensor{order}", tensor
    if everything:
        return
    yield "lists", rows
    yield "tuples", [tuple(map(tuple, row)) for row in rows]
    yield "object arrays", objects([objects(row) for row in rows])
    single = [[step[0] if len(step) == 1 else step for step in row] for row in rows]
    yield "values where a step has one", single
    array = np.full((*shape, depth), None, object)
    for i, t, j, x in cells:
        array[i, t, j] = x
    yield "a dense object array", array
    if any(isinstance(x, int) for *_, x in cells):
        flat = [x if is_there(x) else -1 for x in array.ravel().tolist()]
        yield "dense int64", np.array(flat, np.int64).reshape(array.shape)


def float_forms(rows: Any) -> Forms:
    """Yields the forms of rows of numbers: in dense ones NaN is missing."""
    yield from lists(rows)
    full = [[NAN if cell is None else cell for cell in row] for row in rows]
    for dtype in (object, np.float32, np.float64):
        yield f"dense {np.dtype(dtype)}", table(full, dtype, NAN)


def sparse_floats(rows: Any) -> Forms:
    """Yields sparse forms of rows of numbers, in which NaN is a value."""
    stored = [(i, j, x) for i, row in enumerate(rows) for j, x in enumerate(row) if x is not None]
    shape = (len(rows), max(map(len, rows), default=0))
    for order, found in (("", stored), (", backwards", stored[::-1])):
        index = np.array([cell[:2] for cell in found], np.int64).reshape(-1, 2)
        values = np.array([x for _, _, x in found], np.float32)
        yield f"a SparseTensor{order}", est.SparseTensor(index, values, shape)
        coo = scipy.sparse.coo_array((values, tuple(index.T)), shape)
        yield f"scipy's coo{order}", coo
        yield f"scipy's csr{order}", coo.tocsr()
