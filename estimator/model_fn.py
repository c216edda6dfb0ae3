"""The contract: what a model_fn takes and what it gives back.

    def model_fn(features, labels, mode, params):
        logits = layers.dense(features["x"], params["n_classes"])
        if mode == ModeKeys.PREDICT:
            return EstimatorSpec(mode, predictions={"logits": logits})
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return EstimatorSpec(mode, loss=loss, train_op=optax.adagrad(0.1))

An EstimatorSpec is a pytree: its arrays are data, its optimizer and hooks are static, so a trace
hands back the optimizer itself.
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from estimator.export_outputs import as_export_output
from estimator.host_features import HostOutput
from estimator.messages import did_you_mean
from estimator.metrics import Metric
from estimator.mode_keys import MODES, ModeKeys
from estimator.session import SessionRunHook, check_hooks

_ARGUMENTS = ("features", "labels", "mode", "params", "config")
_DATA = ("predictions", "loss", "eval_metric_ops", "export_outputs")
_HOOKS = ("training_chief_hooks", "training_hooks", "evaluation_hooks", "prediction_hooks")


@dataclasses.dataclass(frozen=True)
class Scaffold:
    """What happens once, before a model is first trained.

    Attributes:
        init_fn: `init_fn(variables, batches) -> variables`. It is given the fresh variables by
            name and an iterator of batches `(features, labels)`, which are trained on afterwards,
            too. Names, shapes and dtypes must stay.
    """

    init_fn: Callable[[dict[str, jax.Array], Any], Mapping[str, Any]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class EstimatorSpec:
    """What a model_fn returns for one mode.

    Attributes:
        mode: one of `ModeKeys`.
        predictions: an array, or a dict of arrays; PREDICT needs it.
        loss: an array of one element; TRAIN and EVAL need it.
        train_op: an optax transformation, applied to the gradient of the loss with respect to the
            trainable variables; anything with `init` and `update`. TRAIN needs it where there are
            trainable variables.
        eval_metric_ops: metrics by name (see `estimator.metrics`).
        export_outputs: answers of an exported model by name.
        training_chief_hooks: hooks of TRAIN that go before the others.
        training_hooks: hooks of TRAIN.
        scaffold: what happens once before training.
        evaluation_hooks: hooks of EVAL.
        prediction_hooks: hooks of PREDICT.

    Raises:
        ValueError, TypeError: if a field that the mode needs is missing, or is of another kind.
    """

    mode: str
    predictions: Any = None
    loss: Any = None
    train_op: Any = None
    eval_metric_ops: Mapping[str, Metric] | None = None
    export_outputs: Mapping[str, Any] | None = None
    training_chief_hooks: Any = None
    training_hooks: Any = None
    scaffold: Scaffold | None = None
    evaluation_hooks: Any = None
    prediction_hooks: Any = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(
                f"EstimatorSpec: mode is {self.mode!r}. Give ModeKeys.TRAIN, ModeKeys.EVAL or "
                "ModeKeys.PREDICT: pass on the `mode` of your model_fn."
            )
        _check_needed(self)
        put = object.__setattr__
        put(self, "loss", _checked_loss(self.loss))
        put(self, "predictions", _checked_predictions(self.predictions))
        put(self, "export_outputs", _checked_exports(self.export_outputs))
        put(self, "eval_metric_ops", _checked_metrics(self.eval_metric_ops))
        _check_train_op(self.train_op)
        for field in _HOOKS:
            where = f"EstimatorSpec: {field}"
            put(self, field, check_hooks(getattr(self, field), SessionRunHook, where))
        if self.scaffold is not None and not isinstance(self.scaffold, Scaffold):
            raise TypeError(f"EstimatorSpec: scaffold must be a Scaffold, got {self.scaffold!r}.")

    def _replace(self, **changes: Any) -> "EstimatorSpec":
        """Returns a copy with other fields, as a namedtuple's `_replace` does."""
        if changes.get("mode", self.mode) != self.mode:
            raise ValueError(
                f"EstimatorSpec: the mode cannot be changed from {self.mode!r} to "
                f"{changes['mode']!r}. Build a new EstimatorSpec."
            )
        return dataclasses.replace(self, **changes)


def _flatten(spec: EstimatorSpec) -> tuple[Any, Any]:
    static = [f.name for f in dataclasses.fields(spec) if f.name not in _DATA]
    keys = [(jax.tree_util.GetAttrKey(n), getattr(spec, n)) for n in _DATA]
    return keys, tuple((name, getattr(spec, name)) for name in static)


def _unflatten(static: Any, data: Any) -> EstimatorSpec:
    # JAX rebuilds trees with placeholders for leaves, so nothing is checked here.
    spec = object.__new__(EstimatorSpec)
    for name, value in [*static, *zip(_DATA, data, strict=True)]:
        object.__setattr__(spec, name, value)
    return spec


jax.tree_util.register_pytree_with_keys(EstimatorSpec, _flatten, _unflatten)


class ModelFn:
    """A user's model_fn, inspected once and called with what its signature names.

    Args:
        fn: the model_fn: a function, partial, bound method or callable object.
        params: handed to it as a copy, one for each call; an empty dict if there are none.
        config: handed to it.

    Raises:
        TypeError: if it is not callable.
        ValueError: if its arguments are not those of a model_fn.
    """

    def __init__(self, fn: Callable[..., Any], params: Any, config: Any) -> None:
        if not callable(fn):
            raise TypeError(f"model_fn must be a function, got {fn!r}.")
        self.fn = fn
        self.params = copy.deepcopy({} if params is None else params)
        self.config = config
        signature = inspect.signature(fn).parameters.values()
        names = [p.name for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        nameless = [p.name for p in signature if p.kind is p.POSITIONAL_ONLY]
        takes_any = any(p.kind is p.VAR_KEYWORD for p in signature)
        optional = {p.name for p in signature if p.default is not p.empty}
        unknown = [n for n in names if n not in _ARGUMENTS and n not in optional]
        if "features" not in names or nameless:
            raise ValueError(
                f"model_fn takes {[*nameless, *names]}: it must have an argument named `features`. "
                f"The arguments of a model_fn are {list(_ARGUMENTS)}, given by name."
            )
        if unknown:
            hint = did_you_mean(unknown[0], _ARGUMENTS)
            raise ValueError(
                f"model_fn takes {unknown}, which no Estimator gives.{hint} The arguments of a "
                f"model_fn are {list(_ARGUMENTS)}; put the rest into `params`."
            )
        self.takes = frozenset(_ARGUMENTS if takes_any else names)
        if params is not None and "params" not in self.takes:
            raise ValueError(
                f"model_fn takes {names}, without `params`, but the Estimator was given params. "
                "Add the argument, or give no params."
            )

    @property
    def length_buckets(self) -> tuple[int, ...] | None:
        """The sizes that lengths are filled up to."""
        return None if self.config is None else self.config.length_buckets

    def __call__(self, features: Any, labels: Any, mode: str, config: Any = None) -> EstimatorSpec:
        """Returns the spec for one mode; `config` stands in for that of the Estimator.

        Raises:
            ValueError: if there are labels and the model_fn takes none, or the spec's mode differs.
            TypeError: if it returns something else than an EstimatorSpec.
        """
        given = {
            "features": features,
            "labels": labels,
            "mode": mode,
            "params": copy.deepcopy(self.params),
            "config": self.config if config is None else config,
        }
        if "labels" not in self.takes and labels is not None:
            raise ValueError(
                "model_fn takes no `labels`, but input_fn gives labels. Add the argument, or let "
                "input_fn give features alone."
            )
        spec = self.fn(**{name: value for name, value in given.items() if name in self.takes})
        if not isinstance(spec, EstimatorSpec):
            raise TypeError(f"model_fn should return an EstimatorSpec, got {type(spec).__name__}.")
        if spec.mode != mode:
            raise ValueError(
                f"model_fn was called with mode {mode!r} but returned a spec of mode "
                f"{spec.mode!r}. Pass on the mode it is given."
            )
        return spec


def _check_needed(spec: EstimatorSpec) -> None:
    needed = "predictions" if spec.mode == ModeKeys.PREDICT else "loss"
    if getattr(spec, needed) is None:
        given = [f.name for f in dataclasses.fields(spec) if getattr(spec, f.name) is not None]
        raise ValueError(
            f"Missing {needed}: an EstimatorSpec of mode {spec.mode!r} needs `{needed}`, "
            f"it was given only {given}."
        )


def _checked_loss(loss: Any) -> Any:
    if loss is None:
        return None
    loss = jnp.asarray(loss)
    if loss.size != 1:
        raise ValueError(
            f"Loss must be a single number, got an array of shape {loss.shape}. Take its mean."
        )
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(f"Loss must be a floating number, got dtype {loss.dtype}.")
    return loss.reshape(())


def _checked_predictions(predictions: Any) -> Any:
    if not isinstance(predictions, Mapping):
        if predictions is not None:
            _check_answer("predictions", predictions)
        return predictions
    for name, value in predictions.items():
        _check_answer(f'predictions["{name}"]', value)
    return dict(predictions)


def _checked_exports(outputs: Any) -> dict[str, Any] | None:
    if outputs is None:
        return None
    if not isinstance(outputs, Mapping):
        raise TypeError(
            f"EstimatorSpec: export_outputs must be a dict of answers by name, got {outputs!r}."
        )
    for name, value in outputs.items():
        for key, answer in as_export_output(value).answers().items():
            _check_answer(f'export_outputs["{name}"]["{key}"]', answer)
    return dict(outputs)


def _check_answer(where: str, value: Any) -> None:
    dtype = getattr(value, "dtype", None)
    numeric = dtype is not None and (jnp.issubdtype(dtype, jnp.number) or dtype.kind == "b")
    if not numeric and not isinstance(value, HostOutput):
        raise TypeError(
            f"EstimatorSpec: {where} must be an array or a host_output, got {value!r}. "
            "Strings are made on the host: host_output(Lookup(names), ids)."
        )


def _checked_metrics(metrics: Any) -> dict[str, Metric]:
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise TypeError(f"eval_metric_ops must be a dict of metrics by name, got {metrics!r}.")
    for name, metric in metrics.items():
        if name in ("loss", "global_step"):
            raise ValueError(
                f'Metric with name "{name}" is not allowed: the Estimator itself reports '
                f'"{name}". Give the metric another name.'
            )
        if not isinstance(metric, Metric):
            raise TypeError(
                f'eval_metric_ops["{name}"] must be a metric such as metrics.mean(values), got '
                f"{metric!r}."
            )
        leaves = jax.tree.leaves(metric)
        if any(leaf is metric or isinstance(leaf, str) for leaf in leaves):
            raise TypeError(
                f'eval_metric_ops["{name}"]: {type(metric).__name__} must be a pytree of sums. '
                "Write @jax.tree_util.register_dataclass and @dataclasses.dataclass(frozen=True) "
                "above the class; a field that is no sum, such as a name, is declared with "
                'dataclasses.field(metadata={"static": True}).'
            )
    return dict(metrics)


def _check_train_op(train_op: Any) -> None:
    if train_op is None:
        return
    if not all(callable(getattr(train_op, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"EstimatorSpec: train_op must be an optax transformation, with `init` and `update`, "
            f"got {train_op!r}. For example train_op=optax.adagrad(0.1)."
        )
