"""What is wrong with a column, or with a feature, is said with what was given and what to do."""

import numpy as np
import pytest
from column_models import sparse

import estimator as est
import feature_columns as fc

AGE = fc.numeric_column("age")
WORD = fc.categorical_column_with_vocabulary_list("word", ["cat", "dog"])
IDS = fc.categorical_column_with_identity("id", 3)
HASHED = fc.categorical_column_with_hash_bucket("word", 10)
STEPS = fc.sequence_categorical_column_with_identity("steps", 5)
BUCKETS = fc.bucketized_column(AGE, [1.0])
UNWEIGHTED = fc.weighted_categorical_column(IDS, "weight")


def of(column, other=None, **features):
    """Returns a call that gives the column to the layer it belongs to."""
    layer = fc.input_layer if other is None else other
    return lambda: est.preview(lambda f: layer(f, column), features)


FACTORIES = [
    (lambda: fc.numeric_column(3), "numeric_column: key must be a string.*got 3"),
    (lambda: fc.numeric_column("a", "b"), "shape must be an int, or a tuple of ints, got 'b'"),
    (lambda: fc.numeric_column("a", [2.0]), "shape must be an int, or a tuple of ints"),
    (lambda: fc.numeric_column("a", 0), r"shape must be positive, got \(0,\)"),
    (lambda: fc.numeric_column("a", dtype=str), "one of numbers, convertible to float"),
    (lambda: fc.numeric_column("a", normalizer_fn=1), "normalizer_fn must be a function, got 1"),
    (lambda: fc.numeric_column("a", 2, [1.0, 2.0, 3.0]), r"default_value has shape \(3,\)"),
    (lambda: fc.numeric_column("a", default_value="x"), "default_value must be a number.*'x'"),
    (lambda: fc.bucketized_column(WORD, [1]), "source_column must be a numeric_column, got Voc"),
    (lambda: fc.bucketized_column(fc.numeric_column("a", (2, 2)), [1]), "one-dimensional.*2, 2"),
    (lambda: fc.bucketized_column(AGE, []), r"boundaries must be a sorted list.*got \[\]"),
    (lambda: fc.bucketized_column(AGE, [2, 1]), r"sorted list of different numbers.*\[2, 1\]"),
    (lambda: fc.bucketized_column(AGE, [1, 1]), "sorted list of different numbers"),
    (lambda: fc.bucketized_column(AGE, 3), "sorted list of different numbers.*got 3"),
    (lambda: fc.categorical_column_with_identity(b"a", 3), "key must be a string"),
    (lambda: fc.categorical_column_with_identity("a", 0), "num_buckets must be .* got 0"),
    (lambda: fc.categorical_column_with_identity("a", 2.0), "num_buckets must be an int"),
    (lambda: fc.categorical_column_with_identity("a", 3, 3), r"an id in \[0, 3\), got 3"),
    (lambda: fc.categorical_column_with_hash_bucket("a", 0), "hash_bucket_size must be .* got 0"),
    (lambda: fc.categorical_column_with_hash_bucket("a", 2**31), "below 2\\*\\*31"),
    (lambda: fc.categorical_column_with_hash_bucket("a", 9, float), "dtype must be string or int"),
    (lambda: fc.categorical_column_with_vocabulary_list("a", []), "at least one word, it is empty"),
    (lambda: fc.categorical_column_with_vocabulary_list("a", "abc"), "list of words, got one stri"),
    (
        lambda: fc.categorical_column_with_vocabulary_list("a", {"b", "c"}),
        "a set, whose order diff",
    ),
    (lambda: fc.categorical_column_with_vocabulary_list("a", [1.0]), "holds 1.0, a float"),
    (lambda: fc.categorical_column_with_vocabulary_list("a", ["x", "x"]), "'x' more than once"),
    (lambda: fc.categorical_column_with_vocabulary_list("a", ["x", 3]), "holds 3, a int, which is"),
    (lambda: fc.categorical_column_with_vocabulary_list("a", [1, "x"]), "holds 'x', a str, which "),
    (
        lambda: fc.categorical_column_with_vocabulary_list("a", ["x"], np.int64),
        "holds 'x', which d",
    ),
    (
        lambda: fc.categorical_column_with_vocabulary_list("a", ["x"], None, 0, 2),
        "can't specify both num_oov_buckets=2 and default_value=0",
    ),
    (lambda: fc.categorical_column_with_vocabulary_list("a", ["x"], None, 1), "the id of a word"),
    (lambda: fc.categorical_column_with_vocabulary_list("a", ["x"], None, -1, -1), "num_oov_buck"),
    (lambda: fc.categorical_column_with_vocabulary_file("a", "none.txt"), "no vocabulary_file 'no"),
    (lambda: fc.crossed_column(["a"], 9), r"list with length > 1, got \['a'\]"),
    (lambda: fc.crossed_column("ab", 9), "list with length > 1, got 'ab'"),
    (lambda: fc.crossed_column(iter(["a"]), 9), "list with length > 1"),
    (lambda: fc.categorical_column_with_identity("a", 3, 1.5), "default_value must be an int"),
    (lambda: fc.categorical_column_with_vocabulary_list("a", ["x"], None, None), "id of a word"),
    (lambda: fc.sequence_numeric_column("x", default_value="x"), "default_value must be a number"),
    (lambda: fc.weighted_categorical_column(IDS, "w", "foo"), "dtype must be one of numbers"),
    (lambda: fc.crossed_column(["a", HASHED], 9), 'hashed twice.*give "word" in its place'),
    (lambda: fc.crossed_column(["a", UNWEIGHTED], 9), "weighted column cannot be crossed.*'id'"),
    (lambda: fc.crossed_column(["a", AGE], 9), "names of features or categorical columns, got Num"),
    (lambda: fc.crossed_column(["a", "b"], 0), "hash_bucket_size must be .* got 0"),
    (lambda: fc.crossed_column(["a", "b"], 9, "key"), "hash_key must be an int, got 'key'"),
    (lambda: fc.weighted_categorical_column(AGE, "w"), "needs a categorical column.*NumericColumn"),
    (lambda: fc.weighted_categorical_column(IDS, "w", str), "dtype must be one of numbers"),
    (lambda: fc.indicator_column("id"), "indicator_column: needs a categorical column.*got 'id'"),
    (lambda: fc.embedding_column(AGE, 3), "embedding_column: needs a categorical column"),
    (lambda: fc.embedding_column(IDS, 0), "dimension must be an int of at least 1.*got 0"),
    (lambda: fc.embedding_column(IDS, 2, "means"), 'combiner must be one of.*Did you mean "mean"'),
    (lambda: fc.embedding_column(IDS, 2, initializer=3), "initializer must be callable.*got 3"),
    (lambda: fc.embedding_column(IDS, 2, ckpt_to_load_from="x"), "specify both ckpt_to_load_from"),
    (lambda: fc.embedding_column(IDS, 2, max_norm=0), "max_norm must be above 0, got 0"),
    (lambda: fc.shared_embedding_columns([], 2), "at least one column"),
    (lambda: fc.shared_embedding_columns([IDS, WORD], 2), "same type.*IdentityColumn of 3.*List"),
    (
        lambda: fc.shared_embeddings([IDS, fc.categorical_column_with_identity("b", 4)], 2),
        "number of ids, but id is a IdentityColumn of 3, b a IdentityColumn of 4",
    ),
    (lambda: fc.make_parse_example_spec([AGE, "a"]), "must be feature columns, got 'a'"),
    (lambda: fc.make_parse_example_spec([AGE, fc.numeric_column("age", 2)]), "in different ways"),
    (
        lambda: fc.concatenate_context_input(np.ones((2, 1)), np.ones((3, 4, 5))),
        r"got \(2, 1\) and \(3, 4, 5\)",
    ),
]

LAYERS = [
    (of({"age": AGE}, age=[1.0]), "must be a list of columns, got a dict"),
    (of([], age=[1.0]), "feature_columns must not be empty"),
    (of(["age"], age=[1.0]), "must be dense columns, such as numeric_column.*got 'age'"),
    (of(WORD, word=["cat"]), r"word is a categorical column.*indicator_column\(column\), or embed"),
    (of([AGE, fc.numeric_column("age", 2)], age=[1.0]), "two columns have the name 'age'"),
    (of(STEPS, steps=[[1]]), "column of sequences: give it to sequence_input_layer"),
    (of(STEPS, fc.linear_model, steps=[[1]]), "column of sequences: give it to sequence_input"),
    (of("age", fc.linear_model, age=[1.0]), "must be a list of columns, got a str"),
    (of(fc.indicator_column(STEPS), steps=[[1]]), "steps_indicator: the categorical column is one"),
    (
        of(fc.indicator_column(IDS), fc.sequence_input_layer, id=[[1]]),
        "id_indicator: the categorical column must be one of sequences",
    ),
    (of(AGE, fc.sequence_input_layer, age=[1.0]), "columns of sequences: embedding_column or ind"),
    (of(AGE, agee=[1.0]), r"numeric_column\(age\): no feature \"age\" among \['agee'\]. Did you m"),
    (of(fc.indicator_column(WORD), words=["a"]), 'no feature "word" among .* Did you mean "words"'),
    (lambda: est.preview(lambda f: fc.input_layer(f, AGE), np.ones(2)), "features must be a dict"),
    (of(AGE, age=1.0), r"single number, of shape \(\); wanted is one"),
    (of(AGE, age=[[1.0, 2.0]]), r"shape \(1, 2\), wanted \('batch', 1\)"),
    (of(AGE, age=["a"]), "holds <U1 values, such as 'a'; numbers are wanted"),
    (of(AGE, age=[[1.0], [1.0, 2.0]]), "rows of different lengths"),
    (of(AGE, age=sparse([[1.0]])), "is a SparseTensor; wanted is a dense array"),
    (of(AGE, age=np.float32([1, np.nan])), r'"age" has a missing value, None or NaN, at \(1,\)'),
    (of(AGE, age=[1.0, None]), r"has a missing value, None or NaN, at \(1, 0\).*default_value"),
    (
        of(fc.numeric_column("age", normalizer_fn=lambda x: x[:, :0]), age=[1.0]),
        r"normalizer_fn made an array of shape \(1, 0\)",
    ),
    (of(fc.embedding_column(IDS, 2), id=[1, 7]), "holds 7, but there are ids 0 to 2 only"),
    (of(IDS, fc.linear_model, id=[1, 7]), "holds 7, but there are ids 0 to 2 only"),
    (of(fc.indicator_column(IDS), id=[1.5]), "float values, such as 1.5; integers are wanted"),
    (of(fc.indicator_column(IDS), id=["a"]), "such as 'a'; integers are wanted"),
    (of(fc.indicator_column(IDS), id=[True]), "such as True; integers are wanted"),
    (of(fc.indicator_column(IDS), id=[2**70]), "which int64 cannot hold"),
    (of(fc.indicator_column(IDS), id=np.ones((1, 2, 3), int)), "give it to a sequence column"),
    (of(fc.indicator_column(IDS), id=np.ones((1, 1, 1, 1), int)), r"shape \(1, 1, 1, 1\); wanted"),
    (of(fc.indicator_column(WORD), word=[3]), "int values, such as 3; .*dtype=np.int64"),
    (of(fc.indicator_column(HASHED), word=[["a", 3.5]]), "float values, such as 3.5; the column"),
    (of(fc.indicator_column(HASHED), word=[[["a", ["b"]]]]), "lists inside lists inside lists"),
    (
        of(fc.indicator_column(WORD), word=est.SparseTensor([[0, 0]], ["a", "b"], (1, 2))),
        r"indices of shape \(1, 2\), 2 values",
    ),
    (
        of(fc.indicator_column(WORD), word=est.SparseTensor([[0, 1]] * 2, ["a", "b"], (1, 2))),
        r"two values at \[0, 1\]; a place holds one",
    ),
    (
        of(fc.indicator_column(WORD), word=est.SparseTensor([[0, 2]], ["a"], (1, 2))),
        r"index \[0, 2\] outside its dense_shape \(1, 2\)",
    ),
    (
        of(fc.indicator_column(UNWEIGHTED), id=[[1, 2], [1]], weight=[[0.5, 1.0], [1.0, 2.0]]),
        r"do not fit: row 1 has 2 weights \(None and NaN are none\) for 1 ids",
    ),
    (
        of(fc.indicator_column(UNWEIGHTED), id=[[1], [1, 2]], weight=[[0.5], [1.0]]),
        r"do not fit: row 1 has 1 weights \(None and NaN are none\) for 2 ids",
    ),
    (of(fc.indicator_column(UNWEIGHTED), id=[1], weight=["x"]), "such as 'x'; numbers are wanted"),
    (
        of(fc.indicator_column(fc.crossed_column(["a", "b"], 9)), a=["x"], b=["x", "y"]),
        "different batch sizes: {'a': 1, 'b': 2}",
    ),
    (
        of(fc.indicator_column(fc.crossed_column(["a", "b"], 9)), a=[1.5], b=["x"]),
        "holds floats, such as 1.5; .*bucketized_column",
    ),
    (
        of([AGE, fc.numeric_column("b")], age=[1.0], b=[1.0, 2.0]),
        "first dimension.*must be the same, got {'age': 1, 'b': 2}",
    ),
    (
        of(
            [fc.indicator_column(STEPS), fc.sequence_numeric_column("x")],
            fc.sequence_input_layer,
            steps=[[1, 2], [1]],
            x=[[0.5, 0.5], [0.5, 0.5]],
        ),
        "in row 1 steps has 1 steps and x 2",
    ),
    (
        of(fc.sequence_numeric_column("x", 2), fc.sequence_input_layer, x=np.ones((2, 3, 3))),
        r"shape \(2, 3, 3\), wanted \('batch', 'steps', 2\)",
    ),
]


@pytest.mark.parametrize(("make", "message"), FACTORIES + LAYERS)
def test_what_is_wrong_is_said(make, message):
    with pytest.raises((ValueError, TypeError, OverflowError), match=message):
        make()


def test_a_vocabulary_file_is_checked(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("cat\ndog\ncat\n")
    make = fc.categorical_column_with_vocabulary_file
    with pytest.raises(ValueError, match=r"words.txt has 3 lines, but vocabulary_size is 4"):
        make("w", path, vocabulary_size=4).host_ids({"w": ["cat"]})
    with pytest.raises(ValueError, match="names 'cat' more than once"):
        make("w", path).host_ids({"w": ["cat"]})
    assert make("w", path, vocabulary_size=2).host_ids({"w": ["dog"]}).values == [1]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"words.txt' is no text in UTF-8"):
        make("w", path)
    path.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        make("w", path)
    with pytest.raises(ValueError, match=r'file_format must be "text".*tfrecord'):
        make("w", path, file_format="tfrecord_gzip")


def test_what_a_model_fn_computes_has_no_ids():
    def net(features):
        return fc.input_layer({"id": features["id"] + 1}, fc.indicator_column(IDS))

    with pytest.raises(
        ValueError, match=r'identity\(id\): the feature "id" is no value of the batch'
    ):
        est.preview(net, {"id": np.array([1, 2])})


def test_a_normalizer_in_numpy_is_told_from_one_in_jax():
    column = fc.numeric_column("age", normalizer_fn=np.log1p)
    with pytest.raises(TypeError) as caught:
        of(column, age=[1.0])()
    assert any("numeric_column(age): normalizer_fn is" in note for note in caught.value.__notes__)


def test_a_feature_may_have_another_name_in_the_model():
    def net(features):
        renamed = {"id": features["product"], "age": features["nested"]["years"] / 10}
        return fc.input_layer(renamed, [fc.indicator_column(IDS), AGE])

    features = {"product": [2, 0], "nested": {"years": np.float32([10, 20])}}
    np.testing.assert_array_equal(est.preview(net, features)[0], [[1, 0, 0, 1], [2, 1, 0, 0]])


@pytest.mark.parametrize("missing", [np.nan, None])
def test_a_missing_number_is_refused_whenever_it_comes(model_dir, missing):
    def model_fn(features, labels, mode):
        return est.EstimatorSpec(mode, predictions=fc.input_layer(features, AGE))

    values = np.array([1, missing], object if missing is None else np.float32)
    batches = [{"age": np.float32([1, 2])}, {"age": values}]
    predictions = est.Estimator(model_fn, model_dir).predict(lambda: iter(batches))
    with pytest.raises(ValueError, match="missing value, None or NaN"):
        list(predictions)
