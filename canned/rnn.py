"""Recurrent models: columns of sequences, cells over their steps, and a head.

    RNNClassifier([embedding_column(words, 16)], units=[32, 16], cell_type="lstm", n_classes=3)

Variables are named as in TensorFlow: `rnn_model/rnn/lstm_cell/kernel`, `rnn_model/logits/bias`.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

import estimator as est
import feature_columns as fc
from canned.class_heads import class_head
from canned.head_base import SUM_OVER_BATCH_SIZE, Head
from canned.head_model import checked_columns, checked_features, checked_head, listed
from canned.optimizers import named_optimizer
from canned.rnn_cells import RNNCell
from canned.rnn_network import RNNNetwork, cells_of
from canned.sequential_head import SequentialHeadWrapper

_LEARNING_RATE = 0.05
_CLIP_NORM = 5.0


class RNNEstimator(est.Estimator):
    """A recurrent model with any head.

    >>> import numpy as np
    >>> from canned.class_heads import BinaryClassHead
    >>> model = RNNEstimator(
    ...     BinaryClassHead(), fc.sequence_numeric_column("x"), units=[4], cell_type="gru"
    ... )
    >>> data = {"x": [[1.0, 2.0, 3.0], [4.0]]}, np.array([0, 1])
    >>> len(list(model.train(lambda: data, steps=2).predict(lambda: data)))
    2

    Args:
        head: makes a loss, predictions and metrics of the logits; a `SequentialHeadWrapper` where
            `return_sequences` is True.
        sequence_feature_columns: what of the features makes the steps.
        context_feature_columns: dense columns that are given to each step, besides.
        units: how many units each layer of cells has, from the lowest to the highest; or a number,
            for one layer, whose variables are called by the kind of its cells.
        cell_type: `"simple_rnn"`, `"lstm"` or `"gru"`, or a class of cells, which is called with
            the units.
        rnn_cell_fn: a function that returns an `RNNCell`, in place of units and cell_type.
        return_sequences: whether there are logits for each step, or for the last only.
        model_dir: where checkpoints and summaries go.
        optimizer: the name of one of TensorFlow's optimizers, with a learning rate of 0.05 and the
            gradient of each variable clipped to the norm 5; an optax transformation; or a function
            that returns one.
        config: the settings of the run. Each size that the longest sequence of a batch is filled up
            to compiles a program; `length_buckets` chooses them.
        warm_start_from: where first variables come from.
        bidirectional: whether other cells read each sequence from its end, too.
        dropout: which part of the outputs of the highest layer is dropped in training.
        pooling: what the logits of a sequence are made of: the `"last"` output, or the `"mean"` or
            `"max"` of all.

    Raises:
        ValueError, TypeError: if an argument is not what it should be, or some do not go together.
    """

    def __init__(
        self,
        head: Head,
        sequence_feature_columns: Any,
        context_feature_columns: Any = None,
        units: Any = None,
        cell_type: Any = None,
        rnn_cell_fn: Callable[[], RNNCell] | None = None,
        return_sequences: bool = False,
        model_dir: str | os.PathLike[str] | None = None,
        optimizer: Any = "Adagrad",
        config: est.RunConfig | None = None,
        *,
        warm_start_from: Any = None,
        bidirectional: bool = False,
        dropout: float | None = None,
        pooling: str = "last",
    ) -> None:
        who = type(self).__name__
        checked_head(head, who)
        if bool(return_sequences) != isinstance(head, SequentialHeadWrapper):
            raise ValueError(
                f"{who}: return_sequences=True and a SequentialHeadWrapper go together, got "
                f"return_sequences={return_sequences!r} and a {type(head).__name__}."
            )
        network = RNNNetwork(
            checked_columns(sequence_feature_columns, who, "sequence_feature_columns"),
            [] if context_feature_columns is None else listed(context_feature_columns),
            cells_of(units, cell_type, rnn_cell_fn, who),
            head.logits_dimension,
            bool(return_sequences),
            bidirectional,
            dropout,
            pooling,
            who,
        )
        made = named_optimizer(
            optimizer, where=who, learning_rate=_LEARNING_RATE, clip_norm=_CLIP_NORM
        )

        def model_fn(features: Any, labels: Any, mode: str) -> est.EstimatorSpec:
            checked_features(features, who)
            logits, lengths = network(features, mode)
            if not isinstance(head, SequentialHeadWrapper):
                return head.create_estimator_spec(features, mode, logits, labels, made)
            key = head.sequence_length_mask
            mask = jnp.arange(logits.shape[1]) < lengths[:, None]
            whole = {**features, key: features.get(key, mask)}
            recipe = fc.sequence_lengths(features, network.sequence)
            one = head if key in features else head.with_lengths(recipe)
            return one.create_estimator_spec(whole, mode, logits, labels, made)

        super().__init__(model_fn, model_dir, config, warm_start_from=warm_start_from)


class RNNClassifier(RNNEstimator):
    """A recurrent model that tells the class of a sequence, or of each of its steps.

    Args:
        sequence_feature_columns, context_feature_columns, units, cell_type, rnn_cell_fn,
            return_sequences, model_dir, optimizer, config, warm_start_from, bidirectional, dropout,
            pooling: as for `RNNEstimator`.
        n_classes: how many classes.
        weight_column: the name of a feature that says how much an example, or a step, counts; or a
            numeric column of it, where `return_sequences` is False.
        label_vocabulary: the names of the classes, where labels are names.
        loss_reduction: `"sum_over_batch_size"` or `"sum"`.
        sequence_mask: the name of a feature that says which steps are there, where it is given;
            predictions tell so under that name.

    Raises:
        ValueError, TypeError: if an argument is not what it should be, or some do not go together.
    """

    def __init__(
        self,
        sequence_feature_columns: Any,
        context_feature_columns: Any = None,
        units: Any = None,
        cell_type: Any = None,
        rnn_cell_fn: Callable[[], RNNCell] | None = None,
        return_sequences: bool = False,
        model_dir: str | os.PathLike[str] | None = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[str] | None = None,
        optimizer: Any = "Adagrad",
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        sequence_mask: str = "sequence_mask",
        config: est.RunConfig | None = None,
        *,
        warm_start_from: Any = None,
        bidirectional: bool = False,
        dropout: float | None = None,
        pooling: str = "last",
    ) -> None:
        head: Head = class_head(n_classes, weight_column, label_vocabulary, loss_reduction)
        if return_sequences:
            if weight_column is not None and not isinstance(weight_column, str):
                raise TypeError(
                    f"{type(self).__name__}: with return_sequences=True weight_column must be the "
                    f"name of a feature, got {weight_column!r}."
                )
            head = SequentialHeadWrapper(head, sequence_mask, weight_column)  # type: ignore[arg-type]
        super().__init__(
            head,
            sequence_feature_columns,
            context_feature_columns,
            units,
            cell_type,
            rnn_cell_fn,
            return_sequences,
            model_dir,
            optimizer,
            config,
            warm_start_from=warm_start_from,
            bidirectional=bidirectional,
            dropout=dropout,
            pooling=pooling,
        )
