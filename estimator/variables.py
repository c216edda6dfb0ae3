"""Variables: a function asks for them by name; tracing writes down what it asks for.

    def net(x):
        kernel = get_variable("kernel", (x.shape[-1], 3))
        return x @ kernel

    recipes, out = trace(net, x)            # which variables does net ask for? computes nothing
    values = initialize(recipes, seed=0)    # {"kernel": Array}, made in one jitted call
    out, writes = apply(net, values)(x)     # net(x), purely

Laws: a name is one variable. Its first value depends on the seed and its own name, never on other
variables. Gradients flow to trainable variables; `assign` writes the others.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator.context import Frame, current_frame, fold_name, run
from estimator.messages import did_you_mean
from estimator.variable_recipes import (
    Initializer,
    Recipes,
    TreeInit,
    TreeLeafInit,
    VariableRecipe,
    check_same,
    first_value,
    make_recipe,
)

__all__ = [
    "Initializer",
    "Recipes",
    "VariableRecipe",
    "apply",
    "assign",
    "assign_tree",
    "get_global_step",
    "get_variable",
    "initialize",
    "next_rng_key",
    "shared",
    "trace",
    "variable_scope",
    "variable_tree",
]


def get_variable(
    name: str,
    shape: tuple[int, ...] | None = None,
    initializer: Initializer | Any = None,
    dtype: Any = None,
    trainable: bool = True,
    needs_init: bool = False,
) -> jax.Array:
    """Returns the variable `name` of the present scope.

    >>> recipes, _ = trace(lambda x: x @ get_variable("w", (4, 3)), np.zeros((2, 4)))
    >>> recipes.variables["w"].shape
    (4, 3)

    Args:
        name: the variable's name; the scope comes before it: `scope/name`. A name that begins
            with a slash is whole: "/hidden/kernel" is the same variable in every scope.
        shape: its shape; may be left out where the initializer is an array or the variable was
            asked for before.
        initializer: a JAX initializer `(key, shape, dtype) -> array`, or an array. By default
            Glorot uniform (Glorot and Bengio, 2010) for floating dtypes and zeros for others.
        dtype: a numpy dtype; by default that of a number or array given as the initializer, else
            float32.
        trainable: whether the optimizer updates it. Integers never are.
        needs_init: whether its first value means nothing until `Scaffold.init_fn` or training has
            set it; evaluate and predict of an untrained model are then an error.

    Returns:
        The array, traced.

    Raises:
        ValueError: if the variable was asked for with another shape or dtype, or is not among
            those the model has.
    """
    frame = current_frame(f'get_variable("{name}")')
    full = frame.full_name(_checked_name(name))
    known = frame.variables.get(full)
    if known is None:
        if shape is None and initializer is None and frame.values and full in frame.values:
            shape = jnp.shape(frame.values[full])
            dtype = jnp.result_type(frame.values[full]) if dtype is None else dtype
        known = make_recipe(full, shape, initializer, dtype, trainable, needs_init)
        frame.variables[full] = known
    else:
        check_same(known, shape, dtype)
    return _value(frame, known)


def assign(name: str, value: Any) -> None:
    """Gives a variable that is not trainable another value, from the end of this step on.

    The last assignment wins, and is what a later `get_variable` in the same step gives. Outside
    TRAIN it does nothing.

    >>> def count(x):
    ...     n = get_variable("n", (), dtype=np.int32, trainable=False)
    ...     assign("n", n + 1)
    >>> apply(count, {"n": np.int32(4)})(0.0)[1]["n"].item()
    5

    Args:
        name: a variable of the present scope, asked for before.
        value: an array of the variable's shape.

    Raises:
        ValueError: if there is no such variable, it is trainable, the shape is another, or the
            call stands inside the body of an inner transform.
    """
    frame = current_frame(f'assign("{name}")')
    full = frame.full_name(name)
    recipe = frame.variables.get(full)
    if recipe is None:
        raise ValueError(
            f'assign("{full}"): no such variable.{did_you_mean(full, frame.variables)} '
            "Ask for it with get_variable first."
        )
    if recipe.trainable:
        raise ValueError(
            f'assign("{full}"): the variable is trainable, so the optimizer writes it. '
            "Make it with trainable=False, in get_variable or variable_tree."
        )
    if jnp.shape(value) != recipe.shape:
        raise ValueError(
            f'assign("{full}"): the value has shape {jnp.shape(value)}, the variable '
            f"{recipe.shape}. Assign the whole variable, for example n.at[index].set(value)."
        )
    frame.refuse_inner_trace(
        f'assign("{full}")', "Return the value from the body and assign it outside."
    )
    if frame.writable:
        frame.write(full, jnp.asarray(value, recipe.dtype))


@contextlib.contextmanager
def variable_scope(name: str) -> Iterator[str]:
    """Puts `name/` before the names of all variables made inside.

    Entering a scope a second time gives the variables of the first time again: automatic layer
    names begin anew inside.

    >>> def net(x):
    ...     with variable_scope("encoder"):
    ...         return x * get_variable("scale", ())
    >>> list(trace(net, 1.0)[0].variables)
    ['encoder/scale']
    """
    with current_frame(f'variable_scope("{name}")').enter_scope(_checked_name(name)) as scope:
        yield scope


def shared(name: str, make: Callable[[], Any]) -> Any:
    """Returns `make()`, the same for all in a model who ask for `name`.

    What `make` asks for is named in the scope of whoever asks first: a table that several layers
    share, for example.

    >>> def tower(x):
    ...     with variable_scope("tower" + str(len(x))):
    ...         return x @ shared("table", lambda: get_variable("table", (3, 2)))
    >>> both = trace(lambda: (tower(np.ones((1, 3))), tower(np.ones((2, 3)))))[0]
    >>> list(both.variables)
    ['tower1/table']

    Args:
        name: what it goes by in this model, whatever the scope.
        make: makes it, once in each trace.

    Raises:
        ValueError: if the first call stands inside the body of an inner transform.
    """
    frame = current_frame(f'shared("{name}")')
    if name not in frame.shared:
        frame.refuse_inner_trace(f'shared("{name}")', "Ask for it outside and hand it in.")
        frame.shared[name] = make()
    return frame.shared[name]


def next_rng_key() -> jax.Array:
    """Returns a fresh random key, the same again whenever this step is computed again.

    It depends on the seed, the global step (the number of the batch, too, outside TRAIN), the
    scope, and how many keys the scope has drawn before.

    >>> def flip(x):
    ...     return jax.random.bernoulli(next_rng_key(), shape=x.shape)
    >>> flips = apply(flip, {}, jax.random.key(0))
    >>> bool((flips(np.zeros(9))[0] == flips(np.zeros(9))[0]).all())
    True

    Raises:
        ValueError: inside the body of an inner transform, where every turn would get one key.
    """
    frame = current_frame("next_rng_key()")
    frame.refuse_inner_trace(
        "next_rng_key()", "Draw the key outside and hand it in, split with jax.random.split."
    )
    if frame.key is None and not frame.discovering:
        raise ValueError("next_rng_key(): apply was given no key. Call apply(fn, values, rng).")
    count = frame.key_counts[frame.scope]
    frame.key_counts[frame.scope] += 1
    key = jax.random.key(0) if frame.key is None else frame.key
    return fold_name(key, f"{frame.scope}#{count}")


def get_global_step() -> jax.Array:
    """Returns the number of the training steps made before this one, a scalar int32.

    >>> apply(get_global_step, {}, step=3)()[0].item()
    3
    """
    step = current_frame("get_global_step()").step
    return jnp.asarray(0 if step is None else step, jnp.int32)


def variable_tree(
    name: str, init_fn: Callable[..., Any], *examples: Any, trainable: Any = True
) -> Any:
    """Returns a whole tree of variables as another library makes it, Flax or Equinox for example.

    >>> def net(x):
    ...     tree = variable_tree("net", lambda key, x: {"w": jax.random.normal(key, x.shape)}, x)
    ...     return x * tree["w"]
    >>> list(trace(net, np.zeros(3))[0].variables)
    ['net/w']

    Args:
        name: the scope of the tree; a leaf's name is `name/path/of/the/leaf`.
        init_fn: makes the tree: `init_fn(key, *zeros_like(examples))`.
        *examples: arrays, or trees of arrays; only their shapes and dtypes matter.
        trainable: a bool, or a tree of bools that is a prefix of the tree, such as
            `{"params": True, "batch_stats": False}`.

    Returns:
        The tree, its leaves traced arrays.

    Raises:
        ValueError: if a leaf is a random key, which a checkpoint should not hold.
    """
    frame = current_frame(f'variable_tree("{name}")')
    tree_init = TreeInit(init_fn, jax.tree.map(_shape_of, examples))
    shapes = jax.eval_shape(tree_init.make, jax.random.key(0))
    flags = jax.tree.leaves(jax.tree.broadcast(trainable, shapes))
    leaves, structure = jax.tree.flatten_with_path(shapes)
    frame.open(_checked_name(name))
    values = []
    for index, ((path, leaf), flag) in enumerate(zip(leaves, flags, strict=True)):
        leaf_name = _join(name, _path_name(path))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f'variable_tree("{name}"): {leaf_name} is a random key. Leave it out of the '
                "tree and give the model next_rng_key() in its place."
            )
        init = TreeLeafInit(tree_init, frame.full_name(_checked_name(name)), index)
        values.append(get_variable(leaf_name, leaf.shape, init, leaf.dtype, flag))
    return jax.tree.unflatten(structure, values)


def assign_tree(name: str, tree: Any) -> None:
    """Assigns every leaf of `tree` to the variable of its path under `name`.

    >>> def net(x):
    ...     tree = variable_tree("net", lambda key: {"n": np.float32(0)}, trainable=False)
    ...     assign_tree("net", {"n": tree["n"] + x})
    >>> apply(net, {"net/n": np.float32(1)})(2.0)[1]["net/n"].item()
    3.0

    Args:
        name: a name given to `variable_tree`, or the path of a part of it: `"net/batch_stats"`.
        tree: arrays in the structure of that part.
    """
    for path, leaf in jax.tree.flatten_with_path(tree)[0]:
        assign(_join(name, _path_name(path)), leaf)


def trace(fn: Callable[..., Any], *args: Any, frame: Frame | None = None) -> tuple[Recipes, Any]:
    """Finds out what `fn` asks for, without computing anything.

    >>> recipes, out = trace(lambda x: x * get_variable("scale", ()), np.ones(3, np.float32))
    >>> out.shape, recipes.variables["scale"].describe()
    ((3,), 'scale float32[]')

    Args:
        fn: a function that asks for variables.
        *args: its arguments: arrays, `jax.ShapeDtypeStruct`s, or trees of them.
        frame: the context to run it in; a new one by default.

    Returns:
        The recipes, and the result with `jax.ShapeDtypeStruct`s in place of arrays.
    """
    frame = Frame() if frame is None else frame
    # A new function each time: JAX caches traces by function identity.
    jaxpr, out = jax.make_jaxpr(lambda *a: run(frame, fn, *a), return_shape=True)(*args)
    read = {id(v) for eqn in jaxpr.jaxpr.eqns for v in eqn.invars}
    read |= {id(v) for v in jaxpr.jaxpr.outvars}
    used = frozenset(i for i, v in enumerate(jaxpr.jaxpr.invars) if id(v) in read)
    return (
        Recipes(
            variables=frame.variables,
            host=frame.host_recipes,
            checks=tuple(frame.host_checks),
            by_width=tuple(frame.by_width),
            tags=tuple(frame.tags),
            summaries=tuple(frame.summaries),
            used=used,
        ),
        out,
    )


def initialize(recipes: Recipes, seed: int, out_shardings: Any = None) -> dict[str, jax.Array]:
    """Makes the first values of all variables in one jitted call.

    >>> recipes, _ = trace(lambda: get_variable("w", (2,), jax.nn.initializers.ones))
    >>> initialize(recipes, seed=0)["w"].tolist()
    [1.0, 1.0]

    Args:
        recipes: what `trace` found.
        seed: any int; its lowest 32 bits count.
        out_shardings: where the variables go, as in `jax.jit`.

    Raises:
        ValueError: if an initializer looks at the batch, or makes another shape than declared.
    """

    def make(seed: jax.Array) -> dict[str, jax.Array]:
        root = jax.random.key(seed)
        trees: dict[TreeInit, list[Any]] = {}
        return {name: first_value(r, root, trees) for name, r in recipes.variables.items()}

    if not recipes.variables:
        return {}
    try:
        return jax.jit(make, out_shardings=out_shardings)(np.uint32(seed & 0xFFFFFFFF))
    except jax.errors.JAXTypeError as error:
        raise _explained(error, recipes) from error


def apply(
    fn: Callable[..., Any],
    values: Mapping[str, Any],
    rng: jax.Array | None = None,
    *,
    train: bool = True,
    step: Any = None,
    host: Mapping[str, jax.Array] | None = None,
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """Returns the pure function `(*args) -> (fn(*args), what it assigned)`.

    >>> apply(lambda x: x * get_variable("scale", ()), {"scale": np.float32(3)})(2.0)[0].item()
    6.0

    Args:
        fn: a function that asks for variables.
        values: the variables by name.
        rng: the key that `next_rng_key` draws from.
        train: whether assignments are kept.
        step: the global step.
        host: the arrays of the host recipes, by recipe name.
    """

    def pure(*args: Any) -> tuple[Any, dict[str, jax.Array]]:
        frame = Frame(values, writable=train, key=rng, step=step, host=host or {})
        return run(frame, fn, *args), frame.writes

    return pure


def _value(frame: Frame, recipe: VariableRecipe) -> jax.Array:
    if frame.values is None:
        return frame.writes.get(recipe.name, jnp.zeros(recipe.shape, recipe.dtype))
    if recipe.name in frame.writes:
        return frame.writes[recipe.name]
    if recipe.name not in frame.values:
        raise ValueError(
            f'get_variable("{recipe.name}"): the model has no such variable; it has '
            f"{sorted(frame.values)}.{did_you_mean(recipe.name, frame.values)} A model_fn must ask "
            "for the same variables in every trace; those of the TRAIN mode are the model's."
        )
    value = frame.values[recipe.name]
    if jnp.shape(value) != recipe.shape:
        raise ValueError(
            f'get_variable("{recipe.name}"): asked for with shape {recipe.shape}, but the model\'s '
            f"variable has shape {jnp.shape(value)}. Was it trained with other settings?"
        )
    return jnp.asarray(value)


def _explained(error: Exception, recipes: Recipes) -> Exception:
    """Finds the initializer that used a traced array."""
    for recipe in recipes.variables.values():
        try:
            jax.jit(functools.partial(first_value, recipe, trees={}))(jax.random.key(0))
        except jax.errors.JAXTypeError:
            return ValueError(
                f"The initializer of {recipe.describe()} uses a value of the batch, or of the "
                "trace it was made in. A first value cannot depend on the batch: choose it in "
                "Scaffold(init_fn=...), which is given batches."
            )
    return error


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))


def _path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _join(name: str, path: str) -> str:
    return f"{name}/{path}" if path else name


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name.strip("/"):
        raise ValueError(f'A variable or scope needs a name, got {name!r}. Give a str such as "w".')
    return ("/" if name.startswith("/") else "") + name.strip("/")
