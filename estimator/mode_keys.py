"""Mode keys: the three things a model_fn can be asked to describe.

    if mode == ModeKeys.TRAIN:
        return EstimatorSpec(mode, loss=loss, train_op=optax.adam(1e-3))

Their values are those of `tf.estimator`.
"""

from typing import Final


class ModeKeys:
    """Standard names of the modes, with the values that `tf.estimator` gives them.

    >>> ModeKeys.PREDICT
    'infer'
    """

    TRAIN: Final = "train"
    EVAL: Final = "eval"
    PREDICT: Final = "infer"


MODES: Final = (ModeKeys.TRAIN, ModeKeys.EVAL, ModeKeys.PREDICT)
