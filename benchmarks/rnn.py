"""RNNClassifier beside a hand-written JAX scan, and beside torch where it is installed.

    python benchmarks/rnn.py                # all cases, a few minutes
    python benchmarks/rnn.py --case train   # those whose name begins so

One JSON line a case. `train` is a classifier of texts: 10,000 words, 64 numbers a word, an LSTM of
128 units, 64 texts of 20 to 100 words, two classes; on one CPU device, and on two. By hand it is a
plain scan over the same padded texts, as a JAX user writes it, with word ids ready in memory, while
the Estimator makes ids of lists of words' numbers for each batch. Figures are medians of
repetitions in turn, in steps a second. TensorFlow's RNNClassifier made 28 of them on the machine
that its figure comes from: `times_tensorflow` is a hint only. `programs` counts what 500 batches of
such texts compile, with the default sizes and with three of one's own; and the same of batches of
one text, which meet all sizes there are. Give the machine nothing else to do.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time

import jax
import numpy as np
import optax
from devices import (
    CLASSES,
    LENGTH,
    REPETITIONS,
    TEXTS,
    UNITS,
    WIDTH,
    WORDS,
    ByHand,
    in_process,
    lstm_by_hand,
    lstm_params,
    train_here,
)
from measure import report

import estimator as est
import feature_columns as fc
from canned import RNNClassifier

STEPS = 30
PADDED = 104  # what 100 steps are filled up to
TENSORFLOW = 28.0


def batches(count=8, rows=TEXTS):
    """Returns features and labels: word ids, -1 behind the end of a text."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        lengths = rng.integers(20, LENGTH + 1, rows)
        words = rng.integers(0, WORDS, (rows, lengths.max())).astype(np.int32)
        words[np.arange(lengths.max()) >= lengths[:, None]] = -1
        made.append(({"words": words}, rng.integers(0, CLASSES, rows).astype(np.int32)))
    return made


def by_hand_batches():
    made = []
    for features, labels in batches():
        lengths = (features["words"] >= 0).sum(1).astype(np.int32)
        missing = PADDED - features["words"].shape[1]
        words = np.pad(np.maximum(features["words"], 0), ((0, 0), (0, missing)))
        made.append({"words": words, "lengths": lengths, "labels": labels})
    return made


def classifier(units=UNITS, width=WIDTH, **config):
    words = fc.sequence_categorical_column_with_identity("words", WORDS)
    return RNNClassifier(
        [fc.embedding_column(words, width)],
        units=[units],
        cell_type="lstm",
        optimizer=optax.adagrad(0.05),
        model_dir=tempfile.mkdtemp(),
        config=est.RunConfig(random_seed=0, **config),
    )


class Torch:
    """The same model in torch, which does not skip padding but reads the last valid step."""

    def __init__(self):
        import torch

        self.torch = torch
        self.embedding = torch.nn.Embedding(WORDS, WIDTH)
        self.lstm = torch.nn.LSTM(WIDTH, UNITS, batch_first=True)
        self.out = torch.nn.Linear(UNITS, CLASSES)
        parts = [self.embedding, self.lstm, self.out]
        weights = [weight for part in parts for weight in part.parameters()]
        self.optimizer = torch.optim.Adagrad(weights, lr=0.05, initial_accumulator_value=0.1)

    def train(self, data, steps):
        torch = self.torch
        begin = time.perf_counter()
        for i in range(steps):
            batch = {name: torch.from_numpy(x) for name, x in data[i % len(data)].items()}
            outputs, _ = self.lstm(self.embedding(batch["words"]))
            last = outputs[torch.arange(TEXTS), batch["lengths"].long() - 1]
            loss = torch.nn.functional.cross_entropy(self.out(last), batch["labels"].long())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return steps / (time.perf_counter() - begin)


def train(count, allocator):
    """Prints the line of so many CPU devices, in the process that has them."""
    devices = jax.devices()[:count]
    distribute = est.DataParallel(devices) if count > 1 else None
    model = classifier(train_distribute=distribute, allocator=allocator)
    hand = ByHand(lstm_by_hand, lstm_params(), devices)
    data, prepared = batches(), by_hand_batches()
    sides = {
        "here": lambda: train_with(model, data),
        "by_hand": lambda: hand.train(prepared, STEPS),
    }
    if importlib.util.find_spec("torch"):
        torch = Torch()
        sides["torch"] = lambda: torch.train(prepared, STEPS)
    measured = [[side() for side in sides.values()] for _ in range(REPETITIONS + 1)][1:]
    medians = [statistics.median(column) for column in zip(*measured, strict=True)]
    figures = dict(zip(sides, medians, strict=True))
    here = figures["here"]
    told = f', allocator="{allocator}"' if allocator else ""
    more = {"torch_ratio": here / figures["torch"]} if "torch" in figures else {}
    report(
        case=f"train, {count} cpu device{'s' if count > 1 else ''}{told}",
        unit="steps/s",
        **figures,
        ratio=here / figures["by_hand"],
        wanted_ratio=0.95,
        times_tensorflow=here / TENSORFLOW,
        **more,
    )


def train_with(model, data):
    """Returns steps a second of one train call."""
    pairs = [({**features, "labels": labels}) for features, labels in data]
    return train_here(model, pairs, STEPS)


def programs():
    """Prints how many programs 500 batches compile in each mode."""
    compiled = []

    def listen(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    for rows, buckets, wanted in (
        (TEXTS, None, "<= 14"),
        (TEXTS, [32, 64, 100], "<= 5"),
        (1, None, None),
        (1, [32, 64, 100], "<= 5"),
    ):
        data = batches(500, rows)
        quiet = {"save_summary_steps": None, "log_step_count_steps": None}
        model = classifier(4, 2, length_buckets=buckets, **quiet)
        for mode in ("train", "evaluate", "predict"):
            run(model, mode, data[:1])  # compiles what does not depend on the length, too
            before = len(compiled)
            run(model, mode, data)
            report(
                case=f"programs, {mode}, {rows} a batch, length_buckets={buckets}",
                here=len(compiled) - before + 1,
                wanted=wanted,
            )


def run(model, mode, data):
    if mode == "predict":
        list(model.predict(lambda: (features for features, _ in data)))
    else:
        getattr(model, mode)(lambda: iter(data))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", help="the beginning of the names of the cases to run")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(int(args.train[0]), args.train[1] if args.train[1] != "default" else None)
        return
    for count, allocator in ((1, "default"), (1, "tuned"), (2, "tuned")):
        if "train".startswith(args.case):
            arguments = ["--train", str(count), allocator]
            print(in_process(arguments, count, file=__file__), end="", flush=True)
    if "programs".startswith(args.case):
        programs()


if __name__ == "__main__":
    main()
