"""A sparse feature on the host: where its values are, what they are, and how large the whole is.

    tags = SparseTensor([[0, 0], [1, 0], [1, 1]], ["red", "blue", "red"], dense_shape=(2, 2))

It is host data only: columns turn it into padded ids before anything reaches a device.
"""

from typing import NamedTuple

from numpy.typing import ArrayLike


class SparseTensor(NamedTuple):
    """The values of a mostly empty array, each with its position.

    >>> tags = SparseTensor(indices=[[0, 0], [1, 1]], values=["red", "blue"], dense_shape=(2, 2))
    >>> tags.values
    ['red', 'blue']
    >>> tags._replace(dense_shape=(3, 2)).dense_shape
    (3, 2)

    Attributes:
        indices: `(count, dimensions)` integers, the position of every value, in row-major order.
        values: `(count,)` values of any kind: numbers or strings.
        dense_shape: `(dimensions,)` integers, the shape of the whole.
    """

    indices: ArrayLike
    values: ArrayLike
    dense_shape: ArrayLike
