"""Variable recipes: what one variable is, and how its first value is made.

    recipe = make_recipe("dense/kernel", (4, 3))
    recipe.describe()                               # "dense/kernel float32[4, 3]"
    first_value(recipe, jax.random.key(0), {})      # Glorot uniform, from the key and the name

Law: a first value depends on the root key and the variable's own name (for a leaf of another
library's tree: on the name of the tree), never on other variables and never on a batch.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator.context import fold_name

Initializer = Callable[[jax.Array, tuple[int, ...], Any], Any]


@dataclasses.dataclass(frozen=True)
class VariableRecipe:
    """How to make one variable: its name, shape and dtype, and a function for its first value."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    initializer: Any = dataclasses.field(compare=False, repr=False)
    trainable: bool = True
    needs_init: bool = False

    def describe(self) -> str:
        """Returns name, dtype and shape for an error message."""
        return f"{self.name} {self.dtype.name}{list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class Recipes:
    """What a traced function asks for.

    Attributes:
        variables: the variable recipes by name, in the order of first use.
        host: the host recipes by name (see `estimator.host_features`).
        checks: what is checked of raw leaves: pairs of a path and a recipe.
        by_width: the paths of raw leaves that were asked for lost digits.
        tags: the names of the tagged values.
        summaries: the tags of the summaries.
        used: positions of those leaves of the arguments that the function computes with.
    """

    variables: dict[str, VariableRecipe]
    host: dict[str, Any]
    checks: tuple[tuple[Any, Any], ...]
    by_width: tuple[Any, ...]
    tags: tuple[str, ...]
    summaries: tuple[str, ...]
    used: frozenset[int]


@dataclasses.dataclass(frozen=True, eq=False)
class TreeInit:
    """How another library makes a whole tree: `init_fn(key, *zeros_like(examples))`."""

    init_fn: Callable[..., Any]
    examples: tuple[Any, ...]

    def make(self, key: jax.Array) -> Any:
        """Returns the tree."""
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.examples)
        return self.init_fn(key, *zeros)


@dataclasses.dataclass(frozen=True, eq=False)
class TreeLeafInit:
    """The first value of one leaf; the tree is made once for all its leaves."""

    tree: TreeInit
    scope: str
    index: int

    def value(self, root: jax.Array, trees: dict[TreeInit, list[Any]]) -> Any:
        """Returns the leaf, making the tree unless it is among `trees`."""
        if self.tree not in trees:
            trees[self.tree] = jax.tree.leaves(self.tree.make(fold_name(root, self.scope)))
        return trees[self.tree][self.index]


def make_recipe(
    full: str,
    shape: Any = None,
    initializer: Any = None,
    dtype: Any = None,
    trainable: bool = True,
    needs_init: bool = False,
) -> VariableRecipe:
    """Returns the recipe of a new variable, made of what `get_variable` was given.

    >>> make_recipe("scale", initializer=np.ones(3, np.float32)).describe()
    'scale float32[3]'
    >>> make_recipe("count", (), dtype=np.int32).trainable
    False

    Args:
        full: the name with its scope; for the others see `get_variable`.

    Raises:
        ValueError: if the initializer is none, does not fit the shape, or there is no shape.
    """
    if isinstance(initializer, jax.core.Tracer):
        raise ValueError(
            f'get_variable("{full}"): the initializer is a traced array: a first value cannot '
            "depend on the batch. Choose it in Scaffold(init_fn=...) from batches instead."
        )
    if isinstance(initializer, np.ndarray | np.generic | jax.Array | int | float):
        value = np.asarray(initializer)
        shape = value.shape if shape is None else _as_shape(shape)
        if not _broadcasts(value.shape, shape):
            raise ValueError(
                f'get_variable("{full}"): the initializer is an array of shape {value.shape}, '
                f"which does not broadcast to the variable's shape {shape}."
            )
        dtype = value.dtype if dtype is None else dtype
        initializer = _constant(value)
    elif initializer is not None and not _is_initializer(initializer):
        raise ValueError(
            f'get_variable("{full}"): initializer is {initializer!r}. Give a JAX initializer '
            "(key, shape, dtype) -> array, such as jax.nn.initializers.zeros, or an array."
        )
    if shape is None:
        raise ValueError(f'get_variable("{full}"): a new variable needs a shape.')
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(jnp.float32 if dtype is None else dtype))
    floating = jnp.issubdtype(dtype, jnp.inexact)
    if initializer is None:
        initializer = _glorot_uniform if floating else jax.nn.initializers.zeros
    trainable = bool(trainable) and floating
    return VariableRecipe(full, _as_shape(shape), dtype, initializer, trainable, needs_init)


def check_same(known: VariableRecipe, shape: Any, dtype: Any) -> None:
    """Checks what is asked for now against what was asked for under this name before.

    >>> check_same(make_recipe("w", (4, 3)), (4, 3), None)

    Raises:
        ValueError: if shape or dtype differ; None differs from nothing.
    """
    if shape is not None and _as_shape(shape) != known.shape:
        raise ValueError(
            f'get_variable("{known.name}"): asked for with shape {_as_shape(shape)} now and '
            f"{known.shape} before. A name is one variable: give one of the two another name."
        )
    if dtype is not None and jax.dtypes.canonicalize_dtype(dtype) != known.dtype:
        raise ValueError(
            f'get_variable("{known.name}"): asked for with dtype {np.dtype(dtype).name} now and '
            f"{known.dtype.name} before. A name is one variable: give one another name."
        )


def first_value(
    recipe: VariableRecipe, root: jax.Array, trees: dict[TreeInit, list[Any]]
) -> jax.Array:
    """Returns the first value of a variable.

    >>> recipe = make_recipe("bias", (2,), jax.nn.initializers.ones)
    >>> first_value(recipe, jax.random.key(0), {}).tolist()
    [1.0, 1.0]

    Args:
        recipe: what to make.
        root: the key that all first values of a model come from.
        trees: the trees of other libraries made so far; those made now are added.

    Raises:
        ValueError: if the initializer makes another shape than it was asked for.
    """
    if isinstance(recipe.initializer, TreeLeafInit):
        value = recipe.initializer.value(root, trees)
    else:
        key = fold_name(root, recipe.name)
        try:
            value = recipe.initializer(key, recipe.shape, recipe.dtype)
        except TypeError as error:
            error.add_note(
                f"This is the initializer of {recipe.describe()}, called as JAX's are: "
                "initializer(key, shape, dtype)."
            )
            raise
    if jnp.shape(value) != recipe.shape:
        raise ValueError(
            f"The initializer of {recipe.describe()} made an array of shape {jnp.shape(value)}. "
            "It must make the shape it is called with: initializer(key, shape, dtype). (A function "
            "that makes initializers must be called first: he_normal().)"
        )
    return jnp.asarray(value, recipe.dtype)


def _as_shape(shape: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in np.atleast_1d(np.asarray(shape, np.int64)))


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, wanted) == wanted
    except ValueError:
        return False


def _is_initializer(value: Any) -> bool:
    return isinstance(value, TreeLeafInit) or (callable(value) and not isinstance(value, type))


def _constant(value: np.ndarray) -> Initializer:
    def constant(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        del key
        return jnp.broadcast_to(jnp.asarray(value, dtype), shape)

    return constant


def _glorot_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if len(shape) >= 2:
        return jax.nn.initializers.glorot_uniform()(key, shape, dtype)
    limit = math.sqrt(3.0 / max(shape[0] if shape else 1, 1))
    return jax.random.uniform(key, shape, dtype, -limit, limit)
