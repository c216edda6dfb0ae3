"""KMeans: an Estimator that finds clusters of points, in full batches or in mini-batches.

    kmeans = KMeans(num_clusters=5, use_mini_batch=False, seed=1)
    kmeans.train(lambda: points, steps=10)
    kmeans.cluster_centers()
    list(kmeans.predict_cluster_index(lambda: points))

An ordinary model_fn: the centers are variables that are not trained but assigned, and their first
values are chosen in `Scaffold.init_fn`, from batches that are then trained on.
"""

import dataclasses
import operator
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
from canned.cluster_init import (
    ByFunction,
    ByKMeansPlusPlus,
    ByRandom,
    FirstCenters,
    Given,
    PointBatches,
    with_equal_columns,
)
from canned.cluster_points import Points, check_points, points_of
from canned.cluster_reports import EmptyClusters, LargestCluster, RelativeToleranceHook
from canned.cluster_state import CLUSTERS, LOW, ClusterState
from canned.clustering import cluster_sums, in_two_parts, nearest, squared_distances, unit_rows

_EUCLIDEAN, _COSINE = "squared_euclidean", "cosine"
_RANDOM, _PLUS_PLUS = "random", "kmeans_plus_plus"


@dataclasses.dataclass(frozen=True, eq=False)
class _Settings:
    """What the model_fn needs to know."""

    count: int
    first: FirstCenters
    cosine: bool
    seed: int | None
    mini_batch: bool
    period: int
    tolerance: float | None
    columns: Any
    weight_column: str | None


class KMeans(est.Estimator):
    """Clusters points by k-means.

    In full batches (`use_mini_batch=False`), each step takes its batch for all the data, and moves
    each center to the mean of the points nearest to it. In mini-batches, a step moves a center by
    `(sum(d) - k x) / (n + k)`, where `d` are the `k` points of the batch nearest to it, `x` is
    the center and `n` the number of points it stands for already. With
    `mini_batch_steps_per_iteration=m`, points are compared with the same centers for `m` steps;
    then the moved ones take their place, and `n` begins at 0 again. So
    `m = num_points / batch_size` is exactly k-means over data that never is in memory at once.

    A center without points stays where it is. Points may be an array of rows; a dict of arrays,
    which are put side by side in the order of their keys; or whatever `feature_columns` take, as
    float32. Of other float64 points all digits count, wherever they lie.

    >>> points = np.float32([[0, 0], [0, 1], [9, 9], [9, 8]])
    >>> kmeans = KMeans(2, initial_clusters=points[[0, 2]], use_mini_batch=False)
    >>> kmeans.train(lambda: points, steps=2).cluster_centers().tolist()
    [[0.0, 0.5], [9.0, 8.5]]
    >>> [int(index) for index in kmeans.predict_cluster_index(lambda: points)]
    [0, 0, 1, 1]

    Args:
        num_clusters: how many clusters; ignored where `initial_clusters` is an array.
        model_dir: where checkpoints and summaries go.
        initial_clusters: the first centers, as an array of shape (k, d); or how to choose them:
            `KMeans.RANDOM_INIT`: different points of the first batches; `KMEANS_PLUS_PLUS_INIT`:
            points of the first batch, far from each other; or a function `f(inputs, k)` that is
            given one batch after the other, of shape (n, d), and the number of centers that are
            missing, and returns up to `k` rows.
        distance_metric: `KMeans.SQUARED_EUCLIDEAN_DISTANCE`, or `COSINE_DISTANCE`: 1 - cos(x, c);
            a zero vector has distance 1 from everything.
        seed: what first centers are drawn with; None: the config's `random_seed`.
        use_mini_batch: whether a batch is a part of the data, or all of it.
        mini_batch_steps_per_iteration: after how many steps moved centers take effect.
        kmeans_plus_plus_num_retries: how many more points k-means++ draws for each center, to keep
            the best; below 0: 2 + log(num_clusters).
        relative_tolerance: stops where the loss changes by less than this part of it.
        config: the settings of the run.
        feature_columns: what of a dict of features makes the points; None: all.
        weight_column: the name of a feature that says how often a point counts.
        init_batches: how many batches random centers are drawn from; None: until ten rows a
            cluster, or one whole batch, are seen.
        random_seed: another name of `seed`.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    SQUARED_EUCLIDEAN_DISTANCE = _EUCLIDEAN
    COSINE_DISTANCE = _COSINE
    RANDOM_INIT = _RANDOM
    KMEANS_PLUS_PLUS_INIT = _PLUS_PLUS
    SCORE = "score"
    CLUSTER_INDEX = "cluster_index"
    ALL_DISTANCES = "all_distances"
    CLUSTER_CENTERS_VAR_NAME = CLUSTERS

    def __init__(
        self,
        num_clusters: int | None,
        model_dir: str | os.PathLike[str] | None = None,
        initial_clusters: Any = _RANDOM,
        distance_metric: str = _EUCLIDEAN,
        seed: int | None = None,
        use_mini_batch: bool = True,
        mini_batch_steps_per_iteration: int = 1,
        kmeans_plus_plus_num_retries: int = 2,
        relative_tolerance: float | None = None,
        config: est.RunConfig | None = None,
        feature_columns: Iterable[Any] | None = None,
        weight_column: str | None = None,
        init_batches: int | None = None,
        random_seed: int | None = None,
    ) -> None:
        if distance_metric not in (_EUCLIDEAN, _COSINE):
            raise ValueError(
                f"Unsupported distance metric {distance_metric!r}. Give "
                f'KMeans.SQUARED_EUCLIDEAN_DISTANCE ("{_EUCLIDEAN}") or KMeans.COSINE_DISTANCE '
                f'("{_COSINE}").'
            )
        if seed is not None and random_seed is not None:
            raise ValueError(
                f"KMeans: seed={seed} and random_seed={random_seed} name one thing. Give one."
            )
        if relative_tolerance is not None and not relative_tolerance > 0:
            raise ValueError(
                f"KMeans: relative_tolerance must be above 0, got {relative_tolerance}. None never "
                "stops."
            )
        cosine = distance_metric == _COSINE
        batches = None if init_batches is None else _count("init_batches", init_batches)
        retries = kmeans_plus_plus_num_retries
        first = _first_centers(initial_clusters, retries, batches, cosine)
        settings = _Settings(
            count=len(first.centers)
            if isinstance(first, Given)
            else _count("num_clusters", num_clusters),
            first=first,
            cosine=cosine,
            seed=random_seed if seed is None else seed,
            mini_batch=use_mini_batch,
            period=_count("mini_batch_steps_per_iteration", mini_batch_steps_per_iteration),
            tolerance=relative_tolerance,
            columns=None if feature_columns is None else list(feature_columns),
            weight_column=weight_column,
        )

        def model_fn(features: Any, labels: Any, mode: str, config: Any) -> est.EstimatorSpec:
            return _model_fn(settings, features, labels, mode, config)

        super().__init__(model_fn, model_dir, config)

    def predict_cluster_index(self, input_fn: Callable[..., Any]) -> Iterator[Any]:
        """Yields the index of the nearest center for each point, int64.

        Args:
            input_fn: gives points, as for `predict`.
        """
        return self._predicted(input_fn, self.CLUSTER_INDEX)

    def transform(self, input_fn: Callable[..., Any]) -> Iterator[Any]:
        """Yields the distances of each point to all centers, float32 of shape (k,).

        They are squared distances, where scikit-learn gives their roots; or cosine distances.

        Args:
            input_fn: gives points, as for `predict`.
        """
        return self._predicted(input_fn, self.ALL_DISTANCES)

    def score(self, input_fn: Callable[..., Any]) -> Any:
        """Returns the sum of the distances of the points of the first batch to their centers.

        Scikit-learn gives the negative of it.

        Args:
            input_fn: gives points, as for `evaluate`; one batch is read.
        """
        return self.evaluate(input_fn, steps=1)[self.SCORE]

    def cluster_centers(self) -> np.ndarray:
        """Returns the centers, of shape (k, d).

        They are float32; float64 where the points are, or whole numbers, and have centers that
        float32 does not hold.

        Raises:
            ValueError: if the model is not trained.
        """
        centers = self.get_variable_value(self.CLUSTER_CENTERS_VAR_NAME)
        low_name = self.CLUSTER_CENTERS_VAR_NAME + LOW
        if low_name not in self.get_variable_names():
            return centers
        low = self.get_variable_value(low_name)
        return centers.astype(np.float64) + low if low.any() else centers

    def _predicted(self, input_fn: Callable[..., Any], key: str) -> Iterator[Any]:
        # No generator function: a wrong input_fn is an error at the call.
        answers = self.predict(input_fn, predict_keys=[key])
        return (answer[key] for answer in answers)


KMeansClustering = KMeans


def _count(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"KMeans: {name} must be a whole number of at least 1, got {value!r}.")
    return number


def _first_centers(given: Any, retries: int, batches: int | None, cosine: bool) -> FirstCenters:
    if isinstance(given, str):
        if given == _RANDOM:
            return ByRandom(batches)
        if given == _PLUS_PLUS:
            return ByKMeansPlusPlus(retries)
        raise ValueError(
            f"Unsupported initialization algorithm {given!r}. Give KMeans.RANDOM_INIT "
            f'("{_RANDOM}"), KMeans.KMEANS_PLUS_PLUS_INIT ("{_PLUS_PLUS}"), an array of centers, '
            "or a function f(inputs, k)."
        )
    if callable(given):
        return ByFunction(given)
    centers = np.asarray(given, np.float64)
    if centers.ndim != 2 or not len(centers) or not np.isfinite(centers).all():
        raise ValueError(
            "KMeans: initial_clusters must hold finite numbers in k rows, one for each center, got "
            f"an array of shape {centers.shape}."
        )
    return Given(np.asarray(unit_rows(jnp.float32(centers))) if cosine else centers)


def _model_fn(
    settings: _Settings, features: Any, labels: Any, mode: str, config: Any
) -> est.EstimatorSpec:
    if labels is not None:
        raise ValueError(
            "KMeans: input_fn gave labels, but clusters are found without them. Return features "
            "alone."
        )
    points = points_of(features, settings.columns, settings.weight_column)
    columns = points.values.shape[1]
    check_points(features, settings.columns, settings.weight_column)
    given = settings.first
    if isinstance(given, Given) and given.centers.shape[1] != columns:
        raise ValueError(
            f"KMeans: initial_clusters have {given.centers.shape[1]} columns, but the points have "
            f"{columns}."
        )
    state = ClusterState(
        settings.count,
        columns,
        settings.cosine,
        settings.mini_batch,
        settings.period,
        points.is_wide,
    )
    if mode == est.ModeKeys.PREDICT:
        return _answers(settings, points, state)

    def summed(shared: Any, points: Points) -> Any:
        centers, origin = shared
        return cluster_sums(
            points.values,
            centers,
            points.weights,
            low=points.low,
            origin=origin,
            unit=settings.cosine,
        )

    sums, counts, loss = est.rowwise_sum(summed, (state.centers, state.origin), points)
    loss = loss / 2 if settings.cosine else loss
    if mode == est.ModeKeys.EVAL:
        total = jnp.sum(counts)
        average = loss / jnp.where(total > 0, total, 1)
        metrics: dict[str, est.metrics.Metric] = {
            KMeans.SCORE: est.metrics.mean(loss),
            "average_loss": est.metrics.mean(average, weights=total),
            "empty_clusters": EmptyClusters(counts),
            "largest_cluster": LargestCluster(counts),
        }
        return est.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)
    state.update(sums, counts)
    hooks = []
    if settings.tolerance is not None:
        hooks.append(RelativeToleranceHook(settings.tolerance, lag=int(settings.mini_batch)))
    return est.EstimatorSpec(
        mode,
        loss=loss,
        training_hooks=hooks,
        scaffold=est.Scaffold(lambda values, batches: _chosen(settings, config, values, batches)),
    )


def _answers(settings: _Settings, points: Points, state: ClusterState) -> est.EstimatorSpec:
    def index_of(shared: Any, points: Points) -> jax.Array:
        centers, origin = shared
        found = nearest(points.values, centers, low=points.low, origin=origin, unit=settings.cosine)
        return found[0]

    centers, origin = state.centers, state.origin
    index = est.rowwise(index_of, (centers, origin), points)
    distances = squared_distances(
        points.values, centers, low=points.low, origin=origin, unit=settings.cosine
    )
    distances = distances / 2 if settings.cosine else distances
    answers = {
        KMeans.ALL_DISTANCES: distances,
        KMeans.CLUSTER_INDEX: est.host_output(est.Int64(), index),
    }
    exports = {name: {"output": answer} for name, answer in answers.items()}
    return est.EstimatorSpec(
        est.ModeKeys.PREDICT,
        predictions=answers,
        export_outputs={
            "serving_default": exports[KMeans.CLUSTER_INDEX],
            "predict": answers,
            "cluster_centers": {"output": state.clusters.high},
            **exports,
        },
    )


def _chosen(
    settings: _Settings, config: est.RunConfig, variables: dict[str, jax.Array], batches: Any
) -> dict[str, Any]:
    """Returns the variables with first centers."""

    def parts_of(features: Any, labels: Any) -> Any:
        points = points_of(features, settings.columns, settings.weight_column)
        high, low = in_two_parts(points.values, points.low)
        if settings.cosine:
            return unit_rows(high), None, points.weights
        return high, low, points.weights

    def prepared(batch: Any) -> tuple[Any, jax.Array | None]:
        high, low, weights = est.scaffold_apply(parts_of, variables, batch)
        return high if low is None else np.asarray(high, np.float64) + np.asarray(low), weights

    first = prepared(next(batches))

    def all_batches() -> PointBatches:
        yield first
        for batch in batches:
            yield prepared(batch)

    seed = config.random_seed if settings.seed is None else settings.seed
    key = jax.random.key((secrets.randbits(32) if seed is None else seed) & 0xFFFFFFFF)
    centers = settings.first.choose(key, with_equal_columns(all_batches()), settings.count)
    high = np.asarray(centers, np.float32)
    low = np.float32(centers - high) if first[0].dtype == np.float64 else np.zeros_like(high)
    chosen = {CLUSTERS: high, CLUSTERS + LOW: low, "origin": np.float32(first[0].mean(0))}
    chosen |= {"clusters_updated": high, "clusters_updated" + LOW: low}
    return {name: chosen.get(name, value) for name, value in variables.items()}
