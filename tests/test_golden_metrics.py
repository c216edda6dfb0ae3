"""Metrics: of recorded predictions they are what TensorFlow's evaluate recorded."""

import json
from pathlib import Path

import numpy as np
import pytest

from estimator import metrics
from estimator.metrics import to_host

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 5e-5


def recorded():
    """Returns the cases of one answer an example: all but those with an answer each time step."""
    cases = [
        c for name in ("canned", "rnn") for c in json.loads((GOLDEN / f"{name}.json").read_text())
    ]
    return [case for case in cases if not case["args"].get("return_sequences")]


def of_classes(case, answers, weights):
    """Returns the metrics of TensorFlow's heads for classes."""
    names = case.get("label_vocabulary") or case["args"].get("label_vocabulary")
    labels = np.array([names.index(label) for label in case["labels"]] if names else case["labels"])
    classes = np.array([answer["class_ids"][0] for answer in answers])
    probabilities = np.array([answer["probabilities"] for answer in answers])
    losses = -np.log(probabilities[np.arange(len(labels)), labels])
    made = {
        "accuracy": metrics.accuracy(labels, classes, weights),
        "average_loss": metrics.mean(losses, weights),
    }
    if probabilities.shape[1] > 2:
        return made
    positive = probabilities[:, 1]
    return made | {
        "precision": metrics.precision(labels, classes, weights),
        "recall": metrics.recall(labels, classes, weights),
        "auc": metrics.auc(labels, positive, weights),
        "auc_precision_recall": metrics.auc(labels, positive, weights, curve="PR"),
        "label/mean": metrics.mean(labels, weights),
        "prediction/mean": metrics.mean(positive, weights),
    }


def of_numbers(case, answers, weights):
    """Returns the metrics of TensorFlow's heads for regression."""
    labels, predictions = np.array(case["labels"]), np.array([a["predictions"] for a in answers])
    return {
        "average_loss": metrics.mean_squared_error(labels, predictions, weights),
        "label/mean": metrics.mean(labels, weights),
        "prediction/mean": metrics.mean(predictions, weights),
    }


@pytest.mark.parametrize("case", recorded(), ids=lambda case: case["name"])
def test_metrics_of_recorded_predictions_are_those_of_tensorflow(case):
    answers = case["predictions"]
    weights = case["features"].get("wt")
    weights = None if weights is None else np.array(weights)
    made = (of_classes if "probabilities" in answers[0] else of_numbers)(case, answers, weights)
    wanted = case["evaluate_at_step"]["6"]
    assert {*wanted} - {*made} <= {"loss", "global_step", "accuracy_baseline"}
    for name, metric in made.items():
        value = to_host(metric).compute()
        np.testing.assert_allclose(
            value, wanted[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name
        )
