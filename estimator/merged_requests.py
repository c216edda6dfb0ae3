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

from estimator.loaded_model import LoadedModel, Request, same_but_for_rounding

_TRIED_ROWS = 4


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
        self._is_rowwise = {
            name: most_rows > 0 and is_rowwise(loaded, name) for name in loaded.signatures
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
        if not self._is_rowwise[request.signature]:
            return self._loaded.run(request)
        mine = _Waiting(request)
        with self._list_lock:
            self._waiting.append(mine)
        with self._model_lock:  # whoever gets it runs the others' requests, too
            if mine.leaves is None and mine.error is None:
                self._run_together(self._company_of(mine))
        if mine.error is not None:
            raise mine.error
        assert mine.leaves is not None
        return mine.leaves

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


def is_rowwise(loaded: LoadedModel, name: str) -> bool:
    """Returns whether a signature answers a row alone as it does in company.

    The shapes must say so; then it is tried, with numbers by chance and with the examples.
    """
    signature = loaded.signature(name)
    if not signature.by_rows:
        return False
    function = loaded.function(next(iter(signature.files.values())))
    trials = [Request(name, _made_up(function.inputs), _TRIED_ROWS)]
    for example in loaded.examples:
        if name in example["answers"]:
            trials.append(loaded.request(example["features"], name, example["labels"]))
    return all(_is_answered_alike(loaded, trial) for trial in trials)


def _is_answered_alike(loaded: LoadedModel, together: Request) -> bool:
    """Returns whether each row of a request is answered alone as it is there."""
    whole = loaded.run(together)
    for row in range(together.rows):
        inputs = [array[row : row + 1] for array in together.inputs]
        alone = loaded.run(Request(together.signature, inputs, 1))
        for leaf, one in zip(whole, alone, strict=True):
            if not same_but_for_rounding(leaf[row : row + 1], one):
                return False
    return True


def _made_up(kinds: Sequence[Any]) -> list[np.ndarray]:
    """Returns small numbers by chance, of a few rows and two steps."""
    rng = np.random.default_rng(0)
    made = []
    for kind in kinds:
        sizes = [size if isinstance(size, int) else 2 for size in kind.shape[1:]]
        numbers = rng.random((_TRIED_ROWS, *sizes)) * 2  # below 2: ids and counts are so small
        made.append(numbers.astype(kind.dtype))
    return made
