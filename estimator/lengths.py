"""Lengths: sizes that differ from batch to batch are rounded up, so that few programs compile.

    rounded_length(100)                     # 104
    rounded_length(100, buckets=(64, 128))  # 128
    padded(ids, ("batch", "length"), fill=-1)

Law: what is filled up never changes a result.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

# A step of a scan costs more than a place in a set, so lengths waste an eighth at most.
_STEPS_PER_OCTAVE = 8


def rounded_length(length: int, buckets: Sequence[int] | None = None) -> int:
    """Returns the size that a length is filled up to.

    Powers of two up to 8, then eight sizes from each power of two to the next.

    >>> [rounded_length(n) for n in (0, 3, 8, 9, 17, 100)]
    [1, 4, 8, 9, 18, 104]
    >>> [rounded_length(n, buckets=(10, 50)) for n in (3, 11, 51)]
    [10, 50, 52]

    Args:
        length: the largest of a batch.
        buckets: sizes to choose from, ascending; what is longer than the last is rounded as ever.
    """
    for bucket in buckets or ():
        if length <= bucket:
            return bucket
    octave = rounded_count(length)
    if octave <= _STEPS_PER_OCTAVE:
        return octave
    step = max(octave // 2 // _STEPS_PER_OCTAVE, 1)
    return -(-length // step) * step


def rounded_count(count: int) -> int:
    """Returns the next power of two.

    >>> [rounded_count(n) for n in (0, 1, 3, 100)]
    [1, 1, 4, 128]
    """
    return 1 << max(count - 1, 0).bit_length()


def padded(
    array: np.ndarray, dims: Sequence[str | int], fill: Any, buckets: Sequence[int] | None = None
) -> np.ndarray:
    """Returns an array whose `"length"` and `"count"` dimensions are filled up to round sizes.

    >>> padded(np.array([[1, 2, 3]]), ("batch", "length"), fill=-1).tolist()
    [[1, 2, 3, -1]]

    Args:
        array: of as many dimensions as there are `dims`.
        dims: what each dimension is.
        fill: what to fill up with.
        buckets: the sizes of `"length"` dimensions, see `rounded_length`.
    """
    shape = []
    for dim, size in zip(dims, array.shape, strict=True):
        if dim == "length":
            size = rounded_length(size, buckets)
        elif dim == "count":
            size = rounded_count(size)
        shape.append(size)
    if tuple(shape) == array.shape:
        return array
    made = np.full(shape, fill, array.dtype)
    made[tuple(slice(size) for size in array.shape)] = array
    return made
