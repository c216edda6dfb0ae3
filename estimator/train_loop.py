"""The training loop: batches in, steps out, hooks around them.

    session = TrainSession(...)
    run_hooked(session, hooks, interrupt)       # until a hook, the input or a signal ends it

Law: the loop never waits for the device. Only a hook that reads a value does.
"""

import contextlib
import dataclasses
import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from estimator import steps
from estimator.binding import Binding
from estimator.checkpoint import CheckpointWriter, Snapshot
from estimator.events import EventWriters
from estimator.feed import Feed, Item
from estimator.live import Live, check_same_variables
from estimator.placement import Placement
from estimator.run_config import RunConfig
from estimator.saver import CheckpointSaverHook
from estimator.session import (
    NAN_CURE,
    NanLossDuringTrainingError,
    Session,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)
from estimator.signals import Interrupt
from estimator.train_state import TrainState, flatten_opt_state

_LOG = logging.getLogger(__name__)
_NEVER = sys.maxsize
# How often a run goes back to one checkpoint because of numbers that are none.
MOST_ROLLBACKS = 5


class TrainSession(Session):
    """The state of one train call.

    Args:
        state: where it starts.
        global_step: the step of that state.
        seed: the seed of that state.
        feed: its batches.
        binding: what the first batch asked for.
        compiled: gives the compiled steps of a binding.
        placement: where batches go.
        config: the settings of the run.
        model_dir: where summaries go.
        writers: the event writers.
        fail_on_nan: whether a bad number raises, or just ends the run.
        restore: gives the newest checkpoint, for a run that goes back after a bad number; None: it
            ends.
        saver: the hook that saves checkpoints; None: there is none.
    """

    def __init__(
        self,
        *,
        state: TrainState,
        global_step: int,
        seed: int,
        feed: Feed,
        binding: Binding,
        compiled: Callable[[Binding, Any, Any], steps.TrainSteps],
        placement: Placement,
        config: RunConfig,
        model_dir: str,
        writers: EventWriters,
        fail_on_nan: bool,
        restore: Callable[[], tuple[TrainState, int]] | None = None,
        saver: CheckpointSaverHook | None = None,
    ) -> None:
        self._leaves, self._structure = jax.tree.flatten(state)
        self.global_step = global_step
        self.batches = 0
        self.block = config.steps_per_execution
        self.outputs: dict[str, Any] = {}
        self._seed = seed
        self._feed = feed
        self._binding = binding
        self._compiled = compiled
        self._current: Binding | None = None
        self._seen: set[Binding] = set()
        self._placement = placement
        self._config = config
        self._model_dir = model_dir
        self._writers = writers
        self._fail_on_nan = fail_on_nan
        self._restore = restore
        self._saver = saver
        self._rollbacks: Counter[int] = Counter()
        self._positions = {global_step: feed.position}
        self._interrupt: Interrupt | None = None
        self._savers: dict[str, CheckpointWriter] = {}
        self._saved: set[str] = set()
        self._in_flight: deque[Any] = deque()

    @property
    def state(self) -> TrainState:
        """The train state as it is now."""
        return jax.tree.unflatten(self._structure, self._leaves)

    @property
    def model_dir(self) -> str:
        """The directory of the model."""
        return self._model_dir

    @property
    def interrupted(self) -> bool:
        """Whether a signal has asked the run to end."""
        return self._interrupt is not None and self._interrupt.requested is not None

    def obey(self, interrupt: Interrupt) -> None:
        """Has `interrupted` tell of a signal from now on."""
        self._interrupt = interrupt

    def names(self) -> list[str]:
        """Returns variables, tags, and what each step gives."""
        fixed = ["global_step", "loss", "losses", "summaries"]
        return [*fixed, *self._binding.tags, *self.state.values]

    def has(self, name: str) -> bool:
        """Returns whether the value is there now."""
        if name in ("losses", "summaries"):
            return bool(self.outputs)
        return name == "global_step" or name in self.outputs or name in self.state.values

    def fetch(self, name: str) -> Any:
        """Returns one value, not waiting for it."""
        if name == "global_step":
            return np.int64(self.global_step)
        if name == "summaries" and self.outputs:
            return {"loss": self.outputs["loss"], **self.outputs.get("summaries", {})}
        if name == "losses" and "losses" not in self.outputs and self.outputs:
            return self.outputs["loss"][None]
        if name in self.outputs:
            return self.outputs[name]
        if name in self.state.values:
            # The next step takes the state's memory; what a hook holds must outlive it.
            return steps.copy(self.state.values[name])
        self.check(name, "session.run")
        raise ValueError(f'session.run: "{name}" is there only after the first step of a run.')

    def live(self) -> Live:
        """Returns the variables as they are now; the next step takes their memory."""
        values = self.state.values
        if self._placement.in_flight is not None:
            jax.block_until_ready(values)
        trainable = frozenset(self._binding.trainable)
        return Live(values, self.global_step, self._seed, trainable)

    def step(self, item: Item, summaries: bool) -> None:
        """Sends one step, or one block of steps, to the device."""
        if item.binding is not self._current:
            self._switch(item.binding)
        compiled = self._steps
        if item.count > 1:
            inputs = self._placement.put_block(item.inputs)
            run = compiled.block_with_summaries if summaries else compiled.block
            self._leaves, self.outputs = run(self._leaves, inputs)
        else:
            run = compiled.one_with_summaries if summaries else compiled.one
            inputs = item.inputs
            if self._placement.moves_batches and not self._feed.places:
                inputs = self._placement.put_batch(inputs)
            self._leaves, self.outputs = run(self._leaves, inputs)
        self.global_step += item.count
        self.batches += item.count
        if self._placement.in_flight is not None:
            self._in_flight.append(self.outputs["loss"])
            if len(self._in_flight) > self._placement.in_flight:
                self._in_flight.popleft().block_until_ready()

    def _switch(self, binding: Binding) -> None:
        """Goes on with the steps for another kind of batch."""
        if binding not in self._seen:
            names = frozenset(self._binding.trainable)
            check_same_variables(
                binding, Live(self.state.values, self.global_step, self._seed, names)
            )
            self._seen.add(binding)
        mesh = self._placement.mesh
        self._current, self._steps = binding, self._compiled(binding, self._structure, mesh)

    def bad_step(self) -> int | None:
        """Returns the first step whose loss was not finite, waiting for the device."""
        step = int(np.asarray(self.state.counters)[-1])
        return None if step < 0 else step

    def check_finite(self) -> bool:
        """Returns whether the losses and variables are numbers, or raises, as the run wants it."""
        bad = self._bad_numbers()
        if not bad:
            return True
        message = (
            f"Not a finite number: {bad}. Nothing is saved at step {self.global_step}; the last "
            f"checkpoint is from before. {NAN_CURE}"
        )
        if self._fail_on_nan:
            raise NanLossDuringTrainingError(message)
        if self._restore is None:
            _LOG.error("%s", message)
        return False

    def _bad_numbers(self) -> str:
        """Returns what is no finite number, in words; nothing, if all are."""
        trainable = frozenset(self._binding.trainable)
        verdicts = jax.device_get(steps.finite(self.state.values, trainable))
        bad = sorted(name for name, is_finite in verdicts.items() if not is_finite)
        step = self.bad_step()
        what = [f"the loss at step {step}"] if step is not None else []
        what += [f"the variables {bad}"] if bad else []
        return " and ".join(what)

    def roll_back(self) -> bool:
        """Goes back to the newest checkpoint if the run wants that and a number is bad.

        An input that knows its position goes back, too, and leaves out the batches up to the bad
        one; another goes on from where it is.

        Returns:
            Whether it went back.

        Raises:
            NanLossDuringTrainingError: if it went back to that checkpoint too often.
        """
        bad = self._bad_numbers() if self._restore is not None else ""
        if not bad or self._restore is None:
            return False
        goes_back = self._feed.resumable
        last_left_out = (self.bad_step() if goes_back else None) or self.global_step
        self.wait_for_saves()
        state, step = self._restore()
        self._rollbacks[step] += 1
        if self._rollbacks[step] > MOST_ROLLBACKS:
            raise NanLossDuringTrainingError(
                f"Not a finite number: {bad}. The run went back to step {step} {MOST_ROLLBACKS} "
                f"times, and each time it came to this: a bad row may come again in each epoch. "
                f"Save more often, or clean the input. {NAN_CURE}"
            )
        _LOG.warning(
            "Not a finite number: %s. Going back from step %d to %d, without the %d batches since "
            "(%d of %d times).",
            bad,
            self.global_step,
            step,
            last_left_out - step,
            self._rollbacks[step],
            MOST_ROLLBACKS,
        )
        if goes_back and step in self._positions:
            self._feed.go_to(self._positions[step])
            for _ in range(last_left_out - step):
                self._feed.take()
            self._positions[step] = self._feed.position
        self._leaves = jax.tree.leaves(state)
        self.batches -= self.global_step - step
        self.global_step = step
        self.outputs = {}
        self._in_flight.clear()
        return True

    def save(self, directory: str, wait: bool) -> None:
        """Saves the state and the position in the input; goes on meanwhile unless `wait`."""
        directory = os.path.abspath(directory)
        path = os.path.join(directory, "checkpoints", str(self.global_step))
        begun_from = directory == os.path.abspath(self._model_dir) and self.batches == 0
        if os.path.isdir(path) and not begun_from and path not in self._saved:
            _LOG.warning("%s is there already, from another run: it is left as it is.", path)
        self._saved.add(path)
        if directory not in self._savers:
            self._savers[directory] = CheckpointWriter(
                directory,
                self._config.keep_checkpoint_max,
                self._config.keep_checkpoint_every_n_hours,
            )
        position = None
        self._positions[self.global_step] = self._feed.position
        if self._feed.resumable:
            position = {"source": self._feed.fingerprint, "state": self._feed.position}
        snapshot = Snapshot(
            step=self.global_step,
            seed=self._seed,
            variables=self.state.values,
            trainable=frozenset(self._binding.trainable),
            opt_state=flatten_opt_state(self.state.opt_state),
            position=position,
        )
        self._savers[directory].save(snapshot, wait=wait)

    def save_now(self) -> bool:
        """Saves a checkpoint, complete with its listeners; returns whether the run should stop."""
        if self._saver is None:
            raise ValueError("A checkpoint was asked for, but this run has no CheckpointSaverHook.")
        return self._saver.save_now(self)

    def wait_for_saves(self) -> None:
        """Waits until every checkpoint is complete."""
        for saver in self._savers.values():
            saver.wait()

    def summary_writer(self, directory: str | None = None) -> Any:
        """Returns the event writer of a directory, by default the model_dir."""
        return self._writers.get(directory or self._model_dir)

    def close(self) -> None:
        """Ends the threads that save."""
        with contextlib.ExitStack() as stack:
            for saver in self._savers.values():
                stack.callback(saver.close)


def run_hooked(
    session: TrainSession,
    feed: Feed,
    hooks: Sequence[SessionRunHook],
    interrupt: Interrupt,
    steps_per_execution: int,
) -> int:
    """Runs the loop, and returns how many steps it made."""
    context = SessionRunContext(session)
    first = session.global_step
    session.obey(interrupt)
    for hook in hooks:
        hook.begin()
    for hook in hooks:
        hook.after_create_session(session, context)
    _run_steps(session, feed, hooks, interrupt, steps_per_execution, context)
    while session.roll_back():
        context = SessionRunContext(session)
        _run_steps(session, feed, hooks, interrupt, steps_per_execution, context)
    for hook in hooks:
        hook.end(session)
    return session.global_step - first


def _run_steps(
    session: TrainSession,
    feed: Feed,
    hooks: Sequence[SessionRunHook],
    interrupt: Interrupt,
    steps_per_execution: int,
    context: SessionRunContext,
) -> None:
    """Makes steps until a hook, the input or a signal ends it."""
    schedule = _Schedule(hooks, session.global_step)
    while not context.stop_requested and interrupt.requested is None:
        item = feed.take(schedule.room(session.global_step, steps_per_execution))
        if item is None:
            break
        due = schedule.due(session.global_step + item.count)
        asked = [entry.hook.before_run(context) for entry in due]
        session.step(item, any(args is not None and args.wants_summaries for args in asked))
        for entry, args in zip(due, asked, strict=True):
            results = None if args is None else session.run(args.fetches)
            entry.hook.after_run(context, SessionRunValues(results))
        schedule.ran(due, session.global_step)


@dataclasses.dataclass(eq=False, slots=True)
class _Entry:
    """A hook and the step it waits for; None: the end of every block."""

    hook: SessionRunHook
    wake: int | None


class _Schedule:
    """Knows which hooks must see which step, so that the others cost nothing."""

    def __init__(self, hooks: Sequence[SessionRunHook], step: int) -> None:
        self._entries = [_Entry(hook, hook.next_step(step)) for hook in hooks]
        self._plan(step)

    def room(self, step: int, block: int) -> int:
        """Returns how many steps may be made at once: a block, if no hook waits for one inside."""
        return block if self._nearest - step >= block else 1

    def due(self, step: int) -> list[_Entry]:
        """Returns the hooks that see the step, in their order."""
        if step < self._nearest:
            return self._always
        return [entry for entry in self._entries if entry.wake is None or entry.wake <= step]

    def ran(self, entries: Sequence[_Entry], step: int) -> None:
        """Asks hooks that have seen a step for their next one."""
        changed = False
        for entry in entries:
            wake = entry.hook.next_step(step)
            changed = changed or wake != entry.wake
            entry.wake = wake
        if changed:
            self._plan(step)

    def _plan(self, step: int) -> None:
        for entry in self._entries:
            # A step that is past already will not come again: such a hook has seen its last.
            if entry.wake is not None and entry.wake <= step:
                entry.wake = _NEVER
        self._always = [entry for entry in self._entries if entry.wake is None]
        self._nearest = min((e.wake for e in self._entries if e.wake is not None), default=_NEVER)
