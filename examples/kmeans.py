"""KMeans: five clusters of random points, and the same ones found in mini-batches.

    python examples/kmeans.py                       # half a minute
    python examples/kmeans.py --picture clusters.png

The first part is the example of TensorFlow's documentation, line for line; only the import, the
input_fn and `print` have changed. The second finds the clusters of scikit-learn's 1,797 digits, of
64 pixels each: in batches, as one does where the points do not fit into memory.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

import estimator as est
from canned import KMeans

QUIET = est.RunConfig(log_step_count_steps=None)


def cluster_random_points():
    """Returns points, their clusters and the centers."""
    num_points = 100
    dimensions = 2
    points = np.random.default_rng(0).uniform(0, 1000, [num_points, dimensions])

    def input_fn():
        return points.astype(np.float32)

    num_clusters = 5
    kmeans = KMeans(num_clusters=num_clusters, use_mini_batch=False, seed=0, config=QUIET)

    # train
    num_iterations = 10
    previous_centers = None
    for _ in range(num_iterations):
        kmeans.train(input_fn)
        cluster_centers = kmeans.cluster_centers()
        if previous_centers is not None:
            print("delta:", np.abs(cluster_centers - previous_centers).max())
        previous_centers = cluster_centers
        print("score:", kmeans.score(input_fn))
    print("cluster centers:", cluster_centers)

    # map the input points to their clusters
    cluster_indices = list(kmeans.predict_cluster_index(input_fn))
    for i, point in enumerate(points[:5]):
        cluster_index = cluster_indices[i]
        center = cluster_centers[cluster_index]
        print("point:", point, "is in cluster", cluster_index, "centered at", center)
    return points, cluster_indices, cluster_centers


def cluster_digits():
    """Clusters pictures of digits, in batches; of ten runs, prints the best."""
    digits = load_digits()
    points = digits.data.astype(np.float32)
    batch_size, epochs = 599, 20
    iteration = len(points) // batch_size  # three batches are all points: so this is exact k-means
    runs = []
    for seed in range(10):
        kmeans = KMeans(
            10,
            initial_clusters=KMeans.KMEANS_PLUS_PLUS_INIT,
            mini_batch_steps_per_iteration=iteration,
            seed=seed,
            config=QUIET,
        )
        batches = est.numpy_input_fn(
            points, batch_size=batch_size, num_epochs=epochs, shuffle=False
        )
        kmeans.train(batches)
        runs.append((float(kmeans.score(lambda: points)), kmeans))
    inertia, best = min(runs, key=lambda run: run[0])
    found = list(best.predict_cluster_index(lambda: points))
    print(f"digits: inertia {inertia:,.0f}, ARI {adjusted_rand_score(digits.target, found):.3f}")


def draw(path, points, indices, centers):
    """Writes a picture of the clusters and their centers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 6))
    axes.scatter(*points.T, c=indices, cmap="tab10", s=20)
    axes.scatter(*centers.T, c=range(len(centers)), cmap="tab10", s=200, marker="X", edgecolor="k")
    axes.set_title("100 points, 5 clusters and their centers")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"the picture is {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="kmeans.png", help="where to write the scatter plot")
    arguments = parser.parse_args()
    draw(arguments.picture, *cluster_random_points())
    cluster_digits()
