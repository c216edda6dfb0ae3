"""Columns: what every feature column can do.

    column.name                 # "age"; columns are concatenated in the order of their names
    column.dense(features)      # inside a model_fn: floats of shape (batch, width)

What makes floats of numbers works on the device; what makes ids of strings works on the host.
"""

import abc
from collections.abc import Mapping
from typing import Any

import jax

import estimator as est


class DenseColumn(est.Recipe, abc.ABC):
    """A column that gives floats; subclass it as a frozen dataclass."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name that orders the columns."""

    @abc.abstractmethod
    def dense(self, features: Mapping[str, Any]) -> jax.Array:
        """Returns the column's part of the input layer, inside a model_fn.

        Args:
            features: the features of a batch by name.

        Returns:
            Floats of shape `(batch, width)`.
        """


def feature(features: Mapping[str, Any], key: str, column: str) -> Any:
    """Returns one feature of a batch.

    >>> feature({"age": 1}, "age", "numeric_column(age)")
    1

    Raises:
        ValueError: if there is none of that name.
    """
    if key not in features:
        raise ValueError(
            f'{column}: no feature "{key}" among {sorted(map(str, features))}.'
            f"{est.did_you_mean(key, map(str, features))}"
        )
    return features[key]
