"""Canned models: ordinary model_fns, written with the public names of the other two packages."""

from canned.kmeans import KMeans, KMeansClustering

__all__ = ["KMeans", "KMeansClustering"]
