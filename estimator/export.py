"""Export: everything about models that answer without the code that made them.

    path = estimator.export_saved_model("runs/iris/export")
    loaded = est.export.load(path)
    loaded({"x": [[5.1, 3.3, 1.7, 0.5]]})

Each idea has a file of its own; this one is their face.
"""

from estimator.export_files import DamagedExportError
from estimator.export_outputs import (
    ClassificationOutput,
    ExportOutput,
    PredictOutput,
    RegressionOutput,
)
from estimator.loaded_mode import Input
from estimator.loaded_model import LoadedModel, OutputType, load
from estimator.receivers import (
    ParsingInputReceiver,
    ServingInputReceiver,
    SupervisedInputReceiver,
    TensorServingInputReceiver,
    TensorSpec,
    build_parsing_serving_input_receiver_fn,
    build_raw_serving_input_receiver_fn,
    build_raw_supervised_input_receiver_fn,
)
from estimator.rest_application import RequestLimits, RestApplication
from estimator.rest_server import serve
from estimator.served_model import ServedModel
from estimator.tensorflow_export import write_saved_model
from estimator.tensorflow_forms import Graph, tensorflow_form
from estimator.tf_example import example_record, parse_examples

__all__ = [
    "ClassificationOutput",
    "DamagedExportError",
    "ExportOutput",
    "Graph",
    "Input",
    "LoadedModel",
    "OutputType",
    "ParsingInputReceiver",
    "PredictOutput",
    "RegressionOutput",
    "RequestLimits",
    "RestApplication",
    "ServedModel",
    "ServingInputReceiver",
    "SupervisedInputReceiver",
    "TensorServingInputReceiver",
    "TensorSpec",
    "build_parsing_serving_input_receiver_fn",
    "build_raw_serving_input_receiver_fn",
    "build_raw_supervised_input_receiver_fn",
    "example_record",
    "load",
    "parse_examples",
    "serve",
    "tensorflow_form",
    "write_saved_model",
]
