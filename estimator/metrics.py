"""Metrics: what evaluate reports, streaming over batches of any size.

    eval_metric_ops = {
        "accuracy": metrics.accuracy(labels, predicted_classes),
        "auc": metrics.auc(labels, probabilities, weights=features["weight"]),
    }

A batch makes sums on the device, the host adds them up in float64. A metric of your own is a
`Metric`: a frozen dataclass of sums, registered as a pytree.
"""

from estimator.class_metrics import (
    BinaryCount,
    ClassMean,
    false_negatives,
    false_positives,
    mean_iou,
    mean_per_class_accuracy,
    precision,
    precision_at_k,
    recall,
    recall_at_k,
    true_negatives,
    true_positives,
)
from estimator.mean_metrics import (
    Determination,
    Mean,
    RootMean,
    Sum,
    accuracy,
    mean,
    mean_absolute_error,
    mean_cosine_distance,
    mean_relative_error,
    mean_squared_error,
    percentage_below,
    r2,
    root_mean_squared_error,
    sum,
)
from estimator.metric_base import Metric, to_host
from estimator.threshold_metrics import (
    AreaUnderCurve,
    AtThresholds,
    BestRate,
    auc,
    precision_at_recall,
    precision_at_thresholds,
    recall_at_thresholds,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)

__all__ = [
    "AreaUnderCurve",
    "AtThresholds",
    "BestRate",
    "BinaryCount",
    "ClassMean",
    "Determination",
    "Mean",
    "Metric",
    "RootMean",
    "Sum",
    "accuracy",
    "auc",
    "false_negatives",
    "false_positives",
    "mean",
    "mean_absolute_error",
    "mean_cosine_distance",
    "mean_iou",
    "mean_per_class_accuracy",
    "mean_relative_error",
    "mean_squared_error",
    "percentage_below",
    "precision",
    "precision_at_k",
    "precision_at_recall",
    "precision_at_thresholds",
    "r2",
    "recall",
    "recall_at_k",
    "recall_at_thresholds",
    "root_mean_squared_error",
    "sensitivity_at_specificity",
    "specificity_at_sensitivity",
    "sum",
    "to_host",
    "true_negatives",
    "true_positives",
]
