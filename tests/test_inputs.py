"""Batches of arrays and data frames: TF's rules, and that a position is a position."""

import itertools
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from estimator.inputs import ArrayBatches, BatchSettings, numpy_input_fn, pandas_input_fn
from estimator.sparse_tensor import SparseTensor

AGES = np.arange(20, 25)
TOWNS = np.array(["Ulm", "Bonn", "Ulm", "Kiel", "Trier"])


def rows_of(batches, count=None):
    return [np.asarray(batch).tolist() for batch in itertools.islice(batches, count)]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


@pytest.mark.parametrize(
    ("rows", "epochs", "batch_size", "sizes"),
    [
        (5, 2, 3, [3, 3, 3, 1]),
        (5, 1, 5, [5]),
        (5, 1, 2, [2, 2, 1]),
        (6, 2, 3, [3, 3, 3, 3]),
        (2, 5, 7, [7, 3]),
        (1, 1, 128, [1]),
    ],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_cross_the_borders_of_epochs(rows, epochs, batch_size, sizes, shuffle):
    given = rows_of(numpy_input_fn(np.arange(rows), None, batch_size, epochs, shuffle)())
    assert [len(batch) for batch in given] == sizes
    if not shuffle:
        assert flat(given) == list(range(rows)) * epochs


@pytest.mark.parametrize("shuffle", [False, True])
def test_without_a_number_of_epochs_batches_never_end_and_are_never_short(shuffle):
    given = rows_of(numpy_input_fn(np.arange(5), None, 3, None, shuffle)(), 100)
    assert {len(batch) for batch in given} == {3}
    assert set(Counter(flat(given)).values()) == {60}


@pytest.mark.parametrize(("rows", "batch_size"), [(7, 3), (7, 7), (7, 20), (8, 2)])
def test_a_shuffled_epoch_gives_each_row_exactly_once_in_an_order_of_its_own(rows, batch_size):
    given = flat(rows_of(numpy_input_fn(np.arange(rows), None, batch_size, 6, True, seed=3)()))
    epochs = [given[start : start + rows] for start in range(0, len(given), rows)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(rows))] * 6
    assert len({tuple(epoch) for epoch in epochs}) == 6


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("seed", [None, 0, 2**40])
@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    [(5, 3, 2), (5, 5, 2), (6, 2, 3), (2, 7, 5), (7, 3, None), (4, 9, None), (1, 1, 3)],
)
def test_restoring_at_every_position_continues_as_if_nothing_had_happened(
    rows, batch_size, epochs, seed, shuffle
):
    input_fn = numpy_input_fn(
        {"row": np.arange(rows)}, np.arange(rows) * 10, batch_size, epochs, shuffle, seed=seed
    )
    straight, states, given = input_fn(), [], []
    for _ in range(12):
        states.append(json.loads(json.dumps(straight.get_state())))
        given.extend((x["row"].tolist(), y.tolist()) for x, y in itertools.islice(straight, 1))
    for place, state in enumerate(states):
        restored = input_fn()
        next(restored)
        restored.set_state(state)
        assert restored.get_state() == state
        rest = itertools.islice(restored, max(len(given) - place, 0))
        assert [(x["row"].tolist(), y.tolist()) for x, y in rest] == given[place:]


def test_a_given_seed_repeats_the_order_and_none_draws_one_for_every_call():
    fixed = numpy_input_fn(np.arange(100), shuffle=True, seed=7)
    assert rows_of(fixed()) == rows_of(fixed())
    drawn = numpy_input_fn(np.arange(100), shuffle=True)
    assert rows_of(drawn()) != rows_of(drawn())


def test_the_end_stays_the_end_and_a_position_there_is_the_end_too():
    batches = numpy_input_fn(np.arange(3), shuffle=False)()
    assert len(list(batches)) == 1
    assert list(batches) == []
    again = numpy_input_fn(np.arange(3), shuffle=False)()
    again.set_state(batches.get_state())
    assert list(again) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "examples"),
        ({"examples": -1, "seed": 1}, "other rows"),
        ({"examples": 11, "seed": 1}, "other rows"),
        ({"examples": 4, "seed": None}, "another `shuffle`"),
    ],
)
def test_a_position_of_another_input_is_refused(state, words):
    with pytest.raises(ValueError, match=words):
        numpy_input_fn(np.arange(5), num_epochs=2, shuffle=True)().set_state(state)


def test_features_and_labels_keep_their_structure_with_sorted_keys():
    features, labels = next(
        numpy_input_fn({"town": TOWNS, "age": AGES}, {"b": AGES, "a": AGES}, 2, shuffle=False)()
    )
    assert list(features) == ["age", "town"]
    assert list(labels) == ["a", "b"]
    assert features["town"].tolist() == ["Ulm", "Bonn"]
    assert isinstance(next(numpy_input_fn(AGES, shuffle=False)()), np.ndarray)
    features, labels = next(numpy_input_fn([[1, 2], [3, 4]], [0, 1], shuffle=False)())
    assert features.tolist() == [[1, 2], [3, 4]]
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "column",
    [
        TOWNS,
        np.array(["a", None, 3.0, ["x", "y"], b"z"], dtype=object),
        np.array(["a", "bb", "ccc", "d", "e"], dtype=np.dtypes.StringDType()),
        np.arange(40, dtype=np.float32).reshape(5, 4, 2, order="F"),
        np.array(["2020-01-01"] * 5, dtype="datetime64[D]"),
        np.array([True, False, True, True, False]),
    ],
    ids=lambda column: str(column.dtype),
)
def test_every_kind_of_array_is_cut_into_rows(column, shuffle):
    given = list(numpy_input_fn({"row": np.arange(5), "column": column}, None, 3, 2, shuffle)())
    rows = np.concatenate([batch["row"] for batch in given])
    assert all(batch["column"].dtype == column.dtype for batch in given)
    assert np.concatenate([batch["column"] for batch in given]).tolist() == column[rows].tolist()


def test_batches_inside_an_epoch_are_views_that_cannot_change_the_data():
    data = np.arange(6.0)
    batch = next(numpy_input_fn(data, batch_size=3, shuffle=False)())
    assert np.shares_memory(batch, data)
    assert data.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        batch += 1


def test_batches_already_given_stay_as_they_were():
    batches = numpy_input_fn(np.arange(50), batch_size=3, num_epochs=4, shuffle=True, seed=1)()
    held = list(batches)
    again = rows_of(
        numpy_input_fn(np.arange(50), batch_size=3, num_epochs=4, shuffle=True, seed=1)()
    )
    assert [batch.tolist() for batch in held] == again
    assert ArrayBatches.fresh_batches is True


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"x": AGES},
            ValueError,
            "shuffle must be provided and explicitly set as boolean.*got None",
        ),
        ({"x": AGES, "shuffle": 1}, ValueError, "shuffle must be provided.*got 1"),
        ({"x": AGES, "shuffle": True, "batch_size": 0}, ValueError, "batch_size=0"),
        ({"x": AGES, "shuffle": True, "batch_size": 2.5}, ValueError, "batch_size=2.5"),
        ({"x": AGES, "shuffle": True, "num_epochs": 0}, ValueError, "num_epochs=0.*None to go on"),
        ({"x": AGES, "shuffle": True, "seed": -1}, ValueError, "seed=-1"),
        ({"x": {}, "shuffle": True}, ValueError, "x cannot be an empty dict"),
        ({"x": [], "shuffle": True}, ValueError, "x cannot be an empty array: no rows in x"),
        ({"x": {"a": [], "b": []}, "shuffle": True}, ValueError, r"no rows in x\['a'\], x\['b'\]"),
        ({"x": AGES, "y": {}, "shuffle": True}, ValueError, "y cannot be an empty dict.*None"),
        (
            {"x": AGES, "y": [1, 2], "shuffle": True},
            ValueError,
            "Length of tensors in x and y is mismatched.*x: 5, y: 2",
        ),
        ({"x": {"a": [1], "b": [1, 2]}, "shuffle": True}, ValueError, r"x\['a'\]: 1, x\['b'\]: 2"),
        (
            {"x": {"a": AGES}, "y": {"a": AGES}, "shuffle": True},
            ValueError,
            r"1 duplicate keys are found in both x and y: \['a'\]",
        ),
        ({"x": None, "shuffle": True}, TypeError, "x must be a dict or array; got NoneType"),
        ({"x": {"a": "Ulm"}, "shuffle": True}, TypeError, r"x\['a'\] must be an array; got str"),
        ({"x": AGES, "y": 3, "shuffle": True}, TypeError, "y must be a dict or array; got int"),
        (
            {"x": np.float32(3), "shuffle": True},
            ValueError,
            "single float32: wants an array of shape",
        ),
        (
            {"x": {"tags": SparseTensor([[0, 0]], ["a"], (1, 1))}, "shuffle": True},
            TypeError,
            r"x\['tags'\] must be an array; got SparseTensor",
        ),
    ],
)
def test_numpy_input_fn_explains_what_is_wrong_when_it_is_called(arguments, error, words):
    with pytest.raises(error, match=words):
        numpy_input_fn(**arguments)


def test_rows_of_different_lengths_become_an_array_of_lists():
    tags = [["a"], ["b", "c"], [], [["d"], ["e", "f"]]]
    batches = list(numpy_input_fn({"tags": tags}, batch_size=3, shuffle=False)())
    assert [batch["tags"].tolist() for batch in batches] == [tags[:3], tags[3:]]


def test_integers_of_pandas_with_gaps_stay_integers():
    frame = pd.DataFrame({"id": pd.array([2**60 + 1, None, 3], dtype="Int64")})
    batch = next(pandas_input_fn(frame, batch_size=3, shuffle=False)())
    assert batch["id"].tolist() == [2**60 + 1, pd.NA, 3]


def test_what_is_missing_among_strings_stays_missing():
    batch = numpy_input_fn({"town": ["Rome", None, float("nan")]}, batch_size=3, shuffle=False)()
    town = next(batch)["town"]
    assert town.dtype == object
    assert town[0] == "Rome"
    assert town[1] is None
    assert np.isnan(town[2])


def test_the_arguments_of_tf_queues_are_accepted():
    given = numpy_input_fn(AGES, None, 2, 1, False, None, 4)()
    assert rows_of(given) == [[20, 21], [22, 23], [24]]
    [batch] = pandas_input_fn(pd.DataFrame({"a": AGES}), None, 9, 1, False, None, 4)()
    assert batch["a"].tolist() == AGES.tolist()


def test_two_inputs_have_one_fingerprint_exactly_where_their_batches_agree():
    def fingerprint(x=AGES, y=AGES, **changes):
        return numpy_input_fn(x, y, **{"shuffle": True, "seed": 1, **changes})().fingerprint

    first = fingerprint()
    assert first == json.loads(json.dumps(fingerprint(batch_size=np.int64(128))))
    others = [
        fingerprint(x=AGES.astype(float)),
        fingerprint(x={"age": AGES}),
        fingerprint(y=None),
        fingerprint(x=AGES[:3], y=AGES[:3]),
        fingerprint(batch_size=2),
        fingerprint(num_epochs=None),
        fingerprint(shuffle=False),
        fingerprint(seed=None),
    ]
    assert first not in others
    assert fingerprint(seed=None)["seed"] is None
    assert first["kind"] == "estimator.inputs.ArrayBatches"
    assert first["examples"] == 5


def test_the_batches_class_can_be_used_by_itself():
    batches = ArrayBatches({"age": [1, 2]}, None, BatchSettings(1, None, shuffle=False))
    assert [batch["age"].tolist() for batch in itertools.islice(batches, 3)] == [[1], [2], [1]]
    with pytest.raises(ValueError, match="x: 5, y: 2"):
        ArrayBatches(AGES, [1, 2], BatchSettings(shuffle=True))


FRAME = pd.DataFrame({"town": TOWNS, "age": AGES}, index=[3, 4, 5, 6, 7])


def test_a_frame_gives_a_dict_of_columns_and_a_series_gives_an_array():
    labels = pd.Series([0, 1, 0, 1, 0], index=FRAME.index)
    given = list(pandas_input_fn(FRAME, labels, batch_size=2, shuffle=False)())
    assert [sorted(features) for features, _ in given] == [["age", "town"]] * 3
    assert np.concatenate([features["town"] for features, _ in given]).tolist() == TOWNS.tolist()
    assert np.concatenate([y for _, y in given]).tolist() == labels.tolist()
    assert {features["age"].ndim for features, _ in given} == {1}


def test_a_frame_of_labels_gives_a_dict_that_may_share_names_with_the_features():
    features, labels = next(
        pandas_input_fn(FRAME, FRAME[["age"]] * 2, batch_size=2, shuffle=False)()
    )
    assert features["age"].tolist() == [20, 21]
    assert labels["age"].tolist() == [40, 42]


def test_a_frame_is_copied_and_may_change_later():
    frame, labels = FRAME.copy(), FRAME["age"].copy()
    input_fn = pandas_input_fn(frame, labels, batch_size=5, shuffle=False)
    frame.loc[3, "age"] = 0
    labels.loc[3] = 0
    features, given = next(input_fn())
    assert features["age"][0] == 20
    assert given[0] == 20


def test_a_frame_without_labels_gives_features_alone_and_resumes():
    input_fn = pandas_input_fn(FRAME, batch_size=2, num_epochs=None, shuffle=True)
    straight, restored = input_fn(), input_fn()
    next(straight)
    restored.set_state(straight.get_state())
    assert next(straight)["town"].tolist() == next(restored)["town"].tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"x": {"age": AGES}, "shuffle": True},
            TypeError,
            "x is of type dict: pandas_input_fn wants a pandas.DataFrame",
        ),
        (
            {"x": FRAME, "y": AGES, "shuffle": True},
            TypeError,
            "y is of type ndarray: wants a pandas.Series",
        ),
        ({"x": FRAME}, ValueError, "shuffle must be provided"),
        (
            {"x": FRAME, "y": FRAME["age"].reset_index(drop=True), "shuffle": True},
            ValueError,
            "Index for x and y are mismatched",
        ),
        (
            {"x": FRAME, "y": FRAME["age"], "shuffle": True, "target_column": "town"},
            ValueError,
            "Cannot use name 'town'",
        ),
        (
            {"x": FRAME, "shuffle": True, "target_column": 3},
            TypeError,
            "target_column=3: wants a str",
        ),
        ({"x": FRAME[:0], "shuffle": True}, ValueError, "no rows in x"),
        ({"x": FRAME[[]], "shuffle": True}, ValueError, "x cannot be an empty dict"),
        (
            {"x": FRAME[["age", "age"]], "shuffle": True},
            ValueError,
            r"more than one column named \['age'\]",
        ),
    ],
)
def test_pandas_input_fn_explains_what_is_wrong_when_it_is_called(arguments, error, words):
    with pytest.raises(error, match=words):
        pandas_input_fn(**arguments)
