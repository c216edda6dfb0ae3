"""More metrics for an Estimator that is there already.

    def more(labels, predictions):
        return {"f1": ...}

    est.add_metrics(classifier, more).evaluate(input_fn)

The model, its checkpoints and what it reports already stay as they are.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from estimator.estimator import Estimator
from estimator.host_features import HostOutput, Int64
from estimator.messages import did_you_mean
from estimator.metrics import Metric
from estimator.mode_keys import ModeKeys

_ARGUMENTS = ("features", "labels", "predictions", "config")


def add_metrics(estimator: Estimator, metric_fn: Callable[..., Mapping[str, Metric]]) -> Estimator:
    """Returns an Estimator of the same model, whose `evaluate` reports more.

    It has the model_dir and the config of the other, so it reads the same checkpoints; methods that
    a subclass adds, such as `KMeans.score`, stay behind.

    >>> import numpy as np
    >>> from estimator import EstimatorSpec, layers, metrics
    >>> def model_fn(features, mode):
    ...     logits = layers.dense(features, 1)
    ...     return EstimatorSpec(mode, {"logits": logits}, loss=logits.sum())
    >>> def more(features, predictions):
    ...     return {"seen": metrics.sum(features), "width": metrics.mean(predictions["logits"] * 0)}
    >>> results = add_metrics(Estimator(model_fn), more).evaluate(lambda: np.ones((3, 2)))
    >>> sorted(results), float(results["seen"])
    (['global_step', 'loss', 'seen', 'width'], 6.0)

    Args:
        estimator: the Estimator.
        metric_fn: returns metrics by name; it takes whichever of `features`, `labels`,
            `predictions` and `config` it names. Predictions that are made on the host are not among
            them, but for ids. A metric of a name that is there already takes its place.

    Returns:
        A plain Estimator.

    Raises:
        TypeError: if metric_fn cannot be called.
        ValueError: if it takes something else.
    """
    if not isinstance(estimator, Estimator):
        raise TypeError(f"add_metrics: estimator must be an Estimator, got {estimator!r}.")
    if not callable(metric_fn):
        raise TypeError(f"add_metrics: metric_fn must be a function, got {metric_fn!r}.")
    parameters = inspect.signature(metric_fn).parameters
    takes = [name for name in parameters if name in _ARGUMENTS]
    needed = [name for name, p in parameters.items() if p.default is p.empty]
    strange = [name for name in needed if name not in _ARGUMENTS]
    if strange:
        raise ValueError(
            f"add_metrics: metric_fn takes {needed}, but it is called with some of "
            f"{list(_ARGUMENTS)}, by name.{did_you_mean(strange[0], _ARGUMENTS)}"
        )
    inner = estimator.model_fn

    def model_fn(features: Any, labels: Any, mode: str, config: Any) -> Any:
        spec = inner(features, labels, mode, config)
        if mode != ModeKeys.EVAL:
            return spec
        offered = {
            "features": features,
            "labels": labels,
            "predictions": _on_device(spec.predictions),
            "config": config,
        }
        more = metric_fn(**{name: offered[name] for name in takes})
        return spec._replace(eval_metric_ops={**(spec.eval_metric_ops or {}), **(more or {})})

    start = estimator._warm_start_from
    return Estimator(model_fn, estimator.model_dir, estimator.config, warm_start_from=start)


def _on_device(predictions: Any) -> Any:
    """Returns those predictions that are arrays in a step, and ids."""
    if not isinstance(predictions, Mapping):
        return predictions
    made = {}
    for name, answer in predictions.items():
        if not isinstance(answer, HostOutput):
            made[name] = answer
        elif isinstance(answer.recipe, Int64):
            made[name] = answer.arrays[0]
    return made
