"""A head for each step of a sequence: another head, and a mask of the steps that are there.

    head = SequentialHeadWrapper(MultiClassHead(n_classes=3))
    features["sequence_length_mask"]        # bools of shape (batch, steps)
    logits                                  # of shape (batch, steps, 3)

Steps behind the end of a sequence count nowhere.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
from canned.head_base import ExampleHead, Examples, Head
from canned.labels import LabelKind, one_each_step


class SequentialHeadWrapper(Head):
    """Another head, whose examples are the steps of sequences.

    Losses and metrics are those of the steps that are there; a batch may be padded to any length.

    Args:
        static_head: what is told of each step.
        sequence_length_mask: the name of a feature: which steps are there, bools of shape
            (batch, steps).
        feature_columns: the names of features that hold a number for each step, as in TensorFlow:
            none but the weight_column of the other head.
        lengths: makes the lengths of the sequences, with which the labels are compared on the host;
            None: those of the mask, where input_fn gave it.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        static_head: ExampleHead,
        sequence_length_mask: str = "sequence_length_mask",
        feature_columns: Any = None,
        lengths: est.HostRecipe | None = None,
    ) -> None:
        if not isinstance(static_head, ExampleHead) or static_head.label_width != 1:
            raise TypeError(
                "SequentialHeadWrapper: static_head must be a head with one label for each "
                f"example, such as MultiClassHead, got {static_head!r}."
            )
        if not isinstance(sequence_length_mask, str):
            raise TypeError(
                "SequentialHeadWrapper: sequence_length_mask must be the name of a feature, got "
                f"{sequence_length_mask!r}."
            )
        named = [feature_columns] if isinstance(feature_columns, str) else feature_columns or []
        if any(name != static_head.weight_column for name in named):
            raise ValueError(
                f"SequentialHeadWrapper: feature_columns are {feature_columns!r}, but the "
                f"weight_column of {static_head} is {static_head.weight_column!r}. Give the name "
                "to the head."
            )
        self.static_head = static_head
        self.sequence_length_mask = sequence_length_mask
        self.name = static_head.name
        self._lengths = lengths

    @property
    def logits_dimension(self) -> int:
        """That of the other head."""
        return self.static_head.logits_dimension

    def with_lengths(self, lengths: est.HostRecipe) -> "SequentialHeadWrapper":
        """Returns this head, which compares labels with these lengths."""
        return SequentialHeadWrapper(self.static_head, self.sequence_length_mask, lengths=lengths)

    def loss(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        mode: str | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> jax.Array:
        """Returns the loss of the steps that are there; see `Head.loss`."""
        examples = self._examples(labels, logits, features)
        return self.static_head.reduced(examples, regularization_losses)

    def predictions(self, logits: Any, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Returns answers for each step; see `Head.predictions`."""
        return self.static_head.predictions(logits, keys)

    def metrics(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> dict[str, est.metrics.Metric]:
        """Returns what `evaluate` reports of the steps that are there; see `Head.metrics`."""
        examples = self._examples(labels, logits, features)
        return self.static_head.reported(examples, regularization_losses)

    def export_outputs(self, predictions: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the answers of an exported model by signature."""
        return self.static_head.export_outputs(predictions)

    def create_estimator_spec(
        self,
        features: Any,
        mode: str,
        logits: Any,
        labels: Any = None,
        optimizer: Any = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> est.EstimatorSpec:
        """Returns what a model_fn returns; answers end where the longest sequence of a batch does.

        Predictions tell under the name of the mask which steps are there.
        """
        spec = super().create_estimator_spec(
            features, mode, logits, labels, optimizer, regularization_losses
        )
        if mode != est.ModeKeys.PREDICT:
            return spec
        mask = self._mask(features, self._checked_logits(logits).shape[1])
        steps = jnp.where(mask, jnp.arange(1, mask.shape[1] + 1), 0).max(1)
        per_step = {**spec.predictions, self.sequence_length_mask: mask}
        answers = {
            name: answer if name.startswith("all_class") else _until(answer, steps)
            for name, answer in per_step.items()
        }
        return spec._replace(predictions=answers, export_outputs=self.export_outputs(answers))

    def _examples(self, labels: Any, logits: Any, features: Any) -> Examples:
        head = self.static_head
        logits = self._checked_logits(logits)
        if labels is None:
            raise ValueError(
                f"{head}: there are no labels. In TRAIN and EVAL input_fn must return a pair "
                "(features, labels)."
            )
        steps = logits.shape[1]
        mask = self._mask(features, steps)
        lengths = self._lengths
        if lengths is None:
            path = est.raw_path(features[self.sequence_length_mask])
            lengths = None if path is None else RawMask(path)
        ready = _to_steps(one_each_step(labels, head.label_kind, lengths), steps)[..., None]
        if not head.label_kind.whole:
            ready = ready.astype(jnp.float32)
        weights = self._weights(features, lengths, mask.shape)
        return Examples(ready, logits, weights, mask[..., None], features)

    def _weights(
        self, features: Any, lengths: est.HostRecipe | None, shape: tuple[int, ...]
    ) -> jax.Array | None:
        """Returns the weights of steps, of shape (batch, steps, 1): their own, or a sequence's."""
        head = self.static_head
        if head.weight_column is None:
            return None
        raw = head.raw_weights(features)
        is_array = isinstance(raw, jax.Array | np.ndarray)
        if is_array and (raw.ndim == 1 or raw.shape[1:] == (1,)):
            of_rows = jnp.asarray(raw, jnp.float32).reshape(-1, 1)
            made = jnp.broadcast_to(of_rows, shape)
        else:
            kind = LabelKind(f"{head} (weights)")
            made = _to_steps(one_each_step(raw, kind, lengths), shape[1])
        return head.normalized(made)[..., None]

    def _checked_logits(self, logits: Any) -> jax.Array:
        logits = self.static_head.checked_logits(logits)
        if logits.ndim != 3:
            raise ValueError(
                f"SequentialHeadWrapper: logits must have the shape (batch, steps, "
                f"{self.logits_dimension}), got {logits.shape}."
            )
        return logits

    def _mask(self, features: Any, steps: int) -> jax.Array:
        """Returns which steps are there, bools of shape (batch, steps)."""
        key = self.sequence_length_mask
        if not isinstance(features, Mapping) or key not in features:
            there = sorted(features) if isinstance(features, Mapping) else "no dict"
            raise ValueError(
                f'SequentialHeadWrapper: sequence_length_mask is "{key}", but the features are '
                f"{there}."
            )
        mask = jnp.asarray(features[key])
        if mask.ndim != 2:
            raise ValueError(
                f'SequentialHeadWrapper: features["{key}"] must have the shape (batch, steps), got '
                f"{mask.shape}."
            )
        return _to_steps(mask.astype(bool), steps)


@dataclasses.dataclass(frozen=True)
class RawMask(est.HostRecipe):
    """A mask as input_fn gave it."""

    path: tuple[Any, ...]
    dtype = np.dtype(bool)
    dims = ("batch", "count")

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns bools of shape (batch, steps)."""
        return np.asarray(est.raw_value(self.path, features, labels)) != 0


@dataclasses.dataclass(frozen=True)
class Until(est.OutputRecipe):
    """An answer, cut to the longest sequence of the batch."""

    inner: est.OutputRecipe | None

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Returns the answer; the last array holds the lengths."""
        *given, lengths = arrays
        answer = given[0] if self.inner is None else self.inner(*given)
        return est.Trim()(answer, lengths)


def _until(answer: Any, lengths: jax.Array) -> Any:
    if isinstance(answer, est.HostOutput):
        return est.host_output(Until(answer.recipe), *answer.arrays, lengths)
    return est.host_output(Until(None), answer, lengths)


def _to_steps(values: jax.Array, steps: int) -> jax.Array:
    """Returns values of so many steps: cut, or filled up with 0."""
    missing = max(0, steps - values.shape[1])
    return jnp.pad(values[:, :steps], ((0, 0), (0, missing)))
