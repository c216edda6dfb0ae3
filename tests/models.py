"""What many tests share: small model_fns, inputs, hooks that take notes, readers.

estimator = make(line, model_dir, save_checkpoints_steps=2)
estimator.train(lambda: batches(5))
assert steps_of(estimator) == [0, 2, 4, 5]
"""

import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import monitoring

import estimator as est
from estimator.variables import initialize, trace

ROWS = 4
QUIET = {"save_summary_steps": 0, "log_step_count_steps": None}


def line(features, labels, mode, params):
    """One weight of two, a bias, mean squared error; `params["rate"]` is the learning rate."""
    kernel = est.get_variable("line/kernel", (2,), np.array([0.5, -0.25], np.float32))
    bias = est.get_variable("line/bias", (), 0.0, np.float32)
    predicted = features["x"] @ kernel + bias
    if mode == est.ModeKeys.PREDICT:
        answers = {"y": predicted, "double": predicted * 2}
        return est.EstimatorSpec(mode, predictions=answers)
    loss = jnp.mean((predicted - labels) ** 2)
    error = jnp.abs(predicted - labels)
    return est.EstimatorSpec(
        mode,
        loss=loss,
        train_op=optax.sgd((params or {}).get("rate", 0.1)),
        eval_metric_ops={"error": est.metrics.mean(error)},
    )


def noisy(features, labels, mode):
    """A hidden layer, dropout, a moving average, a tag, a summary, and a count of the steps."""
    net = est.layers.dense(features["x"], 8, jnp.tanh, kernel_initializer=ramp, name="hidden")
    net = est.layers.dropout(net, 0.25, training=mode == est.ModeKeys.TRAIN)
    predicted = est.layers.dense(net, 1, kernel_initializer=ramp, name="out")[:, 0]
    average = est.get_variable("average", (), 0.0, np.float32, trainable=False)
    est.assign("average", 0.5 * average + 0.5 * jnp.mean(predicted))
    seen = est.get_variable("seen", (), 0, np.int32, trainable=False)
    est.assign("seen", seen + 1)
    if mode == est.ModeKeys.PREDICT:
        return est.EstimatorSpec(mode, predictions=predicted)
    loss = jnp.mean((predicted - labels) ** 2)
    est.tag("biggest", jnp.max(jnp.abs(predicted)))
    est.summary.scalar("mean", jnp.mean(predicted))
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adagrad(0.05))


def ramp(key, shape, dtype):
    """An initializer that compiles faster than a random one."""
    return jnp.linspace(-0.5, 0.5, shape[0] * shape[1], dtype=dtype).reshape(shape)


def poisoned(features, labels, mode):
    """Its loss is the mean of a weight times `x`: the loss and gradient are what the input says."""
    weight = est.get_variable("weight", (), 1.0, np.float32)
    if mode == est.ModeKeys.PREDICT:
        return est.EstimatorSpec(mode, predictions=features["x"][:, 0] * weight)
    loss = jnp.mean(features["x"][:, 0]) * weight
    est.tag("watched", loss * 2)
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))


class Traced:
    """A model_fn that counts how often it is traced, by mode."""

    def __init__(self, model_fn=line):
        self.model_fn = model_fn
        self.counts = {}

    def __call__(self, features, labels, mode, params):
        self.counts[mode] = self.counts.get(mode, 0) + 1
        return self.model_fn(features, labels, mode, params)


def make(model_fn: Any, model_dir: str | None = None, **settings: Any) -> est.Estimator:
    """Returns an Estimator with a seed; what is no setting of RunConfig goes to the constructor."""
    given = {n: settings.pop(n) for n in ("params", "warm_start_from") if n in settings}
    config = est.RunConfig(**{"random_seed": 1, **settings})
    return est.Estimator(model_fn, model_dir, config, **given)


def quiet(model_dir: str, model_fn: Any = line, **settings: Any) -> est.Estimator:
    """Returns an Estimator without the hooks that log and write."""
    return make(model_fn, model_dir, **(QUIET | settings))


def batches(count: int, rows: int = ROWS, seed: int = 0) -> list[Any]:
    """Returns batches `({"x": (rows, 2)}, (rows,))` of a line with some noise."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        x = rng.normal(size=(rows, 2)).astype(np.float32)
        noise = rng.normal(size=rows).astype(np.float32)
        made.append(({"x": x}, x @ np.array([1.0, 2.0], np.float32) + 0.1 * noise))
    return made


def endless(seed: int = 0) -> Iterator[Any]:
    """Yields the same five batches for ever."""
    return itertools.cycle(batches(5, seed=seed))


def joined(data: list[Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns batches as arrays, for `numpy_input_fn`."""
    x = np.concatenate([features["x"] for features, _ in data])
    return {"x": x}, np.concatenate([labels for _, labels in data])


def features_only(count: int, rows: int = ROWS) -> list[Any]:
    """Returns the features of `batches`."""
    return [features for features, _ in batches(count, rows)]


def steps_of(estimator: est.Estimator) -> list[int]:
    """Returns the steps of the checkpoints there are."""
    return [int(os.path.basename(path)) for path in estimator.all_checkpoints()]


def values_of(estimator: est.Estimator) -> dict[str, np.ndarray]:
    """Returns all variables of the newest checkpoint by name."""
    return {n: estimator.get_variable_value(n) for n in estimator.get_variable_names()}


def first_values(fn: Any, *args: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the first values of all variables that a function asks for."""
    return jax.device_get(initialize(trace(fn, *args)[0], seed))


def assert_close(actual: Any, wanted: Any, tolerance: float = 0.0) -> None:
    """Compares dicts of arrays by name; exactly by default."""
    assert actual.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(
            actual[name], wanted[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


class Notes(est.SessionRunHook):
    """Writes down every call, with its name; sees every step."""

    def __init__(self, name: str = "A", log: list[Any] | None = None, fetches: Any = None) -> None:
        self.name = name
        self.log = [] if log is None else log
        self.fetches = fetches
        self.results = []
        self.steps = []

    def begin(self):
        self.log.append([self.name, "begin"])

    def after_create_session(self, session, coord):
        self.log.append([self.name, "after_create_session"])

    def before_run(self, run_context):
        self.log.append([self.name, "before_run"])
        return None if self.fetches is None else est.SessionRunArgs(self.fetches)

    def after_run(self, run_context, run_values):
        self.log.append([self.name, "after_run"])
        self.steps.append(run_context.session.global_step)
        self.results.append(run_values.results)

    def end(self, session):
        self.log.append([self.name, "end", int(session.run("global_step"))])


class ListenerNotes(est.CheckpointSaverListener):
    """Writes down every call of a listener."""

    def __init__(self, log: list[Any] | None = None, stop_at: int | None = None) -> None:
        self.log = [] if log is None else log
        self.stop_at = stop_at

    def begin(self):
        self.log.append(["listener", "begin"])

    def before_save(self, session, global_step_value):
        self.log.append(["listener", "before_save", global_step_value])

    def after_save(self, session, global_step_value):
        self.log.append(["listener", "after_save", global_step_value])
        return global_step_value == self.stop_at

    def end(self, session, global_step_value):
        self.log.append(["listener", "end", global_step_value])


def scalars(directory: str) -> dict[str, list[tuple[int, float]]]:
    """Returns what event files hold, `{tag: [(step, value)]}`, read without the package's help."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(Path(directory).glob("events.out.tfevents.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            event = Event.FromString(data[position + 12 : position + 12 + length])
            position += 12 + length + 4
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
        assert position == len(data), f"{path} is cut off"
    return found


def lines_of(caplog: Any, start: str) -> list[str]:
    """Returns what was logged and begins with `start`."""
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith(start)]


def compiled_programs() -> int:
    """Returns how many programs this process has compiled, or read from the cache, until now."""
    return len(_COMPILED)


_COMPILED: list[str] = []


def _note(name: str, *_: Any, **__: Any) -> None:
    if name == "/jax/core/compile/backend_compile_duration":
        _COMPILED.append(name)


monitoring.register_event_duration_secs_listener(_note)
