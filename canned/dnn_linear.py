"""Wide and deep models: a linear one and a deep one, side by side, whose logits are added.

    DNNLinearCombinedClassifier(
        linear_feature_columns=[crossed_column([city, hour], 1000)],
        dnn_feature_columns=[age, embedding_column(city, 8)],
        dnn_hidden_units=[64, 32],
    )

Each has its own optimizer.

Source: Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

import estimator as est
from canned.class_heads import class_head
from canned.dnn import DNN, Activation
from canned.head_base import SUM_OVER_BATCH_SIZE, Head
from canned.head_model import HeadEstimator, checked_head, listed
from canned.linear import linear_logits
from canned.optimizers import by_scope, named_optimizer
from canned.regression_heads import RegressionHead

_LINEAR_RATE = 0.005


class DNNLinearCombinedEstimator(HeadEstimator):
    """A wide and deep model with any head.

    Args:
        head: makes a loss, predictions and metrics of the logits.
        model_dir: where checkpoints and summaries go.
        linear_feature_columns: the columns of the linear part.
        linear_optimizer: the name of one of TensorFlow's optimizers, with a learning rate of
            `min(0.005, 1 / sqrt(number of columns))`; an optax transformation; or a function that
            returns one.
        dnn_feature_columns: the columns of the deep part.
        dnn_optimizer: likewise, a name with its default learning rate.
        dnn_hidden_units: how many neurons each hidden layer has.
        dnn_activation_fn: what each hidden layer applies.
        dnn_dropout: which part of each hidden layer's outputs is dropped in training.
        config: the settings of the run.
        batch_norm: whether the outputs of each hidden layer are normalised.
        linear_sparse_combiner: how the weights of several ids in one row are combined.
        warm_start_from: where first variables come from.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        head: Head,
        model_dir: str | os.PathLike[str] | None = None,
        linear_feature_columns: Iterable[Any] | None = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: Iterable[Any] | None = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] | None = None,
        dnn_activation_fn: Activation = jax.nn.relu,
        dnn_dropout: float | None = None,
        config: est.RunConfig | None = None,
        batch_norm: bool = False,
        linear_sparse_combiner: str = "sum",
        warm_start_from: Any = None,
    ) -> None:
        who = type(self).__name__
        wide, deep = (
            [] if columns is None else listed(columns)
            for columns in (linear_feature_columns, dnn_feature_columns)
        )
        if not wide and not deep:
            raise ValueError(
                f"{who}: linear_feature_columns and dnn_feature_columns are both empty. Give "
                "columns to one of them, or both."
            )
        if bool(deep) != bool(dnn_hidden_units):
            raise ValueError(
                f"{who}: dnn_feature_columns and dnn_hidden_units go together, got {len(deep)} "
                f"columns and {dnn_hidden_units!r}."
            )
        parts: list[Any] = []
        optimizers = {}
        units = checked_head(head, who).logits_dimension
        if deep:
            parts.append(
                DNN(dnn_hidden_units or [], deep, units, dnn_activation_fn, dnn_dropout,
                    batch_norm, who)
            )  # fmt: skip
            optimizers["dnn"] = named_optimizer(dnn_optimizer, where=who)
        if wide:
            parts.append(linear_logits(wide, units, linear_sparse_combiner))
            rate = min(_LINEAR_RATE, 1 / math.sqrt(len(wide)))
            optimizers["linear"] = named_optimizer(linear_optimizer, where=who, learning_rate=rate)

        def logits_of(features: Mapping[str, Any], mode: str) -> jax.Array:
            first, *others = [part(features, mode) for part in parts]
            total: jax.Array = sum(others, first)
            return total

        made = by_scope(optimizers)
        super().__init__(head, logits_of, made, model_dir, config, warm_start_from)


class DNNLinearCombinedClassifier(DNNLinearCombinedEstimator):
    """A wide and deep model that tells classes.

    Args:
        model_dir, linear_feature_columns, linear_optimizer, dnn_feature_columns, dnn_optimizer,
            dnn_hidden_units, dnn_activation_fn, dnn_dropout, config, warm_start_from, batch_norm,
            linear_sparse_combiner: as for `DNNLinearCombinedEstimator`.
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
        linear_feature_columns: Iterable[Any] | None = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: Iterable[Any] | None = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] | None = None,
        dnn_activation_fn: Activation = jax.nn.relu,
        dnn_dropout: float | None = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        config: est.RunConfig | None = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        batch_norm: bool = False,
        linear_sparse_combiner: str = "sum",
    ) -> None:
        super().__init__(
            class_head(n_classes, weight_column, label_vocabulary, loss_reduction),
            model_dir,
            linear_feature_columns,
            linear_optimizer,
            dnn_feature_columns,
            dnn_optimizer,
            dnn_hidden_units,
            dnn_activation_fn,
            dnn_dropout,
            config,
            batch_norm,
            linear_sparse_combiner,
            warm_start_from,
        )


class DNNLinearCombinedRegressor(DNNLinearCombinedEstimator):
    """A wide and deep model that tells numbers.

    Args:
        model_dir, linear_feature_columns, linear_optimizer, dnn_feature_columns, dnn_optimizer,
            dnn_hidden_units, dnn_activation_fn, dnn_dropout, config, warm_start_from, batch_norm,
            linear_sparse_combiner: as for `DNNLinearCombinedEstimator`.
        label_dimension: how many numbers each example has.
        weight_column, loss_reduction: as for `DNNLinearCombinedClassifier`.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str] | None = None,
        linear_feature_columns: Iterable[Any] | None = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: Iterable[Any] | None = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] | None = None,
        dnn_activation_fn: Activation = jax.nn.relu,
        dnn_dropout: float | None = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        config: est.RunConfig | None = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        batch_norm: bool = False,
        linear_sparse_combiner: str = "sum",
    ) -> None:
        super().__init__(
            RegressionHead(label_dimension, weight_column, loss_reduction),
            model_dir,
            linear_feature_columns,
            linear_optimizer,
            dnn_feature_columns,
            dnn_optimizer,
            dnn_hidden_units,
            dnn_activation_fn,
            dnn_dropout,
            config,
            batch_norm,
            linear_sparse_combiner,
            warm_start_from,
        )
