"""Feature columns: strings, numbers and sequences become the input of a model.

    import feature_columns as fc

    city = fc.categorical_column_with_hash_bucket("city", 1000)
    columns = [fc.numeric_column("age"), fc.embedding_column(city, dimension=8)]
    net = fc.input_layer(features, columns)         # inside a model_fn: (batch, 9)

A column is a frozen dataclass: it can be compared and printed, and written to JSON unless it holds
a function.
"""

from feature_columns.bucketized import bucketized_column
from feature_columns.categorical import (
    categorical_column_with_hash_bucket,
    categorical_column_with_identity,
    weighted_categorical_column,
)
from feature_columns.columns import (
    CategoricalColumn,
    DenseColumn,
    FeatureColumn,
    SequenceColumn,
    SequenceDenseColumn,
    make_parse_example_spec,
    raw_paths,
)
from feature_columns.crossed import crossed_column
from feature_columns.embedding import (
    embedding_column,
    indicator_column,
    shared_embedding_columns,
    shared_embeddings,
)
from feature_columns.entries import Entries, entries
from feature_columns.hashing import fingerprint64
from feature_columns.input_layer import input_layer
from feature_columns.linear_model import linear_model
from feature_columns.numeric import NumericColumn, numeric_column
from feature_columns.parse_spec import FixedLenFeature, VarLenFeature
from feature_columns.sequence_categorical import (
    sequence_categorical_column_with_hash_bucket,
    sequence_categorical_column_with_identity,
    sequence_categorical_column_with_vocabulary_file,
    sequence_categorical_column_with_vocabulary_list,
)
from feature_columns.sequence_input_layer import (
    concatenate_context_input,
    sequence_input_layer,
    sequence_lengths,
)
from feature_columns.sequence_numeric import sequence_numeric_column
from feature_columns.vocabulary import (
    categorical_column_with_vocabulary_file,
    categorical_column_with_vocabulary_list,
)

__all__ = [
    "CategoricalColumn",
    "DenseColumn",
    "Entries",
    "FeatureColumn",
    "FixedLenFeature",
    "NumericColumn",
    "SequenceColumn",
    "SequenceDenseColumn",
    "VarLenFeature",
    "bucketized_column",
    "categorical_column_with_hash_bucket",
    "categorical_column_with_identity",
    "categorical_column_with_vocabulary_file",
    "categorical_column_with_vocabulary_list",
    "concatenate_context_input",
    "crossed_column",
    "embedding_column",
    "entries",
    "fingerprint64",
    "indicator_column",
    "input_layer",
    "linear_model",
    "make_parse_example_spec",
    "numeric_column",
    "raw_paths",
    "sequence_categorical_column_with_hash_bucket",
    "sequence_categorical_column_with_identity",
    "sequence_categorical_column_with_vocabulary_file",
    "sequence_categorical_column_with_vocabulary_list",
    "sequence_input_layer",
    "sequence_lengths",
    "sequence_numeric_column",
    "shared_embedding_columns",
    "shared_embeddings",
    "weighted_categorical_column",
]
