"""The low part of a feature: the digits of float64 numbers that float32 does not hold.

    def model_fn(features, labels, mode):
        low = low_part(features)            # float32, or None where nothing is lost
        moved = features - origin           # exact near the origin
        moved = moved if low is None else moved + low

A sum of a high and a low part is as good as twice the digits (Dekker, 1971).
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from estimator.context import RawPath, current_frame
from estimator.host_features import HostRecipe, host_feature, raw_value


def low_part(value: Any) -> jax.Array | None:
    """Returns `x - float32(x)` of a float64 leaf of the batch, traced; None if nothing is lost.

    Arrays on the device hold 32-bit numbers where jax_enable_x64 is off: near 1e8 they are 8 apart.

    >>> from estimator.preview import preview
    >>> preview(lambda x: x + 0 * low_part(x), np.array([1e8 + 1.0]))[0].tolist()
    [100000000.0]
    >>> preview(lambda x: low_part(x), np.array([1e8 + 1.0]))[0].tolist()
    [1.0]

    Args:
        value: a leaf of features or labels, as the model_fn was given it.

    Returns:
        float32 of the shape of the value. None: it is of another dtype, computed by the model_fn,
        or on the device already.
    """
    frame = current_frame("low_part")
    leaf = frame.raw.get(id(value))
    if leaf is None or leaf.value is not value:
        return None
    frame.by_width[leaf.path] = None
    if not leaf.narrowed:
        return None
    return host_feature(LowPart(leaf.path, value.shape[1:]))


@dataclasses.dataclass(frozen=True)
class LowPart(HostRecipe):
    """Makes the low part of the leaf at a path, whose rows have a shape."""

    path: RawPath
    shape: tuple[int, ...]
    dtype = np.dtype("float32")

    @property
    def dims(self) -> tuple[str | int, ...]:  # type: ignore[override]
        """Those of the leaf."""
        return ("batch", *self.shape)

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns what is lost of each number; of one that is not finite, nothing."""
        exact = np.asarray(raw_value(self.path, features, labels))
        with np.errstate(over="ignore", invalid="ignore"):
            high = exact.astype(np.float32)
            return np.where(np.isfinite(high), exact - high, 0).astype(np.float32)
