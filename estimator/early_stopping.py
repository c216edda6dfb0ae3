"""Early stopping: ends training when an evaluation says so.

    hook = stop_if_no_decrease_hook(estimator, "loss", max_steps_without_decrease=1000)
    train_and_evaluate(estimator, TrainSpec(input_fn, hooks=[hook]), EvalSpec(eval_input_fn))

The hooks read the history of the model directory. So a run that was killed and continued stops
where it would have stopped; and one that has stopped, trained again, stops at once.
"""

import logging
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from estimator.arguments import check_count
from estimator.estimator import Estimator
from estimator.history import History
from estimator.messages import did_you_mean
from estimator.session import Session, SessionRunContext, SessionRunHook, SessionRunValues
from estimator.stop_hooks import StopAtStepHook
from estimator.timers import SecondOrStepTimer
from estimator.train_loop import TrainSession

_LOG = logging.getLogger(__name__)

# Says of a metric's values by step why to stop, in words; None: go on.
Verdict = Callable[[Mapping[int, Any]], str | None]


def make_early_stopping_hook(
    estimator: Estimator,
    should_stop_fn: Callable[[], bool],
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> SessionRunHook:
    """Returns a hook that ends training when a function says so.

    >>> import tempfile
    >>> estimator = Estimator(lambda features, mode: None, tempfile.gettempdir())
    >>> hook = make_early_stopping_hook(estimator, lambda: True, run_every_secs=None,
    ...                                 run_every_steps=10)

    Args:
        estimator: the Estimator that is trained.
        should_stop_fn: takes nothing, and returns whether to stop.
        run_every_secs: seconds between two calls of it.
        run_every_steps: steps between two calls of it, in place of seconds.

    Raises:
        TypeError: if estimator is no Estimator, or should_stop_fn no function.
        ValueError: unless exactly one of run_every_secs and run_every_steps is given.
    """
    where = "make_early_stopping_hook"
    _check_estimator(where, estimator)
    if not callable(should_stop_fn):
        raise TypeError(f"{where}: should_stop_fn must be a function, got {should_stop_fn!r}.")
    return _PredicateHook(should_stop_fn, _timer(where, run_every_secs, run_every_steps))


def stop_if_higher_hook(
    estimator: Estimator,
    metric_name: str,
    threshold: float,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> SessionRunHook:
    """Returns a hook that ends training once a metric is above a threshold.

    >>> import tempfile
    >>> estimator = Estimator(lambda features, mode: None, tempfile.gettempdir())
    >>> hook = stop_if_higher_hook(estimator, "accuracy", threshold=0.9)

    Args:
        estimator: the Estimator that is trained.
        metric_name: a metric that its evaluations report.
        threshold: the value to pass.
        eval_dir: that of the evaluation, `estimator.eval_dir(name)`; None: the one without a name.
        min_steps: evaluations at earlier steps do not count.
        run_every_secs, run_every_steps: taken for the sake of TensorFlow's signature: evaluations
            are looked at as they come, those of other processes, too.

    Raises:
        TypeError: if estimator is no Estimator.
        ValueError: unless exactly one of run_every_secs and run_every_steps is given, or if
            eval_dir is not one of the Estimator's.
    """
    _check_number("stop_if_higher_hook", "threshold", threshold)
    return _hook(
        "stop_if_higher_hook",
        estimator,
        metric_name,
        _past(lambda value: value > threshold, f"above {threshold}", min_steps),
        eval_dir,
        run_every_secs,
        run_every_steps,
    )


def stop_if_lower_hook(
    estimator: Estimator,
    metric_name: str,
    threshold: float,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> SessionRunHook:
    """Returns a hook that ends training once a metric is below a threshold.

    >>> import tempfile
    >>> estimator = Estimator(lambda features, mode: None, tempfile.gettempdir())
    >>> hook = stop_if_lower_hook(estimator, "loss", threshold=0.1)

    Args:
        estimator, metric_name, threshold, eval_dir, min_steps, run_every_secs, run_every_steps: as
            for `stop_if_higher_hook`.

    Raises:
        TypeError, ValueError: as `stop_if_higher_hook` does.
    """
    _check_number("stop_if_lower_hook", "threshold", threshold)
    return _hook(
        "stop_if_lower_hook",
        estimator,
        metric_name,
        _past(lambda value: value < threshold, f"below {threshold}", min_steps),
        eval_dir,
        run_every_secs,
        run_every_steps,
    )


def stop_if_no_increase_hook(
    estimator: Estimator,
    metric_name: str,
    max_steps_without_increase: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> SessionRunHook:
    """Returns a hook that ends training once a metric no longer increases.

    >>> import tempfile
    >>> estimator = Estimator(lambda features, mode: None, tempfile.gettempdir())
    >>> hook = stop_if_no_increase_hook(estimator, "accuracy", max_steps_without_increase=1000)

    Args:
        estimator: the Estimator that is trained.
        metric_name: a metric that its evaluations report.
        max_steps_without_increase: how many training steps to wait for a value above the best.
        eval_dir, min_steps, run_every_secs, run_every_steps: as for `stop_if_higher_hook`.

    Raises:
        TypeError, ValueError: as `stop_if_higher_hook` does.
    """
    name = "max_steps_without_increase"
    _check_steps("stop_if_no_increase_hook", name, max_steps_without_increase)
    return _hook(
        "stop_if_no_increase_hook",
        estimator,
        metric_name,
        _no_better(operator.gt, max_steps_without_increase, min_steps),
        eval_dir,
        run_every_secs,
        run_every_steps,
    )


def stop_if_no_decrease_hook(
    estimator: Estimator,
    metric_name: str,
    max_steps_without_decrease: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> SessionRunHook:
    """Returns a hook that ends training once a metric no longer decreases.

    >>> import tempfile
    >>> estimator = Estimator(lambda features, mode: None, tempfile.gettempdir())
    >>> hook = stop_if_no_decrease_hook(estimator, "loss", max_steps_without_decrease=1000)

    Args:
        estimator: the Estimator that is trained.
        metric_name: a metric that its evaluations report.
        max_steps_without_decrease: how many training steps to wait for a value below the best.
        eval_dir, min_steps, run_every_secs, run_every_steps: as for `stop_if_higher_hook`.

    Raises:
        TypeError, ValueError: as `stop_if_higher_hook` does.
    """
    name = "max_steps_without_decrease"
    _check_steps("stop_if_no_decrease_hook", name, max_steps_without_decrease)
    return _hook(
        "stop_if_no_decrease_hook",
        estimator,
        metric_name,
        _no_better(operator.lt, max_steps_without_decrease, min_steps),
        eval_dir,
        run_every_secs,
        run_every_steps,
    )


def make_stop_at_checkpoint_step_hook(
    estimator: Estimator, last_step: int, wait_after_file_check_secs: float = 30
) -> SessionRunHook:
    """Returns a hook that ends training at a global step.

    In a run of one process, which makes the steps itself, that is a `StopAtStepHook`.

    >>> import tempfile
    >>> estimator = Estimator(lambda features, mode: None, tempfile.gettempdir())
    >>> make_stop_at_checkpoint_step_hook(estimator, last_step=100).next_step(3)
    100

    Args:
        estimator: the Estimator that is trained.
        last_step: the global step to stop at.
        wait_after_file_check_secs: for runs of several processes.
    """
    _check_estimator("make_stop_at_checkpoint_step_hook", estimator)
    return StopAtStepHook(last_step=last_step)


class EvaluationStopHook(SessionRunHook):
    """Ends training when the evaluations so far call for it.

    Args:
        where: the function it is made by, for messages.
        estimator: the Estimator that is trained.
        metric_name: the metric that is looked at.
        verdict: says of the metric's values by step why to stop; None: go on.
        eval_dir: the directory of the evaluation; None: of the one without a name.

    Attributes:
        eval_name: which evaluation is looked at.
        metric_name: the metric that is looked at.
    """

    def __init__(
        self,
        where: str,
        estimator: Estimator,
        metric_name: str,
        verdict: Verdict,
        eval_dir: str | None,
    ) -> None:
        self.eval_name = _eval_name(where, estimator, eval_dir)
        self._where = where
        self._model_dir = estimator.model_dir
        self._history = History(estimator.model_dir)
        self.metric_name = metric_name
        self._verdict = verdict
        self._seen = -1

    def check_names(self, names: Iterable[str]) -> None:
        """Checks its metric against those that the evaluation reports.

        Raises:
            ValueError: if there is no such metric; the message lists them all.
        """
        names = sorted(names)
        if self.metric_name not in names:
            raise ValueError(
                f"{self._where}: there is no metric {self.metric_name!r}."
                f"{did_you_mean(self.metric_name, names)} The evaluation reports {names}."
            )

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Ends the run before its first step, if earlier evaluations call for it."""
        if isinstance(session, TrainSession) and not self._is_of(session.model_dir):
            raise ValueError(
                f"{self._where}: the hook was made for the Estimator in {self._model_dir}, and "
                f"that in {session.model_dir} is trained."
            )
        if self._should_stop():
            coord.request_stop()

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Looks, if there is a new evaluation."""
        if self._seen != self._history.size() and self._should_stop():
            run_context.request_stop()

    def next_step(self, global_step: int) -> int | None:
        """Returns None: evaluations come at any step."""
        return None

    def _is_of(self, model_dir: str) -> bool:
        return os.path.abspath(model_dir) == os.path.abspath(self._model_dir)

    def _should_stop(self) -> bool:
        self._seen = self._history.size()
        evaluations = self._history.evaluations(self.eval_name)
        if evaluations:
            self.check_names(evaluations[max(evaluations)])
        name = self.metric_name
        reason = self._verdict({s: r[name] for s, r in evaluations.items() if name in r})
        if reason is not None:
            _LOG.info("Stopping early: %s %s.", self.metric_name, reason)
        return reason is not None


class _PredicateHook(SessionRunHook):
    """Ends training when a function says so."""

    def __init__(self, should_stop_fn: Callable[[], bool], timer: SecondOrStepTimer) -> None:
        self._should_stop_fn = should_stop_fn
        self._timer = timer

    def begin(self) -> None:
        """Begins to count anew."""
        self._timer.reset()

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Asks the function, if it is time."""
        step = run_context.session.global_step
        if not self._timer.should_trigger_for_step(step):
            return
        self._timer.update_last_triggered_step(step)
        if self._should_stop_fn():
            _LOG.info("Stopping early at step %d: should_stop_fn says so.", step)
            run_context.request_stop()

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next call."""
        return self._timer.next_step(global_step)


def _hook(
    where: str,
    estimator: Estimator,
    metric_name: str,
    verdict: Verdict,
    eval_dir: str | None,
    run_every_secs: float | None,
    run_every_steps: int | None,
) -> EvaluationStopHook:
    _check_estimator(where, estimator)
    _timer(where, run_every_secs, run_every_steps)
    return EvaluationStopHook(where, estimator, metric_name, verdict, eval_dir)


def _past(is_past: Callable[[Any], bool], shown: str, min_steps: int) -> Verdict:
    """Calls for a stop once a value is past a threshold."""

    def verdict(values: Mapping[int, Any]) -> str | None:
        for step, value in values.items():
            if step >= min_steps and is_past(value):
                return f"{value} at step {step} is {shown}"
        return None

    return verdict


def _no_better(is_better: Callable[[Any, Any], bool], most_steps: int, min_steps: int) -> Verdict:
    """Calls for a stop once so many steps have made no value better."""

    def verdict(values: Mapping[int, Any]) -> str | None:
        best: tuple[int, Any] | None = None
        for step, value in values.items():
            if step < min_steps:
                continue
            if best is None or is_better(value, best[1]) or _isnan(best[1]) > _isnan(value):
                best = (step, value)
            if step - best[0] >= most_steps:
                return f"{best[1]} at step {best[0]} is the best, and step {step} no better"
        return None

    return verdict


def _isnan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _check_number(where: str, name: str, value: Any) -> None:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be a number, got {value!r}.")


def _check_steps(where: str, name: str, value: Any) -> None:
    if value is None:
        raise TypeError(f"{where}: {name} must be an int, got None.")
    check_count(where, name, value)


def _check_estimator(where: str, estimator: Any) -> None:
    if not isinstance(estimator, Estimator):
        raise TypeError(f"{where}: estimator must be an Estimator, got {estimator!r}.")


def _timer(where: str, secs: float | None, steps: int | None) -> SecondOrStepTimer:
    names = ("run_every_secs", "run_every_steps")
    return SecondOrStepTimer(secs, steps, asked_by=where, names=names)


def _eval_name(where: str, estimator: Estimator, eval_dir: str | None) -> str | None:
    """Returns the name of the evaluation whose summaries go to that directory."""
    if eval_dir is None:
        return None
    base = os.path.relpath(os.path.abspath(eval_dir), os.path.abspath(estimator.model_dir))
    name = base.removeprefix("eval_") if base.startswith("eval_") else None
    if os.path.abspath(eval_dir) != os.path.abspath(estimator.eval_dir(name)):
        raise ValueError(
            f"{where}: eval_dir must be estimator.eval_dir(name), in {estimator.model_dir}, got "
            f"{eval_dir!r}."
        )
    return name
