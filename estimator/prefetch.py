"""One thread works ahead of its consumer, by a known number of items.

    with Prefetcher(produce, depth=2) as batches:
        while (batch := batches.next()) is not None:
            ...

`produce()` gives the next item, or None at the end, and is called in the thread only. Items arrive
in order, and so does an error: after the good items that were made before it.
"""

from __future__ import annotations

import collections
import logging
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar, final

T = TypeVar("T")

_JOIN_SECONDS = 2.0

_log = logging.getLogger(__name__)


@final
class Prefetcher(Generic[T]):
    """Calls `produce` in a thread of its own, ahead of `next`.

    >>> numbers = iter([1, 2, 3])
    >>> with Prefetcher(lambda: next(numbers, None), depth=2) as items:
    ...     items.next(), items.next(), items.next(), items.next()
    (1, 2, 3, None)

    The thread starts at once. At most `depth` items are finished or being made at any time.

    Args:
        produce: gives the next item, None at the end; it runs in the thread only.
        depth: how many items to work ahead, at least 1.

    Attributes:
        depth: how many items it works ahead.

    Raises:
        ValueError: depth is less than 1.
    """

    def __init__(self, produce: Callable[[], T | None], depth: int) -> None:
        if depth < 1:
            raise ValueError(
                f"depth={depth}: wants 1 or more items to work ahead. "
                "To work ahead by none, call produce() yourself."
            )
        self.depth = depth
        self._lane: _Lane[T] = _Lane(depth)
        # The thread knows the lane and not this object, so that an abandoned prefetcher is
        # collected and its thread stops.
        self._thread = threading.Thread(
            target=_work, args=(produce, self._lane), name="estimator-prefetch", daemon=True
        )
        weakref.finalize(self, self._lane.stop)
        self._thread.start()

    def next(self) -> T | None:
        """Gives the next item, waiting for it; None after the end, an error, or `close`.

        Raises:
            BaseException: what produce() raised, once, where the item would have been, with its
                traceback.
        """
        return self._lane.take()

    def close(self, seconds: float | None = _JOIN_SECONDS) -> None:
        """Stops the thread and waits for it; may be called twice.

        Items and an error that nobody took are dropped. A produce() that is still busy is given so
        many seconds; after that its thread is left to end by itself. None: it is waited for.
        """
        self._lane.stop()
        if self._thread is threading.current_thread():
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            _log.warning(
                "The input is still busy %g seconds after it was told to stop; its thread is "
                "left behind.",
                _JOIN_SECONDS,
            )

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Lane(Generic[T]):
    """What the thread and the consumer share: the finished items, and how the making ended."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._changed = threading.Condition()
        self._items: collections.deque[T] = collections.deque()
        self._error: BaseException | None = None
        self._ended = False

    def wait_for_room(self) -> bool:
        """Waits until an item may be made; False where none is wanted any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._items) < self._depth)
            return not self._ended

    def put(self, item: T) -> None:
        with self._changed:
            if not self._ended:
                self._items.append(item)
                self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
                self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._items.clear()
            self._ended, self._error = True, None
            self._changed.notify_all()

    def take(self) -> T | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._ended)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is None:
            return None
        try:
            raise error
        finally:
            # The traceback holds this frame: they would keep each other, and a batch, alive.
            del error


def _work(produce: Callable[[], T | None], lane: _Lane[T]) -> None:
    while lane.wait_for_room():
        try:
            item = produce()
        except BaseException as error:
            lane.end(error)
            return
        if item is None:
            lane.end()
            return
        lane.put(item)
        del item
