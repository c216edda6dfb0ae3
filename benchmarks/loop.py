"""The loops beside hand-written JAX loops of the same model and data, in one run.

    python benchmarks/loop.py               # all cases, two to three minutes
    python benchmarks/loop.py --case train  # those whose name begins so

One JSON line a case: what was measured here and by hand, their ratio, and the ratio that is wanted.
Repetitions alternate between the two, and each figure is the median of its repetitions; give the
machine nothing else to do. The Estimator runs with its default hooks.
"""

import argparse
import functools
import itertools
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import REPETITIONS, Stopwatch, compare, report

import estimator as est

TINY = ((4, 10, 10, 3), 32)
MLP = ((784, 256, 128, 10), 128)


def make_data(sizes, batch, batches=64):
    """Returns floats `(rows, sizes[0])` and int32 labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch * batches, sizes[0])).astype(np.float32)
    return x, rng.integers(0, sizes[-1], len(x)).astype(np.int32)


def model_fn(features, labels, mode, params):
    """A fully connected network."""
    net = features["x"]
    for units in params["sizes"][1:-1]:
        net = est.layers.dense(net, units, activation=jax.nn.relu)
    logits = est.layers.dense(net, params["sizes"][-1])
    ids = jnp.argmax(logits, 1)
    if mode == est.ModeKeys.PREDICT:
        predictions = {"class_ids": ids, "probabilities": jax.nn.softmax(logits)}
        return est.EstimatorSpec(mode, predictions=predictions)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    metrics = {"accuracy": est.metrics.accuracy(labels, ids)}
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adagrad(0.1), eval_metric_ops=metrics)


class ByHand:
    """What a JAX user writes: a jitted step with donated state in a plain loop."""

    def __init__(self, sizes):
        keys = jax.random.split(jax.random.key(0), len(sizes))
        init = jax.nn.initializers.glorot_uniform()
        pairs = list(itertools.pairwise(sizes))
        self.params = [
            (init(key, pair), jnp.zeros(pair[1])) for key, pair in zip(keys, pairs, strict=False)
        ]
        optimizer = optax.adagrad(0.1)
        self.opt_state = optimizer.init(self.params)

        def logits_of(params, x):
            for kernel, bias in params[:-1]:
                x = jax.nn.relu(x @ kernel + bias)
            return x @ params[-1][0] + params[-1][1]

        def loss_of(params, x, y):
            logits = logits_of(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), logits

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def train_step(params, opt_state, x, y):
            (loss, _), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, x, y)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss

        @jax.jit
        def eval_step(params, totals, x, y):
            loss, logits = loss_of(params, x, y)
            return totals[0] + loss, totals[1] + (logits.argmax(1) == y).sum()

        @jax.jit
        def predict_step(params, x):
            logits = logits_of(params, x)
            return {"class_ids": logits.argmax(1), "probabilities": jax.nn.softmax(logits)}

        self.train_step, self.eval_step, self.predict_step = train_step, eval_step, predict_step

    def train(self, x, y, batch, steps):
        """Returns steps a second."""
        starts = range(0, len(x), batch)
        begin = time.perf_counter()
        for i in range(steps):
            start = starts[i % len(starts)]
            rows = slice(start, start + batch)
            self.params, self.opt_state, loss = self.train_step(
                self.params, self.opt_state, x[rows], y[rows]
            )
        loss.block_until_ready()
        return steps / (time.perf_counter() - begin)

    def evaluate(self, x, y, batch):
        """Returns examples a second."""
        begin = time.perf_counter()
        totals = (0.0, 0)
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            totals = self.eval_step(self.params, totals, x[rows], y[rows])
        float(totals[0]), int(totals[1])
        return len(x) / (time.perf_counter() - begin)

    def predict(self, x, batch):
        """Returns examples a second, given out one by one."""

        def answers():
            for start in range(0, len(x), batch):
                fetched = jax.device_get(self.predict_step(self.params, x[start : start + batch]))
                for i in range(batch):
                    yield {name: array[i] for name, array in fetched.items()}

        begin = time.perf_counter()
        count = sum(1 for _ in answers())
        return count / (time.perf_counter() - begin)


def make_estimator(sizes, **config):
    """Returns an Estimator in a new directory."""
    return est.Estimator(
        model_fn,
        tempfile.mkdtemp(),
        params={"sizes": sizes},
        config=est.RunConfig(random_seed=0, **config),
    )


def train_case(name, model, steps, wanted, **config):
    """Compares steps a second."""
    sizes, batch = model
    x, y = make_data(sizes, batch)
    hand = ByHand(sizes)
    estimator = make_estimator(sizes, **config)
    input_fn = est.numpy_input_fn({"x": x}, y, batch, num_epochs=None, shuffle=False)

    def here():
        watch = Stopwatch(101, 101 + steps)
        estimator.train(input_fn, hooks=[watch], steps=101 + steps)
        return steps / (watch.times[1] - watch.times[0])

    compare(name, "steps/s", here, lambda: hand.train(x, y, batch, steps), wanted)


def train_tiny():
    """4-10-10-3, batch 32."""
    train_case("train tiny", TINY, 10_000, 0.7)


def train_tiny_blocks():
    """The same, 50 steps in one dispatch; by hand one step at a time."""
    train_case("train tiny, steps_per_execution=50", TINY, 10_000, 2.5, steps_per_execution=50)


def train_mlp():
    """784-256-128-10, batch 128."""
    train_case("train mlp", MLP, 1_000, 0.9)


def evaluate_mlp():
    """Streaming evaluation."""
    sizes, batch = MLP
    x, y = make_data(sizes, batch, 256)
    hand, estimator = ByHand(sizes), make_estimator(sizes)
    input_fn = est.numpy_input_fn({"x": x}, y, batch, num_epochs=1, shuffle=False)
    estimator.train(input_fn, steps=1)

    def here():
        begin = time.perf_counter()
        estimator.evaluate(input_fn)
        return len(x) / (time.perf_counter() - begin)

    compare("evaluate mlp", "examples/s", here, lambda: hand.evaluate(x, y, batch), 0.7)


def predict_mlp():
    """Prediction, one dict for each example."""
    sizes, batch = MLP
    x, y = make_data(sizes, batch, 256)
    hand, estimator = ByHand(sizes), make_estimator(sizes)
    estimator.train(est.numpy_input_fn({"x": x}, y, batch, shuffle=False), steps=1)
    input_fn = est.numpy_input_fn({"x": x}, None, batch, num_epochs=1, shuffle=False)

    def here():
        begin = time.perf_counter()
        count = sum(1 for _ in estimator.predict(input_fn))
        return count / (time.perf_counter() - begin)

    compare("predict mlp", "examples/s", here, lambda: hand.predict(x, batch), 0.6)


def evaluate_again():
    """What a second evaluate of one batch costs, and what it compiles."""
    sizes, batch = MLP
    x, y = make_data(sizes, batch, 1)
    estimator = make_estimator(sizes)
    input_fn = est.numpy_input_fn({"x": x}, y, batch, num_epochs=1, shuffle=False)
    estimator.train(input_fn)
    estimator.evaluate(input_fn)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "compile" in event else None
    )
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        estimator.evaluate(input_fn)
        times.append((time.perf_counter() - begin) * 1e3)
    report(
        case="evaluate again, one batch",
        unit="ms",
        here=statistics.median(times),
        wanted_below=5.0,
        compiled=len(compiled),
    )


def import_time():
    """What `import estimator` costs over `import jax, optax`, each in a fresh process."""

    def seconds(code):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    base, ours = "import jax, optax", "import jax, optax, estimator"
    seconds(ours)
    pairs = [(seconds(ours), seconds(base)) for _ in range(REPETITIONS)]
    extra = statistics.median(a - b for a, b in pairs)
    report(case="import", unit="s", here=extra, wanted_below=0.15)


CASES = (
    train_tiny,
    train_tiny_blocks,
    train_mlp,
    evaluate_mlp,
    predict_mlp,
    evaluate_again,
    import_time,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", help="the beginning of the names of the cases to run")
    args = parser.parse_args()
    for case in CASES:
        if case.__name__.startswith(args.case.replace(" ", "_")):
            case()


if __name__ == "__main__":
    main()
