"""The Estimator for JAX: write one model_fn, get training, evaluation, prediction and checkpoints.

    import estimator as est

    classifier = est.Estimator(model_fn, model_dir="runs/iris")
    classifier.train(input_fn, steps=1000)

The names in `__all__` are public; everything else may change.
"""

from estimator import export, layers, metrics, summary, variables
from estimator.add_metrics import add_metrics
from estimator.checkpoint import DamagedCheckpointError, list_variables, load_variable
from estimator.early_stopping import (
    make_early_stopping_hook,
    make_stop_at_checkpoint_step_hook,
    stop_if_higher_hook,
    stop_if_lower_hook,
    stop_if_no_decrease_hook,
    stop_if_no_increase_hook,
)
from estimator.estimator import Estimator
from estimator.events import EventWriter
from estimator.exporter import BestExporter, Exporter, FinalExporter, LatestExporter
from estimator.history_plot import plot_history
from estimator.host_features import (
    HostCheck,
    HostOutput,
    HostRecipe,
    Int64,
    Lookup,
    OutputRecipe,
    Trim,
    host_check,
    host_feature,
    host_output,
    once_a_batch,
    raw_path,
    raw_value,
)
from estimator.in_memory_evaluator import InMemoryEvaluatorHook
from estimator.inputs import numpy_input_fn, pandas_input_fn
from estimator.low_part import low_part
from estimator.messages import did_you_mean
from estimator.mode_keys import ModeKeys
from estimator.model_fn import EstimatorSpec, Scaffold
from estimator.placement import DataParallel
from estimator.preview import preview
from estimator.profiler import ProfilerHook
from estimator.recipes import Recipe, from_json, to_json
from estimator.report_hooks import (
    FinalOpsHook,
    LoggingTensorHook,
    StepCounterHook,
    SummarySaverHook,
)
from estimator.rowwise import rowwise, rowwise_sum
from estimator.run_config import RunConfig
from estimator.saver import CheckpointSaverHook
from estimator.scaffold import scaffold_apply
from estimator.session import (
    CheckpointSaverListener,
    NanLossDuringTrainingError,
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)
from estimator.sparse_tensor import SparseTensor
from estimator.step_waiter import GlobalStepWaiterHook
from estimator.stop_hooks import NanTensorHook, StopAtStepHook
from estimator.summary import tag
from estimator.timers import SecondOrStepTimer
from estimator.training import EvalSpec, TrainSpec, train_and_evaluate
from estimator.variables import (
    assign,
    assign_tree,
    get_global_step,
    get_variable,
    next_rng_key,
    shared,
    variable_scope,
    variable_tree,
)
from estimator.warm_start import WarmStartSettings

__version__ = "0.1.0"

__all__ = [
    "BestExporter",
    "CheckpointSaverHook",
    "CheckpointSaverListener",
    "DamagedCheckpointError",
    "DataParallel",
    "Estimator",
    "EstimatorSpec",
    "EvalSpec",
    "EventWriter",
    "Exporter",
    "FinalExporter",
    "FinalOpsHook",
    "GlobalStepWaiterHook",
    "HostCheck",
    "HostOutput",
    "HostRecipe",
    "InMemoryEvaluatorHook",
    "Int64",
    "LatestExporter",
    "LoggingTensorHook",
    "Lookup",
    "ModeKeys",
    "NanLossDuringTrainingError",
    "NanTensorHook",
    "OutputRecipe",
    "ProfilerHook",
    "Recipe",
    "RunConfig",
    "Scaffold",
    "SecondOrStepTimer",
    "Session",
    "SessionRunArgs",
    "SessionRunContext",
    "SessionRunHook",
    "SessionRunValues",
    "SparseTensor",
    "StepCounterHook",
    "StopAtStepHook",
    "SummarySaverHook",
    "TrainSpec",
    "Trim",
    "WarmStartSettings",
    "add_metrics",
    "assign",
    "assign_tree",
    "did_you_mean",
    "export",
    "from_json",
    "get_global_step",
    "get_variable",
    "host_check",
    "host_feature",
    "host_output",
    "layers",
    "list_variables",
    "load_variable",
    "low_part",
    "make_early_stopping_hook",
    "make_stop_at_checkpoint_step_hook",
    "metrics",
    "next_rng_key",
    "numpy_input_fn",
    "once_a_batch",
    "pandas_input_fn",
    "plot_history",
    "preview",
    "raw_path",
    "raw_value",
    "rowwise",
    "rowwise_sum",
    "scaffold_apply",
    "shared",
    "stop_if_higher_hook",
    "stop_if_lower_hook",
    "stop_if_no_decrease_hook",
    "stop_if_no_increase_hook",
    "summary",
    "tag",
    "to_json",
    "train_and_evaluate",
    "variable_scope",
    "variable_tree",
    "variables",
]
