"""Host features: what a model asks of the raw batch, and of its answers, in numpy.

    @dataclasses.dataclass(frozen=True)
    class Length(HostRecipe):
        key: str
        dtype = np.dtype("int32")
        dims = ("batch",)

        def __call__(self, features, labels):
            return np.array([len(text) for text in features[self.key]], np.int32)

    def model_fn(features, labels, mode):
        length = host_feature(Length("text"))       # a traced int32 array of shape (batch,)

Law: strings stop at the host. A recipe runs once a batch, in the thread that reads the input; only
the array it makes reaches the device. An output recipe runs on the host, too, on fetched answers.
"""

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from estimator.context import current_frame
from estimator.recipes import Recipe, check_recipe


class HostRecipe(Recipe, abc.ABC):
    """A numpy function of the raw batch; subclass it as a frozen dataclass.

    Attributes:
        dtype: the numpy dtype of the array it makes. 64-bit integers become 32-bit ones where
            jax_enable_x64 is off, and must fit.
        dims: the array's dimensions: `"batch"`, `"length"` (differs from batch to batch), or a
            number.
    """

    dtype: ClassVar[Any]
    dims: ClassVar[tuple[str | int, ...]]

    @functools.cached_property
    def name(self) -> str:
        """The name it goes by in a batch; two different recipes must not share one."""
        return repr(self)

    @abc.abstractmethod
    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns the array for one raw batch, as input_fn gave it; `labels` may be None."""


class OutputRecipe(Recipe, abc.ABC):
    """A numpy function of fetched answers; subclass it as a frozen dataclass."""

    @abc.abstractmethod
    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Returns the answer that the user sees."""


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class HostOutput:
    """An answer that is finished on the host: a recipe and the arrays it needs."""

    recipe: OutputRecipe
    arrays: tuple[Any, ...]

    def finish(self) -> np.ndarray:
        """Returns the answer, computed from the fetched arrays."""
        return self.recipe(*(np.asarray(array) for array in self.arrays))

    def tree_flatten(self) -> tuple[tuple[Any, ...], OutputRecipe]:
        """Returns the arrays and the recipe, as JAX asks for them."""
        return self.arrays, self.recipe

    @classmethod
    def tree_unflatten(cls, recipe: OutputRecipe, arrays: Sequence[Any]) -> "HostOutput":
        """Returns the output made of a recipe and arrays."""
        return cls(recipe, tuple(arrays))


def host_feature(recipe: HostRecipe) -> jax.Array:
    """Returns the array that `recipe` makes of the raw batch, traced.

    Works in every mode, for features and labels.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Length(HostRecipe):
    ...     key: str
    ...     dtype = np.dtype("int32")
    ...     dims = ("batch",)
    ...     def __call__(self, features, labels):
    ...         return np.array([len(text) for text in features[self.key]], np.int32)
    >>> from estimator.variables import apply
    >>> recipe = Length("text")
    >>> host = {recipe.name: compute(recipe, {"text": ["hello", "you"]}, None)}
    >>> apply(lambda: host_feature(Length("text")), {}, host=host)()[0].tolist()
    [5, 3]

    Args:
        recipe: what to compute.

    Returns:
        An array of the dtype and dimensions that the recipe declares.

    Raises:
        ValueError: if another recipe has the same name, if the array is not what the recipe
            declares, or inside the body of an inner transform.
        TypeError: if it is no frozen dataclass, or holds code where data should be.
    """
    frame = current_frame(f"host_feature({recipe!r})")
    check_recipe(recipe, HostRecipe, "host_feature")
    frame.refuse_inner_trace(f"host_feature({recipe.name})", "Ask for it outside and hand it in.")
    known = frame.host_recipes.setdefault(recipe.name, recipe)
    if known != recipe:
        raise ValueError(
            f'Two different host recipes are named "{recipe.name}": {known!r} and {recipe!r}. '
            "Give one of them another name."
        )
    if callable(frame.host):
        made = frame.host(recipe)
        return jnp.zeros(made.shape, made.dtype)
    if frame.host is None:
        raise ValueError(f"host_feature({recipe.name}): there is no batch to compute it from.")
    if recipe.name not in frame.host:
        raise ValueError(
            f"host_feature({recipe.name}): it was not asked for when the model_fn was first traced "
            "with this kind of batch. A model_fn must ask for the same in every trace."
        )
    return frame.host[recipe.name]


def host_output(recipe: OutputRecipe, *arrays: Any) -> HostOutput:
    """Returns an answer for `predictions` or `export_outputs` that is finished on the host.

    >>> host_output(Lookup(("setosa", "virginica")), np.array([1, 0])).finish().tolist()
    ['virginica', 'setosa']

    Args:
        recipe: what to compute of the fetched arrays.
        *arrays: traced arrays; the first dimension of the answer should be the batch's.

    Raises:
        TypeError: if the recipe is no frozen dataclass, or holds code where data should be.
    """
    check_recipe(recipe, OutputRecipe, "host_output")
    return HostOutput(recipe, arrays)


def compute(recipe: HostRecipe, features: Any, labels: Any) -> np.ndarray:
    """Runs a recipe on a raw batch and checks what it made against what it declares.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Doubled(HostRecipe):
    ...     dtype = np.dtype("float32")
    ...     dims = ("batch",)
    ...     def __call__(self, features, labels):
    ...         return np.array(features, np.float32) * 2
    >>> compute(Doubled(), [1, 2], None).tolist()
    [2.0, 4.0]

    Raises:
        ValueError: if dtype or dimensions are others than declared.
    """
    try:
        array = np.asarray(recipe(features, labels))
    except Exception as error:
        error.add_note(f"This is the host recipe {recipe!r}.")
        raise
    fits = len(recipe.dims) == array.ndim and all(
        isinstance(dim, str) or dim == size
        for dim, size in zip(recipe.dims, array.shape, strict=True)
    )
    if not fits or array.dtype != recipe.dtype:
        raise ValueError(
            f"Host recipe {recipe!r} made a {array.dtype} array of shape {array.shape}, but "
            f"declares {np.dtype(recipe.dtype)} {list(recipe.dims)}. Mend its __call__, or its "
            "`dtype` and `dims`."
        )
    return array


@dataclasses.dataclass(frozen=True)
class Lookup(OutputRecipe):
    """Ids to names: `vocabulary[id]`, and `default` where there is no such id.

    >>> Lookup(("a", "b"))(np.array([[1], [-1]])).tolist()
    [['b'], ['']]
    """

    vocabulary: tuple[str, ...]
    default: str = ""

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Returns an object array of str, of the shape of the ids."""
        (ids,) = arrays
        names = np.array([*self.vocabulary, self.default], dtype=object)
        known = (ids >= 0) & (ids < len(self.vocabulary))
        return names[np.where(known, ids, len(self.vocabulary))]


@dataclasses.dataclass(frozen=True)
class Trim(OutputRecipe):
    """Cuts an axis to the batch's true length, so that no padding is ever seen.

    >>> Trim()(np.zeros((2, 8)), np.array([3, 5])).shape
    (2, 5)
    """

    axis: int = 1

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Returns the values up to the largest of the lengths."""
        values, lengths = arrays
        stop = int(lengths.max(initial=0))
        return values[(slice(None),) * self.axis + (slice(0, stop),)]
