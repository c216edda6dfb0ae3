"""tf.train.Example records: read as protobuf reads them, and never believed."""

import random

import numpy as np
import pytest
from exporting import PEOPLE, assert_same_answers, build_linear
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

import estimator as est
import feature_columns as fc
from estimator.tf_example import example_record, parse_examples

# As TensorFlow writes tf.train.Example(features={"a": [1]}).
OF_TENSORFLOW = b"\n\x0e\n\x0c\n\x01a\x12\x07\x1a\x05\n\x03\x01\x80\x01"


def message_type():
    """Returns protobuf's own class of Example, described as in TensorFlow's feature.proto."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for number, (label, kind, key) in enumerate(fields, 1):
            one = made.field.add(name=key, number=number, label=label)
            if isinstance(kind, str):
                one.type, one.type_name = field.TYPE_MESSAGE, f".t.{kind}"
            else:
                one.type = kind
        return made

    many, one = field.LABEL_REPEATED, field.LABEL_OPTIONAL
    message("BytesList", (many, field.TYPE_BYTES, "value"))
    message("FloatList", (many, field.TYPE_FLOAT, "value"))
    message("Int64List", (many, field.TYPE_INT64, "value"))
    lists = [("BytesList", "bytes_list"), ("FloatList", "float_list"), ("Int64List", "int64_list")]
    message("Feature", *((one, kind, key) for kind, key in lists))
    message("Entry", (one, field.TYPE_STRING, "key"), (one, "Feature", "value"))
    message("Features", (many, "Entry", "feature"))
    message("Example", (one, "Features", "features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = message_type()
VALUES = st.one_of(
    st.lists(st.binary(max_size=9), min_size=1, max_size=4),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
)


def by_protobuf(features):
    made = EXAMPLE()
    for name, values in features.items():
        entry = made.features.feature.add(key=name)
        kinds = {bytes: "bytes_list", float: "float_list", int: "int64_list"}
        getattr(entry.value, kinds[type(values[0])]).value.extend(values)
    return made.SerializeToString()


def spec_of(features):
    dtypes = {bytes: np.dtype(str), float: np.dtype("float32"), int: np.dtype("int64")}
    return {name: fc.VarLenFeature(dtypes[type(v[0])]) for name, v in features.items()}


@given(st.dictionaries(st.text(min_size=1, max_size=5), VALUES, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_records_are_those_of_protobuf(features):
    assert example_record(features) == by_protobuf(features)
    found = parse_examples([by_protobuf(features)] * 2, spec_of(features))
    for name, values in features.items():
        rows = [[v.encode() if isinstance(v, str) else v for v in row] for row in found[name]]
        assert rows == [values, values]


def test_a_record_of_tensorflow_is_read():
    assert parse_examples([OF_TENSORFLOW], {"a": fc.VarLenFeature(np.int64)}) == {"a": [[1, 128]]}


def test_numbers_that_are_not_packed_are_read_too():
    packed, single = b"\x1a\x04\n\x02\x01\x02", b"\x1a\x04\x08\x01\x08\x02"
    whole = example_record({"a": [1, 2]})
    other = whole.replace(packed, single)
    assert other != whole
    assert parse_examples([other], {"a": fc.VarLenFeature(np.int64)}) == {"a": [[1, 2]]}


def test_features_have_shapes_defaults_and_gaps():
    spec = {
        "x": fc.FixedLenFeature((2, 1), np.float32),
        "n": fc.FixedLenFeature((1,), np.int64, default_value=7),
        "words": fc.VarLenFeature(np.dtype(str)),
        "name": fc.FixedLenFeature((1,), np.dtype(str), default_value="?"),
    }
    records = [
        example_record({"x": [1.0, 2.0], "words": ["a", "b"], "more": [1]}),
        example_record({"x": [3.0, 4.0], "n": [5], "name": ["Rome"]}),
    ]
    found = parse_examples(records, spec)
    np.testing.assert_array_equal(found["x"], np.float32([[[1], [2]], [[3], [4]]]))
    assert found["n"].tolist() == [[7], [5]]
    assert found["n"].dtype == np.int64
    assert (found["words"], found["name"]) == ([["a", "b"], []], [["?"], ["Rome"]])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"y": [1.0]}, 'lacks the feature "x"'),
        ({"x": [1.0]}, 'has 1 values of the feature "x", wanted 2'),
        ({"x": [1, 2]}, 'holds int values of the feature "x", wanted float32'),
    ],
)
def test_what_does_not_fit_is_told(features, message):
    spec = {"x": fc.FixedLenFeature((2,), np.float32)}
    with pytest.raises(ValueError, match=message):
        parse_examples([example_record(features)], spec)
    with pytest.raises(ValueError, match="must be a list of bytes"):
        parse_examples(example_record(features), spec)


def test_broken_records_are_errors_and_nothing_else():
    rng = random.Random(0)
    features = {"a": [1, -5, 2**40], "b": [1.5, 2.5], "c": [b"x", b"\xff"]}
    whole, spec = example_record(features), spec_of(features)
    refused = 0
    for _ in range(3000):
        place = rng.randrange(len(whole))
        broken = whole[:place] + rng.randbytes(rng.randrange(3)) + whole[place + rng.randrange(3) :]
        try:
            parse_examples([broken], spec)
        except ValueError:
            refused += 1
    assert refused > 1000


def test_an_export_reads_records(tmp_path):
    estimator, features = build_linear(str(tmp_path / "model"))
    (wanted,) = estimator.predict(lambda: features, yield_single_examples=False)
    job = fc.categorical_column_with_vocabulary_list("job", ["clerk", "nurse"])
    city = fc.categorical_column_with_hash_bucket("city", 20)
    age = fc.numeric_column("age", dtype=np.int64)
    receive = est.export.build_parsing_serving_input_receiver_fn(
        fc.make_parse_example_spec([job, city, age])
    )
    loaded = est.export.load(estimator.export_saved_model(tmp_path, receive))
    rows = zip(PEOPLE["city"], PEOPLE["job"], PEOPLE["age"].tolist(), strict=True)
    records = [
        example_record({"city": [city], "job": jobs, "age": [age]}) for city, jobs, age in rows
    ]
    assert_same_answers(loaded({"examples": records}, "predict"), wanted)
    with pytest.raises(ValueError, match="Example 0 is no serialised"):
        loaded({"examples": [b"\x07"]}, "predict")
