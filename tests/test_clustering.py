"""Laws of the arithmetic of k-means."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import kmeans_plusplus

from canned.clustering import cluster_sums, kmeans_plus_plus, moved, nearest, unit_rows

SEEDS = st.integers(0, 2**16)
few = settings(max_examples=15, deadline=None)
compiled = jax.jit(nearest, static_argnames="block_rows")
summed = jax.jit(cluster_sums, static_argnames="block_rows")


def cloud(seed, n=40, d=3):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def lloyd(points, centers):
    sums, counts, loss = summed(points, centers)
    return moved(centers, 0.0, sums, counts), loss


@pytest.mark.parametrize("k", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("block_rows", [None, 1, 7, 40])
def test_nearest_is_the_first_of_the_nearest_whatever_the_blocks(k, block_rows):
    points = np.round(cloud(0) * 2)  # whole numbers: many ties, and exact
    centers = np.round(cloud(1, k) * 2)
    exact = ((points[:, None] - centers) ** 2).sum(2)
    index, distance = compiled(points, centers, block_rows=block_rows)
    np.testing.assert_array_equal(index, exact.argmin(1))
    np.testing.assert_array_equal(distance, exact.min(1))


def test_points_of_a_tiny_scale_are_told_apart():
    points = cloud(0) * np.float32(1e-16)
    exact = ((points[:, None].astype(np.float64) - points[:20]) ** 2).sum(2)
    np.testing.assert_array_equal(compiled(points, points[:20])[0], exact.argmin(1))


@pytest.mark.parametrize("block_rows", [None, 1, 7, 40])
def test_sums_are_those_of_the_nearest_points_whatever_the_blocks(block_rows):
    points, centers = np.round(cloud(0) * 2), np.round(cloud(1, 5) * 2)
    weights = np.float32(np.arange(40) % 3)
    index = ((points[:, None] - centers) ** 2).sum(2).argmin(1)
    for weight, given_weights in ((np.ones(40), None), (weights, weights)):
        sums, counts, loss = summed(points, centers, given_weights, block_rows=block_rows)
        np.testing.assert_array_equal(counts, np.bincount(index, weight, 5))
        for j in range(5):
            of_j = index == j
            np.testing.assert_array_equal(sums[j], (points * weight[:, None])[of_j].sum(0))
        exact = (((points - centers[index]) ** 2).sum(1) * weight).sum()
        assert loss == exact


@few
@given(SEEDS)
def test_the_loss_never_rises(seed):
    points = cloud(seed)
    centers, losses = jnp.asarray(points[:5]), []
    for _ in range(6):
        centers, loss = lloyd(points, centers)
        losses.append(float(loss))
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(losses))


@few
@given(SEEDS)
def test_permuting_points_permutes_the_answer(seed):
    points, order = cloud(seed), np.random.default_rng(seed).permutation(40)
    centers = points[:5]
    np.testing.assert_array_equal(
        compiled(points[order], centers)[0], np.asarray(compiled(points, centers)[0])[order]
    )
    moved_both = [lloyd(x, jnp.asarray(centers))[0] for x in (points, points[order])]
    np.testing.assert_allclose(moved_both[0], moved_both[1], atol=1e-5)


@few
@given(SEEDS, st.floats(-8, 8, width=32))
def test_translating_points_translates_the_centers(seed, shift):
    points = cloud(seed)
    here = lloyd(points, jnp.asarray(points[:5]))[0]
    there = lloyd(points + shift, jnp.asarray(points[:5] + shift))[0]
    np.testing.assert_allclose(there, here + shift, atol=1e-3)


@few
@given(SEEDS)
def test_k_means_plus_plus_chooses_no_row_twice(seed):
    points = np.round(cloud(seed, n=12, d=1))  # several rows are the same
    assert len({*kmeans_plus_plus(jax.random.key(seed), points, 12).tolist()}) == 12


def test_k_means_plus_plus_never_draws_what_has_no_weight():
    weights = np.float32([0, 1] * 20)
    rows = kmeans_plus_plus(jax.random.key(0), cloud(0), 20, 2, weights)
    assert all(row % 2 for row in rows.tolist())


def test_k_means_plus_plus_is_as_good_as_scikit_learns():
    points = cloud(0, 2000, 8)

    def potential(centers):
        return float(compiled(points, centers)[1].sum())

    ours = [points[kmeans_plus_plus(jax.random.key(s), points, 16, 4)] for s in range(5)]
    theirs = [kmeans_plusplus(points, 16, random_state=s)[0] for s in range(5)]
    assert np.median([*map(potential, ours)]) < 1.02 * np.median([*map(potential, theirs)])


def test_vectors_too_long_or_short_to_be_squared_have_a_direction():
    made = unit_rows(jnp.float32([[3e30, 4e30], [3e-30, 4e-30]]))
    np.testing.assert_allclose(made, [[0.6, 0.8]] * 2, rtol=1e-6)
