"""One predict call: from the first batch to the last answer.

PredictCall(...).answers(feed, live_of)     # yields {"class": 2, "probabilities": ...}, ...
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from estimator.binding import Binding
from estimator.evaluate_call import ready_steps
from estimator.evaluate_loop import HookedRun, ReadSession
from estimator.events import EventWriters
from estimator.feed import Feed, prefetch_depth
from estimator.live import Live
from estimator.model import Model
from estimator.placement import Placement
from estimator.predict_loop import check_keys, predict
from estimator.session import SessionRunHook


@dataclasses.dataclass(frozen=True, eq=False)
class PredictCall:
    """Everything one predict call needs.

    Attributes:
        model: the model_fn and its compiled steps.
        writers: the event writers.
        placement: where batches and variables go.
        prefetch: batches to prepare ahead, as the config says.
        hooks: the user's hooks.
        keys: the names of the predictions to yield; None: all.
        single: whether to yield example by example.
        directory: where summaries go.
    """

    model: Model
    writers: EventWriters
    placement: Placement
    prefetch: int | None
    hooks: Sequence[SessionRunHook]
    keys: tuple[str, ...] | None
    single: bool
    directory: str

    def check(self, feed: Feed) -> None:
        """Checks the keys on the first batch, closing the feed if one is wrong.

        Raises:
            ValueError: if there is no such prediction.
        """
        try:
            first = feed.peek()
            if first is not None:
                check_keys(first.binding, self.keys)
        except BaseException:
            feed.close()
            raise

    def answers(self, feed: Feed, live_of: Callable[[Binding], Live]) -> Iterator[Any]:
        """Yields the predictions.

        Args:
            feed: the batches.
            live_of: gives the variables for a model that asks for those of a binding.
        """
        first = feed.peek()
        if first is None:
            return
        live = live_of(first.binding)
        predictions = first.binding.spec.predictions
        names = sorted(
            self.keys or (predictions if isinstance(predictions, Mapping) else ["predictions"])
        )
        session = ReadSession(live, first.binding, names, self.writers, self.directory)
        feed.work_ahead(prefetch_depth(self.prefetch, first.binding, self.placement))

        def compiled(binding: Binding, mesh: Any) -> Any:
            return self.model.predict_step(binding, mesh, self.keys)

        live.readers += 1
        try:
            hooks = [*self.hooks, *first.binding.spec.prediction_hooks]
            with HookedRun(session, hooks) as run:
                yield from predict(
                    feed=feed,
                    live=live,
                    ready=ready_steps(live, self.placement, compiled),
                    run=run,
                    single=self.single,
                )
        finally:
            live.readers -= 1
