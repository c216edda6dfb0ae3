"""The head of a classifier that gives each example any number of classes.

    head = MultiLabelHead(n_classes=3, label_vocabulary=["red", "green", "blue"])
    head.loss([["red", "blue"], []], logits)        # or lists of ids, multi-hot arrays

Each class is told by itself, whatever the others are.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import estimator as est
import feature_columns as fc
from canned.class_heads import ClassHead
from canned.head_base import SUM_OVER_BATCH_SIZE, Examples, chosen, is_whole
from canned.head_metrics import at_thresholds, checked_thresholds
from canned.labels import LabelKind

_WHOLE = (int, np.integer)


class MultiLabelHead(ClassHead):
    """Any number of classes for each example, by the sigmoid of a logit for each class.

    >>> head = MultiLabelHead(n_classes=2)
    >>> logits, labels = [[-1.0, 1.0], [-1.5, 1.5]], [[1, 0], [1, 1]]
    >>> round(float(est.preview(lambda x, y: head.loss(y, x), logits, np.array(labels))[0]), 4)
    1.1323

    Args:
        n_classes: how many classes, at least 2.
        weight_column, thresholds, loss_reduction, loss_fn, name: as for `BinaryClassHead`.
        label_vocabulary: the names of the classes, where labels are names. Labels are arrays of 0
            and 1, of shape (batch, n_classes); or for each example its classes, in lists or a
            `SparseTensor`. (Where all lists have n_classes numbers, they are taken for 0 and 1.)
        classes_for_class_based_metrics: numbers or names of classes, of which `evaluate` reports
            `probability_mean`, `auc` and `auc_precision_recall`, too.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        n_classes: int,
        weight_column: Any = None,
        thresholds: Sequence[float] | None = None,
        label_vocabulary: Sequence[str] | None = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        classes_for_class_based_metrics: Sequence[int | str] | None = None,
        name: str | None = None,
    ) -> None:
        if not is_whole(n_classes, least=2):
            raise ValueError(
                "MultiLabelHead: n_classes must be a whole number of at least 2, got "
                f"{n_classes!r}."
            )
        super().__init__(n_classes, label_vocabulary, weight_column, loss_reduction, loss_fn, name)
        self.thresholds = checked_thresholds(thresholds, str(self))
        self._classes_told = self._checked_classes(classes_for_class_based_metrics)

    @property
    def logits_dimension(self) -> int:
        """One for each class."""
        return self.n_classes

    @property
    def label_width(self) -> int:
        """One for each class."""
        return self.n_classes

    @property
    def loss_width(self) -> int:
        """One, the mean over the classes."""
        return 1

    @property
    def label_kind(self) -> LabelKind:
        """0 and 1."""
        cure = "They are 1 for the classes of an example, 0 for the others."
        return LabelKind(str(self), low=0, high=1, cure=cure)

    def prepared_labels(self, labels: Any) -> jax.Array:
        """Returns 0 and 1 for each class, float32."""
        is_array = isinstance(labels, jax.Array | np.ndarray)
        path = est.raw_path(labels)
        if is_array and (path is None or labels.shape[-1:] == (self.n_classes,)):
            return super().prepared_labels(labels)
        if path is None:
            raise ValueError(
                f"{self}: classes of examples must come as input_fn gave them, not computed in the "
                "model_fn."
            )
        recipe = MultiHot(path, str(self), self.label_vocabulary, self.n_classes)
        return est.host_feature(recipe)

    def example_losses(self, examples: Examples) -> jax.Array:
        """Returns the mean over the classes of the cross-entropy of the sigmoid."""
        losses = optax.sigmoid_binary_cross_entropy(examples.logits, examples.labels)
        return jnp.mean(losses, -1, keepdims=True)

    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Returns `logits`, `probabilities`, and the names of all classes; see `Head`."""
        logits = self.checked_logits(logits)
        every = self.class_predictions(logits, jnp.zeros((), jnp.int32))
        made = {
            "logits": logits,
            "probabilities": jax.nn.sigmoid(logits),
            "classes": every["all_classes"],
            "all_class_ids": every["all_class_ids"],
            "all_classes": every["all_classes"],
        }
        return chosen(made, keys, str(self))

    def example_metrics(
        self, examples: Examples, losses: jax.Array
    ) -> dict[str, est.metrics.Metric]:
        """Returns what is told of all classes together, and of single ones."""
        labels, weights, metrics = examples.labels, examples.counted, est.metrics
        likely = jax.nn.sigmoid(examples.logits)
        made: dict[str, est.metrics.Metric] = {
            "auc": metrics.auc(labels, likely, weights),
            "auc_precision_recall": metrics.auc(labels, likely, weights, curve="PR"),
            **at_thresholds(self.thresholds, labels, likely, weights),
        }
        for number in self._classes_told:
            shown = self.label_vocabulary[number] if self.label_vocabulary else f"class{number}"
            one = slice(number, number + 1)
            y, p = labels[..., one], likely[..., one]
            made[f"probability_mean/{shown}"] = metrics.mean(p, weights)
            made[f"auc/{shown}"] = metrics.auc(y, p, weights)
            made[f"auc_precision_recall/{shown}"] = metrics.auc(y, p, weights, curve="PR")
        return made

    def _checked_classes(self, given: Sequence[int | str] | None) -> list[int]:
        names = self.label_vocabulary or ()
        made: list[int] = []
        for one in given or ():
            number = names.index(one) if isinstance(one, str) and one in names else one
            if not is_whole(number, least=0) or int(number) >= self.n_classes:
                raise ValueError(
                    f"{self}: classes_for_class_based_metrics must hold numbers from 0 to "
                    f"{self.n_classes - 1}, or names of label_vocabulary, got {one!r}."
                )
            made.append(int(number))
        return made


@dataclasses.dataclass(frozen=True)
class MultiHot(est.HostRecipe):
    """For each example 1 for its classes, given by numbers or names, and 0 for the others."""

    path: tuple[Any, ...]
    where: str
    vocabulary: tuple[str, ...] | None
    n_classes: int
    dtype = np.dtype(np.float32)

    @property
    def dims(self) -> tuple[str | int, ...]:  # type: ignore[override]
        """A row for each example, a column for each class."""
        return "batch", self.n_classes

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns float32 of shape (batch, n_classes).

        Raises:
            ValueError: if there is no such class.
        """
        raw = est.raw_value(self.path, features, labels)
        if isinstance(raw, jax.Array | np.ndarray) and raw.dtype.kind in "biuf":
            raise ValueError(
                f"{self.where}: an array of labels must have the shape (batch, {self.n_classes}), "
                f"got {raw.shape}. Give classes by number in lists, [[0, 2], []]."
            )
        found = fc.entries(raw, self.where)
        made = np.zeros((found.shape[0], self.n_classes), np.float32)
        made[found.positions[0], self._ids(found.values)] = 1
        return made

    def _ids(self, values: Any) -> np.ndarray:
        given = np.empty(len(values), object)
        given[:] = values
        is_named = self.vocabulary is not None and not all(isinstance(x, _WHOLE) for x in given)
        if is_named:
            return LabelKind(self.where, self.vocabulary).ids(given)
        wrong = [x for x in given if not isinstance(x, _WHOLE) or not 0 <= x < self.n_classes]
        if wrong:
            cure = " Names need label_vocabulary." if isinstance(wrong[0], str | bytes) else ""
            raise ValueError(
                f"{self.where}: labels must be numbers of classes from 0 to {self.n_classes - 1}, "
                f"got {wrong[0]!r}.{cure}"
            )
        return given.astype(np.int64)
