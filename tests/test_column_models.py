"""Columns inside models: gradients reach every table, names are TensorFlow's, shapes stay few."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from column_models import GOLDEN, columns_of, features_of, sparse

import estimator as est
import feature_columns as fc

WORDS = ["cat", "dog", "mat"]
WORD = fc.categorical_column_with_vocabulary_list("word", WORDS)
OTHER = fc.categorical_column_with_vocabulary_list("other", WORDS)
FEATURES = {"word": [["cat", "dog"], ["mat"], []], "other": ["dog", "cat", "dog"]}

LEARNING = [
    "embedding_weighted_mean",
    "embedding_sqrtn",
    "embedding_sum",
    "embedding_max_norm",
    "shared_embedding",
    "embedding_signed_weights_sum",
    "embedding_bucketized_vector",
    "embedding_cross",
    "concat_order",
    "linear_mean",
    "linear_weighted_cross",
    "linear_signed_weights_sqrtn",
    "seq_mixed",
    "seq_embedding_max_norm",
]
CASES = [case for case in GOLDEN if case["name"] in LEARNING]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_gradients_are_those_of_finite_differences(case, tmp_path):
    columns, features = columns_of(case, tmp_path), features_of(case)

    def net(features):
        if case["op"] == "linear_model":
            return fc.linear_model(features, columns, case["units"], case["sparse_combiner"])
        made = getattr(fc, case["op"])(features, columns)
        return made[0] if isinstance(made, tuple) else made

    @jax.jit
    @jax.value_and_grad
    def loss(variables):
        made = est.preview(net, features, variables=variables)[0]
        return jnp.sum(jnp.sin(made) * (1 + jnp.arange(made.size).reshape(made.shape) % 7))

    rng = np.random.default_rng(0)
    shapes = sorted(case["variables"].items())
    at = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes}
    towards = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes}
    gradient = loss(at)[1]
    slopes = {name: np.vdot(gradient[name], towards[name]) for name in at}
    for name, slope in slopes.items():
        before, after = (
            loss({**at, name: at[name] + step * towards[name]})[0] for step in (-1e-2, 1e-2)
        )
        np.testing.assert_allclose(slope, (after - before) / 2e-2, rtol=2e-2, atol=2e-2)
    assert max(map(abs, slopes.values())) > 0.01


@pytest.mark.parametrize("log", [np.log, jnp.log, lambda x: np.log(x), lambda x: 1 * jnp.log(x)])
def test_a_cross_gives_the_normalizer_numpy_arrays(model_dir, log):
    seen = []

    def logarithm(x):
        seen.append(type(x))
        return log(x)

    raw = fc.bucketized_column(fc.numeric_column("age"), [20.0])
    logs = fc.bucketized_column(fc.numeric_column("age", normalizer_fn=logarithm), [np.log(20.0)])
    features = {"age": np.float32([19, 20, 21]), "word": [["cat"], ["cat", "dog"], []]}
    columns = [fc.indicator_column(fc.crossed_column([key, "word"], 30)) for key in (raw, logs)]

    def model_fn(features, labels, mode):
        answers = [fc.input_layer(features, column) for column in columns]
        return est.EstimatorSpec(mode, predictions={"raw": answers[0], "logs": answers[1]})

    answers = list(est.Estimator(model_fn, model_dir).predict(lambda: features))
    for answer in answers:
        np.testing.assert_array_equal(answer["raw"], answer["logs"])
    assert [answer["raw"].sum() for answer in answers] == [1, 2, 0]
    assert set(seen) == {np.ndarray}


def trained(net, features, labels, model_dir, steps=60, **config):
    """Returns an estimator whose squared error on one batch was minimised."""

    def model_fn(features, labels, mode):
        answer = net(features)[:, 0]
        if mode == est.ModeKeys.PREDICT:
            return est.EstimatorSpec(mode, predictions=answer)
        loss = jnp.mean((answer - labels) ** 2)
        return est.EstimatorSpec(mode, loss=loss, train_op=optax.adam(0.1))

    estimator = est.Estimator(model_fn, model_dir, est.RunConfig(random_seed=1, **config))
    return estimator.train(lambda: (features, labels), steps=steps)


def test_a_shared_table_learns_from_all_of_its_columns(model_dir):
    columns = fc.shared_embedding_columns([WORD, OTHER], 1)

    def net(features):
        return jnp.sum(fc.input_layer(features, columns), axis=1, keepdims=True)

    labels = np.float32([1.5, 3.0, 1.0])  # reached with cat 0, dog 1, mat 3
    estimator = trained(net, FEATURES, labels, model_dir, steps=500)
    names = [name for name in estimator.get_variable_names() if "embedding" in name]
    assert names == ["input_layer/other_word_shared_embedding/embedding_weights"]
    cat, dog, mat = estimator.get_variable_value(names[0])[:, 0]
    np.testing.assert_allclose([(cat + dog) / 2 + dog, mat + cat, dog], labels, atol=0.05)


def test_two_layers_share_the_table_of_the_first(tmp_path):
    start, goal = fc.shared_embedding_columns([WORD, OTHER], 2)

    def towers(features):
        return fc.input_layer(features, start) @ fc.input_layer(features, goal).T

    variables = est.preview(towers, FEATURES)[1]
    assert list(variables) == ["input_layer/other_word_shared_embedding/embedding_weights"]


def test_shared_embeddings_stand_outside_of_all_scopes():
    columns = fc.shared_embeddings([WORD, OTHER], 2, shared_embedding_collection_name="both")

    def net(features):
        with est.variable_scope("tower"):
            return fc.input_layer(features, columns)

    assert list(est.preview(net, FEATURES)[1]) == ["both"]


def test_columns_of_different_tables_cannot_share_a_name():
    ids = [fc.categorical_column_with_identity(key, 5) for key in ("a", "b")]
    one = fc.shared_embedding_columns(ids[:1], 2, shared_embedding_collection_name="t")
    other = fc.shared_embedding_columns(ids[1:], 3, shared_embedding_collection_name="t")
    with pytest.raises(ValueError, match=r"'t' has shape \(5, 2\), but this column needs \(5, 3\)"):
        est.preview(lambda f: fc.input_layer(f, one + other), {"a": [1], "b": [2]})


def test_variables_have_the_names_that_tensorflow_gives_them():
    def net(features):
        steps = fc.embedding_column(
            fc.sequence_categorical_column_with_vocabulary_list("word", WORDS), 2
        )
        first = fc.input_layer(features, fc.embedding_column(OTHER, 2))
        second = fc.input_layer(features, fc.embedding_column(OTHER, 3))
        with est.variable_scope("dnn"):
            third = fc.input_layer(features, fc.embedding_column(OTHER, 1), name="dense_features")
        linear = fc.linear_model(features, [OTHER, fc.embedding_column(WORD, 2)], units=3)
        sequence, _ = fc.sequence_input_layer(features, steps)
        return first, second, third, linear, sequence

    assert {name: value.shape for name, value in est.preview(net, FEATURES)[1].items()} == {
        "input_layer/other_embedding/embedding_weights": (3, 2),
        "input_layer_1/other_embedding/embedding_weights": (3, 3),
        "dnn/dense_features/other_embedding/embedding_weights": (3, 1),
        "linear_model/other/weights": (3, 3),
        "linear_model/word_embedding/embedding_weights": (3, 2),
        "linear_model/word_embedding/weights": (2, 3),
        "linear_model/bias_weights": (3,),
        "sequence_features/word_embedding/embedding_weights": (3, 2),
    }


def test_layers_tell_what_belongs_to_which_column():
    age, word = fc.numeric_column("age", 2), fc.embedding_column(WORD, 3)
    features = {**FEATURES, "age": np.ones((3, 2))}

    def net(features):
        variables, parts, slices, linear = {}, {}, {}, {}
        made = fc.input_layer(
            features,
            [word, age],
            cols_to_vars=variables,
            cols_to_output_tensors=parts,
            cols_to_output_slices=slices,
        )
        assert slices == {age: slice(0, 2), word: slice(2, 5)}
        fc.linear_model(features, [age, WORD], cols_to_vars=linear)
        assert {key: len(value) for key, value in linear.items()} == {age: 1, WORD: 1, "bias": 1}
        assert variables[age] == []
        return made, parts[word], variables[word][0]

    (made, part, table), variables = est.preview(net, features)
    np.testing.assert_array_equal(made[:, 2:5], part)
    np.testing.assert_array_equal(table, variables["input_layer/word_embedding/embedding_weights"])


def test_a_table_begins_as_a_truncated_normal():
    column = fc.embedding_column(fc.categorical_column_with_identity("id", 4000), 16)
    (table,) = est.preview(lambda f: fc.input_layer(f, column), {"id": [1]})[1].values()
    assert np.abs(table).max() <= 2 / 4
    np.testing.assert_allclose([table.mean(), table.std()], [0, 0.22], atol=2e-3)


def test_a_table_that_is_not_trainable_stays(model_dir):
    def net(features):
        fixed = fc.embedding_column(WORD, 1, initializer=np.ones((3, 1)), trainable=False)
        return fc.input_layer(features, fixed) + fc.input_layer(
            features, fc.embedding_column(OTHER, 1)
        )

    estimator = trained(net, FEATURES, np.zeros(3, np.float32), model_dir, steps=3)
    fixed = estimator.get_variable_value("input_layer/word_embedding/embedding_weights")
    np.testing.assert_array_equal(fixed, np.ones((3, 1)))


def test_a_table_may_begin_where_another_model_stopped(model_dir, tmp_path):
    net = functools.partial(fc.input_layer, feature_columns=fc.embedding_column(WORD, 1))
    name = "input_layer/word_embedding/embedding_weights"
    first = trained(net, FEATURES, np.float32([1, 2, 0]), model_dir, steps=20)
    column = fc.embedding_column(WORD, 1, ckpt_to_load_from=model_dir, tensor_name_in_ckpt=name)
    variables = est.preview(lambda f: fc.linear_model(f, column), FEATURES)[1]
    np.testing.assert_array_equal(
        variables["linear_model/word_embedding/embedding_weights"], first.get_variable_value(name)
    )


SEQUENCES = [
    {"word": [["cat", "dog", "mat"], ["cat"]]},
    {"word": [["cat"] * 5, ["dog"] * 4]},
    {"word": sparse([["mat", "cat", "dog", "dog", "cat", "mat"], []])},
]
STEPS = fc.embedding_column(fc.sequence_categorical_column_with_vocabulary_list("word", WORDS), 2)


@pytest.mark.parametrize(
    ("buckets", "shapes"), [(None, [4, 8, 8]), ((6, 12), [6, 6, 6]), ([5], [5, 5, 8])]
)
def test_lengths_are_rounded_to_few(model_dir, buckets, shapes):
    seen = []

    def model_fn(features, labels, mode):
        steps, lengths = fc.sequence_input_layer(features, STEPS)
        seen.append(steps.shape[1])
        last = jnp.take_along_axis(steps, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
        return est.EstimatorSpec(mode, predictions=jnp.where(lengths[:, None] > 0, last, 0))

    config = est.RunConfig(random_seed=3, length_buckets=buckets)
    estimator = est.Estimator(model_fn, model_dir, config)
    answers = np.array(list(estimator.predict(lambda: iter(SEQUENCES))))
    assert sorted(set(seen)) == sorted(set(shapes))
    (table,) = est.preview(lambda f: fc.sequence_input_layer(f, STEPS), SEQUENCES[0], seed=3)[
        1
    ].values()
    wanted = [table[2], table[0], table[0], table[1], table[2], np.zeros(2)]
    np.testing.assert_array_equal(answers, np.array(wanted))


@pytest.mark.parametrize("devices", [1, 2])
def test_columns_answer_the_same_on_several_devices(model_dir, devices):
    columns = [fc.embedding_column(WORD, 2), fc.numeric_column("age"), fc.indicator_column(OTHER)]
    features = {"word": [["cat"], ["mat", "dog"]] * 2, "other": [*WORDS, "x"], "age": [1.0] * 4}
    distribute = est.DataParallel(devices=jax.devices()[:devices])

    def net(features):
        return jnp.sum(fc.input_layer(features, columns), axis=1, keepdims=True)

    estimator = trained(
        net, features, np.float32([0, 1, 2, 3]), model_dir, steps=5, train_distribute=distribute
    )
    table = estimator.get_variable_value("input_layer/word_embedding/embedding_weights")
    np.testing.assert_allclose(table, TABLES.setdefault("table", table), rtol=1e-5)


TABLES = {}


def test_names_that_look_alike_in_a_scope_have_variables_of_their_own():
    names = ["größe", "grüße", "a b", "a_b", "/a b"]
    columns = [fc.categorical_column_with_identity(name, 3) for name in names]
    features = {name: np.array([1]) for name in names}

    def net(features):
        embedded = [fc.embedding_column(column, 2) for column in columns]
        return fc.input_layer(features, embedded), fc.linear_model(features, columns)

    variables = est.preview(net, features)[1]
    tables = ["a_b", "a_b_1", "a_b_2", "gr__e", "gr__e_1"]
    weights = [f"linear_model/{name}/weights" for name in tables]
    tables = ["a_b_embedding", "a_b_embedding_1", "a_b_embedding_2"]
    tables = [*tables, "gr__e_embedding", "gr__e_embedding_1"]
    tables = [f"input_layer/{name}/embedding_weights" for name in tables]
    assert sorted(variables) == sorted([*tables, *weights, "linear_model/bias_weights"])


def test_integers_keep_their_digits_until_the_normalizer_has_seen_them():
    def since(t):
        return t - 1_600_000_000

    start = fc.numeric_column("t", normalizer_fn=since, default_value=1_600_000_000)
    plain, gaps = np.array([1_600_000_005, 1_600_000_007]), [1_600_000_005, None]
    assert est.preview(lambda f: fc.input_layer(f, start), {"t": plain})[0].tolist() == [[5], [7]]
    buckets = fc.bucketized_column(start, [3, 6])
    assert buckets.host_ids({"t": plain}).values.tolist() == [1, 2]
    for column in (start, fc.sequence_numeric_column("t", normalizer_fn=since)):
        sequence = not isinstance(column, type(start))
        layer = fc.sequence_input_layer if sequence else fc.input_layer
        with pytest.raises(OverflowError, match="holds 1600000005, which float32 cannot hold"):
            est.preview(lambda f: layer(f, column), {"t": gaps})  # noqa: B023


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.float32([1.7, 2.2]), [1.7, 2.2]),
        (np.array([300, -1]), [300, -1]),
        (np.uint8([3, 255]), [3, 255]),
        ([1.5, None], [1.5, -1]),
        (np.float64([1e300, np.nan]), [np.inf, -1]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_the_dtype_of_a_numeric_column_changes_no_value(values, wanted, dtype):
    column = fc.numeric_column("x", default_value=-1, dtype=dtype)
    assert column.parse_spec["x"].dtype == dtype
    made = est.preview(lambda f: fc.input_layer(f, column), {"x": values})[0]
    np.testing.assert_allclose(made[:, 0], wanted)


def test_an_example_may_have_any_shape_of_the_columns_size():
    features = {"x": np.arange(8.0).reshape(2, 2, 2), "y": np.ones((2, 1, 1))}
    columns = [fc.numeric_column("x", 4), fc.numeric_column("y")]
    made = est.preview(lambda f: fc.input_layer(f, columns), features)[0]
    assert made.tolist() == [[0, 1, 2, 3, 1], [4, 5, 6, 7, 1]]


def test_columns_that_are_made_anew_are_the_same_columns():
    def columns():
        scale = 10
        raw = fc.numeric_column("age", normalizer_fn=lambda x: x / scale)
        return fc.crossed_column([fc.bucketized_column(raw, [2.0]), "word"], 30)

    def other(scale):
        raw = fc.numeric_column("age", normalizer_fn=lambda x: x / scale)
        return fc.crossed_column([fc.bucketized_column(raw, [2.0]), "word"], 30)

    assert columns() == columns()
    assert columns().digest == columns().digest
    assert other(1) != other(2)
    assert other(1).digest != other(2).digest

    def net(features):
        layers = [fc.input_layer(features, fc.indicator_column(columns())) for _ in range(2)]
        others = [fc.linear_model(features, other(scale)) for scale in (1, 2)]
        return layers, others

    features = {"age": np.float32([10, 30]), "word": ["a", "b"]}
    (first, second), _ = est.preview(net, features)[0]
    np.testing.assert_array_equal(first, second)


def test_different_normalizers_of_one_feature_share_what_the_host_makes():
    columns = [
        fc.numeric_column("x", normalizer_fn=f, default_value=1) for f in (jnp.log1p, jnp.sqrt)
    ]

    def net(features):
        return [fc.input_layer(features, column) for column in columns]

    log, root = est.preview(net, {"x": [3.0, None]})[0]
    np.testing.assert_allclose(log[:, 0], np.log1p([3, 1]), rtol=1e-6)
    np.testing.assert_allclose(root[:, 0], np.sqrt([3, 1]), rtol=1e-6)


LENGTHS = [
    ({"x": np.ones((1, 5)), "y": [[1.0, 2.0, 3.0]]}, 3),
    ({"x": np.float32([[1, np.nan, 3, 0, 0]]), "y": [[1.0, 2.0, 3.0]]}, 3),
    ({"x": np.float32([[1, 2, 3, np.nan, np.nan]]), "y": np.ones((1, 4))}, 3),
    ({"x": np.ones((1, 4)), "y": np.ones((1, 4))}, 4),
    ({"x": np.ones((1, 3)), "y": np.ones((1, 5))}, "x has 3 steps and y 5"),
    ({"x": np.ones((1, 5)), "y": np.ones((1, 3))}, "x has 5 steps and y 3"),
    ({"x": np.ones((1, 2)), "y": [[1.0, 2.0, 3.0]]}, "y has 3 steps and x 2"),
    ({"x": np.float32([[1, np.nan]]), "y": [[1.0, 2.0]]}, "x has 1 steps and y 2"),
]


@pytest.mark.parametrize(("features", "wanted"), LENGTHS)
def test_a_dense_array_is_as_long_as_the_others_say(features, wanted):
    columns = [fc.sequence_numeric_column(key) for key in ("x", "y")]

    def net(features):
        return fc.sequence_input_layer(features, columns)

    if isinstance(wanted, int):
        assert est.preview(net, features)[0][1].tolist() == [wanted]
        return
    with pytest.raises(ValueError, match=f"in row 0 {wanted}"):
        est.preview(net, features)
