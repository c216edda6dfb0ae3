"""Feature columns: how a model reads the features of a batch.

    import feature_columns as fc

    columns = [fc.numeric_column("age"), fc.numeric_column("height")]
    net = fc.input_layer(features, columns)         # inside a model_fn: (batch, 2)

A column is a frozen dataclass: it can be compared and printed, and written to JSON unless it holds
a function.
"""

from feature_columns.columns import DenseColumn
from feature_columns.input_layer import input_layer
from feature_columns.numeric import NumericColumn, numeric_column

__all__ = ["DenseColumn", "NumericColumn", "input_layer", "numeric_column"]
