"""A picture of the history: curves of training and of evaluations.

plot_history("runs/iris").savefig("curves.png")
"""

import math
import os
from collections.abc import Sequence
from typing import Any

from estimator.history import History
from estimator.messages import did_you_mean
from estimator.mode_keys import ModeKeys

_META = ("mode", "eval_name", "global_step", "wall_time")


def plot_history(
    model_dir: str | os.PathLike[str], metrics: Sequence[str] | str | None = None
) -> Any:
    """Draws what `estimator.history` holds, a panel for each metric.

    It needs matplotlib: `pip install jax-estimator[plot]`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as model_dir:
    ...     History(model_dir).add_evaluation(None, 100, {"loss": 0.5, "accuracy": 0.9})
    ...     figure = plot_history(model_dir)
    >>> [panel.get_title() for panel in figure.axes]
    ['loss', 'accuracy']

    Args:
        model_dir: the model directory.
        metrics: which metrics to draw; None: all that are numbers.

    Returns:
        A `matplotlib.figure.Figure`, which no window shows yet: `savefig` writes it.

    Raises:
        ValueError: if there is no history, or no such metric.
    """
    from matplotlib.figure import Figure

    curves = _curves(History(os.fspath(model_dir)).records())
    if not curves:
        raise ValueError(f"There is no history in {model_dir}. Train or evaluate the model first.")
    wanted = [metrics] if isinstance(metrics, str) else list(metrics or curves)
    for name in wanted:
        if name not in curves:
            raise ValueError(
                f"plot_history: there is no metric {name!r}.{did_you_mean(name, curves)} The "
                f"history has {sorted(curves)}."
            )
    columns = min(len(wanted), 3)
    rows = -(-len(wanted) // columns)
    figure = Figure(figsize=(4.5 * columns, 3 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    # A curve has one colour in all panels.
    labels = dict.fromkeys(label for name in wanted for label in curves[name])
    colours = {label: f"C{i % 10}" for i, label in enumerate(labels)}
    for panel, name in zip(panels, wanted, strict=False):
        for label, points in curves[name].items():
            steps, values = zip(*sorted(points.items()), strict=True)
            marker = "." if len(steps) < 50 else ""
            panel.plot(steps, values, marker=marker, label=label, color=colours[label])
        lowest, highest = _range(curves[name])
        if 0 < lowest < highest / 100:
            panel.set_yscale("log")
        panel.set_title(name)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
        panel.legend()
    for panel in panels[len(wanted) :]:
        panel.remove()
    return figure


def _range(curves: dict[str, dict[int, float]]) -> tuple[float, float]:
    """Returns the lowest and the highest value of some curves, of those that are finite."""
    values = [value for points in curves.values() for value in points.values()]
    finite = [value for value in values if math.isfinite(value)]
    return min(finite, default=0.0), max(finite, default=0.0)


def _curves(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Returns numbers by metric, by curve, by step."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        label = "train"
        if record["mode"] == ModeKeys.EVAL:
            label = f"eval {record['eval_name']}" if record["eval_name"] else "eval"
        for name, value in record.items():
            if name not in _META and isinstance(value, int | float):
                points = curves.setdefault(name, {}).setdefault(label, {})
                points[record["global_step"]] = value
    return curves
