"""Labels that cannot be are never trained on silently, wherever they come from."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import estimator as est
from canned import (
    BinaryClassHead,
    LogisticRegressionHead,
    MultiClassHead,
    PoissonRegressionHead,
)


def loss_of(head, labels, width=1):
    logits = np.zeros((len(labels), width), np.float32)
    return est.preview(lambda x, y: head.loss(y, x), logits, labels)[0]


@pytest.mark.parametrize(
    ("head", "labels", "width"),
    [
        (MultiClassHead(3), [0, -1], 3),
        (MultiClassHead(3), [3, 0], 3),
        (BinaryClassHead(), [2, 1], 1),
        (LogisticRegressionHead(), [0.5, 1.5], 1),
        (PoissonRegressionHead(), [1.0, -3.0], 1),
    ],
    ids=["below", "above", "binary", "probability", "count"],
)
def test_labels_out_of_range_are_an_error_and_on_a_device_a_loss_of_nan(head, labels, width):
    with pytest.raises(ValueError, match="labels must lie between"):
        loss_of(head, np.array(labels), width)
    assert np.isnan(loss_of(head, jnp.array(labels), width))


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "b"], ["a", "b", "a", "c"]])
def test_a_vocabulary_names_each_class_once(names):
    with pytest.raises(ValueError, match="Name each class once"):
        MultiClassHead(3, label_vocabulary=names)


def test_a_metric_fn_may_be_a_partial_and_have_defaults():
    def more(labels, scale, shift=0.0):
        return {"scaled": est.metrics.mean(scale * labels + shift)}

    def model_fn(features, labels, mode):
        return est.EstimatorSpec(mode, loss=jnp.mean(features))

    data = np.ones((2, 1), np.float32), np.array([1, 3])
    model = est.add_metrics(est.Estimator(model_fn), functools.partial(more, scale=2))
    assert model.evaluate(lambda: data)["scaled"] == 4
