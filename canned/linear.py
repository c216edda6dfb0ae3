"""Linear models: a weight for each number and each id, and a head.

    LinearClassifier(feature_columns=[age, city], n_classes=3)

Variables are named as in TensorFlow: `linear/linear_model/age/weights`.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

import estimator as est
from canned.class_heads import class_head
from canned.head_base import SUM_OVER_BATCH_SIZE, Head
from canned.head_model import HeadEstimator, checked_columns, checked_head
from canned.optimizers import ftrl, named_optimizer
from canned.regression_heads import RegressionHead
from feature_columns import linear_model

_LEARNING_RATE = 0.2


def linear_logits(
    columns: Iterable[Any], units: int, sparse_combiner: str
) -> Callable[[Mapping[str, Any], str], jax.Array]:
    """Returns `logits_of(features, mode)` of a linear model, of shape (batch, units).

    Args:
        columns: dense and categorical columns.
        units: how many logits there are.
        sparse_combiner: how the weights of several ids in one row are combined: `"sum"`, `"mean"`
            or `"sqrtn"`.
    """

    def logits_of(features: Mapping[str, Any], mode: str) -> jax.Array:
        with est.variable_scope("linear"):
            return linear_model(features, columns, units, sparse_combiner)

    return logits_of


class LinearEstimator(HeadEstimator):
    """A linear model with any head.

    Args:
        head: makes a loss, predictions and metrics of the logits.
        feature_columns: what of the features has weights: dense and categorical columns.
        model_dir: where checkpoints and summaries go.
        optimizer: the name of one of TensorFlow's optimizers, with a learning rate of 0.2; an optax
            transformation; a function that returns one; None: Ftrl with a rate of
            `min(0.2, 1 / sqrt(number of columns))`.
        config: the settings of the run.
        sparse_combiner: how the weights of several ids in one row are combined: `"sum"`, `"mean"`
            or `"sqrtn"`.
        warm_start_from: where first variables come from.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        head: Head,
        feature_columns: Iterable[Any],
        model_dir: str | os.PathLike[str] | None = None,
        optimizer: Any = "Ftrl",
        config: est.RunConfig | None = None,
        sparse_combiner: str = "sum",
        warm_start_from: Any = None,
    ) -> None:
        who = type(self).__name__
        size = checked_head(head, who).logits_dimension
        columns = checked_columns(feature_columns, who)
        if optimizer is None:
            optimizer = ftrl(min(_LEARNING_RATE, 1 / math.sqrt(len(columns))))
        made = named_optimizer(optimizer, where=who, learning_rate=_LEARNING_RATE)
        logits_of = linear_logits(columns, size, sparse_combiner)
        super().__init__(head, logits_of, made, model_dir, config, warm_start_from)


class LinearClassifier(LinearEstimator):
    """A linear model that tells classes.

    Args:
        feature_columns, model_dir, optimizer, config, warm_start_from, sparse_combiner: as for
            `LinearEstimator`.
        n_classes: how many classes.
        weight_column: the name of a feature that says how much an example counts, or a numeric
            column of it.
        label_vocabulary: the names of the classes, where labels are names.
        loss_reduction: `"sum_over_batch_size"` or `"sum"`.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        feature_columns: Iterable[Any],
        model_dir: str | os.PathLike[str] | None = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        optimizer: Any = "Ftrl",
        config: est.RunConfig | None = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        sparse_combiner: str = "sum",
    ) -> None:
        head = class_head(n_classes, weight_column, label_vocabulary, loss_reduction)
        super().__init__(
            head, feature_columns, model_dir, optimizer, config, sparse_combiner, warm_start_from
        )


class LinearRegressor(LinearEstimator):
    """A linear model that tells numbers.

    Args:
        feature_columns, model_dir, optimizer, config, warm_start_from, sparse_combiner: as for
            `LinearEstimator`.
        label_dimension: how many numbers each example has.
        weight_column, loss_reduction: as for `LinearClassifier`.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        feature_columns: Iterable[Any],
        model_dir: str | os.PathLike[str] | None = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        optimizer: Any = "Ftrl",
        config: est.RunConfig | None = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        sparse_combiner: str = "sum",
    ) -> None:
        head = RegressionHead(label_dimension, weight_column, loss_reduction)
        super().__init__(
            head, feature_columns, model_dir, optimizer, config, sparse_combiner, warm_start_from
        )
