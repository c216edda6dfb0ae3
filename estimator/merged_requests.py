"""Merged requests: callers that ask at the same time are answered by one call of the model.

    merged = MergedRequests(loaded)
    merged(features)                # from any thread, as `loaded(features)`

Nobody waits for company: while the model runs, requests gather; the next call takes those of one
kind together. Each is read, and its answers are finished, by itself, so that no request sees
another's mistakes.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from estimator import made_up
from estimator.loaded_model import LoadedModel, Request

_LOG = logging.getLogger(__name__)


class MergedRequests:
    """A loaded model that many threads may ask at once.

    Requests are merged where each row is answered by itself; their rows are filled up to a power of
    two, so that few sizes compile. Others run as they come.

    Args:
        loaded: the model.
        most_rows: of requests that are merged; a larger one runs alone; 0: none are merged.
    """

    def __init__(self, loaded: LoadedModel, most_rows: int = 64) -> None:
        self._loaded = loaded
        self._most_rows = most_rows
        self._may_be_merged = {
            name: most_rows > 0 and may_be_merged(loaded, name) for name in loaded.signatures
        }
        self._waiting: list[_Waiting] = []
        self._is_busy = False
        self._changed = threading.Condition()

    def __call__(self, features: Any, signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Returns the answers for a batch, as the loaded model does.

        Raises:
            ValueError: as the loaded model does.
        """
        request = self._loaded.request(features, signature)
        return self._loaded.finished(request, self.run(request))

    def run(self, request: Request) -> Sequence[np.ndarray]:
        """Returns the arrays that the model makes of a request, alone or in company."""
        if not self._may_be_merged[request.signature]:
            return self._loaded.run(request)
        mine = _Waiting(request)
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine.is_done or not self._is_busy)
            if not mine.is_done:  # whoever finds the model free runs what waits
                self._is_busy = True
                company = self._company_of(mine)
        if not mine.is_done:
            try:
                self._run_together(company)
            finally:
                with self._changed:
                    self._is_busy = False
                    self._changed.notify_all()
        if mine.error is not None:
            raise mine.error
        assert mine.leaves is not None
        return mine.leaves

    def _company_of(self, first: "_Waiting") -> list["_Waiting"]:
        """Takes a request from the list, and those that can be merged with it."""
        chosen, rows = [first], first.request.rows
        for other in self._waiting:
            fits = rows + other.request.rows <= self._most_rows
            if other is not first and fits and other.kind == first.kind:
                chosen.append(other)
                rows += other.request.rows
        self._waiting = [other for other in self._waiting if other not in chosen]
        return chosen

    def _run_together(self, company: Sequence["_Waiting"]) -> None:
        rows = sum(waiting.request.rows for waiting in company)
        size = 1 << (rows - 1).bit_length()
        index = np.minimum(np.arange(size), rows - 1)
        parts = zip(*(waiting.request.inputs for waiting in company), strict=True)
        inputs = [np.concatenate(arrays)[index] for arrays in parts]
        try:
            made = self._loaded.run(Request(company[0].request.signature, inputs, size))
        except Exception as error:
            if len(company) == 1:
                company[0].error = error
                return
            for waiting in company:  # perhaps there is no room for all of them
                self._run_together([waiting])
            return
        stop = 0
        for waiting in company:
            start, stop = stop, stop + waiting.request.rows
            waiting.leaves = [leaf[start:stop] for leaf in made]


class _Waiting:
    """A request that waits, and what came of it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        # Requests of the same kind differ in their rows only.
        self.kind = (
            request.signature,
            tuple((array.shape[1:], np.dtype(array.dtype)) for array in request.inputs),
        )
        self.leaves: Sequence[np.ndarray] | None = None
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.leaves is not None or self.error is not None


def may_be_merged(loaded: LoadedModel, name: str) -> bool:
    """Returns whether a signature answers a row alone as it does in company.

    The shapes must say so; then it is tried, with numbers by chance and with the examples.
    """

    def run(inputs: list[np.ndarray], rows: int) -> Sequence[np.ndarray]:
        return loaded.run(Request(name, inputs, rows))

    signature = loaded.signature(name)
    if not signature.by_rows:
        return False
    function = loaded.function(next(iter(signature.files.values())))
    try:
        if not made_up.is_rowwise(run, function.inputs):
            return False
        asked = [e for e in loaded.examples if name in e["answers"]]
        requests = [loaded.request(e["features"], name, e["labels"]) for e in asked]
        return all(made_up.answers_alike(run, r.inputs, r.rows) for r in requests)
    except Exception as error:  # a size that was made up does not suit the model
        _LOG.info("Requests to %s are not merged: it was tried in vain (%s).", name, error)
        return False
