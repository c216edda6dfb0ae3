"""KMeans beside scikit-learn: full batches, mini-batches, k-means++, and memory.

    python benchmarks/kmeans.py                 # all cases, a few minutes
    python benchmarks/kmeans.py --case lloyd    # those whose name begins so

One JSON line a case. Both work on the same float32 points, from the same first centers, on all
cores; they take turns, and each figure is the median of its turns. Give the machine nothing else to
do. `lloyd` is the time of an iteration, of 20, over 200,000 points of 32 numbers and 64 clusters;
`minibatch` the steps a second over batches of 4,096 of them; `plusplus` the time to choose 64 of
50,000 points, each side with some 2 + log(64) trials for each, with the medians over five seeds of
the potential. `memory` is how much memory the largest moment of an evaluation of 2,000,000 points
and 1,024 clusters takes, in a process of its own, as a part of the size of the points themselves,
which are on the device already.
"""

import argparse
import functools
import resource
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
from measure import Stopwatch, report
from sklearn import cluster
from sklearn.datasets import make_blobs

import estimator as est
from canned import KMeans
from canned.clustering import kmeans_plus_plus, nearest

ROWS, COLUMNS, CLUSTERS, ITERATIONS, BATCH = 200_000, 32, 64, 20, 4096
QUIET = est.RunConfig(
    log_step_count_steps=None, save_summary_steps=None, save_checkpoints_steps=10**9
)


def blobs(rows):
    points, _ = make_blobs(rows, COLUMNS, centers=CLUSTERS, cluster_std=4.0, random_state=0)
    points = points.astype(np.float32)
    return points, points[np.random.default_rng(1).choice(rows, CLUSTERS, replace=False)]


def in_turn(sides, turns):
    """Returns the median of what each side measures, the first turn left out."""
    measured = [[side() for side in sides] for _ in range(turns + 1)]
    return [statistics.median(of_side) for of_side in zip(*measured[1:], strict=True)]


def compared(case, unit, sides, wanted, turns=7, **more):
    here, theirs = in_turn(sides, turns)
    report(case=case, unit=unit, here=here, scikit_learn=theirs, ratio=here / theirs,
           wanted_ratio=wanted, **more)  # fmt: skip


def timed(train, steps):
    """Returns the seconds of steps 1 to `steps` of a train call: the first one opens the input."""
    watch = Stopwatch(1, 1 + steps)
    train(steps=1 + steps, hooks=[watch])
    return watch.times[1] - watch.times[0]


def lloyd():
    points, first = blobs(ROWS)
    kmeans = KMeans(CLUSTERS, None, first, use_mini_batch=False, config=QUIET)

    def here():
        seconds = timed(lambda **given: kmeans.train(lambda: points, **given), ITERATIONS)
        return seconds / ITERATIONS * 1e3

    def theirs():
        model = cluster.KMeans(CLUSTERS, init=first, n_init=1, max_iter=ITERATIONS, tol=0)
        start = time.perf_counter()
        model.fit(points)
        return (time.perf_counter() - start) / model.n_iter_ * 1e3

    compared("lloyd", "ms an iteration", [here, theirs], "<= 0.65")


def minibatch():
    points, first = blobs(ROWS)
    batches = [points[i : i + BATCH] for i in range(0, ROWS - BATCH, BATCH)]
    kmeans = KMeans(CLUSTERS, None, first, config=QUIET)
    model = cluster.MiniBatchKMeans(CLUSTERS, init=first, n_init=1, batch_size=BATCH)
    steps = 10 * len(batches)
    input_fn = est.numpy_input_fn(points, batch_size=BATCH, num_epochs=None, shuffle=False)

    def here():
        return steps / timed(lambda **given: kmeans.train(input_fn, **given), steps)

    def theirs():
        start = time.perf_counter()
        for number in range(steps):
            model.partial_fit(batches[number % len(batches)])
        return steps / (time.perf_counter() - start)

    compared("minibatch", "steps/s", [here, theirs], ">= 1.8", turns=3)


def plusplus():
    points, _ = blobs(50_000)
    on_device = jax.device_put(points)
    potentials = [], []

    def potential(centers):
        return float(jax.jit(nearest)(on_device, centers)[1].sum())

    def seconds(choose, kept):
        seed = len(kept)
        start = time.perf_counter()
        centers = choose(seed)
        elapsed = time.perf_counter() - start
        kept.append(potential(centers))
        return elapsed * 1e3

    def here():
        def choose(seed):
            rows = kmeans_plus_plus(jax.random.key(seed), on_device, CLUSTERS, retries=-1)
            return points[np.asarray(rows)]

        return seconds(choose, potentials[0])

    def theirs():
        return seconds(
            lambda seed: cluster.kmeans_plusplus(points, CLUSTERS, random_state=seed)[0],
            potentials[1],
        )

    compared("plusplus", "ms", [here, theirs], "<= 0.5", turns=4)
    ours, others = (statistics.median(side) for side in potentials)
    report(case="plusplus potential", unit="sum of squares", here=ours, scikit_learn=others,
           ratio=ours / others, wanted_ratio="<= 1.02")  # fmt: skip


def memory():
    made = subprocess.run(
        [sys.executable, __file__, "--peak"], check=True, capture_output=True, text=True
    )
    part = float(made.stdout.split()[-1])
    report(case="memory", unit="parts of the points", here=part, wanted="< 1.5")


@functools.partial(jax.jit, static_argnums=0)
def scattered(rows):
    """Returns points, made without a second array of their size."""
    numbers = jax.lax.iota(np.float32, rows * COLUMNS).reshape(rows, COLUMNS)
    return jax.numpy.sin(numbers * numbers)


def print_peak():
    """Prints the peak of an evaluation, points included, in parts of the points' size."""
    rows, clusters = 2_000_000, 1_024
    key = jax.random.key(0)
    first = np.asarray(jax.random.normal(key, (clusters, COLUMNS)))
    kmeans = KMeans(clusters, None, first, use_mini_batch=False, config=QUIET)
    kmeans.train(lambda: first)  # what is loaded once is no matter of the points
    kmeans.evaluate(lambda: first)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    points = scattered(rows).block_until_ready()
    kmeans.evaluate(lambda: points)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((peak - before) * 1024 / points.nbytes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", help="the beginning of the names of the cases to run")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print_peak()
        return
    for case in (lloyd, minibatch, plusplus, memory):
        if case.__name__.startswith(args.case):
            case()


if __name__ == "__main__":
    main()
