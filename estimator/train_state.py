"""The train state: everything a step changes, as one pytree; and how it lies on disk.

    state = TrainState.make(values, train_op.init(values), step=0, seed=0)
    flat = flatten_opt_state(state.opt_state)       # {"0/trace/h1/kernel": Array}, for a checkpoint

On disk the optimizer's state is flat, so that another optimizer gets an error in our words.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a training step takes and gives.

    Attributes:
        values: the variables by name.
        opt_state: the optimizer's state; None if there is no optimizer.
        counters: int32 of shape (3,): step, seed and bad step, in one array because each array of
            a state costs microseconds a step.
    """

    values: dict[str, Any]
    opt_state: Any
    counters: Any

    @classmethod
    def make(cls, values: Mapping[str, Any], opt_state: Any, step: int, seed: int) -> "TrainState":
        """Returns a state at a step; the seed's lowest 32 bits count."""
        counters = np.array([step, seed & 0xFFFFFFFF, 0xFFFFFFFF], np.uint32).view(np.int32)
        return cls(dict(values), opt_state, counters)

    @property
    def step(self) -> jax.Array:
        """The global step, int32."""
        return self.counters[0]

    @property
    def key(self) -> jax.Array:
        """The key that all random keys of this step come from."""
        seed = jax.lax.bitcast_convert_type(self.counters[1], jnp.uint32)
        return jax.random.fold_in(jax.random.key(seed), self.step)

    @property
    def bad_step(self) -> jax.Array:
        """The first step of this run whose loss was not finite, or -1; int32."""
        return self.counters[2]

    def next(self, values: dict[str, Any], opt_state: Any, loss: jax.Array) -> "TrainState":
        """Returns the state after one more step."""
        step = self.step + 1
        is_first_bad = (self.bad_step < 0) & ~jnp.isfinite(loss)
        bad_step = jnp.where(is_first_bad, step, self.bad_step)
        return TrainState(values, opt_state, jnp.stack([step, self.counters[1], bad_step]))


def flatten_opt_state(opt_state: Any) -> dict[str, Any]:
    """Returns the arrays of an optimizer's state by path.

    >>> flatten_opt_state(({"count": np.int32(3)}, ()))
    {'0/count': np.int32(3)}
    """
    leaves = jax.tree.flatten_with_path(opt_state)[0]
    return {_path_name(path): _key_data(leaf) for path, leaf in leaves}


def unflatten_opt_state(shapes: Any, flat: Mapping[str, Any], where: str) -> Any:
    """Puts an optimizer's state together again.

    Args:
        shapes: the state that the optimizer expects, of `jax.ShapeDtypeStruct`s.
        flat: what `flatten_opt_state` gave.
        where: the checkpoint, for the error message.

    Raises:
        ValueError: if the optimizer expects another state.
    """
    leaves, structure = jax.tree.flatten_with_path(shapes)
    wanted = {_path_name(path): leaf for path, leaf in leaves}
    if wanted.keys() != flat.keys() or any(
        (_stored(leaf).shape, _stored(leaf).dtype) != (flat[path].shape, flat[path].dtype)
        for path, leaf in wanted.items()
    ):
        raise ValueError(
            f"{where} was written with another optimizer: it holds the state {_table(flat)}, this "
            f"one needs {_table(wanted)}. Go on with the optimizer it was trained with; or start "
            "in a new model_dir with warm_start_from=this one, which takes the variables and "
            "leaves the optimizer's state behind."
        )
    made = [_wrap(leaf, jnp.asarray(flat[path])) for path, leaf in wanted.items()]
    return jax.tree.unflatten(structure, made)


def _path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _stored(leaf: Any) -> Any:
    return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf


def _wrap(wanted: Any, array: jax.Array) -> jax.Array:
    if not _is_key(wanted):
        return array
    impls: list[Any] = []
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), wanted)
    return jax.random.wrap_key_data(array, impl=impls[0])


def _table(flat: Mapping[str, Any]) -> str:
    stored = {path: _stored(leaf) for path, leaf in sorted(flat.items())}
    shown = [f"{path} {leaf.dtype.name}{list(leaf.shape)}" for path, leaf in stored.items()]
    return "[" + ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "") + "]"
