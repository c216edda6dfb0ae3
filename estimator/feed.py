"""The feed: batches of one call, prepared for the compiled step, with their positions.

    feed = Feed(source, bindings)
    first = feed.peek()                 # prepared, and still to come
    feed.work_ahead(depth=2)            # from here on a thread reads and prepares
    while item := feed.take():
        ...                             # item.inputs, item.binding
    feed.close()

Law: `position` is that of the last batch taken, whatever was peeked at or prepared ahead.
"""

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from estimator.batches import Batch
from estimator.binding import Binding
from estimator.placement import Placement
from estimator.prefetch import Prefetcher
from estimator.sources import Source

# Batches so large that a stack of them would crowd the memory go one by one; they do not gain.
_BLOCK_BYTES = 2**28


class Bindings(Protocol):
    """Where a feed finds the binding of a batch."""

    def find(self, batch: Batch) -> Binding | None:
        """Returns the binding of this kind of batch if there is one; called in any thread."""

    def discover(self, batch: Batch) -> Binding:
        """Returns the binding, tracing the model_fn if need be; called in the caller's thread."""


@dataclasses.dataclass(eq=False, slots=True)
class Item:
    """A prepared batch, or several.

    Attributes:
        batch: the raw batch.
        position: the source's position after it.
        binding: what its kind needs.
        inputs: the prepared arrays.
        count: how many batches are stacked in it, along a new first axis; 1: it is none.
    """

    batch: Batch
    position: Any
    binding: Binding
    inputs: list[Any]
    count: int = 1


@dataclasses.dataclass(eq=False, slots=True)
class _RawItem:
    """A batch of a kind that was not seen before."""

    batch: Batch
    position: Any


class Feed:
    """Reads batches from a source and prepares them.

    Args:
        source: raw batches.
        bindings: what each kind of batch needs.
        with_labels: whether labels are handed on; PREDICT drops them.
        place: puts prepared arrays on the device ahead of the step; None: the step does.
    """

    def __init__(
        self,
        source: Source,
        bindings: Bindings,
        with_labels: bool = True,
        place: Callable[[list[Any]], list[Any]] | None = None,
    ) -> None:
        self._source = source
        self._bindings = bindings
        self._with_labels = with_labels
        self._place = place
        self._pending: deque[Item] = deque()
        self._error: Exception | None = None
        self._ahead: Prefetcher[Item | _RawItem] | None = None
        self._last: Item | None = None
        self._like: Batch | None = None
        self._recent: Item | None = None
        self.position: Any = self._state()

    @property
    def places(self) -> bool:
        """Whether batches are put on the device here; else the step does it."""
        return self._place is not None

    @property
    def last(self) -> Batch | None:
        """The raw batch that was taken last, or peeked at; None: there was none."""
        if self._last is not None:
            return self._last.batch
        return self._pending[0].batch if self._pending else None

    @property
    def fingerprint(self) -> Any:
        """What tells this source from another one."""
        return self._source.fingerprint

    @property
    def resumable(self) -> bool:
        """Whether the source can tell and take a position."""
        return self._source.resumable

    def go_to(self, position: Any) -> None:
        """Continues at a position of before."""
        ahead = self._ahead
        if ahead is not None:
            ahead.close(seconds=None)  # two threads must never read one source
        self._source.set_state(position)
        self._pending.clear()
        self._error = None
        self.position = position
        if ahead is not None:
            self._ahead = Prefetcher(self._read_in_thread, ahead.depth)

    def peek(self) -> Item | None:
        """Returns the next batch, which stays the next; None at the end."""
        self._fill(1)
        return self._pending[0] if self._pending else None

    def take(self, count: int = 1) -> Item | None:
        """Returns the next batch, or the next `count` in one block; None at the end.

        Batches that differ in kind or size, and the last ones of an input, come one by one.

        Raises:
            Exception: what the source raised, after the batches before it were taken.
        """
        item = self._read_block(count) if count > 1 else None
        if item is None:
            self._fill(count)
            pending = self._pending
            if not pending:
                return None
            if count > 1 and len(pending) >= count and _alike(list(pending)[:count]):
                item = _stacked([pending.popleft() for _ in range(count)])
            else:
                item = pending.popleft()
        self.position = item.position
        self._last = item
        return item

    @contextlib.contextmanager
    def rehearsal(self) -> Iterator[Iterator[Item]]:
        """Gives an iterator over the next batches, which will all come again afterwards."""
        self._fill(1)
        kept = deque(self._pending)

        def items() -> Iterator[Item]:
            yield from tuple(kept)
            while (item := self._next()) is not None:
                if not self._source.resumable:
                    kept.append(item)
                yield item

        yield items()
        if self._source.resumable and kept:
            self._source.set_state(kept[-1].position)
        self._pending = kept

    def work_ahead(self, depth: int) -> None:
        """Reads and prepares in a thread, `depth` batches ahead."""
        if depth > 0 and self._ahead is None:
            self._ahead = Prefetcher(self._read_in_thread, depth)

    def close(self) -> None:
        """Ends the thread and the source."""
        if self._ahead is not None:
            self._ahead.close()
        self._source.close()

    def _fill(self, count: int) -> None:
        """Reads until `count` batches are pending, keeping an error for after them."""
        while len(self._pending) < count:
            if self._error is not None:
                if self._pending:
                    return
                raise self._error
            try:
                item = self._next()
            except Exception as error:
                self._error = error
                continue
            if item is None:
                return
            self._pending.append(item)

    def _read_block(self, count: int) -> Item | None:
        """Reads a whole block at once where the source can and nothing is done on the host."""
        last = self._last
        if self._pending or self._ahead is not None or self._error is not None or last is None:
            return None
        if last.binding.host:
            return None
        raw = self._source.next_block(count)
        if raw is None:
            return None
        batch = Batch(raw[0], raw[1] if self._with_labels else None)
        inputs = last.binding.prepare(batch, copy=not self._source.fresh)
        return Item(batch, self._state(), last.binding, inputs, count)

    def _state(self) -> Any:
        return self._source.get_state() if self._source.resumable else None

    def _next(self) -> Item | None:
        item = self._read() if self._ahead is None else self._ahead.next()
        if isinstance(item, _RawItem):
            return self._prepared(item.batch, item.position, self._bindings.discover(item.batch))
        return item

    def _read(self) -> Item | _RawItem | None:
        raw = self._source.next()
        if raw is None:
            return None
        recent = self._recent  # once: another thread may prepare a batch of a new kind
        if self._source.constant and recent is not None:
            return self._again(recent)
        features, labels = raw
        batch = Batch(features, labels if self._with_labels else None, self._like)
        self._like = batch
        if recent is not None and self._is_same(batch, recent.batch):
            return self._again(recent)
        binding = self._bindings.find(batch)
        if binding is None:
            return _RawItem(batch, self._state())
        return self._prepared(batch, self._state(), binding)

    def _is_same(self, batch: Batch, other: Batch) -> bool:
        """Whether a batch is made of the very arrays of another, which nobody has changed since."""
        return (
            batch.layout == other.layout
            and all(x is y for x, y in zip(batch.leaves, other.leaves, strict=True))
            and (self._source.fresh or all(map(_is_frozen, batch.leaves)))
        )

    def _again(self, item: Item) -> Item:
        """Returns an item for the next time that a batch comes: it stays on the device."""
        inputs = item.inputs if self._place is not None else jax.device_put(item.inputs)
        again = dataclasses.replace(item, position=self._state(), inputs=inputs)
        self._recent = again
        return again

    def _read_in_thread(self) -> Item | _RawItem | None:
        item = self._read()
        if isinstance(item, _RawItem) and not self._source.fresh:
            # The next read comes before this batch is prepared, and may refill its arrays.
            item.batch = item.batch.copy()
        return item

    def _prepared(self, batch: Batch, position: Any, binding: Binding) -> Item:
        inputs = binding.prepare(batch, copy=not self._source.fresh)
        if self._place is not None:
            inputs = self._place(inputs)
        made = Item(batch, position, binding, inputs)
        self._recent = made
        return made


def prefetch_depth(wanted: int | None, binding: Binding, placement: Placement) -> int:
    """Returns how many batches to prepare ahead.

    Args:
        wanted: what the config says; None: two, where it pays.
        binding: what a batch needs.
        placement: where batches go.
    """
    if wanted is not None:
        return wanted
    return 2 if binding.host or placement.moves_batches else 0


def _is_frozen(leaf: Any) -> bool:
    """Whether an array is read-only, and what it is a view of, too: it is taken at its word."""
    while isinstance(leaf, np.ndarray) and not leaf.flags.writeable:
        if leaf.base is None:
            return True
        leaf = leaf.base
    return isinstance(leaf, jax.Array | bytes)


def _stacked(items: list[Item]) -> Item:
    last = items[-1]
    inputs = [_stack(arrays) for arrays in zip(*(item.inputs for item in items), strict=True)]
    return Item(last.batch, last.position, last.binding, inputs, len(items))


def _stack(arrays: tuple[Any, ...]) -> Any:
    on_device = all(isinstance(x, jax.Array) for x in arrays)
    return jnp.stack(arrays) if on_device else np.stack(arrays)


def _alike(items: list[Item]) -> bool:
    first = items[0]
    shapes = [x.shape for x in first.inputs]
    if sum(x.nbytes for x in first.inputs) * len(items) > _BLOCK_BYTES:
        return False
    return all(
        item.binding is first.binding and [x.shape for x in item.inputs] == shapes
        for item in items[1:]
    )
