"""A thread that works ahead: order, errors, bounds, and that it goes away."""

import gc
import threading
import time

import numpy as np
import pytest

from estimator import prefetch
from estimator.prefetch import Prefetcher
from estimator.sources import open_source


class Numbers:
    """Gives 1, 2, 3, ...; None after `count`; counts how often it was asked."""

    def __init__(self, count=None, error_at=None):
        self.count, self.error_at = count, error_at
        self.asked = 0
        self.changed = threading.Condition()
        self.threads = set()

    def __call__(self):
        with self.changed:
            self.asked += 1
            self.threads.add(threading.current_thread())
            self.changed.notify_all()
        if self.asked == self.error_at:
            raise KeyError(f"item {self.asked}")
        return None if self.count is not None and self.asked > self.count else self.asked

    def wait_until_asked(self, times):
        with self.changed:
            assert self.changed.wait_for(lambda: self.asked >= times, timeout=5)


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "estimator-prefetch"]


@pytest.mark.parametrize("depth", [1, 2, 7, 1000])
def test_items_arrive_in_order_and_the_end_stays_the_end(depth):
    with Prefetcher(Numbers(count=300), depth) as items:
        assert list(iter(items.next, None)) == list(range(1, 301))
        assert items.next() is None
        assert items.next() is None


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_an_error_is_raised_once_after_the_good_items_before_it(depth):
    with Prefetcher(Numbers(error_at=7), depth) as items:
        assert [items.next() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
        with pytest.raises(KeyError, match="item 7") as caught:
            items.next()
        assert caught.traceback[-1].name == "__call__"
        assert items.next() is None


@pytest.mark.parametrize(
    "error",
    [StopIteration("mine"), SystemExit(3), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_every_kind_reach_the_consumer(error):
    def produce():
        raise error

    with Prefetcher(produce, 1) as items:
        with pytest.raises(type(error)) as caught:
            items.next()
        assert caught.value is error


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_read_ahead_is_bounded(depth):
    numbers = Numbers()
    with Prefetcher(numbers, depth) as items:
        for taken in range(1, 6):
            assert items.next() == taken
            numbers.wait_until_asked(taken + depth)
            time.sleep(0.01)
            assert numbers.asked == taken + depth


def test_items_are_made_in_one_thread_that_is_not_the_consumer():
    numbers = Numbers(count=50)
    with Prefetcher(numbers, 4) as items:
        list(iter(items.next, None))
    [thread] = numbers.threads
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread.name == "estimator-prefetch"


def test_the_thread_works_while_the_consumer_does():
    numbers = Numbers()
    with Prefetcher(numbers, 3) as items:
        numbers.wait_until_asked(3)
        assert items.next() == 1


@pytest.mark.parametrize("taken", [0, 1, 10])
def test_closing_stops_a_full_queue_at_once_and_may_be_repeated(taken):
    numbers = Numbers()
    items = Prefetcher(numbers, 2)
    for _ in range(taken):
        items.next()
    numbers.wait_until_asked(taken + 2)
    began = time.perf_counter()
    items.close()
    items.close()
    assert time.perf_counter() - began < 1
    assert workers() == []
    assert items.next() is None


def test_an_error_of_the_consumer_ends_the_thread_and_is_not_hidden():
    items = Prefetcher(Numbers(), 2)
    with pytest.raises(ZeroDivisionError), items:
        _ = items.next() / 0
    assert workers() == []


def test_an_error_nobody_asked_for_is_dropped_on_closing():
    numbers = Numbers(error_at=2)
    items = Prefetcher(numbers, 5)
    numbers.wait_until_asked(2)
    items.close()
    assert items.next() is None


def test_closing_does_not_wait_for_an_input_that_blocks(monkeypatch, caplog):
    monkeypatch.setattr(prefetch, "_JOIN_SECONDS", 0.05)
    release = threading.Event()
    items = Prefetcher(lambda: release.wait(20), 1)
    items.close()
    assert "still busy" in caplog.text
    [thread] = workers()
    release.set()
    thread.join(5)


def test_closing_wakes_a_consumer_that_waits():
    release, got = threading.Event(), []
    items = Prefetcher(lambda: release.wait(5) and None, 1)
    consumer = threading.Thread(target=lambda: got.append(items.next()))
    consumer.start()
    closer = threading.Thread(target=items.close)
    closer.start()
    consumer.join(5)
    assert got == [None]
    release.set()
    closer.join(5)


def test_a_prefetcher_that_is_dropped_takes_its_thread_along():
    items = Prefetcher(Numbers(), 2)
    assert items.next() == 1
    [thread] = workers()
    del items
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_source_read_ahead_gives_its_batches_then_its_error_and_is_closed_after_the_thread():
    cleaned = []

    def rows():
        try:
            for number in range(1, 8):
                if number == 7:
                    raise OSError("disk gone")
                yield np.array(number)
        finally:
            cleaned.append(threading.current_thread().name)

    source = open_source(rows(), repeat=False)
    with Prefetcher(source.next, 3) as batches:
        assert [int(batches.next()[0]) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
        with pytest.raises(OSError, match="disk gone"):
            batches.next()
    source.close()
    assert cleaned == ["estimator-prefetch"]

    def forever():
        try:
            while True:
                yield np.array(0)
        finally:
            cleaned.append(threading.current_thread().name)

    source = open_source(forever(), repeat=False)
    with Prefetcher(source.next, 3) as batches:
        batches.next()
    source.close()
    assert cleaned[1:] == [threading.current_thread().name]


def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="depth=0: wants 1 or more"):
        Prefetcher(Numbers(), 0)
