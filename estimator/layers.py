"""Layers: functions that ask for their variables by TensorFlow's names.

    net = layers.dense(net, 10, activation=jax.nn.relu)     # dense/kernel, dense/bias
    logits = layers.dense(net, 3)                           # dense_1/kernel, dense_1/bias

They are thin: a variable or two, and a function of `jax.lax` or `jax.nn`. A layer of your own is a
function that calls `layer_scope` and `get_variable`.
"""

from estimator.convolution_layers import average_pooling2d, conv2d, max_pooling2d
from estimator.dense_layers import dense, dropout, embedding, flatten
from estimator.layer_scope import layer_scope
from estimator.normalization_layers import batch_normalization, layer_normalization

__all__ = [
    "average_pooling2d",
    "batch_normalization",
    "conv2d",
    "dense",
    "dropout",
    "embedding",
    "flatten",
    "layer_normalization",
    "layer_scope",
    "max_pooling2d",
]
