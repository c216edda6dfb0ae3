"""Laws over the table of all columns: rows stand alone, padding is not seen, a column is data."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest
from column_models import center, sparse

import estimator as est
import feature_columns as fc

WORDS = ["the", "cat", "sat", "on", "mat"]
AGE = fc.numeric_column("age")
WORD = fc.categorical_column_with_vocabulary_list("word", WORDS, num_oov_buckets=2)
OTHER = fc.categorical_column_with_vocabulary_list("other", WORDS, num_oov_buckets=2)
HASHED = fc.categorical_column_with_hash_bucket("other", 10)
IDENTITY = fc.categorical_column_with_identity("id", 5)
CROSS = fc.crossed_column(["word", "other", fc.bucketized_column(AGE, [20.0, 40.0])], 12)
WEIGHTED = fc.weighted_categorical_column(WORD, "weight")
SHARED = fc.shared_embedding_columns([WORD, OTHER], 3)
SEQUENCE_WORD = fc.sequence_categorical_column_with_vocabulary_list("word", WORDS)
SEQUENCE_HASHED = fc.sequence_categorical_column_with_hash_bucket("other", 10)

DENSE = {
    "numeric": AGE,
    "numeric of a shape": fc.numeric_column("pair", 2, default_value=(0.5, 1.5)),
    "bucketized": fc.bucketized_column(AGE, [18.0, 30.0, 65.0]),
    "indicator of identity": fc.indicator_column(IDENTITY),
    "indicator of hashed": fc.indicator_column(HASHED),
    "indicator of weighted": fc.indicator_column(WEIGHTED),
    "indicator of crossed": fc.indicator_column(CROSS),
    "embedding, mean": fc.embedding_column(WORD, 3),
    "embedding, sum": fc.embedding_column(WORD, 3, combiner="sum"),
    "embedding, sqrtn, weighted": fc.embedding_column(WEIGHTED, 3, combiner="sqrtn"),
    "embedding, max_norm": fc.embedding_column(HASHED, 3, max_norm=0.5),
    "embedding of bucketized": fc.embedding_column(fc.bucketized_column(AGE, [30.0]), 2),
    "shared embedding": SHARED[0],
    "shared embedding, without a scope": fc.shared_embeddings([WORD, OTHER], 3)[1],
}
LINEAR = {
    "word": WORD,
    "identity": IDENTITY,
    "weighted": WEIGHTED,
    "crossed": CROSS,
    "bucketized": fc.bucketized_column(AGE, [18.0]),
    "numeric": AGE,
    "embedding": fc.embedding_column(WORD, 2),
}
SEQUENCE = {
    "sequence numeric": fc.sequence_numeric_column("x", default_value=-1.0),
    "sequence numeric of a shape": fc.sequence_numeric_column("xy", shape=(2,)),
    "sequence embedding": fc.embedding_column(SEQUENCE_WORD, 3),
    "sequence indicator": fc.indicator_column(SEQUENCE_HASHED),
    "several ids in a step": fc.embedding_column(
        fc.sequence_categorical_column_with_identity("steps", 9), 3, combiner="sqrtn"
    ),
}
COLUMNS = {**DENSE, **LINEAR, **SEQUENCE}

ROWS = 4
FEATURES = {
    "age": np.float32([17, 18, 44.5, 90]),
    "pair": np.float32([[1, 2], [np.nan, 4], [5, np.nan], [7, 8]]),
    "id": [[1], [0, 0, 4], [], [3, 2]],
    "word": [["cat", "dog", "mat"], ["on"], [], ["the", "the", "the", "cat", "sat"]],
    "other": [["mat"], ["", "on"], ["sat", "cat", "the"], []],
    "weight": [[1.0, -0.5, 2.0], [0.25], [], [1.0, 2.0, 3.0, 0.0, 1.0]],
}
SEQUENCES = {
    "word": FEATURES["word"],
    "other": [["mat", "", "on"], ["on"], [], ["", "", "", "", "a"]],
    "x": [[1.0, 2.0, 3.0], [4.0], [], [0.5] * 5],
    "xy": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0, 8.0], [], [9.0] * 10],
    "steps": [[[1, 2], [3], [4]], [[5, 6]], [], [[7], [8], [], [0], [2, 2, 2]]],
}


def groups(columns):
    """Returns lists of columns of different names: few layers are traced for all of them."""
    made = []
    for column in columns:
        fitting = [group for group in made if column.name not in {c.name for c in group}]
        fitting[0].append(column) if fitting else made.append([column])
    return made


def row_of(features, i):
    return {key: value[i : i + 1] for key, value in features.items()}


def input_layer(columns, features, variables=None):
    """Returns each column's part of an input layer."""
    parts = {}

    def net(features):
        fc.input_layer(features, columns, cols_to_output_tensors=parts)
        return dict(zip([column.name for column in parts], parts.values(), strict=True))

    return est.preview(net, features, variables=variables)


def linear_model(columns, features, variables=None):
    def net(features):
        made = fc.linear_model(features, columns, units=2, sparse_combiner="mean")
        return {"all": made}

    return est.preview(net, features, variables=variables)


def sequence_layer(columns, features, variables=None):
    return est.preview(lambda f: fc.sequence_input_layer(f, columns), features, variables=variables)


def learnt(variables):
    """Returns variables that are not zero anywhere."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=np.shape(value)) for name, value in sorted(variables.items())}


CASES = [(input_layer, group) for group in groups(DENSE.values())]
CASES += [(linear_model, group) for group in groups(LINEAR.values())]


@pytest.mark.parametrize(("layer", "columns"), CASES)
def test_a_row_answers_alone_as_it_does_in_a_batch(layer, columns):
    variables = learnt(layer(columns, FEATURES)[1])
    whole = layer(columns, FEATURES, variables)[0]
    assert {len(part) for part in whole.values()} == {ROWS}
    for i in (0, 2):  # of some values, and of none
        alone = layer(columns, row_of(FEATURES, i), variables)[0]
        for name, values in whole.items():
            wanted = values[i : i + 1]
            np.testing.assert_allclose(alone[name], wanted, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_sequence_answers_alone_as_it_does_in_a_batch():
    columns = list(SEQUENCE.values())
    variables = learnt(sequence_layer(columns, SEQUENCES)[1])
    (whole, lengths), _ = sequence_layer(columns, SEQUENCES, variables)
    assert whole.shape[1] == 8
    for i in (0, 2):
        (alone, length), _ = sequence_layer(columns, row_of(SEQUENCES, i), variables)
        assert length.tolist() == [lengths[i]]
        true = int(lengths[i])
        np.testing.assert_allclose(alone[0, :true], whole[i, :true], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("layer", "columns"), CASES)
def test_a_batch_without_rows_is_answered(layer, columns):
    none = {key: value[:0] for key, value in FEATURES.items()}
    assert {len(part) for part in layer(columns, none)[0].values()} == {0}


def test_sequences_without_steps_are_answered():
    empty = {key: [[], []] for key in SEQUENCES}
    columns = list(SEQUENCE.values())
    (steps, lengths), _ = sequence_layer(columns, empty)
    assert steps.shape[:2] == (2, 1)
    assert lengths.tolist() == [0, 0]
    assert set(np.unique(steps)) == {column.padding for column in columns}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())
def test_a_column_is_data(column):
    assert est.from_json(json.loads(json.dumps(est.to_json(column)))) == column
    assert hash(column) == hash(copy.deepcopy(column))
    assert type(column).__name__ in repr(column)
    with pytest.raises(dataclasses.FrozenInstanceError):
        column.extra = 1
    assert all(other != column for other in COLUMNS.values() if other is not column)
    assert fc.make_parse_example_spec([column]).keys() == set(column.keys)


@pytest.mark.parametrize(
    "column",
    [
        fc.numeric_column("a", normalizer_fn=lambda x: x * 2),
        fc.embedding_column(IDENTITY, 2, initializer=jax.nn.initializers.zeros),
        fc.crossed_column(
            [fc.bucketized_column(dataclasses.replace(AGE, normalizer_fn=center), [1]), "b"], 9
        ),
    ],
    ids=["numeric", "embedding", "crossed"],
)
def test_a_column_that_holds_a_function_says_so_when_it_is_to_be_written(column):
    with pytest.raises(TypeError, match="is a function, which JSON cannot hold"):
        est.to_json(column)
    assert column == copy.deepcopy(column)


def test_a_column_that_was_read_back_makes_the_same_ids():
    back = est.from_json(est.to_json(CROSS))
    np.testing.assert_array_equal(back.host_ids(FEATURES).values, CROSS.host_ids(FEATURES).values)
    assert back.digest == CROSS.digest


# Whatever form a feature comes in.

FORMS = {
    "lists of lists": lambda rows: rows,
    "list of tuples": lambda rows: list(map(tuple, rows)),
    "object array": lambda rows: np.array([*rows, None], object)[:-1],
    "array of arrays": lambda rows: np.array([*map(np.array, rows), None], object)[:-1],
    "dense array": lambda rows: np.array([[*row, *[""] * (5 - len(row))] for row in rows]),
    "dense bytes": lambda rows: np.array([[*row, *[""] * (5 - len(row))] for row in rows], "S"),
    "dense objects": lambda rows: np.array([[*row, *[None] * (5 - len(row))] for row in rows]),
    "SparseTensor": sparse,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_feature_may_come_in_any_form(form):
    columns = [fc.indicator_column(WORD)]
    if form not in ("dense array", "dense bytes"):  # an empty string is a value of a cross
        columns.append(fc.indicator_column(fc.crossed_column(["word", IDENTITY], 9)))
    answers = [
        est.preview(lambda f: fc.input_layer(f, columns), {"word": word, "id": [[1]] * ROWS})[0]
        for word in (FORMS[form](FEATURES["word"]), FEATURES["word"])
    ]
    np.testing.assert_array_equal(*answers)


def test_a_feature_that_changes_its_form_compiles_nothing_anew(model_dir):
    traces = []

    def model_fn(features, labels, mode):
        traces.append(mode)
        columns = [fc.indicator_column(WORD), fc.indicator_column(IDENTITY)]
        return est.EstimatorSpec(mode, predictions=fc.input_layer(features, columns))

    batches = [
        {"word": ["cat", "dog"], "id": [1, 2]},
        {"word": [["cat"], ["dog"]], "id": np.array([[1], [2]])},
        {"word": [["cat"], []], "id": [[1], []]},
        {"word": sparse([["cat"], ["on"]]), "id": np.array([1, -1])},
    ]
    answers = list(est.Estimator(model_fn, model_dir).predict(lambda: iter(batches)))
    assert len(answers) == 8
    assert [int(answer.sum()) for answer in answers] == [2, 2, 2, 2, 2, 0, 2, 1]
    once = len(traces)
    list(est.Estimator(model_fn, model_dir).predict(lambda: iter(batches[:1])))
    assert len(traces) == 2 * once
