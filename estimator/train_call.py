"""One train call: from the first batch to the last checkpoint.

    TrainCall(...).run(feed)        # begin or continue, loop, save, hand the variables on

Law: a call that was killed is continued by the next one, state and input alike. A small mark beside
the last checkpoint says that a call has ended by itself; then the next one begins its input anew.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence

from estimator import checkpoint, steps
from estimator.binding import Binding
from estimator.events import EventWriters
from estimator.feed import Feed, Item, prefetch_depth
from estimator.history import History, HistoryHook
from estimator.live import Live, LiveVariables, check_same_variables
from estimator.model import Model
from estimator.placement import Placement
from estimator.progress import ProgressBarHook
from estimator.report_hooks import LoggingTensorHook, StepCounterHook, SummarySaverHook
from estimator.retention import mark_trained
from estimator.run_config import RunConfig
from estimator.saver import CheckpointSaverHook
from estimator.scaffold import first_values
from estimator.session import (
    CheckpointSaverListener,
    NanLossDuringTrainingError,
    SessionRunHook,
    giving_back,
)
from estimator.signals import Interrupt
from estimator.stop_hooks import NanTensorHook, StopAtStepHook
from estimator.train_loop import TrainSession, run_hooked
from estimator.train_state import TrainState, unflatten_opt_state

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainCall:
    """Everything one train call needs.

    Attributes:
        model: the model_fn and its compiled steps.
        variables: where the variables are between calls.
        config: the settings of the run.
        model_dir: where checkpoints and summaries go.
        writers: the event writers.
        history: where losses are noted.
        placement: where batches and state go.
        hooks: the user's hooks.
        listeners: the user's listeners.
        steps: how many steps to make; None: no limit.
        max_steps: the global step to stop at; None: no limit.
        is_all: whether the call is over when training is; else something is still to be done.
    """

    model: Model
    variables: LiveVariables
    config: RunConfig
    model_dir: str
    writers: EventWriters
    history: History
    placement: Placement
    hooks: Sequence[SessionRunHook]
    listeners: Sequence[CheckpointSaverListener]
    steps: int | None
    max_steps: int | None
    is_all: bool = True

    def start(self, feed: Feed) -> tuple[TrainSession, list[SessionRunHook]]:
        """Returns the session at the step to go on from, and all hooks in their order.

        Raises:
            ValueError: if the input is empty, or the checkpoint does not fit the model.
        """
        first = feed.peek()
        if first is None:
            raise ValueError("train: the input is empty. input_fn must give at least one batch.")
        hooks = self._all_hooks(first.binding)
        _make_directory(self.model_dir)
        live = self.variables.newest(for_training=True)
        if live is None:
            state, step, seed = self._begin(first, feed), 0, self.variables.seed
        else:
            state, step, seed = self._continue(first.binding, live, feed), live.step, live.seed
        self.variables.drop()
        self.history.forget_after(step)
        feed.work_ahead(prefetch_depth(self.config.prefetch, first.binding, self.placement))

        def restore() -> tuple[TrainState, int]:
            newest = self.variables.newest(for_training=True)
            if newest is None:
                raise NanLossDuringTrainingError(f"There is no checkpoint in {self.model_dir}.")
            self.variables.drop()
            self.history.forget_after(newest.step)
            return self._state_of(first.binding, newest), newest.step

        session = TrainSession(
            state=state,
            global_step=step,
            seed=seed,
            feed=feed,
            binding=first.binding,
            compiled=self.model.train_steps,
            placement=self.placement,
            config=self.config,
            model_dir=self.model_dir,
            writers=self.writers,
            fail_on_nan=all(h.fail_on_nan_loss for h in hooks if isinstance(h, NanTensorHook)),
            restore=restore if self.config.nan_policy == "rollback" else None,
            saver=next((hook for hook in hooks if isinstance(hook, CheckpointSaverHook)), None),
        )
        return session, hooks

    def run(
        self,
        session: TrainSession,
        feed: Feed,
        hooks: Sequence[SessionRunHook],
        interrupt: Interrupt,
    ) -> str | None:
        """Runs the loop to its end and hands the variables on to later calls.

        Returns:
            The signal that ended it early, or None.
        """
        first = session.global_step
        progress = ProgressBarHook("train", first, self._last_step(first))
        closing = [hook.close for hook in (*hooks, progress)]
        # The last save belongs to the run: a signal must not end the process in the middle of it.
        with giving_back(*closing, session.close, self.writers.flush):
            made = run_hooked(
                session, feed, [*hooks, progress], interrupt, self.config.steps_per_execution
            )
        if session.outputs:
            _LOG.info("Loss for final step: %s.", session.outputs["loss"])
        elif made == 0 and interrupt.requested is None:
            _LOG.warning(
                "Training made no steps: the input was at its end, or a hook asked to stop."
            )
        self._hand_on(session, ended=interrupt.requested is None)
        return interrupt.requested

    def _begin(self, first: Item, feed: Feed) -> TrainState:
        binding = first.binding
        warm, scaffold = self.variables.warm(binding), binding.spec.scaffold
        if scaffold is None:
            values = self.variables.fresh_values(binding, self.placement, known=warm)
        else:  # it is given all of them
            values = self.variables.fresh_values(binding, self.placement)
            values = first_values(scaffold, values, feed)
        values = self.placement.put_state({**values, **warm})
        opt_state = steps.start_opt_state(binding, values, self.placement.state_sharding)
        seed = self.variables.seed
        return self.placement.put_state(TrainState.make(values, opt_state, 0, seed))

    def _continue(self, binding: Binding, live: Live, feed: Feed) -> TrainState:
        check_same_variables(binding, live)
        assert live.checkpoint is not None
        self._continue_input(live.checkpoint, feed)
        return self._state_of(binding, live)

    def _state_of(self, binding: Binding, live: Live) -> TrainState:
        """Returns the state that a checkpoint holds, for a step to take."""
        assert live.checkpoint is not None
        if live.state is not None:
            # An unfinished predict call still reads these arrays; a step would take their memory.
            return steps.copy(live.state) if live.readers else live.state
        shapes = steps.opt_state_shapes(binding)
        opt_state = unflatten_opt_state(shapes, live.opt_state or {}, live.checkpoint)
        state = TrainState.make(live.values, opt_state, live.step, live.seed)
        state = self.placement.put_state(state)
        return steps.copy(state) if live.readers else state

    def _continue_input(self, path: str, feed: Feed) -> None:
        ended = checkpoint.has_ended(path)
        if ended and not self.config.continue_input:
            return
        position = checkpoint.read_manifest(path).position
        if position is None or not feed.resumable:
            _LOG.info("The input cannot tell its position (no get_state): it begins anew.")
        elif position["source"] != feed.fingerprint:
            _LOG.warning(
                "The input is not the one of %s, so it begins anew: it was %s and is %s.",
                path,
                position["source"],
                feed.fingerprint,
            )
        else:
            _LOG.info("The input goes on where %s left it.", path)
            feed.go_to(position["state"])

    def _all_hooks(self, binding: Binding) -> list[SessionRunHook]:
        """Returns all hooks in TensorFlow's order."""
        config, spec = self.config, binding.spec
        _warn_of_broken_blocks(config)
        chief: list[SessionRunHook] = [*spec.training_chief_hooks]
        worker: list[SessionRunHook] = [*self.hooks]
        if config.log_step_count_steps is not None:
            chief.append(StepCounterHook(config.log_step_count_steps))
            chief.append(HistoryHook(self.history, config.log_step_count_steps))
        if config.save_summary_steps:
            chief.append(SummarySaverHook(config.save_summary_steps))
        if self.steps is not None or self.max_steps is not None:
            worker.append(StopAtStepHook(self.steps, self.max_steps))
        given = [*self.hooks, *spec.training_chief_hooks, *spec.training_hooks]
        watching = [hook for hook in given if isinstance(hook, NanTensorHook)]
        if config.nan_policy == "rollback" and any(hook.fail_on_nan_loss for hook in watching):
            raise ValueError(
                'train: nan_policy="rollback" goes back where a NanTensorHook raises. Leave the '
                "hook out, or give NanTensorHook(fail_on_nan_loss=False)."
            )
        if not watching:
            worker.append(NanTensorHook(fail_on_nan_loss=config.nan_policy == "raise"))
        if config.log_step_count_steps is not None:
            shown = {"loss": "loss", "step": "global_step"}
            worker.append(LoggingTensorHook(shown, every_n_iter=config.log_step_count_steps))
        worker += spec.training_hooks
        secs, every = config.save_checkpoints_secs, config.save_checkpoints_steps
        savers = [hook for hook in [*chief, *worker] if isinstance(hook, CheckpointSaverHook)]
        if not savers and (secs or every):
            savers = [CheckpointSaverHook(self.model_dir, secs or None, every or None)]
            chief = [*savers, *chief]
        if not savers:
            _LOG.warning(
                "Checkpoints are off: evaluate, predict and the next train will know nothing of "
                "what this call learns. Set save_checkpoints_steps or save_checkpoints_secs."
            )
        if not savers and config.nan_policy == "rollback":
            raise ValueError(
                'train: nan_policy="rollback" goes back to checkpoints, but none is ever saved. '
                "Set save_checkpoints_steps or save_checkpoints_secs in RunConfig."
            )
        elsewhere = [saver.directory for saver in savers if not self._is_own(saver.directory)]
        if savers and len(elsewhere) == len(savers):
            _LOG.warning(
                "Checkpoints go to %s only: evaluate, predict and the next train look into %s, and "
                "will find nothing of this run there.",
                sorted(map(str, elsewhere)),
                self.model_dir,
            )
        if self.listeners:
            if not savers:
                raise ValueError(
                    "train: saving_listeners are called around saves, but no checkpoint is ever "
                    "saved. Set save_checkpoints_steps or save_checkpoints_secs in RunConfig, or "
                    "give a CheckpointSaverHook."
                )
            savers[0].add_listeners(self.listeners)
        return [*chief, *worker]

    def _is_own(self, directory: str) -> bool:
        return os.path.abspath(directory) == os.path.abspath(self.model_dir)

    def _last_step(self, first: int) -> int | None:
        return self.max_steps if self.steps is None else first + self.steps

    def _hand_on(self, session: TrainSession, ended: bool) -> None:
        path = checkpoint.latest_checkpoint(self.model_dir)
        if path is None or checkpoint.read_manifest(path).step != session.global_step:
            return
        if ended:
            if self.is_all:
                checkpoint.mark_ended(path)
            elif self.max_steps is None or session.global_step < self.max_steps:
                mark_trained(path)
        state = session.state
        manifest = checkpoint.read_manifest(path)
        trainable = frozenset(n for n, info in manifest.variables.items() if info.trainable)
        self.variables.keep(
            Live(state.values, manifest.step, manifest.seed, trainable, path, manifest.id, state)
        )


def _warn_of_broken_blocks(config: RunConfig) -> None:
    block = config.steps_per_execution
    for name in ("log_step_count_steps", "save_summary_steps", "save_checkpoints_steps"):
        cadence = getattr(config, name)
        if block > 1 and cadence and cadence % block:
            _LOG.warning(
                "steps_per_execution=%d does not divide %s=%d: steps up to the next line or save "
                "are made one by one. Choose a divisor.",
                block,
                name,
                cadence,
            )


def _make_directory(model_dir: str) -> None:
    try:
        os.makedirs(os.path.join(model_dir, "checkpoints"), exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"model_dir cannot be written: {error.strerror}", model_dir
        ) from error
