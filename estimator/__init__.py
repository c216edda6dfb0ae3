"""The Estimator for JAX: write one model_fn, get training, evaluation, prediction and checkpoints.

    import estimator as est

    classifier = est.Estimator(model_fn, model_dir="runs/iris")
    classifier.train(input_fn, steps=1000)

The names in `__all__` are public; everything else may change.
"""

from estimator import layers, metrics, summary, variables
from estimator.add_metrics import add_metrics
from estimator.checkpoint import DamagedCheckpointError, list_variables, load_variable
from estimator.estimator import Estimator
from estimator.events import EventWriter
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
    "CheckpointSaverHook",
    "CheckpointSaverListener",
    "DamagedCheckpointError",
    "DataParallel",
    "Estimator",
    "EstimatorSpec",
    "EventWriter",
    "FinalOpsHook",
    "GlobalStepWaiterHook",
    "HostCheck",
    "HostOutput",
    "HostRecipe",
    "Int64",
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
    "Trim",
    "WarmStartSettings",
    "add_metrics",
    "assign",
    "assign_tree",
    "did_you_mean",
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
    "metrics",
    "next_rng_key",
    "numpy_input_fn",
    "once_a_batch",
    "pandas_input_fn",
    "preview",
    "raw_path",
    "raw_value",
    "rowwise",
    "rowwise_sum",
    "scaffold_apply",
    "shared",
    "summary",
    "tag",
    "to_json",
    "variable_scope",
    "variable_tree",
    "variables",
]
