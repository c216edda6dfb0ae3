"""Merged requests: callers that ask at the same time are answered by one call of the model.

    merged = MergedRequests(loaded)
    merged(features)                # from any thread, as `loaded(features)`

Nobody waits for company: while the model runs, requests gather; the next call takes those of one
kind together. Each is read, and its answers are finished, by itself, so that no request sees
another's mistakes.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from estimator.loaded_model import LoadedModel, Request


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
        self._by_rows = {
            name: most_rows > 0 and loaded.answers_rows(name) for name in loaded.signatures
        }
        self._waiting: list[_Waiting] = []
        self._list_lock = threading.Lock()
        self._model_lock = threading.Lock()

    def __call__(self, features: Any, signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Returns the answers for a batch, as the loaded model does.

        Raises:
            ValueError: as the loaded model does.
        """
        request = self._loaded.request(features, signature)
        return self._loaded.finished(request, self.run(request))

    def run(self, request: Request) -> Sequence[np.ndarray]:
        """Returns the arrays that the model makes of a request, alone or in company."""
        if not self._by_rows[request.signature]:
            return self._loaded.run(request)
        mine = _Waiting(request)
        with self._list_lock:
            self._waiting.append(mine)
        with self._model_lock:  # whoever gets it runs the others' requests, too
            if not mine.is_done:
                self._run_together(self._company_of(mine))
        return self._loaded.run(request) if mine.leaves is None else mine.leaves

    def _company_of(self, first: "_Waiting") -> list["_Waiting"]:
        """Takes a request from the list, and those that can be merged with it."""
        chosen, rows = [first], first.request.rows
        with self._list_lock:
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
        except Exception:  # perhaps there is no room for all of them; each now runs alone
            for waiting in company:
                waiting.is_done = True
            return
        stop = 0
        for waiting in company:
            start, stop = stop, stop + waiting.request.rows
            waiting.leaves, waiting.is_done = [leaf[start:stop] for leaf in made], True


class _Waiting:
    """A request that waits, and what came of it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        # Requests of the same kind differ in their rows only.
        self.kind = (
            request.signature,
            tuple((array.shape[1:], np.dtype(array.dtype)) for array in request.inputs),
        )
        self.is_done = False
        self.leaves: Sequence[np.ndarray] | None = None
