"""Preview: what a function makes of one raw batch, without an Estimator.

    net, variables = preview(lambda features: input_layer(features, columns), {"age": [20, 30]})

For looking at columns, layers and host recipes in a notebook or a test. The function is compiled,
as a model_fn is: return what you want to see.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from estimator.batches import Batch, to_device_dtype
from estimator.binding import hand_over, leaf_shape, stand_ins
from estimator.context import Frame, run
from estimator.steps import compiled_whole
from estimator.variables import initialize, trace


def preview(
    fn: Callable[..., Any],
    features: Any,
    labels: Any = None,
    *,
    variables: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Any, dict[str, Any]]:
    """Returns what `fn(features)` makes of a raw batch, and the variables it was made with.

    >>> from estimator.layers import dense
    >>> net, variables = preview(lambda features: dense(features["x"], 2), {"x": [[1.0, 2.0, 3.0]]})
    >>> net.shape, sorted(variables)
    ((1, 2), ['dense/bias', 'dense/kernel'])

    Args:
        fn: a function of the features, which may use columns, layers and variables as a model_fn
            does; with labels, of features and labels.
        features: features as an input_fn gives them.
        labels: labels as an input_fn gives them.
        variables: the variables by name; None: fresh ones.
        seed: what the fresh variables, and random keys, come from.

    Returns:
        What the function returns, arrays and anything else; and the variables by name.

    Raises:
        ValueError, TypeError: whatever is wrong with the function or the batch.
    """
    batch = Batch(features, labels)

    def in_frame(frame: Frame, arrays: Mapping[int, Any]) -> Any:
        leaves = stand_ins(batch, touched=lambda position: None)
        for i, array in arrays.items():
            leaves[i] = array
        given = hand_over(frame, batch.layout, leaves)
        return run(frame, fn, *(given if labels is not None else given[:1]))

    found = Frame(host=batch.host)
    shapes = {i: leaf_shape(batch, i) for i in batch.arrays}
    recipes, _ = trace(lambda arrays: [in_frame(found, arrays)][1:], shapes, frame=found)
    positions = {path: i for i, path in enumerate(batch.raw_paths)}
    for path, check in recipes.checks:
        batch.check(positions[path], check)
    if variables is None:
        variables = initialize(recipes, seed)
    values = {name: jnp.asarray(value) for name, value in variables.items()}
    host = {name: batch.host(recipe) for name, recipe in recipes.host.items()}
    arrays = {}
    for n, (i, leaf) in enumerate(sorted(batch.arrays.items())):
        # What is not computed with may be too large for the device.
        used = n in recipes.used
        arrays[i] = to_device_dtype(leaf, batch.paths[i]) if used else leaf.astype(shapes[i].dtype)

    def computed(values: Any, host: Any, arrays: Any) -> Any:
        frame = Frame(values, writable=False, key=jax.random.key(seed), host=host)
        return in_frame(frame, arrays)

    return compiled_whole(computed)(values, host, arrays), values
