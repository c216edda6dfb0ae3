"""Arguments: what users hand to an Estimator, checked at the call.

    config = config_for(RunConfig(save_checkpoints_steps=500), model_dir="runs/iris")
    check_count("train", "steps", steps)

Bad input gets one error that says what was given, what is wanted, and what to do.
"""

import logging
import numbers
import os
import tempfile
from typing import Any

from estimator import checkpoint
from estimator.run_config import RunConfig

_LOG = logging.getLogger(__name__)


def config_for(config: RunConfig | None, model_dir: Any) -> RunConfig:
    """Returns the config with a model_dir, which may be given in one place only.

    >>> config_for(None, "runs/iris").model_dir
    'runs/iris'

    Raises:
        ValueError: if the config is none, or both name different directories.
    """
    if config is None:
        config = RunConfig()
    if not isinstance(config, RunConfig):
        raise ValueError(f"config must be an instance of RunConfig, got {config!r}.")
    if model_dir is not None:
        given = RunConfig(model_dir=model_dir)
        if config.model_dir is not None and config.model_dir != given.model_dir:
            raise ValueError(
                "`model_dir` are set both in constructor and `RunConfig`, but with different "
                f"values: {given.model_dir!r} and {config.model_dir!r}. Give one of them."
            )
        config = config.replace(model_dir=given.model_dir)
    if config.model_dir is None:
        config = config.replace(model_dir=tempfile.mkdtemp())
        _LOG.warning("No model_dir was given: using the temporary directory %s.", config.model_dir)
    return config


def check_no_overrides(cls: type, base: type) -> None:
    """Checks that a subclass adds members only.

    Raises:
        ValueError: if it overrides one of the base's.
    """
    members = {name for one in base.__mro__ if one is not object for name in vars(one)}
    fixed = {name for name in members if not name.startswith("__")}
    overridden = sorted(fixed & vars(cls).keys())
    if overridden:
        raise ValueError(
            f"Subclasses of {base.__name__} cannot override members of {base.__name__}: "
            f"{cls.__name__} overrides {overridden}. Put what is special into the model_fn, and "
            "add methods with other names."
        )


def check_count(call: str, name: str, value: Any) -> None:
    """Checks a number of steps.

    Raises:
        TypeError: if it is neither an int nor None.
        ValueError: if it is below 1.
    """
    if value is None:
        return
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{call}: {name} must be an int, got {value!r}.")
    if value <= 0:
        raise ValueError(f"{call}: must specify {name} > 0, given: {value}.")


def checked_checkpoint(call: str, path: Any) -> str | None:
    """Returns the absolute path of a checkpoint, or None.

    Raises:
        ValueError: if there is no checkpoint at the path.
    """
    if path is None:
        return None
    path = os.path.abspath(os.fspath(path))
    if not checkpoint.is_checkpoint(path):
        raise ValueError(
            f"{call}: the passed checkpoint_path is not a valid checkpoint: {path}. Give one of "
            "estimator.all_checkpoints()."
        )
    return path
