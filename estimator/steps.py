"""Steps: every function that is compiled, and nothing else.

    compiled = TrainSteps(binding, jax.tree.structure(state))
    leaves, outputs = compiled.one(jax.tree.leaves(state), inputs)      # one step
    leaves, outputs = compiled.block(leaves, stacked)                   # k steps in one dispatch

Law: a step is pure. The state goes in, donated, and comes out; loss, tags and summaries come out as
values that nobody has to read. The state travels as a flat list: taking a tree of names apart and
putting it together again would cost a small model a fifth of its speed.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from estimator.binding import Binding, apply_train_op
from estimator.context import Frame, fold_name, run
from estimator.export_outputs import sorted_answers, spec_signatures
from estimator.train_state import TrainState

Outputs = dict[str, Any]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _NoArray:
    """A part of a result that is no array: it belongs to the structure."""

    value: Any


class TrainSteps:
    """The compiled training steps of one binding.

    `one` maps `(leaves of the state, inputs)` to `(leaves, outputs)`; `block` takes inputs stacked
    along a new first axis. Outputs are `loss` and the tags; after a block the last step's, and
    `losses`, all of its losses. `one_with_summaries` and `block_with_summaries` give the (last)
    step's summaries, too. Each compiles at its first call and donates the leaves.

    Args:
        binding: what the model_fn asks for.
        structure: that of the train state.
        mesh: the devices that batches are split over; None: there is one.
    """

    def __init__(self, binding: Binding, structure: Any, mesh: Mesh | None) -> None:
        def compiled(step: Callable[..., tuple[TrainState, Outputs]]) -> Any:
            def flat(leaves: list[Any], inputs: list[Any]) -> tuple[list[Any], Outputs]:
                state, outputs = step(binding, mesh, jax.tree.unflatten(structure, leaves), inputs)
                return _leaves_of(state, structure), outputs

            return jax.jit(flat, donate_argnums=0)

        self.one = compiled(functools.partial(_train_step, summaries=False))
        self.block = compiled(functools.partial(_train_block, summaries=False))
        # Without summaries of its own a model needs no other programs.
        self.one_with_summaries, self.block_with_summaries = self.one, self.block
        if binding.summaries:
            self.one_with_summaries = compiled(functools.partial(_train_step, summaries=True))
            self.block_with_summaries = compiled(functools.partial(_train_block, summaries=True))


def opt_state_shapes(binding: Binding) -> Any:
    """Returns what the optimizer's state looks like, as `jax.ShapeDtypeStruct`s."""
    if binding.spec.train_op is None:
        return None
    recipes = [binding.recipes.variables[name] for name in binding.trainable]
    shapes = {r.name: jax.ShapeDtypeStruct(r.shape, r.dtype) for r in recipes}
    return jax.eval_shape(binding.spec.train_op.init, shapes)


def start_opt_state(binding: Binding, values: dict[str, Any], out_shardings: Any = None) -> Any:
    """Returns the optimizer's first state."""
    if binding.spec.train_op is None:
        return None
    train_op = binding.spec.train_op

    def init(variables: dict[str, Any]) -> Any:
        # Copies: an optimizer may keep the variables themselves, and a step donates both.
        return jax.tree.map(jnp.copy, train_op.init(variables))

    made = jax.jit(init, out_shardings=out_shardings)
    return made({name: values[name] for name in binding.trainable})


def eval_step(binding: Binding, mesh: Mesh | None, summaries: bool) -> Any:
    """Returns the compiled `(values, step_seed_batch, inputs) -> (loss, metrics, outputs)`.

    Outputs are the tags, and `summaries` if they are asked for.
    """

    def step(values: Any, counters: Any, inputs: Any) -> Any:
        spec, frame = _call(binding, mesh, values, counters, inputs)
        outputs = dict(frame.tags)
        if summaries:
            # The results of the evaluation are written later, at this step: theirs win.
            results = {"loss", *spec.eval_metric_ops}
            kept = {tag: value for tag, value in frame.summaries.items() if tag not in results}
            outputs["summaries"] = kept
        return spec.loss, spec.eval_metric_ops, outputs

    return jax.jit(step)


def predict_step(binding: Binding, mesh: Mesh | None, keys: tuple[str, ...] | None) -> Any:
    """Returns the compiled `(values, step_seed_batch, inputs) -> (predictions, tags)`."""

    def step(values: Any, counters: Any, inputs: Any) -> Any:
        spec, frame = _call(binding, mesh, values, counters, inputs)
        answers = spec.predictions
        return answers if keys is None else {key: answers[key] for key in keys}, frame.tags

    return jax.jit(step)


def export_step(binding: Binding, step: int, seed: int, names_of: Sequence[str]) -> Any:
    """Returns the compiled `(values, inputs) -> [leaves, ...]` of what some signatures answer.

    Values are those of the binding's variables, in their order; the leaves of a signature are the
    arrays of its answers, sorted by name.
    """
    names = list(binding.recipes.variables)

    def answers(values: list[Any], inputs: list[Any]) -> list[Any]:
        counters = (np.int32(step), np.uint32(seed), np.int32(0))
        spec, _ = _call(binding, None, dict(zip(names, values, strict=True)), counters, inputs)
        outputs = spec_signatures(spec)
        return [jax.tree.leaves(sorted_answers(outputs[name])) for name in names_of]

    return jax.jit(answers)


def compiled_export(exported: Any) -> Any:
    """Returns the function of an export that was read, compiled."""
    return jax.jit(exported.call)


def compiled_whole(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `fn`, compiled, where it may return other things than arrays, too.

    >>> compiled_whole(lambda x: {"double": x * 2, "name": "x"})(jnp.ones(2))["name"]
    'x'
    """

    def kept(leaf: Any) -> Any:
        return leaf if isinstance(leaf, jax.Array | np.ndarray) else _NoArray(leaf)

    def released(leaf: Any) -> Any:
        return leaf.value if isinstance(leaf, _NoArray) else leaf

    jitted = jax.jit(lambda *args: jax.tree.map(kept, fn(*args)))

    def call(*args: Any) -> Any:
        made = jitted(*args)
        return jax.tree.map(released, made, is_leaf=lambda leaf: isinstance(leaf, _NoArray))

    return call


@jax.jit
def copy(tree: Any) -> Any:
    """Returns arrays that no later step can take away by donation."""
    return jax.tree.map(jnp.copy, tree)


@functools.partial(jax.jit, static_argnums=1)
def finite(values: dict[str, Any], trainable: frozenset[str]) -> dict[str, jax.Array]:
    """Returns by name whether a variable is a number everywhere.

    One that is not trained may hold infinities on purpose; NaN is never on purpose.
    """
    return {
        name: jnp.isfinite(x).all() if name in trainable else ~jnp.isnan(x).any()
        for name, x in values.items()
        if jnp.issubdtype(x.dtype, jnp.floating)
    }


def _leaves_of(state: TrainState, structure: Any) -> list[Any]:
    leaves, made = jax.tree.flatten(state)
    if made != structure:
        raise ValueError(
            f"train_op changed the structure of its state from {structure} to {made}. An optax "
            "transformation must keep it."
        )
    return leaves


def _train_step(
    binding: Binding, mesh: Mesh | None, state: TrainState, inputs: list[Any], summaries: bool
) -> tuple[TrainState, Outputs]:
    def loss_fn(trainable: dict[str, Any]) -> tuple[jax.Array, Any]:
        frame = Frame({**state.values, **trainable}, key=state.key, step=state.step, mesh=mesh)
        loss = binding.call(frame, inputs).loss
        return loss, (frame.writes, frame.tags, frame.summaries)

    trainable = {name: state.values[name] for name in binding.trainable}
    opt_state = state.opt_state
    if trainable:
        (loss, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(trainable)
        writes, tags, made = aux
        # A frame of its own: the gradient ended the other one's trace.
        key = fold_name(state.key, "train_op")
        frame = Frame(state.values, writable=False, key=key, step=state.step, mesh=mesh)
        frame.tags, frame.summaries = dict(tags), dict(made)
        train_op = binding.spec.train_op
        updates, opt_state = run(
            frame, apply_train_op, train_op, gradients, opt_state, trainable, loss
        )
        tags, made = frame.tags, frame.summaries
        trainable = optax.apply_updates(trainable, updates)
    else:
        loss, (writes, tags, made) = loss_fn(trainable)
    outputs = {"loss": loss, **tags}
    if summaries:
        outputs["summaries"] = made
    return state.next({**state.values, **writes, **trainable}, opt_state, loss), outputs


def _train_block(
    binding: Binding, mesh: Mesh | None, state: TrainState, stacked: list[Any], summaries: bool
) -> tuple[TrainState, Outputs]:
    step = functools.partial(_train_step, binding, mesh, summaries=False)
    if not summaries:
        state, outputs = jax.lax.scan(step, state, stacked)
        return state, {**jax.tree.map(lambda x: x[-1], outputs), "losses": outputs["loss"]}
    # Only the last step's summaries can be seen, so only they are computed.
    before, last = [x[:-1] for x in stacked], [x[-1] for x in stacked]
    state, outputs = jax.lax.scan(step, state, before)
    state, final = _train_step(binding, mesh, state, last, summaries=True)
    return state, {**final, "losses": jnp.append(outputs["loss"], final["loss"])}


def _call(binding: Binding, mesh: Mesh | None, values: Any, counters: Any, inputs: Any) -> Any:
    step, seed, batch = counters
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), batch + 1)
    frame = Frame(values, writable=False, key=key, step=step, mesh=mesh)
    return binding.call(frame, inputs), frame
