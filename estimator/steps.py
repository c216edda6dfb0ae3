"""Steps: every function that is compiled, and nothing else.

    step = TrainSteps(binding)
    state, outputs = step.one(state, inputs)            # one step; the state is donated
    state, outputs = step.block(state, stacked)         # k steps in one dispatch

Law: a step is pure. The state goes in and comes out; loss, tags and summaries come out as values
that nobody has to read.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from estimator.binding import Binding, apply_train_op
from estimator.context import Frame
from estimator.train_state import TrainState

Outputs = dict[str, Any]


class TrainSteps:
    """The compiled training steps of one binding.

    `one` and `with_summaries` map `(state, inputs)` to `(state, outputs)`; `block` takes inputs
    stacked along a new first axis. Outputs are `loss` and the tags; after a block the last step's
    with its summaries, and `losses`, all of its losses. Each compiles at its first call and donates
    the state.
    """

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.one = _jit_donating(functools.partial(_train_step, binding, False))
        # Without summaries of its own a model needs no second program.
        summarised = bool(binding.recipes.summaries)
        self.with_summaries = (
            _jit_donating(functools.partial(_train_step, binding, True)) if summarised else self.one
        )
        self.block = _jit_donating(functools.partial(_train_block, binding))

    def opt_state_shapes(self) -> Any:
        """Returns what the optimizer's state looks like, as `jax.ShapeDtypeStruct`s."""
        train_op, recipes = self.binding.spec.train_op, self.binding.recipes.variables
        if train_op is None:
            return None
        shapes = {n: jax.ShapeDtypeStruct(r.shape, r.dtype) for n, r in recipes.items()}
        return jax.eval_shape(train_op.init, {n: shapes[n] for n in self.binding.trainable})

    def start_opt_state(self, values: dict[str, Any], out_shardings: Any = None) -> Any:
        """Returns the optimizer's first state."""
        if self.binding.spec.train_op is None:
            return None
        init = jax.jit(self.binding.spec.train_op.init, out_shardings=out_shardings)
        return init({name: values[name] for name in self.binding.trainable})


def eval_step(binding: Binding) -> Any:
    """Returns the compiled `(values, step_seed_batch, inputs) -> (loss, metrics, tags)`."""

    def step(values: Any, counters: Any, inputs: Any) -> Any:
        spec, frame = _call(binding, values, counters, inputs)
        return spec.loss, spec.eval_metric_ops, frame.tags

    return jax.jit(step)


def predict_step(binding: Binding, keys: tuple[str, ...] | None) -> Any:
    """Returns the compiled `(values, step_seed_batch, inputs) -> (predictions, tags)`."""

    def step(values: Any, counters: Any, inputs: Any) -> Any:
        spec, frame = _call(binding, values, counters, inputs)
        answers = spec.predictions
        return answers if keys is None else {key: answers[key] for key in keys}, frame.tags

    return jax.jit(step)


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


def _jit_donating(step: Any) -> Any:
    return jax.jit(step, donate_argnums=0)


def _train_step(
    binding: Binding, summaries: bool, state: TrainState, inputs: list[Any]
) -> tuple[TrainState, Outputs]:
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)

    def loss_fn(trainable: dict[str, Any]) -> tuple[jax.Array, Any]:
        frame = Frame({**state.values, **trainable}, key=key, step=state.step)
        loss = binding.call(frame, inputs).loss
        return loss, (frame.writes, frame.tags, frame.summaries)

    trainable = {name: state.values[name] for name in binding.trainable}
    opt_state = state.opt_state
    if trainable:
        (loss, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(trainable)
        train_op = binding.spec.train_op
        updates, opt_state = apply_train_op(train_op, gradients, opt_state, trainable, loss)
        trainable = optax.apply_updates(trainable, updates)
    else:
        loss, aux = loss_fn(trainable)
    writes, tags, scalars = aux
    step = state.step + 1
    new_state = TrainState(
        values={**state.values, **writes, **trainable},
        opt_state=opt_state,
        step=step,
        seed=state.seed,
        bad_step=jnp.where((state.bad_step < 0) & ~jnp.isfinite(loss), step, state.bad_step),
    )
    outputs = {"loss": loss, **tags}
    if summaries:
        outputs["summaries"] = scalars
    return new_state, outputs


def _train_block(
    binding: Binding, state: TrainState, stacked: list[Any]
) -> tuple[TrainState, Outputs]:
    step = functools.partial(_train_step, binding, False)
    if not binding.recipes.summaries:
        state, outputs = jax.lax.scan(step, state, stacked)
        return state, {**jax.tree.map(lambda x: x[-1], outputs), "losses": outputs["loss"]}
    # Only the last step's summaries can be seen, so only they are computed.
    before, last = [x[:-1] for x in stacked], [x[-1] for x in stacked]
    state, outputs = jax.lax.scan(step, state, before)
    state, final = _train_step(binding, True, state, last)
    return state, {**final, "losses": jnp.append(outputs["loss"], final["loss"])}


def _call(binding: Binding, values: Any, counters: Any, inputs: Any) -> Any:
    step, seed, batch = counters
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), batch + 1)
    frame = Frame(values, writable=False, key=key, step=step)
    return binding.call(frame, inputs), frame
