"""Batches: what input_fn gave, taken apart into leaves and put together again for a model_fn.

    batch = Batch({"age": ages, "city": ["Rome", "Oslo"]}, labels)
    batch.layout        # its kind: keys, array or host value, dtype and rank, but no sizes
    batch.arrays        # its numeric leaves, by position

Dicts and tuples are structure; everything else is a leaf. A leaf is an array if numpy can make
numbers of it; strings, ragged lists and sparse values stay on the host.
"""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from estimator.context import RawPath
from estimator.host_features import HostCheck, HostRecipe, compute, remembering
from estimator.lengths import padded
from estimator.sparse_tensor import SparseTensor


class ArrayLeaf(NamedTuple):
    """A leaf that can go to the device, where it has that dtype; narrowed: float64 lost digits."""

    dtype: np.dtype
    ndim: int
    narrowed: bool = False


@dataclasses.dataclass(frozen=True)
class HostLeaf:
    """A leaf that stays on the host. What it holds is for messages: to a model all are alike."""

    holds: str = dataclasses.field(compare=False)


class Node(NamedTuple):
    """A dict (by its sorted keys), a tuple (by its type), or None."""

    kind: Any
    keys: tuple[Any, ...]
    children: tuple[Any, ...]


class Batch:
    """One raw batch: features and labels, and their leaves.

    Args:
        features: a dict of leaves, a leaf, or a tree of dicts and tuples of leaves.
        labels: likewise, or None.
        like: a batch that this one probably resembles: then it is taken apart faster.

    Raises:
        ValueError: if the labels have another length than the features.
    """

    __slots__ = (
        "_features_end",
        "_made",
        "_memo",
        "features",
        "kinds",
        "labels",
        "layout",
        "leaves",
    )
    leaves: list[Any]
    kinds: list[ArrayLeaf | HostLeaf]
    layout: tuple[Any, Any]
    _features_end: int

    def __init__(self, features: Any, labels: Any = None, like: "Batch | None" = None) -> None:
        self.features = features
        self.labels = labels
        self._made: dict[str, np.ndarray] = {}
        self._memo: dict[Any, Any] = {}
        leaves = None if like is None else _leaves_like(features, labels, like)
        if leaves is not None and like is not None:
            self.leaves = leaves
            self.kinds, self.layout = like.kinds, like.layout
            self._features_end = like._features_end
        else:
            self.leaves, self.kinds = [], []
            inside = _take_apart(features, self.leaves, self.kinds)
            self._features_end = len(self.leaves)
            outside = _NONE if labels is None else _take_apart(labels, self.leaves, self.kinds)
            self.layout = (inside, outside)
        if labels is not None:
            self._check_lengths()

    @property
    def raw_paths(self) -> list[RawPath]:
        """Where each leaf lies, such as `("features", "age")`."""
        return raw_paths(self.layout)

    @property
    def paths(self) -> list[str]:
        """How a model_fn reads each leaf, such as `features["age"]`."""
        return [_written(path) for path in self.raw_paths]

    @property
    def arrays(self) -> dict[int, Any]:
        """The leaves that can go to the device, by position."""
        pairs = zip(self.leaves, self.kinds, strict=True)
        return {i: leaf for i, (leaf, kind) in enumerate(pairs) if isinstance(kind, ArrayLeaf)}

    @property
    def lengths(self) -> set[int]:
        """The first dimensions of the features; usually one, the batch size."""
        counts = map(_row_count, self.leaves[: self._features_end])
        return {count for count in counts if count is not None}

    def host(self, recipe: HostRecipe, buckets: Sequence[int] | None = None) -> np.ndarray:
        """Returns what a host recipe makes of this batch, computing it once.

        Args:
            recipe: what to compute.
            buckets: the sizes that lengths are filled up to (see `estimator.lengths`).

        Raises:
            ValueError: if it makes another array than it declares.
            OverflowError: if a 64-bit integer does not fit on the device.
        """
        made = self._made.get(recipe.name)
        if made is None:
            with remembering(self._memo):
                made = compute(recipe, self.features, self.labels)
            made = to_device_dtype(made, f"host_feature({recipe.name})")
            if recipe.fill is not None:
                made = padded(made, recipe.dims, recipe.fill, buckets)
            self._made[recipe.name] = made
        return made

    def check(self, position: int, check: HostCheck) -> None:
        """Has a leaf looked at, unless it is on a device: it would have to be fetched.

        Raises:
            ValueError: what the check finds.
        """
        if not isinstance(self.leaves[position], jax.Array):
            check(self.leaves[position])

    def copy(self) -> "Batch":
        """Returns a batch that shares no memory with this one."""
        return Batch(copy.deepcopy(self.features), copy.deepcopy(self.labels))

    def describe(self) -> str:
        """Returns names, dtypes and shapes for an error message."""
        return ", ".join(
            f"{path} {leaf.dtype}{list(leaf.shape)}" if isinstance(kind, ArrayLeaf) else path
            for path, leaf, kind in zip(self.paths, self.leaves, self.kinds, strict=True)
        )

    def _check_lengths(self) -> None:
        lengths = self.lengths
        for i in range(self._features_end, len(self.leaves)):
            count = _row_count(self.leaves[i])
            if lengths and count is not None and count not in lengths:
                raise ValueError(
                    f"{self.paths[i]} has length {count}, the features {sorted(lengths)}: "
                    f"the batch has {self.describe()}. Features and labels of a batch go together "
                    "row by row."
                )


class Unavailable:
    """Stands in a model_fn for a value that is no traced array; any use of it raises.

    >>> Unavailable("city holds strings", touched=lambda: None) + 1
    Traceback (most recent call last):
    TypeError: city holds strings

    Args:
        message: what the error says.
        touched: called when the value is used.
    """

    __slots__ = ("_message", "_touched")

    def __init__(self, message: str, touched: Callable[[], None]) -> None:
        object.__setattr__(self, "_message", message)
        object.__setattr__(self, "_touched", touched)

    def __repr__(self) -> str:
        return f"<not an array: {object.__getattribute__(self, '_message')}>"

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # isinstance(feature, jax.Array) is a use, too: its answer must not change.
        object.__getattribute__(self, "_touched")()
        return Unavailable

    def __getattr__(self, name: str) -> Any:
        if name == "__jax_array__":
            # JAX asks for it wherever an array is wanted, and replaces a TypeError with its own.
            object.__getattribute__(self, "_touched")()
            raise ValueError(object.__getattribute__(self, "_message"))
        self._refuse()

    def _refuse(self, *_: Any, **__: Any) -> Any:
        object.__getattribute__(self, "_touched")()
        raise TypeError(object.__getattribute__(self, "_message"))


_OPERATIONS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul "
    "rmatmul and rand or ror xor rxor lt le gt ge eq ne neg pos abs invert len iter getitem bool "
    "float int index complex contains array call round hash setitem lshift rlshift rshift rrshift "
    "divmod rdivmod"
)
for _operation in _OPERATIONS.split():
    setattr(Unavailable, f"__{_operation}__", Unavailable._refuse)


def rebuild(layout: Any, leaves: Sequence[Any]) -> tuple[Any, Any]:
    """Returns fresh features and labels of that layout, with other leaves.

    >>> batch = Batch({"age": np.array([20, 30])}, np.array([0, 1]))
    >>> rebuild(batch.layout, ["ages", "labels"])
    ({'age': 'ages'}, 'labels')
    """
    remaining = iter(leaves)
    features, labels = (_put_together(part, remaining) for part in layout)
    return features, labels


def raw_paths(layout: Any) -> list[RawPath]:
    """Returns where each leaf of that layout lies.

    >>> raw_paths(Batch({"age": np.array([20, 30])}, np.array([0, 1])).layout)
    [('features', 'age'), ('labels',)]
    """
    return [path for path, _ in paths_and_kinds(layout)]


def paths_and_kinds(layout: Any) -> list[tuple[RawPath, Any]]:
    """Returns where each leaf of that layout lies, and its kind."""
    return _leaf_paths(layout[0], ("features",)) + _leaf_paths(layout[1], ("labels",))


def without_kinds(layout: Any, positions: Collection[int], by_width: Collection[int] = ()) -> Any:
    """Returns a layout that says nothing about the kinds of the leaves at those positions.

    >>> strings, numbers = Batch({"x": ["a"]}).layout, Batch({"x": [1]}).layout
    >>> without_kinds(strings, {0}) == without_kinds(numbers, {0})
    True

    Args:
        layout: the layout of a batch.
        positions: of the leaves that it says nothing about.
        by_width: of the leaves that it tells narrowed ones from others of.
    """
    count = itertools.count()

    def forget(node: Any) -> Any:
        if isinstance(node, Node):
            return node._replace(children=tuple([forget(child) for child in node.children]))
        position = next(count)
        if position in positions:
            return None
        is_array = isinstance(node, ArrayLeaf)
        return node._replace(narrowed=False) if is_array and position not in by_width else node

    return tuple([forget(part) for part in layout])


def to_device_dtype(leaf: Any, path: str) -> Any:
    """Returns an array of 64-bit numbers with the dtype that JAX computes in; others as they are.

    >>> to_device_dtype(np.array([1, 2]), 'features["id"]').dtype
    dtype('int32')

    Args:
        leaf: an array of numbers.
        path: how the model_fn reads it, for the error message.

    Raises:
        OverflowError: if an integer does not fit.
    """
    dtype = _device_dtype(leaf.dtype)
    if dtype == leaf.dtype:
        return leaf
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, as on the device
        narrow = leaf.astype(dtype)
    if leaf.dtype.kind in "iu" and not np.array_equal(narrow, leaf):
        bounds = np.iinfo(dtype)
        raise OverflowError(
            f"{path} holds {leaf[narrow != leaf].flat[0]}, which does not lie between {bounds.min} "
            f"and {bounds.max}: with jax_enable_x64 off, arrays on the device hold 32-bit "
            "integers. Use a hashed column for ids, or float features for large numbers."
        )
    return narrow


_NONE = Node(None, (), ())


def _take_apart(tree: Any, leaves: list[Any], kinds: list[Any]) -> Any:
    # This runs for every batch: the common types are asked for first.
    if type(tree) is not np.ndarray and isinstance(tree, dict | Mapping):
        keys = tuple(sorted(tree, key=str))
        return Node(dict, keys, tuple([_take_apart(tree[k], leaves, kinds) for k in keys]))
    elif isinstance(tree, tuple) and not isinstance(tree, SparseTensor):
        return Node(type(tree), (), tuple([_take_apart(x, leaves, kinds) for x in tree]))
    leaf = _as_array(tree)
    leaves.append(leaf)
    kinds.append(_kind(leaf))
    return kinds[-1]


def _leaves_like(features: Any, labels: Any, like: Batch) -> list[Any] | None:
    """Returns the leaves if the batch is a flat one of arrays exactly like another, else None."""
    inside, outside = like.layout
    if not isinstance(outside, ArrayLeaf) and outside is not _NONE:
        return None
    if not isinstance(inside, Node):
        leaves = [features]
    elif inside.kind is not dict or any(isinstance(child, Node) for child in inside.children):
        return None
    elif type(features) is dict and len(features) == len(inside.keys):
        leaves = [features.get(key) for key in inside.keys]
    else:
        return None
    if labels is not None:
        leaves.append(labels)
    if len(leaves) != len(like.leaves) or (labels is None) != (outside is _NONE):
        return None
    for leaf, other in zip(leaves, like.leaves, strict=True):
        if type(leaf) is not np.ndarray or type(other) is not np.ndarray:
            return None
        if leaf.dtype is not other.dtype or leaf.ndim != other.ndim:
            return None
    return leaves


def _as_array(leaf: Any) -> Any:
    """Returns numbers as an array; anything else as it was."""
    if isinstance(leaf, np.ndarray | jax.Array | SparseTensor):
        return leaf
    try:
        array = np.asarray(leaf)
    except ValueError:
        return leaf
    return leaf if array.dtype == object else array


def _kind(leaf: Any) -> ArrayLeaf | HostLeaf:
    if isinstance(leaf, np.ndarray | jax.Array) and _is_number(leaf.dtype):
        dtype = _device_dtype(leaf.dtype)
        narrowed = leaf.dtype.kind == "f" and leaf.dtype.itemsize > dtype.itemsize
        return ArrayLeaf(dtype, leaf.ndim, narrowed)
    return HostLeaf(_holds(leaf))


@functools.cache
def _is_number(dtype: Any) -> bool:
    return dtype.kind in "biufc" or jnp.issubdtype(dtype, jnp.floating)


def _device_dtype(dtype: np.dtype) -> np.dtype:
    """Returns what JAX computes in: 32 bits where x64 is off, in the order of this machine."""
    return jax.dtypes.canonicalize_dtype(
        dtype.newbyteorder("=") if dtype.byteorder == ">" else dtype
    )


def _row_count(leaf: Any) -> int | None:
    """Returns how many examples a leaf holds; None: it is a single value, or nobody knows."""
    if isinstance(leaf, list):
        return len(leaf)
    sparse = isinstance(leaf, SparseTensor)
    shape: Any = np.asarray(leaf.dense_shape) if sparse else getattr(leaf, "shape", ())
    return int(shape[0]) if len(shape) else None


def _holds(leaf: Any) -> str:
    if isinstance(leaf, SparseTensor):
        return "a SparseTensor"
    if isinstance(leaf, list):
        return "a list that is no array (strings, or rows of different lengths)"
    if isinstance(leaf, np.ndarray):
        return "strings" if leaf.dtype.kind in "US" else f"{leaf.dtype} values"
    return f"a {type(leaf).__name__}"


def _put_together(node: Any, leaves: Any) -> Any:
    if not isinstance(node, Node):
        return next(leaves)
    children = [_put_together(child, leaves) for child in node.children]
    if node.kind is None:
        return None
    if node.kind is dict:
        return dict(zip(node.keys, children, strict=True))
    return tuple(children) if node.kind is tuple else node.kind(*children)


def _leaf_paths(node: Any, path: RawPath) -> list[tuple[RawPath, Any]]:
    if not isinstance(node, Node):
        return [(path, node)]
    keys = node.keys or range(len(node.children))
    named = zip(keys, node.children, strict=True)
    return [p for key, child in named for p in _leaf_paths(child, (*path, key))]


def _written(path: RawPath) -> str:
    return path[0] + "".join(f"[{_quoted(key)}]" for key in path[1:])


def _quoted(key: Any) -> str:
    return f'"{key}"' if isinstance(key, str) else repr(key)
