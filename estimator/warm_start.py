"""Warm start: first values from another run, or from arrays, by name.

    Estimator(model_fn, warm_start_from="runs/pretrained")
    Estimator(model_fn, warm_start_from={"dense/kernel": kernel})
    Estimator(model_fn, warm_start_from=WarmStartSettings("runs/pretrained", "encoder/.*"))

It counts where there is no checkpoint. The step count and the optimizer's state are not taken.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from estimator import checkpoint
from estimator.messages import did_you_mean
from estimator.variables import VariableRecipe

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class WarmStartSettings:
    """Which variables start from where.

    Attributes:
        ckpt_to_initialize_from: a model_dir, or the path of one checkpoint.
        vars_to_warm_start: a regular expression that the start of a trainable variable's name must
            match; or a list of expressions, for all variables; or None, for those in
            `var_name_to_prev_var_name` alone.
        var_name_to_prev_var_name: the names in the checkpoint of variables that have another one.
    """

    ckpt_to_initialize_from: str
    vars_to_warm_start: str | Sequence[str] | None = ".*"
    var_name_to_prev_var_name: Mapping[str, str] | None = dataclasses.field(
        default=None, kw_only=True
    )


WarmStart = str | os.PathLike[str] | Mapping[str, Any] | WarmStartSettings | None


def check_warm_start(given: Any) -> WarmStartSettings | dict[str, np.ndarray] | None:
    """Returns settings, or arrays by name, or None.

    Raises:
        TypeError: if it is something else.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {str(name): np.array(value) for name, value in given.items()}
    if isinstance(given, str | os.PathLike):
        given = WarmStartSettings(os.fspath(given))
    if not isinstance(given, WarmStartSettings):
        raise TypeError(
            "warm_start_from must be a path, a dict of arrays by name, or WarmStartSettings, got "
            f"{given!r}."
        )
    return given


def warm_values(
    settings: WarmStartSettings | Mapping[str, np.ndarray] | None,
    recipes: Mapping[str, VariableRecipe],
) -> dict[str, Any]:
    """Returns the values of the warm start by name, and logs a table.

    Args:
        settings: what `check_warm_start` gave.
        recipes: the model's variables.

    Raises:
        ValueError: if a variable that is named explicitly is missing or has another shape, or if
            nothing at all can be taken.
    """
    if settings is None:
        return {}
    if isinstance(settings, WarmStartSettings):
        taken, differ, missing = _from_checkpoint(settings, recipes)
        origin = os.fspath(settings.ckpt_to_initialize_from)
    else:
        taken, differ, missing = _from_arrays(settings, recipes), {}, []
        origin = "the given arrays"
    _LOG.info("%s", _table(origin, recipes, taken, differ))
    if missing:
        _LOG.warning("Warm start: left at their first values, since %s lacks %s.", origin, missing)
    if differ:
        _LOG.warning("Warm start: left at their first values, since shapes differ: %s.", differ)
    if not taken:
        raise ValueError(
            f"Warm start: nothing of {origin} fits the model's variables {sorted(recipes)}. Map "
            "their names with WarmStartSettings(var_name_to_prev_var_name={new: old})."
        )
    return {name: jnp.asarray(array, recipes[name].dtype) for name, array in taken.items()}


def _from_checkpoint(
    settings: WarmStartSettings, recipes: Mapping[str, VariableRecipe]
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """Returns the values, the shapes that differ, and what the checkpoint lacks."""
    path = os.fspath(settings.ckpt_to_initialize_from)
    shapes = {name: tuple(shape) for name, shape in checkpoint.list_variables(path)}
    renamed = dict(settings.var_name_to_prev_var_name or {})
    wanted = {name: name for name in _matching(settings.vars_to_warm_start, recipes)}
    unused = [name for name in renamed if name not in recipes]
    if unused:
        raise ValueError(
            f"Warm start: var_name_to_prev_var_name names {unused}, which the model does not have."
            f"{did_you_mean(unused[0], recipes)} It has {sorted(recipes)}."
        )
    if settings.vars_to_warm_start is not None:
        outside = [name for name in renamed if name not in wanted]
        if outside:
            raise ValueError(
                f"Warm start: var_name_to_prev_var_name names {outside}, which "
                f"vars_to_warm_start={settings.vars_to_warm_start!r} leaves out."
            )
    wanted.update(renamed)
    names, differ, missing = {}, {}, []
    for new, old in wanted.items():
        explicit = new in renamed
        if old not in shapes:
            if explicit:
                raise ValueError(
                    f'Warm start: {path} has no "{old}" for "{new}".{did_you_mean(old, shapes)}'
                )
            missing.append(new)
        elif shapes[old] == recipes[new].shape:
            names[new] = old
        elif explicit:
            raise ValueError(_shape_message(path, new, recipes[new].shape, shapes[old]))
        else:
            differ[new] = f"{list(recipes[new].shape)} here, {list(shapes[old])} there"
    arrays = checkpoint.read_variables(checkpoint.resolve(path), sorted(set(names.values())))
    return {new: arrays[old] for new, old in names.items()}, differ, missing


def _matching(
    patterns: str | Sequence[str] | None, recipes: Mapping[str, VariableRecipe]
) -> list[str]:
    if patterns is None:
        return []
    if isinstance(patterns, str):
        return [n for n, r in recipes.items() if r.trainable and re.match(patterns, n)]
    return [n for n in recipes if any(re.match(pattern, n) for pattern in patterns)]


def _from_arrays(
    arrays: Mapping[str, np.ndarray], recipes: Mapping[str, VariableRecipe]
) -> dict[str, np.ndarray]:
    known = {name: array for name, array in arrays.items() if name in recipes}
    for name, array in known.items():
        if array.shape != recipes[name].shape:
            raise ValueError(
                _shape_message("the given array", name, recipes[name].shape, array.shape)
            )
    unknown = [n for n in arrays if n not in recipes and n != "global_step"]
    if unknown:
        _LOG.warning(
            "Warm start: not used, since the model has no such variables: %s.%s",
            unknown,
            did_you_mean(unknown[0], recipes),
        )
    return known


def _shape_message(origin: str, name: str, wanted: Any, given: Any) -> str:
    return (
        f'Warm start: "{name}" has shape {tuple(wanted)} in the model and {tuple(given)} in '
        f"{origin}. Leave it out, or make the shapes equal."
    )


def _table(origin: str, recipes: Any, taken: Any, differ: Any) -> str:
    def verdict(name: str) -> str:
        if name in taken:
            return "taken"
        return f"shape differs ({differ[name]})" if name in differ else "left"

    width = max((len(name) for name in recipes), default=0)
    rows = [f"  {name:<{width}}  {verdict(name)}" for name in sorted(recipes)]
    return "\n".join([f"Warm start from {origin}:", *rows])
