"""train_and_evaluate: a run that looks after itself.

    metrics, exports = train_and_evaluate(
        estimator,
        TrainSpec(input_fn, max_steps=10_000, hooks=[stop_if_no_decrease_hook(estimator, ...)]),
        EvalSpec(eval_input_fn, every_n_steps=500, exporters=BestExporter()),
    )

It trains, evaluates on the way the variables that training holds, exports, and stops when a hook
says so. A run that was killed is continued by the same call, as if nothing had happened.
"""

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from estimator import checkpoint
from estimator.arguments import check_count
from estimator.early_stopping import EvaluationStopHook
from estimator.estimator import Estimator
from estimator.exporter import BestExporter, Exporter
from estimator.in_memory_evaluator import InMemoryEvaluatorHook, evaluate_in_training
from estimator.mode_keys import ModeKeys
from estimator.retention import has_trained
from estimator.saver import CheckpointSaverHook
from estimator.session import (
    CheckpointSaverListener,
    Session,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
    check_hooks,
)
from estimator.timers import SecondOrStepTimer

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """What `train_and_evaluate` trains with.

    >>> TrainSpec(lambda: {"x": [1.0]}, max_steps=100).max_steps
    100

    Attributes:
        input_fn: returns batches, as for `Estimator.train`.
        max_steps: the global step to stop at; None: until the input ends, or a hook says so.
        hooks: called around each training step.
        saving_listeners: called around each save.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    input_fn: Callable[..., Any]
    max_steps: int | None = None
    hooks: Sequence[SessionRunHook] | None = None
    saving_listeners: Sequence[CheckpointSaverListener] | None = None

    def __post_init__(self) -> None:
        _check_input_fn("TrainSpec", self.input_fn)
        check_count("TrainSpec", "max_steps", self.max_steps)
        hooks = check_hooks(self.hooks, SessionRunHook, "TrainSpec: hooks")
        listeners = check_hooks(
            self.saving_listeners, CheckpointSaverListener, "TrainSpec: saving_listeners"
        )
        object.__setattr__(self, "hooks", hooks)
        object.__setattr__(self, "saving_listeners", listeners)


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """What `train_and_evaluate` evaluates with, when, and what it exports then.

    >>> EvalSpec(lambda: {"x": [1.0]}, steps=None, every_n_steps=500).throttle_secs
    600

    Attributes:
        input_fn: returns batches, as for `Estimator.evaluate`.
        steps: how many batches at the most; None: all.
        name: tells several evaluations apart: summaries go to `eval_<name>`.
        hooks: called around each batch of an evaluation.
        exporters: an `Exporter`, or several, called after each evaluation.
        start_delay_secs: taken for the sake of TensorFlow's signature; for evaluators that are
            processes of their own.
        throttle_secs: of the checkpoints that are saved, those sooner after the last evaluation
            are not evaluated; the first and the last one are.
        every_n_steps: evaluates at each global step that is a multiple of it, in place of
            checkpoints and seconds. (With exporters, a checkpoint is saved there.)

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    input_fn: Callable[..., Any]
    steps: int | None = 100
    name: str | None = None
    hooks: Sequence[SessionRunHook] | None = None
    exporters: Exporter | Sequence[Exporter] | None = None
    start_delay_secs: float = 120
    throttle_secs: float = 600
    every_n_steps: int | None = None

    def __post_init__(self) -> None:
        _check_input_fn("EvalSpec", self.input_fn)
        check_count("EvalSpec", "steps", self.steps)
        check_count("EvalSpec", "every_n_steps", self.every_n_steps)
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"EvalSpec: name must be a text, got {self.name!r}.")
        for field in ("start_delay_secs", "throttle_secs"):
            value = getattr(self, field)
            if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
                raise ValueError(f"EvalSpec: must specify {field} >= 0, given: {value!r}.")
        hooks = check_hooks(self.hooks, SessionRunHook, "EvalSpec: hooks")
        object.__setattr__(self, "hooks", hooks)
        object.__setattr__(self, "name", self.name or None)
        object.__setattr__(self, "exporters", _checked_exporters(self.exporters))


def train_and_evaluate(
    estimator: Estimator,
    train_spec: TrainSpec,
    eval_spec: EvalSpec | Sequence[EvalSpec],
) -> tuple[dict[str, Any] | None, list[Any]]:
    """Trains an Estimator, and evaluates and exports it on the way and at the end.

    Where `max_steps` was reached before, what there is is evaluated and exported. After Ctrl-C or
    SIGTERM (`estimator.interrupted`) it returns as soon as a checkpoint is saved; the next call
    goes on. Where a hook or an exporter looks at a metric, the evaluation's input is opened once
    before training, to learn which metrics there are.

    >>> import numpy as np
    >>> from estimator import EstimatorSpec, RunConfig
    >>> def model_fn(features, mode):
    ...     return EstimatorSpec(mode, loss=features.mean())
    >>> metrics, exports = train_and_evaluate(
    ...     Estimator(model_fn, config=RunConfig(save_checkpoints_steps=2)),
    ...     TrainSpec(lambda: np.ones((4, 1)), max_steps=5),
    ...     EvalSpec(lambda: np.ones((2, 1)), throttle_secs=0),
    ... )
    >>> int(metrics["global_step"]), float(metrics["loss"]), exports
    (5, 1.0, [])

    Args:
        estimator: the Estimator, whose config saves checkpoints.
        train_spec: how to train.
        eval_spec: how to evaluate; several of different names are evaluated one after the other.

    Returns:
        The last results of the (first) evaluation, None if there was none; and for each exporter,
        in order, what its last call returned.

    Raises:
        ValueError, TypeError: if an argument is not what it should be, or a hook or an exporter
            looks at a metric that the evaluation does not report.
    """
    specs = _checked_specs(estimator, train_spec, eval_spec)
    evaluations = [_Evaluation(estimator, spec, train_spec.max_steps) for spec in specs]
    _check_metric_names(estimator, train_spec, specs)
    interrupted = False
    if not _is_over(estimator):
        # In front: what they find out may stop the run at this very step.
        hooks = [*(e.hook for e in evaluations if e.hook is not None), *(train_spec.hooks or ())]
        listeners = [
            *(train_spec.saving_listeners or ()),
            *(e.listener for e in evaluations if e.listener is not None),
        ]
        estimator._train(
            train_spec.input_fn, hooks, None, train_spec.max_steps, listeners, is_all=False
        )
        interrupted = estimator.interrupted is not None
    if not interrupted:
        for evaluation in evaluations:
            evaluation.finish()
        path = estimator.latest_checkpoint()
        if path is not None:
            checkpoint.mark_ended(path)
    results = [result for evaluation in evaluations for result in evaluation.export_results]
    return evaluations[0].metrics, results


def _is_over(estimator: Estimator) -> bool:
    """Whether a run that was killed had no more to train, but to evaluate and export."""
    path = estimator.latest_checkpoint()
    if path is None or not has_trained(path) or checkpoint.has_ended(path):
        return False
    _LOG.info("Training was over at %s: going on with what follows it.", path)
    return True


class _Evaluation:
    """One evaluation of a run: its last results, and those of its exporters."""

    def __init__(self, estimator: Estimator, spec: EvalSpec, max_steps: int | None) -> None:
        assert isinstance(spec.exporters, tuple)
        self.metrics: dict[str, Any] | None = None
        self.export_results: list[Any] = [None] * len(spec.exporters)
        self.hook = None if spec.every_n_steps is None else _AtSteps(self, spec.every_n_steps)
        self.listener = _AtCheckpoints(self, spec.throttle_secs) if self.hook is None else None
        self._estimator = estimator
        self._spec = spec
        self._exporters = spec.exporters
        self._max_steps = max_steps
        self._step: int | None = None
        self._was_final = False

    @property
    def exports(self) -> bool:
        """Whether it has exporters, which want a checkpoint."""
        return bool(self._exporters)

    def continues_killed(self, session: Session) -> bool:
        """Whether a run begins at a checkpoint of one that was killed, perhaps before it was
        evaluated.
        """
        path = self._checkpoint(session.global_step)
        return session.global_step > 0 and path is not None and not checkpoint.has_ended(path)

    def run(self, session: Session) -> None:
        """Evaluates and exports the variables that training holds."""
        step, spec = session.global_step, self._spec
        path = self._checkpoint(step)
        self.metrics = evaluate_in_training(
            self._estimator,
            session,
            spec.input_fn,
            steps=spec.steps,
            hooks=spec.hooks,
            name=spec.name,
            checkpoint=path,
        )
        self._step = step
        self._export(path, is_final=self._max_steps is not None and step >= self._max_steps)

    def finish(self) -> None:
        """Evaluates the last step, unless that is done, and calls exporters for the last time."""
        path, spec = self._estimator.latest_checkpoint(), self._spec
        if path is None:
            raise ValueError(
                f"train_and_evaluate: there is no checkpoint in {self._estimator.model_dir} to "
                "evaluate. Let the CheckpointSaverHook save there."
            )
        step = int(os.path.basename(path))
        if self._step != step:
            self.metrics = self._estimator.evaluate(
                spec.input_fn, spec.steps, spec.hooks, name=spec.name
            )
            self._step, self._was_final = step, False
        if not self._was_final:
            self._export(path, is_final=True)

    def _export(self, path: str | None, is_final: bool) -> None:
        self._was_final = is_final
        for i, exporter in enumerate(self._exporters):
            assert path is not None
            assert self.metrics is not None
            directory = os.path.join(self._estimator.model_dir, "export", exporter.name)
            self.export_results[i] = exporter.export(
                estimator=self._estimator,
                export_path=directory,
                checkpoint_path=path,
                eval_result=self.metrics,
                is_the_final_export=is_final,
            )

    def _checkpoint(self, step: int) -> str | None:
        """Returns the checkpoint of a step; None if there is none."""
        path = os.path.join(self._estimator.model_dir, "checkpoints", str(step))
        return path if checkpoint.is_checkpoint(path) else None


class _AtCheckpoints(CheckpointSaverListener):
    """Evaluates each checkpoint but the one a run begins at, and those that come too soon."""

    def __init__(self, evaluation: _Evaluation, throttle_secs: float) -> None:
        self._evaluation = evaluation
        self._secs = throttle_secs
        self._timer = SecondOrStepTimer(every_secs=throttle_secs)
        self._is_first = True

    def begin(self) -> None:
        """Begins anew."""
        self._timer.reset()
        self._is_first = True

    def after_save(self, session: Session, global_step_value: int) -> None:
        """Evaluates, if it is time."""
        is_first, self._is_first = self._is_first, False
        if session.interrupted or (is_first and not self._evaluation.continues_killed(session)):
            return
        if not self._timer.should_trigger_for_step(global_step_value):
            _LOG.info(
                "No evaluation at step %d: throttle_secs=%g have not passed since the last one.",
                global_step_value,
                self._secs,
            )
            return
        self._timer.update_last_triggered_step(global_step_value)
        self._evaluation.run(session)


class _AtSteps(SessionRunHook):
    """Evaluates at global steps that are multiples of a number."""

    def __init__(self, evaluation: _Evaluation, every: int) -> None:
        self._evaluation = evaluation
        self._every = every

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Evaluates the step the run begins at, if a killed run may not have."""
        if session.global_step % self._every == 0 and self._evaluation.continues_killed(session):
            self._evaluation.run(session)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Evaluates, if it is time."""
        session = run_context.session
        if session.global_step % self._every or session.interrupted:
            return
        if not session.check_finite():
            run_context.request_stop()
            return
        if self._evaluation.exports and session.save_now():
            run_context.request_stop()
        self._evaluation.run(session)

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next evaluation."""
        return (global_step // self._every + 1) * self._every


def _checked_specs(estimator: Any, train_spec: Any, eval_spec: Any) -> list[EvalSpec]:
    where = "train_and_evaluate"
    if not isinstance(estimator, Estimator):
        raise TypeError(f"{where}: estimator must be an Estimator, got {estimator!r}.")
    if not isinstance(train_spec, TrainSpec):
        raise TypeError(f"{where}: train_spec must be a TrainSpec, got {train_spec!r}.")
    specs = list(eval_spec) if isinstance(eval_spec, list | tuple) else [eval_spec]
    for spec in specs:
        if not isinstance(spec, EvalSpec):
            raise TypeError(f"{where}: eval_spec must be an EvalSpec, or several, got {spec!r}.")
    if not specs:
        raise ValueError(f"{where}: eval_spec is an empty list.")
    for what, names in (
        ("EvalSpecs", [spec.name for spec in specs]),
        ("exporters", [e.name for spec in specs for e in _exporters(spec)]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"{where}: {what} must have different names, {twice} are twice.")
    config = estimator.config
    savers = [h for h in train_spec.hooks or () if isinstance(h, CheckpointSaverHook)]
    own = os.path.abspath(estimator.model_dir)
    if not (config.save_checkpoints_steps or config.save_checkpoints_secs or savers):
        raise ValueError(
            f"{where}: checkpoints are what is evaluated, but none is ever saved. Set "
            "save_checkpoints_steps or save_checkpoints_secs in RunConfig, or give TrainSpec a "
            "CheckpointSaverHook."
        )
    if savers and os.path.abspath(savers[0].directory) != own:
        raise ValueError(
            f"{where}: the CheckpointSaverHook saves in {savers[0].directory}, but checkpoints of "
            f"{own} are evaluated."
        )
    return specs


def _check_metric_names(
    estimator: Estimator, train_spec: TrainSpec, specs: Sequence[EvalSpec]
) -> None:
    """Checks before the first step what hooks and exporters want to see of evaluations."""
    stops = [hook for hook in train_spec.hooks or () if isinstance(hook, EvaluationStopHook)]
    for spec in specs:
        asking: list[EvaluationStopHook | BestExporter] = [
            *(hook for hook in stops if hook.eval_name == spec.name),
            *(e for e in _exporters(spec) if isinstance(e, BestExporter)),
        ]
        if any(one.metric_name not in (None, "loss", "global_step") for one in asking):
            names = _metric_names(estimator, spec)
            for one in asking:
                one.check_names(names)
    in_memory = [h for h in train_spec.hooks or () if isinstance(h, InMemoryEvaluatorHook)]
    made = {spec.name for spec in specs} | {hook.name for hook in in_memory}
    strange = {hook.eval_name for hook in stops} - made
    if strange:
        _LOG.warning(
            "An early stopping hook looks at the evaluations %s, but this run makes those of %s. "
            "Give the hook eval_dir=estimator.eval_dir(name).",
            sorted(name or "without a name" for name in strange),
            [spec.name or "without a name" for spec in specs],
        )


def _metric_names(estimator: Estimator, spec: EvalSpec) -> list[str]:
    """Returns what an evaluation reports; nothing is computed."""
    placement = estimator._read_placement(estimator.config.eval_distribute)
    with estimator._feed(spec.input_fn, ModeKeys.EVAL, placement) as feed:
        first = feed.peek()
        if first is None:
            raise ValueError("train_and_evaluate: the input of the evaluation is empty.")
        return [*(first.binding.spec.eval_metric_ops or ()), "loss", "global_step"]


def _exporters(spec: EvalSpec) -> tuple[Exporter, ...]:
    assert isinstance(spec.exporters, tuple)
    return spec.exporters


def _checked_exporters(exporters: Any) -> tuple[Exporter, ...]:
    if exporters is not None and not isinstance(exporters, Exporter | list | tuple):
        raise TypeError(f"EvalSpec: exporters must be Exporters, got {exporters!r}.")
    given = (exporters,) if isinstance(exporters, Exporter) else tuple(exporters or ())
    for exporter in given:
        if not isinstance(exporter, Exporter):
            raise TypeError(f"EvalSpec: exporters must be Exporters, got {exporter!r}.")
        if not isinstance(exporter.name, str) or not exporter.name:
            raise ValueError(f"EvalSpec: an exporter must have a name, got {exporter.name!r}.")
    names = [exporter.name for exporter in given]
    if len({*names}) < len(names):
        raise ValueError(f"EvalSpec: exporters must have different names, got {names}.")
    return given


def _check_input_fn(where: str, input_fn: Any) -> None:
    if not callable(input_fn):
        raise TypeError(f"{where}: input_fn must be a function, got {input_fn!r}.")
