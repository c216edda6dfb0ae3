"""Heads: what a model makes of its logits. Loss, predictions, metrics, and the EstimatorSpec.

    head = MultiClassHead(n_classes=3)

    def model_fn(features, labels, mode):
        logits = layers.dense(features["x"], head.logits_dimension)
        return head.create_estimator_spec(features, mode, logits, labels, optax.adagrad(0.1))

Logits have the shape (batch, ..., logits_dimension); labels and weights one number for each row, or
in a last dimension of 1. A head of your own is an `ExampleHead`: what it says of single examples.
"""

import abc
import dataclasses
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import estimator as est
import feature_columns as fc
from canned.labels import LabelKind, one_each

SUM = "sum"
SUM_OVER_BATCH_SIZE = "sum_over_batch_size"
_REDUCTIONS = (SUM, SUM_OVER_BATCH_SIZE)
_LOSS_ARGUMENTS = ("labels", "logits", "features", "loss_reduction")


class Head(abc.ABC):
    """What a model makes of its logits.

    Attributes:
        name: what its metrics are called by, besides their names; None: nothing.
    """

    name: str | None = None

    @property
    @abc.abstractmethod
    def logits_dimension(self) -> int:
        """How many logits each example has."""

    @abc.abstractmethod
    def loss(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        mode: str | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> jax.Array:
        """Returns the loss of a batch, a number.

        Args:
            labels: labels as the model_fn was given them.
            logits: floats of shape (batch, ..., logits_dimension).
            features: the features, where weights are among them.
            mode: one of `ModeKeys`.
            regularization_losses: numbers that are added.
        """

    @abc.abstractmethod
    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Returns answers by name.

        Args:
            logits: floats of shape (batch, ..., logits_dimension).
            keys: the names of those that are wanted; None: all.
        """

    @abc.abstractmethod
    def metrics(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> dict[str, est.metrics.Metric]:
        """Returns what `evaluate` reports, by name. Arguments as for `loss`."""

    def export_outputs(self, predictions: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the answers of an exported model by signature."""
        return {"serving_default": dict(predictions), "predict": dict(predictions)}

    def create_estimator_spec(
        self,
        features: Any,
        mode: str,
        logits: Any,
        labels: Any = None,
        optimizer: Any = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> est.EstimatorSpec:
        """Returns what a model_fn returns.

        Args:
            features: the features as the model_fn was given them.
            mode: one of `ModeKeys`.
            logits: floats of shape (batch, ..., logits_dimension).
            labels: labels as the model_fn was given them; None in PREDICT.
            optimizer: an optax transformation; TRAIN needs it.
            regularization_losses: numbers that are added to the loss.

        Raises:
            ValueError: if logits, labels or weights are not what the head takes.
        """
        if mode == est.ModeKeys.PREDICT:
            answers = self.predictions(logits)
            return est.EstimatorSpec(
                mode, predictions=answers, export_outputs=self.export_outputs(answers)
            )
        loss = self.loss(labels, logits, features, mode, regularization_losses)
        if mode == est.ModeKeys.EVAL:
            return est.EstimatorSpec(
                mode,
                predictions=self.predictions(logits),
                loss=loss,
                eval_metric_ops=self.metrics(labels, logits, features, regularization_losses),
            )
        return est.EstimatorSpec(mode, loss=loss, train_op=optimizer)


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a head compares.

    Attributes:
        labels: as the head prepared them, of shape (batch, ..., numbers).
        logits: float32 of shape (batch, ..., logits_dimension).
        weights: float32 of shape (batch, ..., 1); None: all are 1.
        present: which of them are examples, bools of shape (batch, ..., 1); None: all.
        features: the features of the batch.
    """

    labels: jax.Array
    logits: jax.Array
    weights: jax.Array | None = None
    present: jax.Array | None = None
    features: Any = None

    @property
    def counted(self) -> jax.Array | None:
        """The weights, 0 where there is no example; None: all are 1."""
        if self.present is None:
            return self.weights
        return jnp.where(self.present, 1.0 if self.weights is None else self.weights, 0.0)


class ExampleHead(Head):
    """A head whose loss is a sum over examples.

    Args:
        weight_column: the name of a feature that says how much an example counts, or a numeric
            column of it; None: all count the same.
        loss_reduction: `"sum_over_batch_size"`: the weighted sum of the losses of all examples,
            divided by their number; or `"sum"`.
        loss_fn: another loss: `loss_fn(labels, logits)`, which may take `features` and
            `loss_reduction`, too, and gives one loss for each example; None: the head's own.
        name: what its metrics are called by, besides their names.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        weight_column: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name
        if loss_reduction not in _REDUCTIONS:
            raise ValueError(
                f"{self}: loss_reduction must be one of {list(_REDUCTIONS)}, got "
                f"{loss_reduction!r}."
            )
        self.loss_reduction = loss_reduction
        self.weight_column = _checked_weight_column(weight_column, str(self))
        self._loss_fn = loss_fn
        self._loss_takes = () if loss_fn is None else _loss_arguments(loss_fn, str(self))

    def __str__(self) -> str:
        return type(self).__name__ + (f' "{self.name}"' if self.name else "")

    @property
    @abc.abstractmethod
    def label_kind(self) -> LabelKind:
        """What labels must be."""

    @property
    def label_width(self) -> int:
        """How many labels each example has."""
        return 1

    @property
    def loss_width(self) -> int:
        """How many losses each example has; it may have as many weights, or one."""
        return self.label_width

    @abc.abstractmethod
    def example_losses(self, examples: Examples) -> jax.Array:
        """Returns the head's own loss of each example, of shape (batch, ..., loss_width)."""

    @abc.abstractmethod
    def example_metrics(
        self, examples: Examples, losses: jax.Array
    ) -> dict[str, est.metrics.Metric]:
        """Returns metrics by name, but for that of the loss."""

    def loss(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        mode: str | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> jax.Array:
        """Returns the loss of a batch; see `Head.loss`."""
        return self.reduced(self.examples(labels, logits, features), regularization_losses)

    def metrics(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> dict[str, est.metrics.Metric]:
        """Returns what `evaluate` reports; see `Head.metrics`."""
        return self.reported(self.examples(labels, logits, features), regularization_losses)

    def examples(self, labels: Any, logits: Any, features: Any) -> Examples:
        """Returns labels, logits and weights of the same rank.

        Raises:
            ValueError: if they are not what the head takes.
        """
        logits = self.checked_logits(logits)
        if labels is None:
            raise ValueError(
                f"{self}: there are no labels. In TRAIN and EVAL input_fn must return a pair "
                "(features, labels)."
            )
        ready = self.of_rank(self.prepared_labels(labels), logits, "labels", {self.label_width})
        return Examples(ready, logits, self.weights(features, logits), None, features)

    def prepared_labels(self, labels: Any) -> jax.Array:
        """Returns labels as numbers, checked."""
        return one_each(labels, self.label_kind)

    def checked_logits(self, logits: Any) -> jax.Array:
        """Returns logits of the right shape, float32.

        Raises:
            ValueError: if the shape is another.
        """
        logits = jnp.asarray(logits, jnp.float32)
        if logits.ndim < 2 or logits.shape[-1] != self.logits_dimension:
            raise ValueError(
                f"{self}: logits must have the shape (batch, {self.logits_dimension}), got "
                f"{logits.shape}."
            )
        return logits

    def weights(self, features: Any, logits: jax.Array) -> jax.Array | None:
        """Returns the weights of the examples, of the rank of the logits; None: all are 1.

        Raises:
            ValueError: if the features do not hold them.
        """
        if self.weight_column is None:
            return None
        weights = jnp.asarray(self.raw_weights(features), jnp.float32)
        weights = self.normalized(weights)
        return self.of_rank(weights, logits, "weights", {1, self.loss_width})

    def raw_weights(self, features: Any) -> Any:
        """Returns the feature that holds the weights.

        Raises:
            ValueError: if there is none.
        """
        column = self.weight_column
        key = column if isinstance(column, str) else column.key
        if not isinstance(features, Mapping) or key not in features:
            there = sorted(features) if isinstance(features, Mapping) else "no dict"
            raise ValueError(f'{self}: weight_column is "{key}", but the features are {there}.')
        return features[key]

    def normalized(self, weights: jax.Array) -> jax.Array:
        """Returns weights as the weight column normalizes them."""
        normalizer = getattr(self.weight_column, "normalizer_fn", None)
        return weights if normalizer is None else jnp.asarray(normalizer(weights), jnp.float32)

    def of_rank(
        self, values: jax.Array, logits: jax.Array, what: str, widths: set[int]
    ) -> jax.Array:
        """Returns values of the rank of the logits, with one of these last dimensions.

        Raises:
            ValueError: if the shape is another.
        """
        given = values.shape
        if values.ndim == logits.ndim - 1:
            values = values[..., None]
        if values.shape[:-1] != logits.shape[:-1] or values.shape[-1] not in widths:
            wanted = " or ".join(str((*logits.shape[:-1], width)) for width in sorted(widths))
            raise ValueError(
                f"{self}: {what} must have the shape {wanted}, as the logits have {logits.shape}, "
                f"got {given}."
            )
        return values

    def losses(self, examples: Examples) -> jax.Array:
        """Returns the loss of each example, 0 where there is none."""
        if self._loss_fn is None:
            losses = self.example_losses(examples)
        else:
            more = {"features": examples.features, "loss_reduction": self.loss_reduction}
            given = {name: more[name] for name in self._loss_takes}
            losses = self._loss_fn(labels=examples.labels, logits=examples.logits, **given)
            losses = jnp.asarray(losses)
            losses = self.of_rank(losses, examples.logits, "losses", {self.loss_width})
        kind = self.label_kind
        if kind.is_bounded:
            # Labels that were on the device already have passed no check on the host.
            good = (examples.labels >= kind.low) & (examples.labels <= kind.high)
            losses = jnp.where(jnp.all(good, -1, keepdims=True), losses, jnp.nan)
        return losses if examples.present is None else jnp.where(examples.present, losses, 0)

    def reduced(
        self, examples: Examples, regularization_losses: Sequence[Any] | None = None
    ) -> jax.Array:
        """Returns the loss of a batch, a number."""
        losses, weights = self.losses(examples), examples.counted
        total = jnp.sum(losses if weights is None else losses * weights)
        if self.loss_reduction == SUM_OVER_BATCH_SIZE:
            # As in TensorFlow, weights do not enter the number of examples.
            count: Any = losses.size
            if examples.present is not None:
                count = jnp.sum(examples.present, dtype=jnp.float32) * losses.shape[-1]
            total = total / jnp.maximum(count, 1)
        return total + sum(regularization_losses or [])

    def reported(
        self, examples: Examples, regularization_losses: Sequence[Any] | None = None
    ) -> dict[str, est.metrics.Metric]:
        """Returns metrics by the names that `evaluate` reports."""
        losses = self.losses(examples)
        average = est.metrics.mean(losses, weights=examples.counted)
        made = {"average_loss": average, **self.example_metrics(examples, losses)}
        if regularization_losses:
            made["regularization_loss"] = est.metrics.mean(sum(regularization_losses))
        return {self.metric_name(key): metric for key, metric in made.items()}

    def metric_name(self, key: str) -> str:
        """Returns what `evaluate` calls a metric."""
        return f"{key}/{self.name}" if self.name else key


def chosen(made: dict[Any, Any], keys: Sequence[Any] | None, where: str) -> dict[Any, Any]:
    """Returns those predictions that are wanted.

    Raises:
        ValueError: if there is no such prediction.
    """
    keys = [keys] if isinstance(keys, str) else keys
    unknown = sorted({*(keys or ())} - made.keys(), key=str)
    if unknown:
        hint = est.did_you_mean(str(unknown[0]), map(str, made))
        raise ValueError(f"{where}: there is no prediction {unknown}, only {list(made)}.{hint}")
    return made if keys is None else {key: made[key] for key in keys}


def is_whole(value: Any, least: int) -> bool:
    """Returns whether a value is a whole number, Python's or numpy's, of at least so much.

    >>> is_whole(3, least=3), is_whole(2, least=3), is_whole("3", least=3)
    (True, False, False)
    """
    return isinstance(value, numbers.Integral) and int(value) >= least


def _checked_weight_column(column: Any, where: str) -> Any:
    if column is not None and not isinstance(column, str | fc.NumericColumn):
        raise TypeError(
            f"{where}: weight_column must be the name of a feature or a numeric_column, got "
            f"{column!r}."
        )
    return column


def _loss_arguments(loss_fn: Callable[..., Any], where: str) -> tuple[str, ...]:
    if not callable(loss_fn):
        raise TypeError(f"{where}: loss_fn must be a function, got {loss_fn!r}.")
    parameters = inspect.signature(loss_fn).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named]
    # An argument with a default, or one that a partial has bound, need not be given.
    strange = [p.name for p in named if p.default is p.empty and p.name not in _LOSS_ARGUMENTS]
    if strange or not {"labels", "logits"} <= {*names}:
        raise ValueError(
            f"{where}: loss_fn takes {names}, but it is called with labels and logits, by name, "
            "and with features and loss_reduction if it takes them."
        )
    return tuple(name for name in names if name in _LOSS_ARGUMENTS[2:])
