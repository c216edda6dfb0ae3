"""Canned models: ordinary model_fns, written with the public names of the other two packages."""

from canned.baseline import BaselineClassifier, BaselineEstimator, BaselineRegressor
from canned.class_heads import BinaryClassHead, MultiClassHead
from canned.dnn import DNNClassifier, DNNEstimator, DNNRegressor
from canned.dnn_linear import (
    DNNLinearCombinedClassifier,
    DNNLinearCombinedEstimator,
    DNNLinearCombinedRegressor,
)
from canned.head_base import ExampleHead, Examples, Head
from canned.kmeans import KMeans, KMeansClustering
from canned.linear import LinearClassifier, LinearEstimator, LinearRegressor
from canned.multi_head import MultiHead
from canned.multi_label_head import MultiLabelHead
from canned.regression_heads import (
    LogisticRegressionHead,
    PoissonRegressionHead,
    RegressionHead,
)
from canned.rnn import RNNClassifier, RNNEstimator
from canned.rnn_cells import GRUCell, LSTMCell, RNNCell, SimpleRNNCell, StackedRNNCells
from canned.sequential_head import SequentialHeadWrapper

__all__ = [
    "BaselineClassifier",
    "BaselineEstimator",
    "BaselineRegressor",
    "BinaryClassHead",
    "DNNClassifier",
    "DNNEstimator",
    "DNNLinearCombinedClassifier",
    "DNNLinearCombinedEstimator",
    "DNNLinearCombinedRegressor",
    "DNNRegressor",
    "ExampleHead",
    "Examples",
    "GRUCell",
    "Head",
    "KMeans",
    "KMeansClustering",
    "LSTMCell",
    "LinearClassifier",
    "LinearEstimator",
    "LinearRegressor",
    "LogisticRegressionHead",
    "MultiClassHead",
    "MultiHead",
    "MultiLabelHead",
    "PoissonRegressionHead",
    "RNNCell",
    "RNNClassifier",
    "RNNEstimator",
    "RegressionHead",
    "SequentialHeadWrapper",
    "SimpleRNNCell",
    "StackedRNNCells",
]
