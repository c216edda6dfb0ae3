"""Export outputs: what the signatures of an exported model answer.

    EstimatorSpec(mode, predictions, export_outputs={
        "serving_default": ClassificationOutput(scores=probabilities, classes=names),
        "predict": PredictOutput(predictions),
    })

A plain dict of answers stands for a PredictOutput.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp

from estimator.host_features import HostOutput
from estimator.mode_keys import ModeKeys

DEFAULT = "serving_default"

_Kind = TypeVar("_Kind")


class ExportOutput:
    """Base of export outputs."""

    method: ClassVar[str] = "predict"

    def answers(self) -> dict[str, Any]:
        """Returns the answers by name."""
        raise NotImplementedError


def _tree(kind: type[_Kind]) -> type[_Kind]:
    """Registers a dataclass of arrays with JAX."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]

    def rebuilt(_: None, values: Iterable[Any]) -> Any:
        # JAX rebuilds trees with placeholders for leaves, so nothing is checked here.
        made = object.__new__(kind)
        for name, value in zip(names, values, strict=True):
            object.__setattr__(made, name, value)
        return made

    def taken_apart(made: Any) -> tuple[list[Any], None]:
        return [getattr(made, name) for name in names], None

    jax.tree_util.register_pytree_node(kind, taken_apart, rebuilt)
    return kind


@_tree
@dataclasses.dataclass(frozen=True, eq=False)
class PredictOutput(ExportOutput):
    """Any answers.

    >>> PredictOutput(3.0).answers()
    {'output': 3.0}

    Attributes:
        outputs: answers by name, or one, which is named `output`. A name is a str, or a tuple of
            them: `("head", "scores")` is `head/scores`.

    Raises:
        ValueError: if a name is something else.
    """

    outputs: Any

    def __post_init__(self) -> None:
        for name in self.answers():
            parts = name if isinstance(name, tuple) else (name,)
            if not all(isinstance(part, str) for part in parts):
                raise ValueError(
                    f"PredictOutput: the name of an answer must be a str or a tuple of them, got "
                    f"{name!r}."
                )

    def answers(self) -> dict[str, Any]:
        """Returns the answers by name."""
        named = isinstance(self.outputs, Mapping)
        return dict(self.outputs) if named else {"output": self.outputs}


@_tree
@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationOutput(ExportOutput):
    """Classes and their scores.

    Attributes:
        scores: floats of shape (batch, classes).
        classes: names, a `host_output` of the same shape, or None.

    Raises:
        ValueError: if one is of another kind, or there is neither.
    """

    method: ClassVar[str] = "classify"

    scores: Any = None
    classes: Any = None

    def __post_init__(self) -> None:
        if self.scores is None and self.classes is None:
            raise ValueError("ClassificationOutput: give scores, or classes, or both.")
        if self.scores is not None:
            _check_floats("ClassificationOutput: scores", self.scores)
        if self.classes is not None and not isinstance(self.classes, HostOutput):
            raise ValueError(
                "ClassificationOutput: classes must be names, such as host_output(Lookup(names), "
                f"ids), got {self.classes!r}."
            )

    def answers(self) -> dict[str, Any]:
        """Returns those of `scores` and `classes` that there are."""
        both = {"classes": self.classes, "scores": self.scores}
        return {name: answer for name, answer in both.items() if answer is not None}


@_tree
@dataclasses.dataclass(frozen=True, eq=False)
class RegressionOutput(ExportOutput):
    """A number for each example.

    Attributes:
        value: floats of shape (batch,) or (batch, 1).

    Raises:
        ValueError: if it is something else.
    """

    method: ClassVar[str] = "regress"

    value: Any

    def __post_init__(self) -> None:
        _check_floats("RegressionOutput: value", self.value)

    def answers(self) -> dict[str, Any]:
        """Returns the value as `outputs`."""
        return {"outputs": self.value}


def _check_floats(what: str, value: Any) -> None:
    dtype = getattr(value, "dtype", None)
    floats = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    if not floats and not isinstance(value, HostOutput):
        raise ValueError(f"{what} must be an array of floats or a host_output, got {value!r}.")


def as_export_output(value: Any) -> ExportOutput:
    """Returns an export output for what a spec holds.

    >>> as_export_output({"a": 1}).answers()
    {'a': 1}
    """
    return value if isinstance(value, ExportOutput) else PredictOutput(value)


def sorted_answers(output: Any) -> list[Any]:
    """Returns the answers of an export output, in the order of their names."""
    return [answer for _, answer in named_answers(output)]


def named_answers(output: Any) -> list[tuple[str, Any]]:
    """Returns the names and answers of an export output, sorted by name.

    >>> named_answers({"b": 1, ("head", "a"): 2})
    [('b', 1), ('head/a', 2)]
    """
    answers = as_export_output(output).answers()
    named = {
        "/".join(map(str, name)) if isinstance(name, tuple) else str(name): answer
        for name, answer in answers.items()
    }
    return sorted(named.items())


def spec_signatures(
    spec: Any, value_of: Callable[[Any], Any] = lambda metric: metric.compute()
) -> dict[str, ExportOutput]:
    """Returns what the signatures of a mode answer.

    In PREDICT they are those of the spec; else there is one, of the name of the mode, which answers
    `loss`, `metrics/<name>/value` and `predictions/<name>`.

    Args:
        spec: what the model_fn returned.
        value_of: gives the value of a metric.
    """
    if spec.mode == ModeKeys.PREDICT:
        return signatures(spec.export_outputs, spec.predictions)
    answers = {"loss": spec.loss}
    for name, metric in (spec.eval_metric_ops or {}).items():
        answers[f"metrics/{name}/value"] = value_of(metric)
    if isinstance(spec.predictions, Mapping):
        for key, answer in PredictOutput(spec.predictions).answers().items():
            name = "/".join(map(str, key)) if isinstance(key, tuple) else str(key)
            answers[f"predictions/{name}"] = answer
    elif spec.predictions is not None:
        answers["predictions"] = spec.predictions
    return {spec.mode: PredictOutput(answers)}


def signatures(
    export_outputs: Mapping[str, Any] | None, predictions: Any
) -> dict[str, ExportOutput]:
    """Returns the export outputs of a spec by signature; `serving_default` is among them.

    >>> list(signatures({"centers": 1}, None))
    ['centers', 'serving_default']

    Args:
        export_outputs: those of the spec.
        predictions: those of the spec, which are served where there are no others.

    Raises:
        ValueError: if there are several, and none is the default.
    """
    given = {name: as_export_output(value) for name, value in (export_outputs or {}).items()}
    if not given:
        return {DEFAULT: PredictOutput(predictions)}
    if DEFAULT not in given:
        if len(given) > 1:
            raise ValueError(
                f"Multiple export_outputs were provided, {sorted(given)}, but none of them is the "
                f'default. Name one of them "{DEFAULT}".'
            )
        given[DEFAULT] = next(iter(given.values()))
    return given
