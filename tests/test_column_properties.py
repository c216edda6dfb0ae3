"""Whatever the values, in whatever form they come, columns answer as the slow reference does."""

import itertools
import os
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import scipy.sparse
from column_reference import (
    NAN,
    Hashed,
    Identity,
    Vocabulary,
    all_forms,
    dense,
    filled,
    fingerprint,
    float_forms,
    is_there,
    lists,
    reference_buckets,
    reference_counts,
    reference_cross,
    reference_ids,
    reference_lengths,
    reference_raw,
    reference_steps,
    sparse,
    sparse_floats,
    steps_forms,
    table,
)
from hypothesis import configuration, given
from hypothesis import strategies as st

import estimator as est
import feature_columns as fc
from feature_columns.categorical import CategoryWeights
from feature_columns.columns import CategoryIds
from feature_columns.hashing import fingerprint64, fingerprint64_in_numpy
from feature_columns.sequence_categorical import SequenceCategoricalColumn, SequenceIds

# Hypothesis keeps tables of characters: beside the other caches, not in a folder of its own.
configuration.set_hypothesis_home_dir(Path(__file__).parents[1] / ".pytest_cache" / "hypothesis")


def examples(count: int) -> Any:
    """The same examples each time, whatever the machine."""
    return hypothesis.settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )


# What is drawn: rows of cells.

WORDS = ["a", "b", "red", "1", "-1", "世界", "Ünï", b"red", "世界".encode(), b"\xff\x00\xfe", "a\0"]
LIMITS = [-(2**63), 2**63 - 1, -(2**31) - 1, 2**31 - 1, 2**53 + 1, -2, 0, 1, 2, 7]
SIZES = st.sampled_from([1, 2, 10, 1000, 2**31 - 1])
missing = st.sampled_from([None, NAN, np.float32("nan")])
texts = st.sampled_from(WORDS) | st.text(max_size=9) | st.binary(max_size=9)
numbers = st.sampled_from(LIMITS) | st.integers(-(2**63), 2**63 - 1)
text_cells = missing | st.sampled_from(["", b""]) | texts
int_cells = missing | st.just(-1) | numbers
words_of_lists = st.lists(st.sampled_from(WORDS[:7]) | st.text(max_size=9), min_size=1, unique=True)
ints_of_lists = st.lists(numbers | st.just(-1), min_size=1, unique=True)
float32s = st.floats(width=32, allow_nan=False)


def rows_of(cells: Any, most: int = 4) -> Any:
    return st.lists(st.lists(cells, max_size=most), max_size=5)


@st.composite
def vocabularies(draw: Any, words: Any) -> Vocabulary:
    given_words = tuple(draw(words))
    if draw(st.booleans()):
        return Vocabulary(given_words, oov_buckets=draw(st.sampled_from([1, 2, 1000])))
    return Vocabulary(given_words, draw(st.integers(-1, len(given_words) - 1)))


@st.composite
def identities(draw: Any) -> Identity:
    size = draw(SIZES)
    return Identity(size, draw(st.none() | st.integers(0, size - 1)))


# What is compared.


def column_of(spec: Any, key: str, dtype: Any = None) -> Any:
    if isinstance(spec, Identity):
        return fc.categorical_column_with_identity(key, spec.buckets, spec.default)
    if isinstance(spec, Hashed):
        return fc.categorical_column_with_hash_bucket(key, spec.buckets, dtype)
    return fc.categorical_column_with_vocabulary_list(
        key, spec.words, dtype, spec.default, spec.oov_buckets
    )


def check_ids(column: Any, raw: dict[str, Any], wanted: Any, form: Any) -> None:
    """Checks the values in their order, their places, and the arrays that are made of them."""
    found = column.host_ids(raw)
    assert found.shape[0] == len(wanted), form
    ids = np.asarray(found.values).tolist()
    rows, places = (axis.tolist() for axis in found.positions)
    assert list(zip(rows, places, ids, strict=True)) == [
        (i, j, number) for i, row in enumerate(wanted) for j, number in row
    ], form
    placed = found.placed(-1, np.int64)
    assert placed.dtype == np.int64
    assert placed.tolist() == filled(wanted, found.shape[1], -1), form
    paths = {key: ("features", key) for key in column.keys}
    made = CategoryIds(column, paths, strict=False)(raw, None)
    assert made.dtype == np.int32
    valid = [[(j, i) for j, i in row if 0 <= i < column.num_buckets] for row in wanted]
    assert made.tolist() == filled(valid, found.shape[1], -1), form


def check_forms(column: Any, spec: Any, rows: Any) -> None:
    """Checks that every form has the same ids, and that sparse ones may hold "" and -1."""
    wanted = reference_ids(spec, rows)
    for form, feature in all_forms(rows):
        check_ids(column, {"a": feature}, wanted, form)
    wanted = reference_ids(spec, rows, everything=True)
    for form, feature in sparse(rows, everything=True):
        check_ids(column, {"a": feature}, wanted, form)


@examples(5)
@given(st.binary(min_size=200, max_size=200))
def test_fingerprints_of_every_length_are_farmhashs(text):
    beginnings = [text[:size] for size in range(201)]
    wanted = list(map(fingerprint, beginnings))
    assert fingerprint64(beginnings).tolist() == wanted
    assert fingerprint64_in_numpy(beginnings).tolist() == wanted


@examples(36)
@given(st.lists(texts | st.binary(max_size=200) | st.text(max_size=70), max_size=9))
def test_fingerprints_are_those_of_utf_8(values):
    encoded = [x.encode() if isinstance(x, str) else x for x in values]
    wanted = list(map(fingerprint, encoded))
    assert fingerprint64(values).tolist() == wanted
    assert fingerprint64_in_numpy(encoded).tolist() == wanted


@examples(24)
@given(rows_of(int_cells), identities())
def test_an_identity_is_the_integer_or_the_default(rows, spec):
    check_forms(column_of(spec, "a"), spec, rows)


@examples(36)
@given(rows_of(text_cells | st.text(max_size=70) | st.binary(max_size=200)), SIZES.map(Hashed))
def test_strings_are_hashed_whatever_form_they_come_in(rows, spec):
    check_forms(column_of(spec, "a", str), spec, rows)


@examples(24)
@given(rows_of(int_cells), SIZES.map(Hashed))
def test_integers_are_hashed_as_decimals_whatever_form_they_come_in(rows, spec):
    check_forms(column_of(spec, "a", np.int64), spec, rows)


@examples(12)
@given(st.lists(st.integers(2**63, 2**64 - 1), min_size=1), SIZES.map(Hashed))
def test_integers_past_those_with_a_sign_are_hashed_and_crossed(numbers, spec):
    rows = [[number] for number in numbers]
    wanted = reference_cross([reference_raw(rows), reference_raw(rows)], 1000)
    for feature in (numbers, rows, np.array(numbers, np.uint64)):
        column = column_of(spec, "a", np.uint64)
        check_ids(column, {"a": feature}, reference_ids(spec, rows), "uint64")
        check_ids(fc.crossed_column(["a", "a"], 1000), {"a": feature}, wanted, "uint64")


@examples(36)
@given(rows_of(text_cells), vocabularies(words_of_lists))
def test_a_words_id_is_its_place_the_default_or_a_bucket(rows, spec):
    check_forms(column_of(spec, "a"), spec, rows)


@examples(24)
@given(rows_of(int_cells), vocabularies(ints_of_lists))
def test_an_integers_id_is_its_place_in_the_vocabulary(rows, spec):
    check_forms(column_of(spec, "a"), spec, rows)


lines = words_of_lists.map(lambda words: list(dict.fromkeys(w.strip("\r\n") for w in words)))


@examples(18)
@given(rows_of(text_cells), vocabularies(lines.filter(lambda w: not any("\n" in x for x in w))))
def test_a_words_id_is_its_line_in_the_file(tmp_path_factory, rows, spec):
    path = os.path.join(tmp_path_factory.getbasetemp(), "words.txt")
    for end, more in (("\n", 0), ("\r\n", 1)):
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.writelines(f"{word}{end}" for word in [*spec.words, *["not counted"] * more])
        column = fc.categorical_column_with_vocabulary_file(
            "a", path, len(spec.words) if more else None, str, spec.default, spec.oov_buckets
        )
        check_forms(column, spec, rows)


@st.composite
def side_by_side(draw: Any, *cells: Any) -> list[list[list[Any]]]:
    """Draws several features of one batch."""
    batch = draw(st.lists(st.tuples(*(st.lists(one, max_size=3) for one in cells)), max_size=4))
    return [[row[i] for row in batch] for i in range(len(cells))]


values = st.one_of(missing, st.just(""), texts), st.one_of(missing, st.just(-1), numbers)
some_keys = st.sampled_from([None, 0, 1, 2**64 - 1, -1, 2**63, 0xDECAFCAFFE])


def check_cross(column: Any, forms: dict[str, Any], wanted: Any) -> None:
    """Checks a cross, each feature in all of its forms."""
    for i in range(max(map(len, forms.values()))):
        chosen = {key: found[i % len(found)] for key, found in forms.items()}
        names = {key: name for key, (name, _) in chosen.items()}
        check_ids(column, {key: feature for key, (_, feature) in chosen.items()}, wanted, names)


@examples(15)
@given(side_by_side(*values), SIZES, some_keys)
def test_a_cross_of_two_chains_all_that_is_there(features, size, key):
    forms = {k: all_forms(rows, True) for k, rows in zip("ab", features, strict=True)}
    first, second = map(reference_raw, features)
    wanted = reference_cross([first, second], size, key)
    check_cross(fc.crossed_column(["a", "b"], size, key), forms, wanted)
    wanted = reference_cross([second, first], size, key)
    check_cross(fc.crossed_column(["b", "a"], size, key), forms, wanted)


@examples(10)
@given(side_by_side(values[0], values[1], values[0]), SIZES)
def test_a_cross_of_three_is_that_of_a_cross_and_one(features, size):
    forms = {k: all_forms(rows, True) for k, rows in zip("abc", features, strict=True)}
    wanted = reference_cross(list(map(reference_raw, features)), size)
    check_cross(fc.crossed_column(["a", "b", "c"], size), forms, wanted)
    check_cross(fc.crossed_column([fc.crossed_column(["a", "b"], 7), "c"], size), forms, wanted)


bounds = st.lists(float32s.map(lambda x: x + 0.0), min_size=1, max_size=9, unique=True).map(sorted)


@examples(21)
@given(
    st.data(),
    bounds,
    side_by_side(text_cells, int_cells),
    vocabularies(words_of_lists),
    identities(),
)
def test_ids_of_columns_take_part_in_crosses_also_those_that_are_none(
    data, boundaries, features, words, ids
):
    numeric = st.sampled_from(boundaries) | float32s
    pair = st.lists(numeric, min_size=2, max_size=2)
    batch = len(features[0])
    pairs = data.draw(st.lists(pair, min_size=batch, max_size=batch))
    source = fc.numeric_column("x", shape=2)
    buckets = fc.bucketized_column(source, boundaries)
    wanted = reference_buckets(boundaries, pairs)
    array = np.array(pairs, np.float32).reshape(batch, 2)
    check_ids(buckets, {"x": array}, wanted, "buckets")
    parts = [wanted, reference_ids(words, features[0]), reference_ids(ids, features[1])]
    numbers = [[[number for _, number in row] for row in part] for part in parts]
    crossed = fc.crossed_column([buckets, column_of(words, "a"), column_of(ids, "b")], 1000)
    forms = {k: all_forms(rows) for k, rows in zip("ab", features, strict=True)}
    forms["x"] = [("float32", array), *([("lists", pairs)] if pairs else [])]
    check_cross(crossed, forms, reference_cross(numbers, 1000))


# Sequences.


def check_steps(column: Any, feature: Any, wanted: Any, lengths: Any, form: str) -> None:
    """Checks ids and lengths of a sequence: `wanted[row][step]` are the places and ids."""
    assert column.host_lengths({"a": feature})[0].tolist() == lengths, form
    made = SequenceIds(column, {"a": ("features", "a")}, strict=False)({"a": feature}, None)
    assert (made.dtype, made.ndim, len(made)) == (np.int32, 3, len(wanted)), form
    for row, steps in zip(made, wanted, strict=True):
        valid = [[(j, i) for j, i in step if 0 <= i < column.num_buckets] for step in steps]
        valid += [[]] * (made.shape[1] - len(valid))
        assert row.tolist() == filled(valid, made.shape[2], -1), form


columns_of_words = vocabularies(words_of_lists) | SIZES.map(Hashed)
columns_of_ints = vocabularies(ints_of_lists) | SIZES.map(Hashed) | identities()
drawn_sequences = st.one_of(
    st.tuples(st.just(str), columns_of_words, st.just(text_cells)),
    st.tuples(st.just(np.int64), columns_of_ints, st.just(int_cells)),
)


@examples(27)
@given(drawn_sequences, st.data())
def test_a_sequence_is_as_long_as_its_last_value_says_with_an_id_or_without(kind, data):
    dtype, spec, cells = kind
    rows = data.draw(rows_of(cells))
    flat = column_of(spec, "a", dtype)
    column = SequenceCategoricalColumn(flat)
    forms = [(*form, False) for form in all_forms(rows)]
    forms += [(*form, True) for form in sparse(rows, everything=True)]
    for form, feature, everything in forms:
        ids = reference_ids(spec, rows, everything)
        steps = [[[(0, dict(row)[j])] if j in dict(row) else [] for j in range(9)] for row in ids]
        width = flat.host_ids({"a": feature}).shape[1]
        steps = [row[:width] for row in steps]
        check_steps(column, feature, steps, reference_lengths(rows, everything), form)


@examples(48)
@given(drawn_sequences, st.data())
def test_steps_of_several_values_keep_their_ids_together(kind, data):
    dtype, spec, cells = kind
    rows = data.draw(rows_of(st.lists(cells, max_size=3), most=3))
    column = SequenceCategoricalColumn(column_of(spec, "a", dtype))
    for everything in (False, True):
        wanted = [reference_ids(spec, row, everything) for row in rows]
        lengths = reference_lengths(rows, everything)
        for form, feature in steps_forms(rows, everything):
            check_steps(column, feature, wanted, lengths, form)


def check_numbers(column: Any, feature: Any, wanted: Any, form: str) -> None:
    """Checks the steps, NaN where there is none, and the lengths of a sequence of numbers."""
    steps, lengths = wanted
    found = column.host_steps({"a": feature})
    assert (found.dtype, found.ndim, found.shape[2]) == (np.float32, 3, column.width), form
    more = [[[NAN] * column.width] * (found.shape[1] - len(row)) for row in steps]
    full = [row + rest for row, rest in zip(steps, more, strict=True)]
    np.testing.assert_array_equal(found, np.array(full).reshape(found.shape), form)
    assert column.host_lengths({"a": feature})[0].tolist() == lengths, form


@examples(36)
@given(rows_of(missing | float32s, most=7), st.integers(1, 3))
def test_flat_rows_of_numbers_are_cut_into_steps(rows, width):
    column = fc.sequence_numeric_column("a", shape=width)
    wanted = reference_steps(rows, width)
    for form, feature in float_forms(rows):
        check_numbers(column, feature, wanted, form)
    wanted = reference_steps(rows, width, everything=True)
    for form, feature in sparse_floats(rows):
        check_numbers(column, feature, wanted, form)


@examples(36)
@given(rows_of(st.just([]) | st.lists(missing | float32s, min_size=2, max_size=2)))
def test_steps_of_numbers_may_be_empty(rows):
    column = fc.sequence_numeric_column("a", shape=2)
    flat = [[cell for step in row for cell in step or [None, None]] for row in rows]
    check_numbers(column, rows, reference_steps(flat, 2), "lists")
    array = table(flat, np.float64, NAN)
    array = array.reshape(len(flat), array.shape[1] // 2, 2)
    check_numbers(column, array, reference_steps(flat, 2), "a dense array")
    column = fc.sequence_numeric_column("a", shape=(2, 1))
    check_numbers(column, array[..., None], reference_steps(flat, 2), "four dimensions")


pairs_of = st.tuples(text_cells, float32s.filter(np.isfinite))


@examples(24)
@given(rows_of(pairs_of), vocabularies(words_of_lists))
def test_a_weight_stands_where_its_value_stands(rows, spec):
    column = fc.weighted_categorical_column(column_of(spec, "a"), "w")
    words = [[word for word, _ in row] for row in rows]
    weights = [[weight if is_there(word) else None for word, weight in row] for row in rows]
    placed = [
        [(j, weight) for j, weight in enumerate(row) if weight is not None] for row in weights
    ]
    heavy = [*float_forms(weights), *sparse_floats(weights)]
    forms = {"a": all_forms(words), "w": heavy}
    recipe = CategoryWeights(column, {key: ("features", key) for key in forms})
    for i in range(max(map(len, forms.values()))):
        chosen = {key: found[i % len(found)] for key, found in forms.items()}
        raw = {key: feature for key, (_, feature) in chosen.items()}
        check_ids(column.categorical_column, raw, reference_ids(spec, words), chosen["a"][0])
        made = recipe(raw, None)
        assert made.dtype == np.float32
        assert made.tolist() == filled(placed, made.shape[1], 0.0), chosen


def described(feature: Any) -> str:
    """Returns a text that tells what a feature holds."""
    if scipy.sparse.issparse(feature):
        arrays = {k: v for k, v in vars(feature).items() if isinstance(v, np.ndarray | tuple)}
        return repr(arrays)
    return repr(feature)


@examples(12)
@given(rows_of(int_cells), rows_of(text_cells))
def test_a_callers_feature_is_left_as_it_was(ints, strings):
    for dtype, rows in ((np.int64, ints), (str, strings)):
        column = column_of(Hashed(10), "a", dtype)
        for form, feature in all_forms(rows):
            before = described(feature)
            column.host_ids({"a": feature})
            assert described(feature) == before, form


few_words = st.sampled_from(["red", "a", "世界", "", "b", b"red", None, NAN])
few_ints = st.sampled_from([7, 0, 1, 8, -1, -2, 10**6, None, NAN])
pair_of_rows = st.tuples(*[st.lists(x, min_size=1, max_size=3) for x in (few_words, few_ints)])


@pytest.mark.parametrize("make", [lists, dense, sparse])
@examples(5)
@given(st.lists(pair_of_rows, min_size=6, max_size=6), st.integers(1, 5))
def test_indicators_count_ids_whatever_the_padding(make, batch, more):
    rows = {"a": [row[0] for row in batch], "b": [row[1] for row in batch]}
    words, ids = Vocabulary(("a", "red", "世界"), oov_buckets=2), Identity(8)
    parts = [reference_ids(words, rows["a"]), reference_ids(ids, rows["b"])]
    crossed = reference_cross([[[i for _, i in row] for row in part] for part in parts], 7)
    columns = [column_of(words, "a"), column_of(ids, "b")]
    columns = [fc.crossed_column(columns, 7), *columns]  # in the order of their names
    sizes = [column.num_buckets for column in columns]
    counts = map(reference_counts, [crossed, *parts], sizes)
    wanted = [list(itertools.chain(*row)) for row in zip(*counts, strict=True)]
    columns = [fc.indicator_column(column) for column in columns]
    wide = {key: [[*row, *[None] * more] for row in found] for key, found in rows.items()}
    features = {key: list(make(found))[-1][1] for key, found in wide.items()}
    made, _ = est.preview(lambda features: fc.input_layer(features, columns), features)
    assert made.tolist() == wanted


def test_a_preview_takes_integers_that_only_a_column_reads():
    rows = [[2**40], [-(2**63)]]
    column = column_of(Hashed(9), "a", np.int64)
    wanted = reference_counts(reference_ids(Hashed(9), rows), 9)
    indicator = fc.indicator_column(column)
    for feature in (rows, np.array(rows), np.array(rows)[:, 0]):
        made, _ = est.preview(lambda f: fc.input_layer(f, indicator), {"a": feature})
        assert made.tolist() == wanted
