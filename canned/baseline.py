"""Baselines: models that look at no feature, and tell the mean of the labels.

    BaselineClassifier(n_classes=3)
    BaselineRegressor()

What a model with features must do better than.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
from canned.class_heads import class_head
from canned.head_base import SUM_OVER_BATCH_SIZE, Head
from canned.head_model import HeadEstimator, checked_head
from canned.optimizers import named_optimizer
from canned.regression_heads import RegressionHead

_LEARNING_RATE = 0.3


@dataclasses.dataclass(frozen=True)
class NothingOfRows(est.HostRecipe):
    """A 0 for each row of a batch: how many there are, and nothing else."""

    dtype = np.dtype(np.float32)
    dims = ("batch", 1)

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns zeros of shape (batch, 1)."""
        if not features:
            raise ValueError(
                "A baseline looks at no feature, but the number of rows comes from them: "
                "input_fn must give at least one."
            )
        first = next(iter(features.values()))
        sparse = isinstance(first, est.SparseTensor)
        rows = int(np.asarray(first.dense_shape)[0]) if sparse else len(first)
        return np.zeros((rows, 1), np.float32)


class BaselineEstimator(HeadEstimator):
    """A baseline with any head: one bias for each logit.

    Args:
        head: makes a loss, predictions and metrics of the logits.
        model_dir: where checkpoints and summaries go.
        optimizer: the name of one of TensorFlow's optimizers, with a learning rate of 0.3; an optax
            transformation; or a function that returns one.
        config: the settings of the run.
        warm_start_from: where first variables come from.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        head: Head,
        model_dir: str | os.PathLike[str] | None = None,
        optimizer: Any = "Ftrl",
        config: est.RunConfig | None = None,
        warm_start_from: Any = None,
    ) -> None:
        who = type(self).__name__
        size = checked_head(head, who).logits_dimension
        made = named_optimizer(optimizer, where=who, learning_rate=_LEARNING_RATE)

        def logits_of(features: Mapping[str, Any], mode: str) -> jax.Array:
            zeros = jax.nn.initializers.zeros
            bias = est.get_variable("baseline/bias", (size,), zeros)
            return jnp.asarray(bias) + est.host_feature(NothingOfRows())

        super().__init__(head, logits_of, made, model_dir, config, warm_start_from)


class BaselineClassifier(BaselineEstimator):
    """A baseline that tells how frequent classes are.

    Args:
        model_dir, optimizer, config: as for `BaselineEstimator`.
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
        model_dir: str | os.PathLike[str] | None = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        optimizer: Any = "Ftrl",
        config: est.RunConfig | None = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        warm_start_from: Any = None,
    ) -> None:
        head = class_head(n_classes, weight_column, label_vocabulary, loss_reduction)
        super().__init__(head, model_dir, optimizer, config, warm_start_from)


class BaselineRegressor(BaselineEstimator):
    """A baseline that tells the mean of numbers.

    Args:
        model_dir, optimizer, config: as for `BaselineEstimator`.
        label_dimension: how many numbers each example has.
        weight_column, loss_reduction: as for `BaselineClassifier`.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str] | None = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        optimizer: Any = "Ftrl",
        config: est.RunConfig | None = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        warm_start_from: Any = None,
    ) -> None:
        head = RegressionHead(label_dimension, weight_column, loss_reduction)
        super().__init__(head, model_dir, optimizer, config, warm_start_from)
