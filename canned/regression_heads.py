"""Heads of regressors: numbers, counts, and probabilities.

    RegressionHead(label_dimension=2)
    PoissonRegressionHead()
    LogisticRegressionHead()

Predictions are the logits, or what an inverse link function makes of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import estimator as est
from canned.head_base import SUM_OVER_BATCH_SIZE, ExampleHead, Examples, chosen, is_whole
from canned.labels import LabelKind


class RegressionHead(ExampleHead):
    """Numbers, by the squared error.

    >>> head = RegressionHead()
    >>> loss = est.preview(lambda x, y: head.loss(y, x), [[1.0], [2.0], [3.0]], [1.5, 2.0, 0.0])[0]
    >>> round(float(loss), 4)
    3.0833

    Args:
        label_dimension: how many numbers each example has.
        weight_column: the name of a feature that says how much an example counts, or a numeric
            column of it.
        loss_reduction: `"sum_over_batch_size"` or `"sum"`.
        loss_fn: another loss (see `ExampleHead`).
        inverse_link_fn: makes predictions of logits; None: they are the logits.
        name: what its metrics are called by, besides their names.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        label_dimension: int = 1,
        weight_column: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        inverse_link_fn: Callable[[jax.Array], jax.Array] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(weight_column, loss_reduction, loss_fn, name)
        if not is_whole(label_dimension, least=1):
            raise ValueError(
                f"{self}: label_dimension must be a whole number of at least 1, got "
                f"{label_dimension!r}."
            )
        self.label_dimension = int(label_dimension)
        self._inverse_link_fn = inverse_link_fn

    @property
    def logits_dimension(self) -> int:
        """One for each number."""
        return self.label_dimension

    @property
    def label_kind(self) -> LabelKind:
        """Any numbers."""
        return LabelKind(str(self))

    @property
    def label_width(self) -> int:
        """As many as logits."""
        return self.label_dimension

    def example_losses(self, examples: Examples) -> jax.Array:
        """Returns the squared error of each number."""
        return jnp.square(examples.logits - examples.labels)

    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Returns `predictions`, and `logits` where there is an inverse_link_fn; see `Head`."""
        logits = self.checked_logits(logits)
        made = {"predictions": self._values(logits)}
        if self._inverse_link_fn is not None:
            made["logits"] = logits
        return chosen(made, keys, str(self))

    def example_metrics(
        self, examples: Examples, losses: jax.Array
    ) -> dict[str, est.metrics.Metric]:
        """Returns the means of predictions and labels."""
        found, weights = self._values(examples.logits), examples.counted
        return {
            "prediction/mean": est.metrics.mean(found, weights),
            "label/mean": est.metrics.mean(examples.labels, weights),
        }

    def export_outputs(self, predictions: Any) -> dict[str, Any]:
        """Returns the answers of an exported model by signature."""
        value = est.export.RegressionOutput(predictions["predictions"])
        return {"serving_default": value, "regression": value, "predict": dict(predictions)}

    def _values(self, logits: jax.Array) -> jax.Array:
        return logits if self._inverse_link_fn is None else self._inverse_link_fn(logits)


class PoissonRegressionHead(RegressionHead):
    """Counts, by the likelihood of a Poisson distribution; predictions are `exp(logits)`.

    The loss of y is `exp(z) - z y`; the full one adds Stirling's `y log(y) - y + log(2 pi y) / 2`
    where y is above 1, which changes no gradient.

    Args:
        label_dimension, weight_column, loss_reduction, name: as for `RegressionHead`.
        compute_full_loss: whether the loss is the full one.
    """

    def __init__(
        self,
        label_dimension: int = 1,
        weight_column: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        compute_full_loss: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(label_dimension, weight_column, loss_reduction, None, jnp.exp, name)
        self._compute_full_loss = compute_full_loss

    @property
    def label_kind(self) -> LabelKind:
        """Counts."""
        return LabelKind(str(self), low=0, cure="They are counts.")

    def example_losses(self, examples: Examples) -> jax.Array:
        """Returns the negative logarithm of the likelihood of each number."""
        z, y = examples.logits, examples.labels
        losses = jnp.exp(z) - z * y
        if self._compute_full_loss:
            safe = jnp.maximum(y, 1.0)
            stirling = safe * jnp.log(safe) - safe + 0.5 * jnp.log(2 * np.pi * safe)
            losses += jnp.where(y > 1, stirling, 0.0)
        return losses


class LogisticRegressionHead(RegressionHead):
    """Probabilities, by the cross-entropy of the sigmoid; predictions are `sigmoid(logits)`.

    Args:
        weight_column, loss_reduction, name: as for `RegressionHead`.
    """

    def __init__(
        self,
        weight_column: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        name: str | None = None,
    ) -> None:
        super().__init__(1, weight_column, loss_reduction, None, jax.nn.sigmoid, name)

    @property
    def label_kind(self) -> LabelKind:
        """Numbers from 0 to 1."""
        return LabelKind(str(self), low=0, high=1, cure="They are probabilities.")

    def example_losses(self, examples: Examples) -> jax.Array:
        """Returns the cross-entropy of the sigmoid."""
        return optax.sigmoid_binary_cross_entropy(examples.logits, examples.labels)
