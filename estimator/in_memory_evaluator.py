"""Evaluation in the middle of training, of the variables that training holds.

    hook = InMemoryEvaluatorHook(estimator, eval_input_fn, every_n_iter=500)
    estimator.train(input_fn, hooks=[hook], max_steps=5000)

No checkpoint is written or read for it, and nothing is traced again.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from estimator.arguments import check_count
from estimator.binding import Binding
from estimator.estimator import Estimator
from estimator.live import Live, check_asked
from estimator.session import (
    Session,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
    check_hooks,
)
from estimator.timers import SecondOrStepTimer, step_of_batch
from estimator.train_loop import TrainSession


class InMemoryEvaluatorHook(SessionRunHook):
    """Evaluates before the first step of training, every so many steps, and at the end.

    >>> import numpy as np
    >>> from estimator import EstimatorSpec
    >>> def model_fn(features, mode):
    ...     return EstimatorSpec(mode, loss=features.sum())
    >>> estimator = Estimator(model_fn)
    >>> hook = InMemoryEvaluatorHook(estimator, lambda: np.ones((2, 1)), every_n_iter=2)
    >>> _ = estimator.train(lambda: np.ones((4, 1)), hooks=[hook], steps=5)
    >>> [r["global_step"] for r in estimator.history if r["mode"] == "eval"]
    [0, 2, 4, 5]

    Args:
        estimator: the Estimator that is trained.
        input_fn: returns batches, as for `evaluate`; it is called for each evaluation.
        steps: how many batches at the most; None: all.
        hooks: called around each batch.
        name: tells several evaluations apart: summaries go to `eval_<name>`.
        every_n_iter: training steps between two evaluations.

    Attributes:
        name: which evaluation it makes.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        estimator: Estimator,
        input_fn: Callable[..., Any],
        steps: int | None = None,
        hooks: Sequence[SessionRunHook] | None = None,
        name: str | None = None,
        every_n_iter: int = 100,
    ) -> None:
        where = "InMemoryEvaluatorHook"
        if not isinstance(estimator, Estimator):
            raise TypeError(f"{where}: estimator must be an Estimator, got {estimator!r}.")
        if not callable(input_fn):
            raise TypeError(f"{where}: input_fn must be a function, got {input_fn!r}.")
        check_count(where, "steps", steps)
        check_count(where, "every_n_iter", every_n_iter)
        self._estimator = estimator
        self._input_fn = input_fn
        self._steps = steps
        self._hooks = check_hooks(hooks, SessionRunHook, f"{where}: hooks")
        self.name = name or None
        self._timer = SecondOrStepTimer(
            every_steps=every_n_iter, asked_by=where, names=("", "every_n_iter")
        )
        self._first = 0
        self._evaluated: int | None = None

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Evaluates before the first step."""
        self._first = session.global_step
        self._timer.reset()
        self._evaluate(session)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Evaluates, if it is time."""
        if self._timer.should_trigger_for_step(run_context.session.batches):
            self._evaluate(run_context.session)

    def end(self, session: Session) -> None:
        """Evaluates what the last steps have made, unless a signal ends the run."""
        if session.global_step != self._evaluated and not session.interrupted:
            self._evaluate(session)

    def next_step(self, global_step: int) -> int | None:
        """Returns the step of the next evaluation."""
        return step_of_batch(self._first, self._timer.next_step(global_step - self._first))

    def _evaluate(self, session: Session) -> None:
        self._timer.update_last_triggered_step(session.batches)
        self._evaluated = session.global_step
        evaluate_in_training(
            self._estimator,
            session,
            self._input_fn,
            steps=self._steps,
            hooks=self._hooks,
            name=self.name,
        )


def evaluate_in_training(
    estimator: Estimator,
    session: Session,
    input_fn: Callable[..., Any],
    *,
    steps: int | None,
    hooks: Sequence[SessionRunHook] | None,
    name: str | None,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """Evaluates the variables that a train call holds, between two of its steps.

    Args:
        estimator: the Estimator that is trained.
        session: the session of its train call.
        input_fn, steps, hooks, name: as for `Estimator.evaluate`.
        checkpoint: the checkpoint that holds the same variables, if there is one.

    Returns:
        The results, as `Estimator.evaluate` does.

    Raises:
        ValueError: if it is not this Estimator that is trained.
    """
    if not isinstance(session, TrainSession) or estimator._training is not session:
        raise ValueError(
            "An evaluation in memory shows the variables of its own Estimator while that is "
            "trained. Give the hook to estimator.train of the Estimator that it was made for."
        )
    live = dataclasses.replace(session.live(), checkpoint=checkpoint)

    def live_of(binding: Binding) -> Live:
        check_asked(binding, live)
        return live

    return estimator._evaluate(input_fn, steps, hooks, name, live_of)
