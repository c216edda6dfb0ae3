"""The evaluation loop: metrics of many batches, merged on the host one batch behind the device.

    results = evaluate(session, feed, hooks, steps=None)    # {"accuracy": 0.97, "loss": 0.1}

Law: memory stays bounded, and the device never waits for the host to add up.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from estimator.binding import Binding
from estimator.events import EventWriter, EventWriters
from estimator.feed import Feed
from estimator.live import Live
from estimator.metrics import Metric, to_host
from estimator.session import (
    Session,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
    giving_back,
)
from estimator.steps import copy

_LOG = logging.getLogger(__name__)

# Steps dispatched ahead of the one whose numbers are being added up.
_AHEAD = 2


class ReadSession(Session):
    """What hooks see of evaluate and predict: variables, and the outputs of the last batch."""

    def __init__(
        self,
        live: Live,
        binding: Binding,
        output_names: Sequence[str],
        writers: EventWriters,
        directory: str,
    ) -> None:
        self.global_step = live.step
        self.batches = 0
        self.outputs: dict[str, Any] = {}
        self._live = live
        self._writers = writers
        self._written: dict[str, EventWriter] = {}
        self._directory = directory
        self._names = ["global_step", *output_names, *binding.tags, *live.values]

    def names(self) -> list[str]:
        """Returns variables, tags, and what each batch gives."""
        return list(self._names)

    def has(self, name: str) -> bool:
        """Returns whether the value is there now."""
        return name == "global_step" or name in self.outputs or name in self._live.values

    def fetch(self, name: str) -> Any:
        """Returns one value, not waiting for it."""
        if name == "global_step":
            return np.int64(self.global_step)
        if name in self.outputs:
            return self.outputs[name]
        if name in self._live.values:
            # A later train call takes the memory; what a hook holds must outlive it.
            return copy(self._live.values[name])
        self.check(name, "session.run")
        raise ValueError(f'session.run: "{name}" is there only after the first batch.')

    def summary_writer(self, directory: str | None = None) -> Any:
        """Returns the event writer of a directory, by default that of the run."""
        writer = self._writers.get(directory or self._directory)
        self._written[writer.directory] = writer
        return writer

    def flush(self) -> None:
        """Writes what the hooks of this run have given to event writers."""
        for writer in self._written.values():
            writer.flush()


class HookedRun:
    """Calls hooks around the batches of a run that does not train; entered, it begins."""

    def __init__(self, session: ReadSession, hooks: Sequence[SessionRunHook]) -> None:
        self._session = session
        self._hooks = hooks
        self._asked: list[Any] = []
        self.context = SessionRunContext(session)
        self._held = giving_back(*(hook.close for hook in hooks), session.flush)

    def __enter__(self) -> "HookedRun":
        self._held.__enter__()
        try:
            for hook in self._hooks:
                hook.begin()
            for hook in self._hooks:
                hook.after_create_session(self._session, self.context)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def before(self) -> None:
        """Calls them before a batch."""
        self._asked = [hook.before_run(self.context) for hook in self._hooks]

    @property
    def wants_summaries(self) -> bool:
        """Whether a hook has asked for the summaries of the next batch."""
        return any(args is not None and args.wants_summaries for args in self._asked)

    def after(self, outputs: dict[str, Any]) -> None:
        """Calls them after a batch was sent to the device."""
        self._session.outputs = outputs
        self._session.batches += 1
        for hook, args in zip(self._hooks, self._asked, strict=True):
            results = None if args is None else self._session.run(args.fetches)
            hook.after_run(self.context, SessionRunValues(results))

    def end(self) -> None:
        """Ends the hooks."""
        for hook in self._hooks:
            hook.end(self._session)


def evaluate(
    *,
    feed: Feed,
    live: Live,
    ready: Callable[[Binding, bool], Any],
    run: HookedRun,
    steps: int | None,
) -> dict[str, Any]:
    """Runs the loop, and returns loss and metrics.

    Args:
        feed: the batches.
        live: the variables' step and seed.
        ready: gives the compiled step of a binding, with or without summaries, its variables
            handed over.
        run: the hooks, begun.
        steps: how many batches at the most; None: all.

    Raises:
        ValueError: if there is not a single batch.
    """
    total: dict[str, Metric] = {}
    loss, count = 0.0, 0
    waiting: deque[tuple[Any, dict[str, Metric]]] = deque()

    def add_up() -> None:
        nonlocal loss, total
        batch_loss, metrics = waiting.popleft()
        loss += float(batch_loss)
        host = {name: to_host(metric) for name, metric in metrics.items()}
        total = {n: total[n].merge(m) for n, m in host.items()} if total else host

    is_far = jax.default_backend() != "cpu"  # there the host reads the device's own memory
    while (steps is None or count < steps) and not run.context.stop_requested:
        item = feed.take()
        if item is None:
            break
        run.before()
        counters = (np.int32(live.step), np.uint32(live.seed), np.int32(count))
        step = ready(item.binding, run.wants_summaries)
        batch_loss, metrics, outputs = step(counters, item.inputs)
        if is_far:
            for leaf in jax.tree.leaves((batch_loss, metrics)):
                leaf.copy_to_host_async()
        waiting.append((batch_loss, metrics))
        count += 1
        run.after({"loss": batch_loss, "summaries": {}, **outputs})
        _log_progress(count, steps)
        if len(waiting) >= _AHEAD:
            add_up()
    while waiting:
        add_up()
    run.end()
    if count == 0:
        raise ValueError("evaluate: the input was empty. input_fn must give at least one batch.")
    computed = {name: _value(name, metric) for name, metric in total.items()}
    return {**computed, "loss": np.float32(loss / count), "global_step": np.int64(live.step)}


def _value(name: str, metric: Metric) -> Any:
    try:
        return metric.compute()
    except Exception as error:
        error.add_note(f'This is eval_metric_ops["{name}"].')
        raise


def _log_progress(count: int, steps: int | None) -> None:
    if steps is None:
        return
    every = 1 if steps < 20 else steps // 10
    if count % every == 0 or count == steps:
        _LOG.info("Evaluation [%d/%d]", count, steps)
