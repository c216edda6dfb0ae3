"""What an input_fn may look like and return, and that positions survive the way through JSON."""

import functools
import json
import threading

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from estimator.inputs import numpy_input_fn
from estimator.sources import call_input_fn, open_source
from estimator.sparse_tensor import SparseTensor

X = np.array([[1.0], [2.0]])
Y = np.array([0, 1])
SPARSE = SparseTensor([[0, 0]], ["red"], (2, 2))
OFFER = {"mode": "train", "params": {"rows": 3}, "config": "the config"}


def everything(source):
    return list(iter(source.next, None))


class Callable:
    def __call__(self, mode, *, config):
        return mode, config

    def method(self, params):
        return params


class Counting:
    """A resumable iterator that goes on writing to the state it has handed out, or gives bytes."""

    def __init__(self, as_bytes=False):
        self.state = {"next": 0}
        self.as_bytes = as_bytes

    def __iter__(self):
        return self

    def __next__(self):
        self.state["next"] += 1
        return np.array(self.state["next"])

    def get_state(self):
        return bytes([255, self.state["next"]]) if self.as_bytes else self.state

    def set_state(self, state):
        self.state = {"next": state[1]} if self.as_bytes else dict(state)


@pytest.mark.parametrize(
    ("input_fn", "wanted"),
    [
        (lambda: "nothing", "nothing"),
        (lambda params: params, {"rows": 3}),
        (lambda config, mode: (config, mode), ("the config", "train")),
        (lambda mode=None: mode, "train"),
        (lambda batch_size=5: batch_size, 5),
        (lambda input_context: input_context, None),
        (lambda *args, **kwargs: (args, kwargs), ((), OFFER)),
        (lambda mode, **rest: sorted(rest), ["config", "params"]),
        (Callable(), ("train", "the config")),
        (Callable().method, {"rows": 3}),
        (functools.partial(lambda size, params: (size, params), 4), (4, {"rows": 3})),
        (functools.partial(lambda params, mode: (params, mode), params="mine"), ("mine", "train")),
        (functools.partial(lambda **kwargs: kwargs, mode="mine"), {**OFFER, "mode": "mine"}),
    ],
)
def test_an_input_fn_is_given_what_its_signature_names(input_fn, wanted):
    assert call_input_fn(input_fn, **OFFER) == wanted


def test_keyword_arguments_include_an_input_context_that_is_there():
    given = call_input_fn(lambda **kwargs: kwargs, **OFFER, input_context="second of two")
    assert given == {**OFFER, "input_context": "second of two"}


def test_an_input_fn_that_raises_type_error_is_called_once():
    calls = []

    def input_fn(params):
        calls.append(params)
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        call_input_fn(input_fn, **OFFER)
    assert len(calls) == 1


def test_an_input_fn_that_cannot_be_called_is_shown_with_the_way_out():
    with pytest.raises(TypeError, match=r"is of type dict, which cannot be called.*lambda: data"):
        call_input_fn({"x": X}, **OFFER)


def test_required_parameters_that_nobody_offers_are_named():
    def read(path, mode, size: int, seed=0):
        return path, mode, size, seed

    with pytest.raises(ValueError, match=r"read.* requires \['path', 'size: int'\].*partial"):
        call_input_fn(read, **OFFER)
    with pytest.raises(ValueError, match=r"requires \['params'\], but is called .* by name"):
        call_input_fn(lambda params, /: params, **OFFER)


@pytest.mark.parametrize(
    ("returned", "features", "labels"),
    [
        ((X, Y), X, Y),
        (({"x": X}, None), {"x": X}, None),
        ([X, Y], X, Y),
        ([{"x": X}, Y], {"x": X}, Y),
        ([SPARSE, Y], SPARSE, Y),
        ({"x": X}, {"x": X}, None),
        (X, X, None),
        (jnp.ones(2), jnp.ones(2), None),
        (np.float32(3), np.float32(3), None),
        (scipy.sparse.csr_matrix(X), scipy.sparse.csr_matrix(X), None),
        (scipy.sparse.coo_array(X), scipy.sparse.coo_array(X), None),
        (SPARSE, SPARSE, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_arrays_are_one_batch_given_once_or_forever(returned, features, labels):
    once = open_source(returned, repeat=False)
    [(given_features, given_labels)] = everything(once)
    assert type(given_features) is type(features)
    assert repr(given_features) == repr(features)
    assert repr(given_labels) == repr(labels)
    assert once.next() is None
    assert once.fresh
    assert once.resumable
    forever = open_source(returned, repeat=True)
    assert all(forever.next() is not None for _ in range(5))


@pytest.mark.parametrize(
    ("returned", "count", "labelled"),
    [
        ([(X, Y), (X, Y), (X, Y)], 3, True),
        ([(X, Y)], 1, True),
        ([{"x": X}, {"x": X}], 2, False),
        ([SPARSE, SPARSE, SPARSE], 3, False),
        ([], 0, False),
        (iter([(X, Y), (X, Y)]), 2, True),
        (([X, Y] for _ in range(4)), 4, True),
        ((X for _ in range(4)), 4, False),
        ((scipy.sparse.csr_matrix(X) for _ in range(2)), 2, False),
        (map(dict, [{"x": X}]), 1, False),
    ],
)
def test_iterables_are_many_batches_and_are_never_repeated(returned, count, labelled):
    source = open_source(returned, repeat=True)
    batches = everything(source)
    assert len(batches) == count
    assert all(
        isinstance(batch, tuple) and len(batch) == 2 and (batch[1] is not None) == labelled
        for batch in batches
    )
    assert source.next() is None
    assert not source.fresh
    assert not source.resumable
    assert source.get_state() is None


def test_a_loader_that_gives_lists_is_read_afresh_each_time_it_is_opened():
    class Loader:
        def __len__(self):
            return 2

        def __iter__(self):
            return iter([[X, Y], [X, Y]])

    loader = Loader()
    assert [len(everything(open_source(loader, repeat=False))) for _ in range(2)] == [2, 2]


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        (
            (X, Y, Y),
            ValueError,
            r"input_fn should return \(features, labels\) as a tuple of length 2, got length 3",
        ),
        ((X,), ValueError, "got length 1"),
        ([X, Y, Y], ValueError, "got length 3: ndarray, ndarray, ndarray.*list of tuples"),
        (None, TypeError, "input_fn returned None: wants plain arrays.*return. missing"),
        (3, TypeError, "of type int"),
        ("data.csv", TypeError, "of type str: wants plain arrays"),
        (lambda: X, TypeError, "of type function.*Return what it gives"),
    ],
)
def test_what_no_source_can_be_made_of_is_refused(returned, error, words):
    with pytest.raises(error, match=words):
        open_source(returned, repeat=False)


@pytest.mark.parametrize(
    ("element", "error", "words"),
    [
        (
            (X, Y, Y),
            ValueError,
            r"batch 3 of input_fn should be \(features, labels\) .* of length 2, got length 3",
        ),
        ([X], ValueError, "batch 3 of input_fn.*length 1"),
        ("abc", TypeError, "batch 3 of input_fn is of type str: wants"),
        (None, TypeError, "batch 3 of input_fn is None"),
    ],
)
def test_a_batch_of_the_wrong_shape_is_named_by_its_number(element, error, words):
    source = open_source(iter([(X, Y), (X, Y), element]), repeat=False)
    source.next(), source.next()
    with pytest.raises(error, match=words):
        source.next()


def test_an_error_in_a_generator_arrives_unchanged_at_its_batch():
    mine = KeyError("row 7")

    def batches():
        for number in range(1, 10):
            if number == 7:
                raise mine
            yield X, Y

    source = open_source(batches(), repeat=False)
    assert all(source.next() for _ in range(6))
    with pytest.raises(KeyError) as caught:
        source.next()
    assert caught.value is mine
    assert caught.traceback[-1].name == "batches"
    assert source.next() is None


def test_an_iterator_is_not_asked_again_after_its_end():
    class Once:
        asked = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.asked += 1
            raise StopIteration

    once = Once()
    source = open_source(once, repeat=False)
    assert [source.next(), source.next()] == [None, None]
    assert once.asked == 1


@pytest.mark.parametrize(
    "make",
    [
        numpy_input_fn(
            np.arange(10), np.arange(10), batch_size=3, num_epochs=3, shuffle=True, seed=1
        ),
        Counting,
        functools.partial(Counting, as_bytes=True),
    ],
)
def test_a_position_survives_json_and_later_reading(make):
    source = open_source(make(), repeat=False)
    states, batches = [], []
    for _ in range(8):
        states.append(source.get_state())
        batches.append(repr(source.next()))
    for place, state in enumerate(json.loads(json.dumps(states))):
        again = open_source(make(), repeat=False)
        assert again.resumable
        again.set_state(state)
        assert [repr(again.next()) for _ in batches[place:]] == batches[place:]


@pytest.mark.parametrize("repeat", [False, True])
def test_one_batch_has_a_position_too(repeat):
    source = open_source((X, Y), repeat=repeat)
    before = source.get_state()
    source.next()
    after = json.loads(json.dumps(source.get_state()))
    again = open_source((X, Y), repeat=repeat)
    again.set_state(after)
    assert (again.next() is not None) == repeat
    again.set_state(before)
    assert again.next() is not None
    assert source.fingerprint == again.fingerprint
    assert source.fingerprint != open_source((X, Y), repeat=not repeat).fingerprint


def test_a_source_without_a_position_cannot_be_set_to_one():
    with pytest.raises(ValueError, match=r"generator cannot be set to {'next': 3}.*get_state"):
        open_source((batch for batch in [X]), repeat=False).set_state({"next": 3})


def test_only_sources_that_say_so_are_fresh():
    class Says(Counting):
        fresh_batches = True

    class Denies(Counting):
        fresh_batches = False

    assert open_source(numpy_input_fn(X, shuffle=False)(), repeat=False).fresh
    assert open_source(Says(), repeat=False).fresh
    assert not open_source(Denies(), repeat=False).fresh
    assert not open_source(Counting(), repeat=False).fresh


def test_a_fingerprint_tells_the_kind_and_what_the_iterator_adds():
    class Told(Counting):
        @property
        def fingerprint(self):
            return {"files": 3}

    class Method(Counting):
        def fingerprint(self):
            return {}

    assert open_source(iter([X]), repeat=False).fingerprint == {"kind": "builtins.list_iterator"}
    told = open_source(Told(), repeat=False).fingerprint
    assert told["files"] == 3
    assert told["kind"].endswith("Told")
    batches = numpy_input_fn(X, shuffle=False)()
    assert open_source(batches, repeat=False).fingerprint == batches.fingerprint
    with pytest.raises(TypeError, match=r"Method\.fingerprint is of type method: wants a property"):
        open_source(Method(), repeat=False).fingerprint  # noqa: B018


def test_closing_ends_a_generator_and_nothing_else():
    cleaned = []

    def batches():
        try:
            while True:
                yield X
        finally:
            cleaned.append(True)

    source = open_source(batches(), repeat=False)
    source.next()
    source.close()
    source.close()
    assert cleaned == [True]
    assert source.next() is None
    loop = open_source(Counting(), repeat=False)
    loop.close()
    assert loop.next() is None


def test_closing_leaves_a_generator_alone_that_another_thread_waits_in():
    reached, release = threading.Event(), threading.Event()

    def batches():
        reached.set()
        release.wait(5)
        yield X

    source = open_source(batches(), repeat=False)
    thread = threading.Thread(target=source.next)
    thread.start()
    reached.wait(5)
    source.close()
    release.set()
    thread.join(5)
    assert not thread.is_alive()
