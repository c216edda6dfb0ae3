"""Bindings: what one discovery of a model_fn finds, for one mode and one kind of batch.

    binding = discover(model_fn, ModeKeys.TRAIN, batch)
    binding.recipes.variables       # what the model_fn asks for
    inputs = binding.prepare(batch) # the arrays that the compiled step takes: only what is used
    spec = binding.call(frame, inputs)      # inside a trace: the model_fn on these arrays

Law: a feature that the model_fn does not use never reaches the device, so it never compiles
anything anew.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator.batches import (
    ArrayLeaf,
    Batch,
    HostLeaf,
    Unavailable,
    paths_and_kinds,
    rebuild,
    to_device_dtype,
    without_kinds,
)
from estimator.context import Frame, run
from estimator.host_features import HostCheck, HostRecipe
from estimator.mode_keys import ModeKeys
from estimator.model_fn import EstimatorSpec, ModelFn
from estimator.summary import RESERVED
from estimator.variables import Recipes, trace


@dataclasses.dataclass(frozen=True, eq=False)
class Binding:
    """What a model_fn asks for and returns in one mode, for one kind of batch.

    Attributes:
        model_fn: the user's function.
        mode: one of `ModeKeys`.
        layout: the kind of batch.
        paths: how the model_fn reads each leaf of a batch.
        used: positions of the leaves that the compiled step takes.
        ignored: positions of the leaves that the model_fn does not look at, or has looked at by
            host recipes alone: of what kind they are does not matter.
        by_width: positions of the leaves of which it matters whether they lost digits.
        host: the host recipes that it takes, in their order.
        checks: what is checked of each leaf on the host: pairs of a position and a check.
        recipes: what else the model_fn asks for.
        spec: what it returns, with `jax.ShapeDtypeStruct`s in place of arrays.
        tags: the names of what it, and in TRAIN its train_op, tag.
        summaries: the tags of what they summarise.
    """

    model_fn: ModelFn
    mode: str
    layout: Any
    kinds: tuple[ArrayLeaf | HostLeaf, ...]
    paths: tuple[str, ...]
    used: tuple[int, ...]
    ignored: frozenset[int]
    by_width: frozenset[int]
    host: tuple[HostRecipe, ...]
    checks: tuple[tuple[int, HostCheck], ...]
    recipes: Recipes
    spec: EstimatorSpec
    tags: tuple[str, ...]
    summaries: tuple[str, ...]

    @property
    def trainable(self) -> list[str]:
        """The names of the variables that the optimizer updates."""
        return [name for name, r in self.recipes.variables.items() if r.trainable]

    def prepare(self, batch: Batch, copy: bool = True) -> list[Any]:
        """Returns the arrays that the compiled step takes of a batch.

        A step reads numpy memory after it was dispatched: with `copy`, a source may refill its
        arrays.

        Raises:
            OverflowError: if a 64-bit integer does not fit on the device.
            ValueError: if a host check finds something wrong.
        """
        for i, check in self.checks:
            batch.check(i, check)
        inputs = []
        for i in self.used:
            leaf = batch.leaves[i]
            made = to_device_dtype(leaf, self.paths[i])
            owned = made is not leaf or isinstance(leaf, jax.Array)
            inputs.append(np.array(leaf) if copy and not owned else made)
        for recipe in self.host:
            made = batch.host(recipe, self.model_fn.length_buckets)
            inputs.append(np.array(made) if copy else made)
        return inputs

    def fits(self, batch: Batch) -> bool:
        """Whether a batch is of this kind, but for leaves whose kind does not matter."""
        mine, other = (
            without_kinds(layout, self.ignored, self.by_width)
            for layout in (self.layout, batch.layout)
        )
        return bool(mine == other)

    def call(self, frame: Frame, inputs: Sequence[Any]) -> EstimatorSpec:
        """Runs the model_fn on prepared arrays, inside a trace.

        Raises:
            ValueError: if it tags or summarises something that the discovery did not see.
        """
        frame.host = self.host_arrays(inputs)
        try:
            spec = run(frame, lambda: self.model_fn(*self.tree(frame, inputs), self.mode))
        except Exception as error:
            named = zip([self.paths[i] for i in self.used], inputs, strict=False)
            shapes = ", ".join(f"{path} {x.dtype}{list(x.shape)}" for path, x in named)
            error.add_note(f"model_fn was traced in mode {self.mode!r} with {shapes}.")
            raise
        self._check_same(frame, spec)
        return spec

    def tree(self, frame: Frame, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """Returns features and labels as the model_fn sees them, made of prepared arrays."""
        leaves: list[Any] = [self._stand_in(i) for i in range(len(self.paths))]
        for i, array in zip(self.used, inputs, strict=False):
            leaves[i] = jnp.asarray(array)
        return hand_over(frame, self.layout, leaves)

    def host_arrays(self, inputs: Sequence[Any]) -> dict[str, jax.Array]:
        """Returns what the host recipes made, by name, out of prepared arrays."""
        arrays = inputs[len(self.used) :]
        return {r.name: jnp.asarray(x) for r, x in zip(self.host, arrays, strict=True)}

    def _stand_in(self, index: int) -> Unavailable:
        return Unavailable(_why_unavailable(self.paths[index], self.kinds[index]), lambda: None)

    def _check_same(self, frame: Frame, spec: EstimatorSpec) -> None:
        for what, now, before in (
            ("tags", frame.tags, self.recipes.tags),
            ("reports the metrics", spec.eval_metric_ops, self.spec.eval_metric_ops),
            ("predicts", _keys(spec.predictions), _keys(self.spec.predictions)),
        ):
            if {*(now or ())} != {*(before or ())}:
                raise ValueError(
                    f"model_fn {what} {sorted(now or ())} with this batch, but "
                    f"{sorted(before or ())} when it was first traced. It must do the same for "
                    "batches of every size."
                )


def hand_over(frame: Frame, layout: Any, leaves: Sequence[Any]) -> tuple[Any, Any]:
    """Returns features and labels for a model_fn, made of one value for each leaf."""
    held = [
        frame.hand_over(leaf, path, isinstance(kind, ArrayLeaf) and kind.narrowed)
        for leaf, (path, kind) in zip(leaves, paths_and_kinds(layout), strict=True)
    ]
    return rebuild(layout, held)


def leaf_shape(batch: Batch, position: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of an array of a batch, and its dtype on the device."""
    kind = batch.kinds[position]
    assert isinstance(kind, ArrayLeaf)
    return jax.ShapeDtypeStruct(batch.leaves[position].shape, kind.dtype)


def stand_ins(batch: Batch, touched: Callable[[int], None]) -> list[Any]:
    """Returns what stands for the leaves of a batch that are no arrays on the device.

    Args:
        batch: a raw batch.
        touched: called with the position of a leaf when it is used.
    """
    return [
        Unavailable(_why_unavailable(path, kind), functools.partial(touched, i))
        for i, (path, kind) in enumerate(zip(batch.paths, batch.kinds, strict=True))
    ]


def _keys(predictions: Any) -> list[str]:
    return list(predictions) if isinstance(predictions, dict) else []


def discover(model_fn: ModelFn, mode: str, batch: Batch) -> Binding:
    """Traces a model_fn to find out what it asks for; nothing is computed.

    Args:
        model_fn: the user's function.
        mode: one of `ModeKeys`.
        batch: the first batch of its kind.

    Raises:
        ValueError, TypeError: whatever is wrong with the model_fn, before anything compiles.
    """
    given = sorted(batch.arrays)
    looked_at: set[int] = set()
    try:
        recipes, spec = _trace(model_fn, mode, batch, given, looked_at)
    except Exception as error:
        without = ", labels None" if batch.labels is None and mode != ModeKeys.PREDICT else ""
        error.add_note(f"model_fn was traced in mode {mode!r} with {batch.describe()}{without}.")
        raise
    used = [given[n] for n in sorted(recipes.used)]
    while len(used) < len(given):
        # What seems unused may still lend its shape: hide it, and see whether that is missed.
        touched: set[int] = set()
        try:
            recipes, spec = _trace(model_fn, mode, batch, used, touched)
        except Exception:
            if not touched & set(given) - set(used):
                raise
        missed = touched & set(given) - set(used)
        if not missed:
            break
        used = sorted({*used, *missed})
    position = {path: i for i, path in enumerate(batch.raw_paths)}
    checks = tuple([(position[path], check) for path, check in recipes.checks])
    tags, summaries = _outputs_of_step(mode, recipes, spec)
    clash = {*tags, *RESERVED} & recipes.variables.keys()
    if clash:
        raise ValueError(
            f"model_fn uses {sorted(clash)} for a variable and for an output of the step. Hooks "
            "fetch both by name: rename one."
        )
    return Binding(
        model_fn=model_fn,
        mode=mode,
        layout=batch.layout,
        kinds=tuple(batch.kinds),
        paths=tuple(batch.paths),
        used=tuple(used),
        ignored=frozenset(range(len(batch.leaves))) - {*used, *looked_at},
        by_width=frozenset([position[path] for path in recipes.by_width]),
        host=tuple(recipes.host.values()),
        checks=checks,
        recipes=recipes,
        spec=spec,
        tags=tags,
        summaries=summaries,
    )


def _trace(
    model_fn: ModelFn, mode: str, batch: Batch, given: list[int], touched: set[int]
) -> tuple[Recipes, EstimatorSpec]:
    """Runs the model_fn on those leaves alone, noting in `touched` which others it uses."""

    def fn(arrays: list[jax.Array]) -> EstimatorSpec:
        leaves = stand_ins(batch, touched.add)
        for i, array in zip(given, arrays, strict=True):
            leaves[i] = array
        return model_fn(*hand_over(frame, batch.layout, leaves), mode)

    frame = Frame(host=functools.partial(batch.host, buckets=model_fn.length_buckets))
    shapes = [leaf_shape(batch, i) for i in given]
    return trace(fn, shapes, frame=frame)


def _why_unavailable(path: str, kind: ArrayLeaf | HostLeaf) -> str:
    if isinstance(kind, ArrayLeaf):
        return (
            f"{path} was not used when the model_fn was first traced with this kind of batch, so "
            "it is not on the device now. A model_fn must use the same features for every batch."
        )
    what = f"{path} holds {kind.holds}, which stay on the host: JAX computes with numbers."
    if path.startswith("labels"):
        return (
            f"{what} Make numbers of them in input_fn, or ask for ids with "
            "estimator.host_feature(recipe): it is given raw labels."
        )
    return (
        f"{what} Give it to a feature column (categorical_column_with_vocabulary_list or "
        "_with_hash_bucket inside indicator_column or embedding_column), or to "
        "estimator.host_feature. (predict keeps the order of rows: zip its answers with them.)"
    )


def _outputs_of_step(
    mode: str, recipes: Recipes, spec: EstimatorSpec
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Checks the optimizer; returns the tags and summaries of the model_fn and of it together."""
    trainable = {
        name: jax.ShapeDtypeStruct(r.shape, r.dtype)
        for name, r in recipes.variables.items()
        if r.trainable
    }
    if mode != ModeKeys.TRAIN or not trainable:
        return recipes.tags, recipes.summaries
    if spec.train_op is None:
        raise ValueError(
            f"Missing train_op: the model has trainable variables, {sorted(trainable)}. Return "
            "EstimatorSpec(mode, loss=loss, train_op=optax.adam(1e-3)), for example."
        )
    train_op, frame = spec.train_op, Frame()
    frame.tags = dict.fromkeys(recipes.tags)
    frame.summaries = dict.fromkeys(recipes.summaries)

    def update(variables: dict[str, jax.Array]) -> Any:
        state = train_op.init(variables)
        return run(frame, apply_train_op, train_op, variables, state, variables, jnp.float32(0))

    # Tracing does not notice that an optimizer holds a traced array of the model_fn's.
    traced = jax.make_jaxpr(update)(trainable)
    if any(isinstance(const, jax.core.Tracer) for const in traced.consts):
        raise ValueError(
            "EstimatorSpec: train_op holds a value that model_fn computed from the batch, a "
            "learning rate for example. Give the optimizer a number or an optax schedule, which "
            "is a function of the step."
        )
    if frame.variables:
        raise ValueError(
            f"train_op asks for the variables {sorted(frame.variables)}. An optax transformation "
            "keeps what it needs in its own state: return it from `init` and `update`."
        )
    return tuple(frame.tags), tuple(frame.summaries)


def apply_train_op(
    train_op: Any, gradients: Any, opt_state: Any, variables: Any, loss: Any
) -> tuple[Any, Any]:
    """Returns the updates and the new state; `value=loss` goes to optimizers that take it."""
    parameters = inspect.signature(train_op.update).parameters
    takes_value = "value" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    extra = {"value": loss} if takes_value else {}
    try:
        return train_op.update(gradients, opt_state, variables, **extra)
    except Exception as error:
        given = "value=loss" if takes_value else "nothing else"
        error.add_note(
            f"train_op.update was called with gradients, its state, the variables and {given}. A "
            "transformation that needs more, such as a line search, cannot be a train_op."
        )
        raise
