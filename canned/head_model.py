"""What canned models with a head have in common: a function of the features, a head, an optimizer.

    class MyEstimator(HeadEstimator):
        def __init__(self, head, columns, model_dir=None, optimizer="Adagrad", config=None):
            def logits_of(features, mode):
                return layers.dense(input_layer(features, columns), head.logits_dimension)

            super().__init__(head, logits_of, named_optimizer(optimizer, ...), model_dir, config)

Such a model looks at no labels, and its head at no features but weights.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

import estimator as est
from canned.head_base import Head


class HeadEstimator(est.Estimator):
    """An Estimator of a head on logits.

    Args:
        head: makes a loss, predictions and metrics of the logits.
        logits_of: `logits_of(features, mode)` asks for variables and returns logits.
        optimizer: an optax transformation.
        model_dir: where checkpoints and summaries go.
        config: the settings of the run.
        warm_start_from: where first variables come from.
    """

    def __init__(
        self,
        head: Head,
        logits_of: Callable[[Mapping[str, Any], str], jax.Array],
        optimizer: Any,
        model_dir: str | os.PathLike[str] | None,
        config: est.RunConfig | None,
        warm_start_from: Any,
    ) -> None:
        who = type(self).__name__

        def model_fn(features: Any, labels: Any, mode: str) -> est.EstimatorSpec:
            checked_features(features, who)
            logits = logits_of(features, mode)
            return head.create_estimator_spec(features, mode, logits, labels, optimizer)

        super().__init__(model_fn, model_dir, config, warm_start_from=warm_start_from)


def checked_head(head: Any, who: str) -> Head:
    """Returns the head.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(head, Head):
        raise TypeError(f"{who}: head must be a head such as BinaryClassHead(), got {head!r}.")
    return head


def listed(columns: Any) -> list[Any]:
    """Returns columns as a list, one alone too."""
    return list(columns) if isinstance(columns, Iterable) else [columns]


def checked_features(features: Any, who: str) -> None:
    """Raises a ValueError if the features are no dict."""
    if not isinstance(features, Mapping):
        raise ValueError(
            f"{who}: features must be a dict by the names of the columns, not one array or a "
            "tuple. Return {name: array} from input_fn."
        )


def checked_dropout(dropout: Any, who: str) -> float | None:
    """Returns the part that is dropped in training; None: nothing.

    Raises:
        ValueError: if it is no such part.
    """
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(
            f"{who}: dropout must be a part, at least 0 and below 1, or None; got {dropout!r}."
        )
    return None if dropout is None else float(dropout)


def checked_columns(columns: Any, who: str, what: str = "feature_columns") -> list[Any]:
    """Returns columns as a list.

    Raises:
        ValueError: if there are none.
    """
    made = [] if columns is None else listed(columns)
    if not made:
        raise ValueError(f"{who}: {what} must hold at least one column, got {columns!r}.")
    return made
