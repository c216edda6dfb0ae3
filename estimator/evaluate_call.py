"""One evaluate call: from the first batch to the results, in an event file and in the history.

EvaluateCall(...).run(feed, live_of)        # {"accuracy": 0.97, "loss": 0.1, ...}
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from estimator.binding import Binding
from estimator.evaluate_loop import HookedRun, ReadSession, evaluate
from estimator.events import EventWriters
from estimator.feed import Feed, prefetch_depth
from estimator.history import History
from estimator.live import Live, check_asked
from estimator.model import Model
from estimator.placement import Placement
from estimator.progress import ProgressBarHook
from estimator.session import SessionRunHook

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluateCall:
    """Everything one evaluate call needs.

    Attributes:
        model: the model_fn and its compiled steps.
        writers: the event writers.
        history: where results are noted.
        placement: where batches and variables go.
        prefetch: batches to prepare ahead, as the config says.
        hooks: the user's hooks.
        steps: how many batches at the most; None: all.
        name: which evaluation it is; None: the one without a name.
        directory: where its summaries go.
    """

    model: Model
    writers: EventWriters
    history: History
    placement: Placement
    prefetch: int | None
    hooks: Sequence[SessionRunHook]
    steps: int | None
    name: str | None
    directory: str

    def run(self, feed: Feed, live_of: Callable[[Binding], Live]) -> dict[str, Any]:
        """Returns loss, metrics and global step.

        Args:
            feed: the batches.
            live_of: gives the variables for a model that asks for those of a binding.

        Raises:
            ValueError: if the input is empty, or the variables do not fit the model.
        """
        first = feed.peek()
        if first is None:
            raise ValueError("evaluate: the input is empty. input_fn must give at least one batch.")
        live = live_of(first.binding)
        feed.work_ahead(prefetch_depth(self.prefetch, first.binding, self.placement))
        names = ["loss", "summaries"]
        session = ReadSession(live, first.binding, names, self.writers, self.directory)
        bar = ProgressBarHook("evaluate", last=self.steps)
        with HookedRun(session, [*self.hooks, *first.binding.spec.evaluation_hooks, bar]) as run:
            results = evaluate(
                feed=feed,
                live=live,
                ready=ready_steps(live, self.placement, self.model.eval_step),
                run=run,
                steps=self.steps,
            )
        self._write(results, live.checkpoint)
        return results

    def _write(self, results: Mapping[str, Any], path: str | None) -> None:
        step = int(results["global_step"])
        shown = ", ".join(f"{key} = {value}" for key, value in sorted(results.items()))
        _LOG.info("Saving dict for global step %d: %s", step, shown)
        numeric = {key: np.asarray(value).dtype.kind in "biuf" for key, value in results.items()}
        skipped = sorted(key for key, fits in numeric.items() if not fits)
        if skipped:
            _LOG.warning("No summary is written of %s: they are no numbers.", skipped)
        shown_keys = [key for key, fits in numeric.items() if fits and key != "global_step"]
        writer = self.writers.get(self.directory)
        writer.add_summaries(step, {key: results[key] for key in shown_keys})
        if path is not None:
            writer.add_text(step, "checkpoint_path", path)
        writer.flush()
        self.history.add_evaluation(self.name, step, results)


def ready_steps(
    live: Live, placement: Placement, compiled: Callable[..., Any]
) -> Callable[..., Any]:
    """Returns what gives the step of a binding, its variables checked and placed: once a kind."""
    values = placement.put_state(live.values)

    @functools.cache
    def ready(binding: Binding, *choices: Any) -> Any:
        check_asked(binding, live)
        asked = {name: values[name] for name in binding.recipes.variables}
        return functools.partial(compiled(binding, placement.mesh, *choices), asked)

    return ready
