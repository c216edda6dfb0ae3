"""Several heads on one model, each with logits of its own.

    head = MultiHead([RegressionHead(name="age"), BinaryClassHead(name="left")], [1.0, 0.5])
    logits = layers.dense(net, head.logits_dimension)       # or a dict, by the names of the heads
    labels = {"age": ages, "left": left}

The loss is the weighted sum of theirs; metrics and predictions go by their names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import estimator as est
from canned.head_base import Head, chosen


class MultiHead(Head):
    """A head whose loss is the weighted sum of the losses of others.

    >>> from canned.regression_heads import RegressionHead
    >>> head = MultiHead([RegressionHead(name="a"), RegressionHead(2, name="b")])
    >>> head.logits_dimension, list(head.predictions(jnp.ones((4, 3))))
    (3, [('a', 'predictions'), ('b', 'predictions')])

    Args:
        heads: heads of different names.
        head_weights: what the loss of each counts; None: 1.

    Raises:
        ValueError: if there are no heads, one has no name, or two have the same.
    """

    def __init__(self, heads: Sequence[Head], head_weights: Sequence[float] | None = None) -> None:
        names = [head.name for head in heads]
        if not heads or not all(names) or len(set(names)) < len(names):
            raise ValueError(
                f"MultiHead: needs at least one head, each of its own name, got {names}."
            )
        if head_weights is not None and len(head_weights) != len(heads):
            raise ValueError(
                f"MultiHead: there are {len(heads)} heads, but {len(head_weights)} head_weights."
            )
        self.heads = list(heads)
        self._weights = [1.0] * len(heads) if head_weights is None else list(head_weights)
        self.name = "_".join(map(str, names))

    @property
    def logits_dimension(self) -> int:
        """Those of all heads."""
        return sum(head.logits_dimension for head in self.heads)

    def loss(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        mode: str | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> jax.Array:
        """Returns the weighted sum of the losses; see `Head.loss`."""
        losses = self._losses(labels, logits, features, mode)
        total = sum(w * x for w, x in zip(self._weights, losses.values(), strict=True))
        return jnp.asarray(total) + sum(regularization_losses or [])

    def predictions(self, logits: Any, keys: Sequence[Any] | None = None) -> dict[Any, Any]:
        """Returns the answers of all heads by pairs of their names; see `Head.predictions`."""
        parts = self._of_heads(logits)
        made = {
            (head.name, key): answer
            for head in self.heads
            for key, answer in head.predictions(parts[str(head.name)]).items()
        }
        return chosen(made, keys, "MultiHead")

    def metrics(
        self,
        labels: Any,
        logits: Any,
        features: Any = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> dict[str, est.metrics.Metric]:
        """Returns what `evaluate` reports of each head; see `Head.metrics`."""
        labels, parts = self._labels(labels), self._of_heads(logits)
        made: dict[str, est.metrics.Metric] = {}
        if regularization_losses:
            made["regularization_loss"] = est.metrics.mean(sum(regularization_losses))
        for name, loss in self._losses(labels, logits, features, None).items():
            made[f"loss/{name}"] = est.metrics.mean(loss)
        for head in self.heads:
            made |= head.metrics(labels[head.name], parts[str(head.name)], features)
        return made

    def export_outputs(self, predictions: Mapping[Any, Any]) -> dict[str, Any]:
        """Returns the answers of an exported model by signature."""
        made: dict[str, Any] = {}
        for head in self.heads:
            own = {key: value for (name, key), value in predictions.items() if name == head.name}
            for key, answers in head.export_outputs(own).items():
                if key == "serving_default":
                    made.setdefault("serving_default", answers)
                    made[str(head.name)] = answers
                else:
                    made[f"{head.name}/{key}"] = answers
        made["predict"] = {f"{name}/{key}": value for (name, key), value in predictions.items()}
        return made

    def _losses(
        self, labels: Any, logits: Any, features: Any, mode: str | None
    ) -> dict[str, jax.Array]:
        labels, parts = self._labels(labels), self._of_heads(logits)
        names = [str(head.name) for head in self.heads]
        return {
            name: head.loss(labels[name], parts[name], features, mode)
            for name, head in zip(names, self.heads, strict=True)
        }

    def _labels(self, labels: Any) -> Any:
        missing = [
            head.name
            for head in self.heads
            if not isinstance(labels, Mapping) or head.name not in labels
        ]
        if missing:
            there = sorted(labels) if isinstance(labels, Mapping) else "no dict"
            raise ValueError(
                f"MultiHead: labels must be a dict by the names of the heads; {missing} are "
                f"missing, there are {there}."
            )
        return labels

    def _of_heads(self, logits: Any) -> dict[str, Any]:
        """Returns the logits of each head by its name."""
        if isinstance(logits, Mapping):
            missing = [head.name for head in self.heads if head.name not in logits]
            if missing:
                raise ValueError(
                    f"MultiHead: logits of the heads {missing} are missing; there are "
                    f"{sorted(logits)}."
                )
            return dict(logits)
        logits = jnp.asarray(logits)
        if logits.shape[-1:] != (self.logits_dimension,):
            raise ValueError(
                f"MultiHead: logits must have the shape (batch, {self.logits_dimension}), got "
                f"{logits.shape}."
            )
        parts, start = {}, 0
        for head in self.heads:
            parts[str(head.name)] = logits[..., start : start + head.logits_dimension]
            start += head.logits_dimension
        return parts
