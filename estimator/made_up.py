"""Made-up batches: whether a function answers each row by itself, tried with numbers by chance.

    is_rowwise(run, kinds)      # run: arrays to arrays; kinds: shapes and dtypes of what it takes

Shapes cannot tell that: `x - x.mean()` has those of `x`. The numbers are small and large, negative,
missing, and ids that there are not. It is a trial, and no proof.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

ROWS = 4
_STEPS = 2  # what stands for an open size

Run = Callable[[list[np.ndarray], int], Sequence[np.ndarray]]


def is_rowwise(run: Run, kinds: Sequence[Any], rows: int = ROWS) -> bool:
    """Returns whether a row is answered alone as it is in company.

    >>> is_rowwise(lambda arrays, rows: [arrays[0] * 2], [np.zeros((4, 3))])
    True
    >>> is_rowwise(lambda arrays, rows: [arrays[0] - arrays[0].mean(0)], [np.zeros((4, 3))])
    False

    Args:
        run: answers arrays, of so many rows.
        kinds: shapes, whose first dimension is the batch, and dtypes of the arrays.
        rows: how many rows to try together.
    """
    return all(answers_alike(run, arrays, rows) for arrays in _trials(kinds, rows))


def answers_alike(run: Run, arrays: list[np.ndarray], rows: int) -> bool:
    """Returns whether each row of a batch is answered alone as it is there."""
    together = run(arrays, rows)
    for row in range(rows):
        alone = run([array[row : row + 1] for array in arrays], 1)
        for whole, one in zip(together, alone, strict=True):
            if not same_but_for_rounding(whole[row : row + 1], one):
                return False
    return True


def same_but_for_rounding(answer: Any, before: Any) -> bool:
    """Returns whether two arrays hold the same, but for what rounding makes of it."""
    same_shape = np.shape(answer) == np.shape(before)
    return same_shape and bool(np.allclose(answer, before, rtol=1e-4, atol=1e-5, equal_nan=True))


def _trials(kinds: Sequence[Any], rows: int) -> Iterator[list[np.ndarray]]:
    """Yields arrays: small numbers from zero on, then others of each size and sign, with gaps."""
    rng = np.random.default_rng(0)
    shapes = [
        (rows, *(size if isinstance(size, int) else _STEPS for size in kind.shape[1:]))
        for kind in kinds
    ]
    pairs = list(zip(shapes, (np.dtype(kind.dtype) for kind in kinds), strict=True))
    yield [(rng.random(shape) * 2).astype(dtype) for shape, dtype in pairs]
    for power in range(4):
        yield [_numbers(rng, shape, dtype, power) for shape, dtype in pairs]


def _numbers(rng: Any, shape: tuple[int, ...], dtype: np.dtype, power: int) -> np.ndarray:
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        return rng.integers(-1 if dtype.kind == "i" else 0, 2, shape).astype(dtype)
    numbers = rng.normal(size=shape) * 10.0**power
    if power % 2:  # gaps in some rows, and none in others
        gaps = rng.random(shape) < 0.5
        gaps[shape[0] // 2 :] = False
        gaps.flat[:1] = True
        numbers = np.where(gaps, np.nan, numbers)
    return numbers.astype(dtype)
