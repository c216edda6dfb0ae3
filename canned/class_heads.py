"""Heads of classifiers: one of two classes, one of many, or any number of many.

    BinaryClassHead(thresholds=[0.3, 0.7])
    MultiClassHead(n_classes=3, label_vocabulary=["setosa", "versicolor", "virginica"])
    MultiLabelHead(n_classes=5)

Labels are numbers of classes; or their names, where there is a `label_vocabulary`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import estimator as est
from canned.head_base import SUM_OVER_BATCH_SIZE, ExampleHead, Examples, chosen, is_whole
from canned.head_metrics import Baseline, at_thresholds, checked_thresholds
from canned.labels import LabelKind, checked_vocabulary


class ClassHead(ExampleHead):
    """What heads of classifiers have in common."""

    def __init__(
        self,
        n_classes: int,
        label_vocabulary: Sequence[str] | None,
        weight_column: Any,
        loss_reduction: str,
        loss_fn: Callable[..., Any] | None,
        name: str | None,
    ) -> None:
        super().__init__(weight_column, loss_reduction, loss_fn, name)
        self.n_classes = int(n_classes)
        self.label_vocabulary = checked_vocabulary(label_vocabulary, n_classes, str(self))

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called: as in the vocabulary, or by their numbers."""
        return self.label_vocabulary or tuple(map(str, range(self.n_classes)))

    def class_predictions(self, logits: jax.Array, class_ids: jax.Array) -> dict[str, Any]:
        """Returns the answers that tell the class, and all classes, of each example."""
        every = jnp.arange(self.n_classes, dtype=jnp.int32)
        every = jnp.broadcast_to(every, (logits.shape[0], self.n_classes))
        names = est.Lookup(self.class_names)
        return {
            "class_ids": est.host_output(est.Int64(), class_ids),
            "classes": est.host_output(names, class_ids),
            "all_class_ids": every,
            "all_classes": est.host_output(names, every),
        }

    def export_outputs(self, predictions: Any) -> dict[str, Any]:
        """Returns the answers of an exported model by signature."""
        scores = est.export.ClassificationOutput(
            scores=predictions["probabilities"], classes=predictions["all_classes"]
        )
        return {
            "serving_default": scores,
            "classification": scores,
            "predict": dict(predictions),
        }


class BinaryClassHead(ClassHead):
    """One of two classes, by the sigmoid of one logit.

    >>> head = BinaryClassHead()
    >>> spec = lambda x, y: head.loss(y, x)
    >>> round(float(est.preview(spec, [[2.0], [-1.0], [0.0], [0.5]], [1, 0, 1, 0])[0]), 4)
    0.5269

    Args:
        weight_column: the name of a feature that says how much an example counts, or a numeric
            column of it.
        thresholds: probabilities at which accuracy, precision and recall are reported, too.
        label_vocabulary: the names of the two classes, where labels are names; None: labels are
            numbers from 0 to 1.
        loss_reduction: `"sum_over_batch_size"` or `"sum"`.
        loss_fn: another loss (see `ExampleHead`).
        name: what its metrics are called by, besides their names.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        weight_column: Any = None,
        thresholds: Sequence[float] | None = None,
        label_vocabulary: Sequence[str] | None = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(2, label_vocabulary, weight_column, loss_reduction, loss_fn, name)
        self.thresholds = checked_thresholds(thresholds, str(self))

    @property
    def logits_dimension(self) -> int:
        """One."""
        return 1

    @property
    def label_kind(self) -> LabelKind:
        """Names, or numbers from 0 to 1."""
        cure = "Of two classes they are 0 and 1, or the probability of class 1."
        return LabelKind(str(self), self.label_vocabulary, low=0, high=1, cure=cure)

    def prepared_labels(self, labels: Any) -> jax.Array:
        """Returns the probability of class 1, float32."""
        return super().prepared_labels(labels).astype(jnp.float32)

    def example_losses(self, examples: Examples) -> jax.Array:
        """Returns the cross-entropy of the sigmoid."""
        return optax.sigmoid_binary_cross_entropy(examples.logits, examples.labels)

    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Returns `logits`, `logistic`, `probabilities`, and the classes; see `Head`."""
        logits = self.checked_logits(logits)
        both = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
        made = {
            "logits": logits,
            "logistic": jax.nn.sigmoid(logits),
            "probabilities": jax.nn.softmax(both),
            **self.class_predictions(logits, _positive(logits)),
        }
        return chosen(made, keys, str(self))

    def example_metrics(
        self, examples: Examples, losses: jax.Array
    ) -> dict[str, est.metrics.Metric]:
        """Returns what is told of a binary classifier.

        A label that is a probability counts as the likelier class, but for `label/mean`.
        """
        labels, weights = examples.labels, examples.counted
        found, metrics = _positive(examples.logits), est.metrics
        truth = _positive(labels - 0.5)
        likely = jax.nn.sigmoid(examples.logits)
        made: dict[str, est.metrics.Metric] = {
            "accuracy": metrics.accuracy(truth, found, weights),
            "accuracy_baseline": Baseline(metrics.mean(labels, weights)),
            "label/mean": metrics.mean(labels, weights),
            "precision": metrics.precision(truth, found, weights),
            "recall": metrics.recall(truth, found, weights),
            "prediction/mean": metrics.mean(likely, weights),
            "auc": metrics.auc(truth, likely, weights),
            "auc_precision_recall": metrics.auc(truth, likely, weights, curve="PR"),
        }
        return made | at_thresholds(self.thresholds, truth, likely, weights)

    def export_outputs(self, predictions: Any) -> dict[str, Any]:
        """Returns the answers of an exported model by signature."""
        made = super().export_outputs(predictions)
        return made | {"regression": est.export.RegressionOutput(predictions["logistic"])}


class MultiClassHead(ClassHead):
    """One of many classes, by the softmax of a logit for each.

    >>> head = MultiClassHead(n_classes=3)
    >>> answers = est.preview(lambda x: head.predictions(x), [[0.0, 2.0, 1.0]])[0]
    >>> answers["classes"].finish().tolist()
    [['1']]

    Args:
        n_classes: how many classes, more than 2.
        weight_column, loss_reduction, loss_fn, name: as for `BinaryClassHead`.
        label_vocabulary: the names of the classes, where labels are names; None: labels are
            whole numbers from 0 to n_classes - 1.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        n_classes: int,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        if not is_whole(n_classes, least=3):
            raise ValueError(
                f"MultiClassHead: n_classes must be a whole number above 2, got {n_classes!r}. Two "
                "classes are a BinaryClassHead."
            )
        super().__init__(n_classes, label_vocabulary, weight_column, loss_reduction, loss_fn, name)

    @property
    def logits_dimension(self) -> int:
        """One for each class."""
        return self.n_classes

    @property
    def label_kind(self) -> LabelKind:
        """Names, or numbers of classes."""
        cure = "Classes are counted from 0: n_classes is one more than the largest label."
        return LabelKind(str(self), self.label_vocabulary, True, 0, self.n_classes - 1, cure)

    def example_losses(self, examples: Examples) -> jax.Array:
        """Returns the cross-entropy of the softmax."""
        ids = examples.labels[..., 0]
        losses = optax.softmax_cross_entropy_with_integer_labels(examples.logits, ids)
        return losses[..., None]

    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Returns `logits`, `probabilities`, and the classes; see `Head`."""
        logits = self.checked_logits(logits)
        made = {
            "logits": logits,
            "probabilities": jax.nn.softmax(logits),
            **self.class_predictions(logits, _likeliest(logits)),
        }
        return chosen(made, keys, str(self))

    def example_metrics(
        self, examples: Examples, losses: jax.Array
    ) -> dict[str, est.metrics.Metric]:
        """Returns the accuracy."""
        found = _likeliest(examples.logits)
        return {"accuracy": est.metrics.accuracy(examples.labels, found, examples.counted)}


def class_head(
    n_classes: int,
    weight_column: Any = None,
    label_vocabulary: Sequence[str] | None = None,
    loss_reduction: str = SUM_OVER_BATCH_SIZE,
) -> ExampleHead:
    """Returns the head of a classifier: a `BinaryClassHead` for two classes, else `MultiClassHead`.

    >>> class_head(2).logits_dimension, class_head(3).logits_dimension
    (1, 3)

    Raises:
        ValueError: if there are less than two classes.
    """
    if not is_whole(n_classes, least=2):
        raise ValueError(f"n_classes must be a whole number of at least 2, got {n_classes!r}.")
    if n_classes == 2:
        return BinaryClassHead(
            weight_column, label_vocabulary=label_vocabulary, loss_reduction=loss_reduction
        )
    return MultiClassHead(n_classes, weight_column, label_vocabulary, loss_reduction)


def _positive(logits: jax.Array) -> jax.Array:
    return (logits > 0).astype(jnp.int32)


def _likeliest(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, -1, keepdims=True).astype(jnp.int32)
