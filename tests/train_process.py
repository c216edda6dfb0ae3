"""A process that trains and can be killed; the model and the input that tests of resuming share.

    python train_process.py

For every line of JSON it reads, it forks a child that makes one train call as `train_as` says. The
child prints its process id, then a dot for each step; when it is gone, its exit code follows. The
parent imports everything once and starts no thread, so a child costs no import.
"""

import json
import os
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import estimator as est
from estimator import checkpoint

ROWS = 43


def table(rows: int = ROWS) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns features `{"x": (rows, 4)}` and classes `(rows,)` below 3."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    return {"x": x}, (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 0)


def shuffled(num_epochs=None, seed=3, batch_size=8, rows=ROWS):
    """Returns an input_fn of shuffled batches, which cross the borders of epochs."""
    features, labels = table(rows)
    return est.numpy_input_fn(
        features, labels, batch_size, num_epochs=num_epochs, shuffle=True, seed=seed
    )


def ordered(count: int, rows: int = 8) -> list[Any]:
    """Returns batches of `rows`, in order."""
    features, labels = table(count * rows)
    return [
        ({"x": features["x"][i : i + rows]}, labels[i : i + rows])
        for i in range(0, count * rows, rows)
    ]


def net(features, labels, mode):
    """A 4-10-10-3 classifier with dropout."""
    training = mode == est.ModeKeys.TRAIN
    hidden = est.layers.dense(features["x"], 10, jnp.tanh)
    hidden = est.layers.dropout(hidden, 0.2, training=training)
    hidden = est.layers.dense(hidden, 10, jnp.tanh)
    logits = est.layers.dense(hidden, 3)
    if mode == est.ModeKeys.PREDICT:
        answers = {"classes": jnp.argmax(logits, -1), "probabilities": jax.nn.softmax(logits)}
        return est.EstimatorSpec(mode, predictions=answers)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    accuracy = est.metrics.accuracy(labels, jnp.argmax(logits, -1))
    metrics = {"accuracy": accuracy}
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adam(0.01), eval_metric_ops=metrics)


def estimator_of(model_fn: Any, model_dir: str, **settings: Any) -> est.Estimator:
    """Returns an Estimator with a seed that saves every third step, unless told otherwise."""
    config = est.RunConfig(**{"random_seed": 5, "save_checkpoints_steps": 3, **settings})
    return est.Estimator(model_fn, model_dir, config)


def make_net(model_dir: str, **settings: Any) -> est.Estimator:
    """Returns an Estimator of `net`."""
    return estimator_of(net, model_dir, **settings)


def content(model_dir: str) -> dict[str, Any]:
    """Returns everything that the newest checkpoint holds, by name."""
    path = checkpoint.latest_checkpoint(model_dir)
    assert path is not None
    manifest = checkpoint.read_manifest(path)
    return {
        "step": manifest.step,
        "seed": manifest.seed,
        "position": manifest.position,
        "ended": checkpoint.has_ended(path),
        **{f"variables/{n}": x for n, x in checkpoint.read_variables(path).items()},
        **{f"opt_state/{n}": x for n, x in checkpoint.read_opt_state(path).items()},
    }


class Dots(est.SessionRunHook):
    """Prints a dot for each step, and takes its time."""

    def after_run(self, run_context, run_values):
        os.write(1, b".")
        time.sleep(0.003)


class SavingDots(est.CheckpointSaverListener):
    """Prints a dot before each save."""

    def before_save(self, session, global_step_value):
        os.write(1, b".")


class WeightsWriter(est.BestExporter):
    """Exports the best variables as an npz file, with a dot in the middle of it."""

    def write(self, estimator, export_path, checkpoint_path):
        os.makedirs(export_path, exist_ok=True)
        path = os.path.join(export_path, os.path.basename(checkpoint_path))
        np.savez(f"{path}.npz", **checkpoint.read_variables(checkpoint_path))
        os.write(1, b".")
        time.sleep(0.003)
        return f"{path}.npz"


def train_as(
    model_dir: str, settings: dict[str, Any], source: dict[str, Any], limits: dict[str, int]
) -> None:
    """Makes one train call."""
    make_net(model_dir, **settings).train(shuffled(**source), [Dots()], **limits)


def cycle_as(
    model_dir: str, settings: dict[str, Any], source: dict[str, Any], limits: dict[str, int]
) -> None:
    """Makes one call of train_and_evaluate, which exports the best model and stops early."""
    estimator = make_net(model_dir, **settings)
    stop = est.stop_if_no_decrease_hook(estimator, "loss", max_steps_without_decrease=8)
    est.train_and_evaluate(
        estimator,
        est.TrainSpec(shuffled(**source), hooks=[Dots(), stop], saving_listeners=[SavingDots()]),
        est.EvalSpec(lambda: ordered(2), hooks=[Dots()], exporters=WeightsWriter("best"), **limits),
    )


def main() -> None:
    import orbax.checkpoint  # noqa: F401 - the first save would import it in every child

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.write(1, b"%d\n" % os.getpid())
            call = json.loads(line)
            (cycle_as if "every_n_steps" in call["limits"] else train_as)(**call)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        os.write(1, b"\n%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
