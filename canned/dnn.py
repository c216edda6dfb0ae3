"""Deep models: columns, layers of neurons, and a head.

    DNNClassifier(hidden_units=[64, 32], feature_columns=[age, embedding_column(city, 8)])

Variables are named as in TensorFlow: `dnn/hiddenlayer_0/kernel`, `dnn/logits/bias`.
"""

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import estimator as est
from canned.class_heads import class_head
from canned.head_base import SUM_OVER_BATCH_SIZE, Head
from canned.head_model import HeadEstimator, checked_columns, checked_dropout, checked_head
from canned.optimizers import named_optimizer
from canned.regression_heads import RegressionHead
from estimator import layers
from feature_columns import input_layer

Activation = Callable[[jax.Array], jax.Array]

_MOMENTUM = 0.999


class DNN:
    """The layers of a deep model; `dnn(features, mode)` returns its logits.

    Args:
        hidden_units: how many neurons each hidden layer has.
        columns: what of the features is given to the first.
        units: how many logits there are.
        activation_fn: what each hidden layer applies.
        dropout: which part of each hidden layer's outputs is dropped in training; None: nothing.
        batch_norm: whether the outputs of each hidden layer are normalised.
        who: the name of the model, for error messages.

    Raises:
        ValueError: if an argument is not what it should be.
    """

    def __init__(
        self,
        hidden_units: Sequence[int],
        columns: Iterable[Any],
        units: int,
        activation_fn: Activation = jax.nn.relu,
        dropout: float | None = None,
        batch_norm: bool = False,
        who: str = "DNN",
    ) -> None:
        self._hidden_units = _checked_units(hidden_units, who)
        self._columns = columns
        self._units = units
        self._activation_fn = activation_fn
        self._batch_norm = batch_norm
        self._dropout = checked_dropout(dropout, who)

    def __call__(self, features: Mapping[str, Any], mode: str) -> jax.Array:
        """Returns logits of shape (batch, units)."""
        training = mode == est.ModeKeys.TRAIN
        with est.variable_scope("dnn"):
            with est.variable_scope("input_from_feature_columns"):
                net = input_layer(features, self._columns)
            for number, units in enumerate(self._hidden_units):
                name = f"hiddenlayer_{number}"
                net = layers.dense(net, units, self._activation_fn, name=name)
                if self._dropout:
                    net = layers.dropout(net, self._dropout, training=training)
                if self._batch_norm:
                    with est.variable_scope(name):
                        norm = f"batchnorm_{number}"
                        net = layers.batch_normalization(
                            net, momentum=_MOMENTUM, training=training, name=norm
                        )
                _summarise(name, net)
            logits = layers.dense(net, self._units, name="logits")
            _summarise("logits", logits)
        return logits


def _summarise(name: str, values: jax.Array) -> None:
    est.summary.scalar(f"{name}/fraction_of_zero_values", jnp.mean(values == 0))
    est.summary.histogram(f"{name}/activation", values)


def _checked_units(hidden_units: Any, who: str) -> list[int]:
    try:
        made = [operator.index(units) for units in hidden_units]
    except TypeError:
        made = [0]
    if any(units < 1 for units in made):
        raise ValueError(
            f"{who}: hidden_units must be a list of whole numbers of at least 1, got "
            f"{hidden_units!r}."
        )
    return made


class DNNEstimator(HeadEstimator):
    """A deep model with any head.

    Args:
        head: makes a loss, predictions and metrics of the logits.
        hidden_units: how many neurons each hidden layer has.
        feature_columns: what of the features is given to the first: dense columns.
        model_dir: where checkpoints and summaries go.
        optimizer: the name of one of TensorFlow's optimizers, with its default learning rate; an
            optax transformation; or a function that returns one.
        activation_fn: what each hidden layer applies.
        dropout: which part of each hidden layer's outputs is dropped in training; None: nothing.
        config: the settings of the run.
        warm_start_from: where first variables come from.
        batch_norm: whether the outputs of each hidden layer are normalised.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        head: Head,
        hidden_units: Sequence[int],
        feature_columns: Iterable[Any],
        model_dir: str | os.PathLike[str] | None = None,
        optimizer: Any = "Adagrad",
        activation_fn: Activation = jax.nn.relu,
        dropout: float | None = None,
        config: est.RunConfig | None = None,
        warm_start_from: Any = None,
        batch_norm: bool = False,
    ) -> None:
        who = type(self).__name__
        columns = checked_columns(feature_columns, who)
        size = checked_head(head, who).logits_dimension
        dnn = DNN(hidden_units, columns, size, activation_fn, dropout, batch_norm, who)
        made = named_optimizer(optimizer, where=who)
        super().__init__(head, dnn, made, model_dir, config, warm_start_from)


class DNNClassifier(DNNEstimator):
    """A deep model that tells classes.

    Args:
        hidden_units, feature_columns, model_dir, optimizer, activation_fn, dropout, config,
            warm_start_from, batch_norm: as for `DNNEstimator`.
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
        hidden_units: Sequence[int],
        feature_columns: Iterable[Any],
        model_dir: str | os.PathLike[str] | None = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        optimizer: Any = "Adagrad",
        activation_fn: Activation = jax.nn.relu,
        dropout: float | None = None,
        config: est.RunConfig | None = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(
            class_head(n_classes, weight_column, label_vocabulary, loss_reduction),
            hidden_units,
            feature_columns,
            model_dir,
            optimizer,
            activation_fn,
            dropout,
            config,
            warm_start_from,
            batch_norm,
        )


class DNNRegressor(DNNEstimator):
    """A deep model that tells numbers.

    Args:
        hidden_units, feature_columns, model_dir, optimizer, activation_fn, dropout, config,
            warm_start_from, batch_norm: as for `DNNEstimator`.
        label_dimension: how many numbers each example has.
        weight_column, loss_reduction: as for `DNNClassifier`.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        hidden_units: Sequence[int],
        feature_columns: Iterable[Any],
        model_dir: str | os.PathLike[str] | None = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        optimizer: Any = "Adagrad",
        activation_fn: Activation = jax.nn.relu,
        dropout: float | None = None,
        config: est.RunConfig | None = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(
            RegressionHead(label_dimension, weight_column, loss_reduction),
            hidden_units,
            feature_columns,
            model_dir,
            optimizer,
            activation_fn,
            dropout,
            config,
            warm_start_from,
            batch_norm,
        )
