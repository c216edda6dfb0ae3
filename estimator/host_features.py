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
import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from estimator.context import RawPath, current_frame
from estimator.recipes import Recipe, check_recipe

_MEMO: contextvars.ContextVar[dict[Any, Any] | None] = contextvars.ContextVar("memo", default=None)


class HostRecipe(Recipe, abc.ABC):
    """A numpy function of the raw batch; subclass it as a frozen dataclass.

    Attributes:
        dtype: the numpy dtype of the array it makes. 64-bit integers become 32-bit ones where
            jax_enable_x64 is off, and must fit.
        dims: the array's dimensions: `"batch"`, `"length"` (a number of steps, which differs from
            batch to batch), `"count"` (a number of values without an order, which differs, too),
            or a number.
        fill: what lengths and counts are filled up with to a round size, so that few sizes compile;
            None: they stay as they are.
        takes_floats: whether it takes the features that it reads as floats; None: as they come.
    """

    dtype: ClassVar[Any]
    dims: ClassVar[tuple[str | int, ...]]
    fill: ClassVar[Any] = None
    takes_floats: ClassVar[bool | None] = False

    @property
    def reads(self) -> frozenset[RawPath]:
        """The paths of the features that it reads, if it says so."""
        return frozenset()

    @functools.cached_property
    def name(self) -> str:
        """The name it goes by in a batch; two different recipes must not share one."""
        return repr(self)

    @abc.abstractmethod
    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns the array for one raw batch, as input_fn gave it; `labels` may be None."""


class HostCheck(Recipe, abc.ABC):
    """A look at the values of a raw leaf on the host; subclass it as a frozen dataclass."""

    @abc.abstractmethod
    def __call__(self, values: np.ndarray) -> None:
        """Raises a ValueError that says what is wrong.

        Args:
            values: the leaf as input_fn gave it, an array of numbers; or the leaves of several
                batches, stacked along a new first axis.
        """


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
        with jax.ensure_compile_time_eval():  # a recipe may use jax.numpy, too
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


def raw_path(value: Any) -> RawPath | None:
    """Returns where in the raw batch a value lies that a model_fn was given.

    It is a path such as `("features", "city")`, which a host recipe hands to `raw_value`. None: it
    is not a leaf of the batch, because the model_fn computed it.

    >>> from estimator.preview import preview
    >>> preview(lambda features: raw_path(features["city"]), {"city": ["Rome", "Oslo"]})[0]
    ('features', 'city')
    """
    leaf = current_frame("raw_path").raw.get(id(value))
    return None if leaf is None or leaf.value is not value else leaf.path


def raw_value(path: RawPath, features: Any, labels: Any = None) -> Any:
    """Returns the leaf of a raw batch that lies at a path, as a host recipe needs it.

    >>> raw_value(("features", "city"), {"city": ["Rome", "Oslo"]})
    ['Rome', 'Oslo']

    Args:
        path: what `raw_path` gave.
        features: the features of a raw batch.
        labels: its labels.
    """
    value = features if path[0] == "features" else labels
    for key in path[1:]:
        value = value[key]
    return value


def host_check(value: Any, check: HostCheck) -> None:
    """Has the values of a raw leaf looked at on the host, in each batch, before they are used.

    Inside a compiled step nothing can be raised. Only leaves that are arrays of numbers in host
    memory are looked at: those on a device already are not fetched, those that no array holds need
    a host recipe, which may raise itself.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Positive(HostCheck):
    ...     def __call__(self, values):
    ...         if (values <= 0).any():
    ...             raise ValueError(f"{values.min()} is not positive.")
    >>> from estimator.preview import preview
    >>> preview(lambda features: host_check(features["age"], Positive()), {"age": np.array([0])})
    Traceback (most recent call last):
    ValueError: 0 is not positive.

    Args:
        value: a leaf of features or labels, as the model_fn was given it.
        check: what to look for.

    Raises:
        TypeError: if the check is no frozen dataclass, or holds code where data should be.
    """
    frame = current_frame(f"host_check({check!r})")
    check_recipe(check, HostCheck, "host_check")
    path = raw_path(value)
    if path is not None and isinstance(value, jax.Array):
        frame.host_checks[path, check] = None


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


@contextlib.contextmanager
def remembering(memo: dict[Any, Any]) -> Iterator[None]:
    """Lets `once_a_batch` remember in `memo` what it makes meanwhile in this thread."""
    token = _MEMO.set(memo)
    try:
        yield
    finally:
        _MEMO.reset(token)


def once_a_batch(raw: Any, what: Any, make: Callable[[], Any]) -> Any:
    """Returns `make()`, once for each raw value of a batch, for all host recipes that ask for it.

    >>> with remembering({}):
    ...     [once_a_batch(raw, len, lambda: print("counted") or 2) for raw in [["a", "b"]] * 2]
    counted
    [2, 2]

    Args:
        raw: a value of the raw batch.
        what: tells what is made of it: hashable, and different for different things. The function
            that makes it is a good choice.
        make: makes it; nobody may change it afterwards.
    """
    memo = _MEMO.get()
    if memo is None:
        return make()
    key = (id(raw), what)
    if key not in memo:
        memo[key] = (raw, make())  # the raw value is held, so that no other gets its id
    return memo[key][1]


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
class Int64(OutputRecipe):
    """Ids as int64, as TensorFlow gives them; on the device they have 32 bits.

    >>> Int64()(np.array([2, 0], np.int32)).dtype
    dtype('int64')
    """

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Returns an int64 array of the shape of the ids."""
        (ids,) = arrays
        return ids.astype(np.int64)


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
