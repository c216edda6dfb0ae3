"""Several devices beside one, and beside hand-written JAX loops, in one run.

    python benchmarks/devices.py                # all cases, about five minutes
    python benchmarks/devices.py --case lstm    # those whose name begins so

One JSON line a case: steps a second here and by hand, their ratio, and the ratio that is wanted.
The models are an LSTM classifier (10,000 words, 64 numbers a word, 128 units, 64 texts of up to 100
words) and a 784-256-128-10 network at batch 128. Each number of devices has a process of its own,
in which repetitions alternate between the two loops; figures are medians. Where JAX sees GPUs,
their cases follow. The last line compares `RunConfig(allocator="tuned")` with the default one. Give
the machine nothing else to do.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from measure import Stopwatch, compare, report

import estimator as est

WORDS, WIDTH, UNITS, TEXTS, LENGTH, CLASSES = 10_000, 64, 128, 64, 100, 2
SIZES, ROWS = (784, 256, 128, 10), 128
WARM_UP = 3
REPETITIONS = 5


def unroll(weights, words, lengths):
    """The last state of an LSTM for each text; steps past its end change nothing."""
    kernel, bias = weights

    def cell(carry, step):
        (state, memory), (word, time) = carry, step
        gates = jnp.concatenate([word, state], 1) @ kernel + bias
        i, f, g, o = jnp.split(gates, 4, 1)
        new_memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
        new_state = jax.nn.sigmoid(o) * jnp.tanh(new_memory)
        going = (time < lengths)[:, None]
        return (jnp.where(going, new_state, state), jnp.where(going, new_memory, memory)), None

    start = jnp.zeros((words.shape[0], kernel.shape[1] // 4))
    times = jnp.arange(words.shape[1])
    return jax.lax.scan(cell, (start, start), (jnp.swapaxes(words, 0, 1), times))[0][0]


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def lstm_fn(features, labels, mode):
    """The LSTM as a model_fn: `rowwise` lets each device scan its own texts."""
    words = est.layers.embedding(features["words"], WORDS, WIDTH)
    kernel = est.get_variable("kernel", (WIDTH + UNITS, 4 * UNITS))
    bias = est.get_variable("bias", (4 * UNITS,), jax.nn.initializers.zeros)
    state = est.rowwise(unroll, (kernel, bias), words, features["lengths"])
    loss = cross_entropy(est.layers.dense(state, CLASSES), labels)
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adagrad(0.05))


def lstm_by_hand(params, batch, mesh):
    """The same, as a JAX user writes it: on several devices the scan stands in a `shard_map`."""
    scan = unroll
    if mesh.size > 1:
        rows = PartitionSpec("data")
        scan = jax.shard_map(
            unroll,
            mesh=mesh,
            in_specs=(PartitionSpec(), rows, rows),
            out_specs=rows,
            check_vma=False,
        )
    words = params["embeddings"][batch["words"]]
    state = scan((params["kernel"], params["bias"]), words, batch["lengths"])
    return cross_entropy(state @ params["out"] + params["out_bias"], batch["labels"])


def lstm_params():
    keys, glorot = jax.random.split(jax.random.key(0), 3), jax.nn.initializers.glorot_uniform()
    return {
        "embeddings": jax.random.uniform(keys[0], (WORDS, WIDTH), minval=-0.05, maxval=0.05),
        "kernel": glorot(keys[1], (WIDTH + UNITS, 4 * UNITS)),
        "bias": jnp.zeros(4 * UNITS),
        "out": glorot(keys[2], (UNITS, CLASSES)),
        "out_bias": jnp.zeros(CLASSES),
    }


def lstm_batches(count=8):
    rng = np.random.default_rng(0)
    return [
        {
            "words": rng.integers(0, WORDS, (TEXTS, LENGTH)).astype(np.int32),
            "lengths": rng.integers(20, LENGTH + 1, TEXTS).astype(np.int32),
            "labels": rng.integers(0, CLASSES, TEXTS).astype(np.int32),
        }
        for _ in range(count)
    ]


def mlp_fn(features, labels, mode):
    """A fully connected network as a model_fn."""
    net = features["x"]
    for units in SIZES[1:-1]:
        net = est.layers.dense(net, units, activation=jax.nn.relu)
    loss = cross_entropy(est.layers.dense(net, SIZES[-1]), labels)
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adagrad(0.05))


def mlp_by_hand(params, batch, mesh):
    net = batch["x"]
    for kernel, bias in params[:-1]:
        net = jax.nn.relu(net @ kernel + bias)
    return cross_entropy(net @ params[-1][0] + params[-1][1], batch["labels"])


def mlp_params():
    keys, glorot = jax.random.split(jax.random.key(0), 3), jax.nn.initializers.glorot_uniform()
    pairs = itertools.pairwise(SIZES)
    return [(glorot(k, pair), jnp.zeros(pair[1])) for k, pair in zip(keys, pairs, strict=False)]


def mlp_batches(count=64):
    rng = np.random.default_rng(0)
    return [
        {
            "x": rng.normal(size=(ROWS, SIZES[0])).astype(np.float32),
            "labels": rng.integers(0, SIZES[-1], ROWS).astype(np.int32),
        }
        for _ in range(count)
    ]


MODELS = {
    "lstm": (lstm_fn, lstm_by_hand, lstm_params, lstm_batches, 30),
    "mlp": (mlp_fn, mlp_by_hand, mlp_params, mlp_batches, 500),
}


class ByHand:
    """What a JAX user writes: a jitted step with donated state, batches split over a mesh."""

    def __init__(self, loss_of, params, devices):
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        optimizer = optax.adagrad(0.05)
        self.rows = NamedSharding(mesh, PartitionSpec("data"))
        copied = NamedSharding(mesh, PartitionSpec())
        self.state = jax.device_put((params, optimizer.init(params)), copied)
        # Alone a CPU reads numpy memory itself, and may run ahead as far as it likes; several CPU
        # devices lock up when more than two steps are under way.
        on_cpu = devices[0].platform == "cpu"
        self.puts = len(devices) > 1 or not on_cpu
        self.window = 2 if len(devices) > 1 and on_cpu else None

        def step(state, batch):
            params, opt_state = state
            loss, gradients = jax.value_and_grad(loss_of)(params, batch, mesh)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        self.step = jax.jit(step, donate_argnums=0)

    def train(self, batches, steps):
        """Returns steps a second."""
        losses = []
        begin = time.perf_counter()
        for i in range(steps):
            batch = batches[i % len(batches)]
            batch = jax.device_put(batch, self.rows) if self.puts else batch
            self.state, loss = self.step(self.state, batch)
            losses.append(loss)
            if self.window is not None and len(losses) > self.window:
                losses[-1 - self.window].block_until_ready()
        loss.block_until_ready()
        return steps / (time.perf_counter() - begin)


def repeated(batches):
    """Yields `(features, labels)` for ever."""
    while True:
        for batch in batches:
            features = {name: array for name, array in batch.items() if name != "labels"}
            yield features, batch["labels"]


def make_estimator(model_fn, devices, allocator=None):
    """Returns an Estimator with default hooks, on those devices."""
    distribute = est.DataParallel(devices) if len(devices) > 1 else None
    config = est.RunConfig(random_seed=0, train_distribute=distribute, allocator=allocator)
    return est.Estimator(model_fn, tempfile.mkdtemp(), config)


def train_here(estimator, batches, steps):
    """Returns steps a second."""
    watch = Stopwatch(WARM_UP, WARM_UP + steps)
    estimator.train(lambda: repeated(batches), hooks=[watch], steps=WARM_UP + steps)
    return steps / (watch.times[1] - watch.times[0])


def beside_by_hand(name, count):
    """Prints the line of one model on so many devices."""
    model_fn, loss_of, params, batches, steps = MODELS[name]
    devices, data = jax.devices()[:count], batches()
    if len(devices) < count:
        return
    estimator = make_estimator(model_fn, devices)
    hand = ByHand(loss_of, params(), devices)
    kind = f"{count} {devices[0].platform} device{'s' if count > 1 else ''}"
    compare(
        f"{name}, {kind}",
        "steps/s",
        lambda: train_here(estimator, data, steps),
        lambda: hand.train(data, steps),
        0.9,
        REPETITIONS,
    )


def steps_a_second(allocator):
    """Prints the LSTM's steps a second on one device, for the process that asked."""
    model_fn, _, _, batches, steps = MODELS["lstm"]
    estimator, data = make_estimator(model_fn, jax.devices()[:1], allocator), batches()
    train_here(estimator, data, WARM_UP)
    print(train_here(estimator, data, 3 * steps))


def tuned_allocator():
    """Prints how the tuned allocator compares with the default one, in processes by turns."""
    commands = [["--alone", "tuned"], ["--alone", "default"]]
    pairs = [[float(in_process(command, 1)) for command in commands] for _ in range(REPETITIONS)]
    tuned, default = (statistics.median(side) for side in zip(*pairs, strict=True))
    report(
        case='lstm, 1 cpu device, allocator="tuned"',
        unit="steps/s",
        here=tuned,
        by_default=default,
        ratio=tuned / default,
    )


def in_process(arguments, devices, platform="cpu", file=__file__):
    """Runs a file in a process of its own with so many devices, and returns what it prints."""
    environment = {**os.environ, "JAX_PLATFORMS": platform, "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, file, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def gpus():
    """Returns how many GPUs JAX sees; asked in a process of its own, which lets go of them."""
    code = "import jax; print(sum(d.platform == 'gpu' for d in jax.devices()))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", help="the beginning of the names of the cases to run")
    parser.add_argument("--beside", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.beside:
        beside_by_hand(args.beside[0], int(args.beside[1]))
    elif args.alone:
        steps_a_second(None if args.alone == "default" else args.alone)
    else:
        found = gpus()
        counts = [("cpu", 1), ("cpu", 2), *(("cuda", n) for n in (1, 2, 4, 8) if n <= found)]
        for name in MODELS:
            for platform, count in counts:
                if f"{name}, {count}".startswith(args.case):
                    print(
                        in_process(["--beside", name, str(count)], count, platform),
                        end="",
                        flush=True,
                    )
        if "allocator".startswith(args.case):
            tuned_allocator()


if __name__ == "__main__":
    main()
