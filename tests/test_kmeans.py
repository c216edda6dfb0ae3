"""KMeans answers what was recorded, and keeps the promises of its documentation."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.metrics import adjusted_rand_score

import estimator as est
import feature_columns as fc
from canned import KMeans, KMeansClustering
from canned.cluster_reports import RelativeToleranceHook

GOLDEN = json.loads((Path(__file__).parent / "golden" / "kmeans.json").read_text())
BLOBS = np.float32([[0, 0], [0, 1], [1, 0], [9, 9], [9, 8], [8, 9], [0, 9], [1, 9], [0, 8]])
QUIET = est.RunConfig(save_summary_steps=None, log_step_count_steps=None)


def batches_of(points, size):
    return lambda: (points[i : i + size] for i in range(0, len(points), size))


def fixed(points, size):
    """Returns an input_fn that goes over the points again and again."""

    def input_fn():
        while True:
            yield from batches_of(points, size)()

    return input_fn


class StopsAtOnce(est.SessionRunHook):
    """Ends a run before its first step."""

    def after_create_session(self, session, coord):
        coord.request_stop()


def first_centers(kmeans, points):
    """Returns the centers that no step has moved yet."""
    return kmeans.train(lambda: points, hooks=[StopsAtOnce()]).cluster_centers()


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_training_follows_the_recorded_trace(case):
    points = np.float32(case["points"])
    kmeans = KMeans(initial_clusters=case["initial_clusters"], config=QUIET, **case["args"])
    for steps, state in zip(case["train_steps"], case["trace"], strict=True):
        kmeans.train(fixed(points, case["batch_size"]), steps=steps)
        centers = kmeans.cluster_centers()
        np.testing.assert_allclose(centers, state["cluster_centers"], rtol=1e-4, atol=1e-5)
        assert kmeans.score(lambda: points) == pytest.approx(state["score"], rel=1e-4)
    answers = list(kmeans.predict(lambda: points))
    assert [answer["cluster_index"] for answer in answers] == case["predict_cluster_index"]
    distances = [answer["all_distances"] for answer in answers]
    np.testing.assert_allclose(distances, case["transform"], rtol=1e-4, atol=1e-4)
    results = kmeans.evaluate(fixed(points, case["batch_size"]), steps=4)
    for name, value in case["evaluate"].items():
        assert results[name] == pytest.approx(value, rel=1e-4), name


def test_steps_over_all_batches_of_one_iteration_are_exact_lloyd():
    points = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    first = points[:4]
    whole = KMeans(4, initial_clusters=first, use_mini_batch=False, config=QUIET)
    parts = KMeans(4, initial_clusters=first, mini_batch_steps_per_iteration=5, config=QUIET)
    whole.train(lambda: points, steps=3)
    parts.train(fixed(points, 12), steps=15)
    np.testing.assert_allclose(parts.cluster_centers(), whole.cluster_centers(), atol=1e-5)


def test_resuming_inside_an_iteration_equals_never_stopping(tmp_path):
    points = np.random.default_rng(0).normal(size=(60, 3))
    batches = list(batches_of(points, 10)())
    args = {"initial_clusters": points[:4], "mini_batch_steps_per_iteration": 4, "config": QUIET}
    whole = KMeans(4, **args).train(lambda: iter(batches))
    KMeans(4, tmp_path, **args).train(lambda: iter(batches[:3]))
    again = KMeans(4, tmp_path, **args).train(lambda: iter(batches[3:]))
    for name in whole.get_variable_names():
        np.testing.assert_array_equal(
            again.get_variable_value(name), whole.get_variable_value(name)
        )


def test_the_first_batches_choose_centers_and_are_trained_on_too():
    kmeans = KMeans(3, seed=0, use_mini_batch=False, config=QUIET)
    kmeans.train(batches_of(BLOBS, 9))
    assert int(kmeans.get_variable_value("global_step")) == 1


@pytest.mark.parametrize("how", [KMeans.RANDOM_INIT, KMeans.KMEANS_PLUS_PLUS_INIT])
def test_first_centers_are_different_points_and_follow_from_the_seed(how):
    points = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    one, same, other = (
        first_centers(KMeans(8, initial_clusters=how, seed=seed, config=QUIET), points)
        for seed in (1, 1, 2)
    )
    assert len(np.unique(one, axis=0)) == 8
    assert all((points == row).all(1).any() for row in one)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_random_centers_are_gathered_from_batches_smaller_than_their_number():
    kmeans = KMeans(5, seed=0, config=QUIET).train(batches_of(BLOBS, 1))
    assert kmeans.cluster_centers().shape == (5, 2)


def test_a_function_chooses_centers_from_one_batch_after_the_other():
    asked = []

    def choose(inputs, k):
        asked.append((inputs.shape, k))
        return inputs[:2]

    kmeans = KMeans(5, initial_clusters=lambda x, k: choose(x, k)[:k], config=QUIET)
    kmeans.train(batches_of(BLOBS, 3))
    assert asked == [((3, 2), 5), ((3, 2), 3), ((3, 2), 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial_clusters": "foo"}, "Unsupported initialization algorithm 'foo'"),
        ({"distance_metric": "foo"}, "Unsupported distance metric 'foo'"),
        ({"num_clusters": 0}, "num_clusters must be a whole number of at least 1, got 0"),
        ({"num_clusters": None}, "num_clusters must be a whole number"),
        ({"mini_batch_steps_per_iteration": 0}, "mini_batch_steps_per_iteration must be"),
        ({"relative_tolerance": 0}, "relative_tolerance must be above 0"),
        ({"seed": 1, "random_seed": 1}, "name one thing"),
        ({"initial_clusters": [1.0, 2.0]}, "in k rows"),
        ({"init_batches": 0}, "init_batches must be"),
    ],
)
def test_a_wrong_argument_is_an_error_at_the_call(change, message):
    with pytest.raises(ValueError, match=message):
        KMeans(**{"num_clusters": 3, **change})


@pytest.mark.parametrize(
    ("args", "points", "message"),
    [
        ({"num_clusters": 10}, BLOBS, "only 9 different points"),
        ({"num_clusters": 3}, np.zeros((9, 2), np.float32), "only 1 different points"),
        (
            {"num_clusters": 10, "initial_clusters": "kmeans_plus_plus"},
            BLOBS,
            "first batch has 9 points",
        ),
        ({"num_clusters": 2, "initial_clusters": lambda x, k: x}, BLOBS, "only 2 were asked for"),
        ({"num_clusters": 2, "initial_clusters": lambda x, k: x[0]}, BLOBS, "given one batch"),
        ({"num_clusters": 2, "initial_clusters": lambda x, k: x[:0]}, BLOBS, "chose 0 of 2"),
        ({"num_clusters": 1, "initial_clusters": [[1.0]]}, BLOBS, "have 1 columns"),
        ({"num_clusters": 2}, BLOBS[:, 0], "reshape"),
        ({"num_clusters": 2}, np.where(BLOBS == 8, np.nan, BLOBS), "row 4 of the features"),
        ({"num_clusters": 2}, (BLOBS, np.zeros(9)), "gave labels"),
        ({"num_clusters": 2, "weight_column": "w"}, BLOBS, "no dict"),
    ],
)
def test_points_that_cannot_be_clustered_are_one_clear_error(args, points, message):
    with pytest.raises(ValueError, match=message):
        KMeans(**args, config=QUIET).train(lambda: points)


def test_random_centers_are_drawn_from_as_many_batches_as_is_said():
    with pytest.raises(ValueError, match="only 3 different points in the first 3 rows"):
        KMeans(4, init_batches=1, config=QUIET).train(batches_of(BLOBS, 3))


@pytest.mark.parametrize(
    ("first", "message"), [("random", "has 1 columns"), ([[0.0, 0.0]], "the points have 1")]
)
def test_a_batch_that_lacks_a_feature_is_an_error(first, message):
    batches = [{"x": BLOBS[:, 0], "y": BLOBS[:, 1]}, {"x": BLOBS[:, 0]}]
    kmeans = KMeans(1, initial_clusters=first, init_batches=2, config=QUIET)
    with pytest.raises(ValueError, match=message):
        kmeans.train(lambda: iter(batches))


def test_an_input_fn_that_is_none_is_an_error_at_the_call():
    with pytest.raises(TypeError, match="must be a function"):
        KMeans(2).predict_cluster_index(BLOBS)


def test_an_untrained_model_says_so():
    with pytest.raises(ValueError, match="Call train first"):
        next(KMeans(2).predict_cluster_index(lambda: BLOBS))


def test_resuming_with_another_number_of_clusters_is_an_error(tmp_path):
    KMeans(2, tmp_path, seed=0, config=QUIET).train(lambda: BLOBS)
    with pytest.raises(ValueError, match=r"clusters float32\[3, 2\] here"):
        KMeans(3, tmp_path, seed=0, config=QUIET).train(lambda: BLOBS)


def test_a_dict_is_put_together_by_key_and_columns_choose_among_it():
    first = np.float32([[0, 0], [9, 9]])
    a = KMeans(2, initial_clusters=first, use_mini_batch=False, config=QUIET)
    a.train(lambda: {"b": BLOBS[:, 1:], "B": BLOBS[:, 0]}, steps=2)
    b = KMeans(2, initial_clusters=first, use_mini_batch=False, config=QUIET)
    b.train(lambda: BLOBS, steps=2)
    np.testing.assert_array_equal(a.cluster_centers(), b.cluster_centers())
    columns = [fc.numeric_column("x"), fc.numeric_column("y")]
    c = KMeans(2, initial_clusters=first, use_mini_batch=False, feature_columns=columns)
    junk = np.array(["?"] * 9)
    c.train(lambda: {"x": BLOBS[:, 0], "y": BLOBS[:, 1], "z": junk}, steps=2)
    np.testing.assert_array_equal(c.cluster_centers(), b.cluster_centers())


def test_a_weight_counts_a_point_so_many_times():
    first, weights = BLOBS[[0, 3, 6]], np.array([1, 2, 0, 1, 3, 1, 1, 1, 2])
    often = np.repeat(BLOBS, weights, axis=0)
    plain = KMeans(3, initial_clusters=first, use_mini_batch=False, config=QUIET)
    heavy = KMeans(3, initial_clusters=first, use_mini_batch=False, weight_column="w", config=QUIET)
    weighted = {"x": BLOBS, "w": weights.astype(np.float32)}
    plain.train(lambda: often, steps=2)
    heavy.train(lambda: weighted, steps=2)
    np.testing.assert_allclose(heavy.cluster_centers(), plain.cluster_centers(), rtol=1e-6)
    expected, got = plain.evaluate(lambda: often), heavy.evaluate(lambda: weighted)
    assert got == pytest.approx(expected, rel=1e-5)


def test_evaluate_tells_of_empty_and_large_clusters():
    first = np.float32([[0, 0], [500, 500], [0, 9]])
    kmeans = KMeans(3, initial_clusters=first, use_mini_batch=False, config=QUIET)
    kmeans.train(lambda: BLOBS)
    np.testing.assert_array_equal(kmeans.cluster_centers()[1], first[1])
    results = kmeans.evaluate(batches_of(BLOBS, 3))
    assert results["empty_clusters"] == 1
    assert results["largest_cluster"] == 6
    assert results["average_loss"] == pytest.approx(results["loss"] / 3, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "int32", "uint8"])
def test_points_of_any_dtype_are_clustered(dtype):
    kmeans = KMeans(3, initial_clusters=BLOBS[[0, 3, 6]], use_mini_batch=False, config=QUIET)
    kmeans.train(lambda: BLOBS.astype(dtype), steps=2)
    assert (
        list(kmeans.predict_cluster_index(lambda: BLOBS.astype(dtype)))
        == [0] * 3 + [1] * 3 + [2] * 3
    )


def test_points_far_from_the_origin_are_assigned_as_in_float64():
    points = (1e4 + np.random.default_rng(0).normal(size=(3000, 4))).astype(np.float32)
    first = points[:20]
    kmeans = KMeans(20, initial_clusters=first, use_mini_batch=False, config=QUIET)
    kmeans.train(lambda: points, steps=2)
    centers = kmeans.cluster_centers().astype(np.float64)
    exact = ((points[:, None].astype(np.float64) - centers) ** 2).sum(2)
    index = np.array(list(kmeans.predict_cluster_index(lambda: points)))
    chosen = exact[np.arange(3000), index]
    assert (chosen - exact.min(1) < 1e-5).all()
    assert kmeans.score(lambda: points) == pytest.approx(exact.min(1).sum(), rel=1e-4)
    assert min(map(min, kmeans.transform(lambda: points))) >= 0


@pytest.mark.parametrize(
    ("first", "full_batch", "dtype"),
    [
        (None, True, "float64"),
        (KMeans.RANDOM_INIT, False, "float64"),
        (KMeans.KMEANS_PLUS_PLUS_INIT, True, "int64"),
        (lambda points, k: points[:k], False, "int64"),
    ],
    ids=["given", "random", "plus_plus", "function"],
)
def test_digits_that_float32_does_not_hold_are_kept(first, full_batch, dtype):
    near = np.random.default_rng(0).normal(size=(200, 3)) * (1 if dtype == "float64" else 100)
    near = near.astype(dtype).astype(np.float64)
    made = []
    for points, shift in ((near, 0), ((near + 10**9).astype(dtype), 10**9)):
        given = points[:4] if first is None else first
        kmeans = KMeans(4, None, given, seed=3, use_mini_batch=not full_batch, config=QUIET)
        kmeans.train(lambda points=points: points, steps=3)
        centers = kmeans.cluster_centers()
        assert centers.dtype == np.float64
        found = list(kmeans.predict_cluster_index(lambda points=points: {"x": points}))
        made.append((centers - shift, kmeans.score(lambda points=points: points), found))
    np.testing.assert_allclose(made[1][0], made[0][0], rtol=1e-4, atol=1e-4)
    assert made[1][1] == pytest.approx(made[0][1], rel=1e-4)
    assert made[1][2] == made[0][2]


def test_centers_of_float32_points_are_float32():
    kmeans = KMeans(2, initial_clusters=[[0.1, 0.1], [7.7, 7.7]], config=QUIET)
    assert kmeans.train(lambda: BLOBS, steps=2).cluster_centers().dtype == np.float32


def test_columns_of_several_dtypes_keep_their_digits():
    wide = 1e9 + np.float64([[0], [1], [10], [11]])
    kmeans = KMeans(2, initial_clusters=[[1e9, 0], [1e9 + 10, 0]], use_mini_batch=False)
    kmeans.train(lambda: {"a": wide, "b": np.int32([0, 2, 4, 6])}, steps=2)
    np.testing.assert_allclose(kmeans.cluster_centers() - [1e9, 0], [[0.5, 1], [10.5, 5]])


def test_zero_vectors_have_cosine_distance_one():
    points = np.float32([[1, 0], [0, 1], [0, 0]])
    kmeans = KMeans(2, initial_clusters=points[:2], distance_metric="cosine", config=QUIET)
    kmeans.train(lambda: points)
    np.testing.assert_allclose(list(kmeans.transform(lambda: points))[2], [1, 1])


@pytest.mark.parametrize("full_batch", [True, False])
def test_relative_tolerance_ends_training_without_a_number_of_steps(full_batch):
    kmeans = KMeans(3, seed=1, use_mini_batch=not full_batch, relative_tolerance=0.05, config=QUIET)
    kmeans.train(lambda: BLOBS, steps=1000)
    assert int(kmeans.get_variable_value("global_step")) < 50


def test_identical_points_have_a_loss_of_nothing_where_relative_tolerance_stops():
    same = np.full((9, 2), 5.0, np.float32)
    kmeans = KMeans(1, seed=0, use_mini_batch=False, relative_tolerance=0.1, config=QUIET)
    kmeans.train(lambda: same, steps=1000)
    assert int(kmeans.get_variable_value("global_step")) == 2
    assert kmeans.score(lambda: same) == 0
    np.testing.assert_array_equal(kmeans.cluster_centers(), same[:1])


def test_mini_batch_steps_do_not_wait_for_their_own_loss():
    class Loss:
        read = 0

        def __init__(self, value):
            self.value = value

        def __float__(self):
            Loss.read += 1
            return self.value

    class Context:
        stopped = False

        def request_stop(self):
            self.stopped = True

    context, hook = Context(), RelativeToleranceHook(0.1, lag=1)
    for step, value in enumerate([8.0, 4.0, 2.0, 2.0, 2.0]):
        hook.after_run(context, est.SessionRunValues(Loss(value), None, None))
        assert Loss.read == step
        assert context.stopped == (step == 4)


def test_the_seed_is_that_of_the_config_where_none_is_given():
    points = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    made = [
        first_centers(KMeans(9, config=QUIET.replace(random_seed=config_seed), seed=seed), points)
        for config_seed, seed in ((3, None), (None, 3), (4, 3), (4, None))
    ]
    for other in made[1:3]:
        np.testing.assert_array_equal(other, made[0])
    assert not np.array_equal(made[3], made[0])


@pytest.mark.parametrize("retries", [-1, 0, 5])
def test_any_number_of_retries_finds_far_points(retries):
    how = KMeans.KMEANS_PLUS_PLUS_INIT
    kmeans = KMeans(3, None, how, seed=0, kmeans_plus_plus_num_retries=retries, config=QUIET)
    found = first_centers(kmeans, BLOBS)
    assert sorted(np.round(found / 9).tolist()) == [[0, 0], [0, 1], [1, 1]]


def test_iris_falls_into_its_known_clusters():
    points = load_iris().data.astype(np.float32)
    kmeans = KMeans(3, None, "kmeans_plus_plus", seed=4, use_mini_batch=False, config=QUIET)
    kmeans.train(lambda: points, steps=30)
    assert kmeans.score(lambda: points) == pytest.approx(78.8514, abs=1e-3)
    found = list(kmeans.predict_cluster_index(lambda: points))
    assert adjusted_rand_score(load_iris().target, found) > 0.7


def test_digits_are_clustered_as_well_as_is_known():
    digits = load_digits()
    points = digits.data.astype(np.float32)
    kmeans = KMeans(10, None, "kmeans_plus_plus", seed=1, use_mini_batch=False, config=QUIET)
    kmeans.train(lambda: points, steps=30)
    assert kmeans.score(lambda: points) <= 1.005 * 1_165_189
    found = list(kmeans.predict_cluster_index(lambda: points))
    assert adjusted_rand_score(digits.target, found) >= 0.65


def test_four_devices_find_what_one_finds():
    points = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    several = QUIET.replace(
        train_distribute=est.DataParallel(jax.devices()[:4]),
        eval_distribute=est.DataParallel(jax.devices()[:4]),
    )
    made = []
    for config in (QUIET, several):
        kmeans = KMeans(4, initial_clusters=points[:4], use_mini_batch=False, config=config)
        kmeans.train(lambda: points, steps=4)
        made.append((kmeans.cluster_centers(), kmeans.evaluate(lambda: points)["score"]))
    np.testing.assert_allclose(made[1][0], made[0][0], atol=1e-5)
    assert made[1][1] == pytest.approx(made[0][1], rel=1e-5)


def test_an_export_answers_indices_distances_and_the_centers():
    kmeans = KMeans(2, initial_clusters=BLOBS[[0, 3]], config=QUIET)
    values = {"clusters": BLOBS[[0, 3]], "clusters_low": np.zeros((2, 2)), "origin": np.zeros(2)}

    def exports(points):
        return kmeans.model_fn(points, None, est.ModeKeys.PREDICT).export_outputs

    made = est.preview(exports, BLOBS, variables={k: np.float32(v) for k, v in values.items()})[0]
    assert sorted(made) == [
        "all_distances",
        "cluster_centers",
        "cluster_index",
        "predict",
        "serving_default",
    ]
    assert made["serving_default"]["output"].finish().tolist() == [0] * 3 + [1] * 3 + [0, 1, 0]
    assert made["all_distances"]["output"].shape == (9, 2)
    np.testing.assert_array_equal(made["cluster_centers"]["output"], BLOBS[[0, 3]])


def test_both_names_are_one_class():
    assert KMeansClustering is KMeans
    assert KMeans.CLUSTER_CENTERS_VAR_NAME == "clusters"
