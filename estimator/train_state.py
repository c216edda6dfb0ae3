"""The train state: everything a step changes, as one pytree; and how it lies on disk.

    state = TrainState.start(values, train_op, trainable, seed=0)
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
        step: the global step, int32.
        seed: what all random keys come from, uint32.
        bad_step: the first step since the last save whose loss was not finite, or -1; int32.
    """

    values: dict[str, Any]
    opt_state: Any
    step: Any
    seed: Any
    bad_step: Any

    @classmethod
    def make(cls, values: Mapping[str, Any], opt_state: Any, step: int, seed: int) -> "TrainState":
        """Returns a state with counters as host scalars of the right dtype."""
        counters = (np.int32(step), np.uint32(seed & 0xFFFFFFFF), np.int32(-1))
        return cls(dict(values), opt_state, *counters)


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
        _stored(leaf).shape != flat[path].shape for path, leaf in wanted.items()
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
    if _is_key(wanted):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(wanted))
    return array.astype(wanted.dtype)


def _table(flat: Mapping[str, Any]) -> str:
    shown = [f"{path} {list(_stored(leaf).shape)}" for path, leaf in sorted(flat.items())]
    return "[" + ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "") + "]"
