"""Feature columns: their host half beside a loop over examples, hashing, and the price in train.

    python benchmarks/columns.py                # all cases, under a minute
    python benchmarks/columns.py --case hash    # those whose name begins so

One JSON line a case. The columns are 10 numbers, one of them also in buckets, and embeddings of 5
vocabularies of 1,000 words, 2 hashes and a cross of 10,000 buckets; the batch is 512. Rounds
alternate between what is compared, and each figure is the best of its rounds; give the machine
nothing else to do. The loop over examples reads the arrays of the batch value by value; a second
one turns them into lists first, which is faster. Both hash with the columns' library if that is
installed, and make the buckets, too, which the columns leave to the device.
"""

import argparse
import bisect
import functools
import tempfile
import time

import jax
import numpy as np
import optax
from measure import Stopwatch, report

import estimator as est
import feature_columns as fc
from estimator import steps
from estimator.batches import Batch
from estimator.binding import discover
from estimator.model_fn import ModelFn
from estimator.train_state import TrainState
from feature_columns.crossed import DEFAULT_HASH_KEY
from feature_columns.hashing import fingerprint64_in_numpy

try:
    import farmhash

    LIBRARY = farmhash.Fingerprint64
except (ImportError, AttributeError):
    LIBRARY = None

BATCH, BATCHES, BUCKETS, DIMENSION, SECONDS = 512, 16, 10_000, 16, 5.0
BOUNDARIES = (-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)
NUMBERS, TEXTS = [f"number{i}" for i in range(10)], [f"word{i}" for i in range(5)]
HASHED, CROSSED = ["city0", "city1"], ("word0", "city0")
VOCABULARY = [f"word{i:04d}" for i in range(1_000)]
MASK, CAT = 2**64 - 1, 0xC6A4A7935BD1E995

NUMERIC = [fc.numeric_column(key) for key in NUMBERS]
BUCKETIZED = fc.bucketized_column(NUMERIC[0], BOUNDARIES)
WORDS = [fc.categorical_column_with_vocabulary_list(key, VOCABULARY) for key in TEXTS]
HASHES = [fc.categorical_column_with_hash_bucket(key, BUCKETS) for key in HASHED]
CROSS = fc.crossed_column(CROSSED, BUCKETS)
EMBEDDED = [fc.embedding_column(c, DIMENSION) for c in (*WORDS, *HASHES, CROSS)]
COLUMNS = [*NUMERIC, BUCKETIZED, *EMBEDDED]


def make_batches():
    """Returns pairs of features and labels; one word in a hundred is not in the vocabulary."""
    rng = np.random.default_rng(0)
    words = np.array([*VOCABULARY, *(f"other{i}" for i in range(10))])
    cities = np.array([f"city{i}" for i in rng.integers(1_000, 10**8, 50_000)])
    batches = []
    for _ in range(BATCHES):
        features = {key: rng.normal(size=BATCH).astype(np.float32) for key in NUMBERS}
        features |= {key: rng.choice(words, BATCH) for key in TEXTS}
        features |= {key: rng.choice(cities, BATCH) for key in HASHED}
        batches.append((features, rng.normal(size=(BATCH, 1)).astype(np.float32)))
    return batches


def model_fn(features, labels, mode, params):
    """A linear regression on the input layer of the columns."""
    net = fc.input_layer(features, params["columns"])
    loss = optax.l2_loss(est.layers.dense(net, 1), labels).mean()
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.adagrad(0.05))


class HostHalf:
    """What the feed does with each batch before the step."""

    def __init__(self, columns, batch):
        model = ModelFn(model_fn, {"columns": columns}, est.RunConfig())
        self.like = Batch(*batch)
        self.binding = discover(model, est.ModeKeys.TRAIN, self.like)

    def __call__(self, features, labels):
        self.like = Batch(features, labels, self.like)
        return self.binding.prepare(self.like)

    def by_name(self, inputs):
        """Returns prepared numbers by feature, and ids by column."""
        paths, used = self.like.raw_paths, self.binding.used
        made = {paths[i][-1]: array for i, array in zip(used, inputs, strict=False)}
        ids = zip(self.binding.host, inputs[len(used) :], strict=True)
        return made | {recipe.column.name: array[:, 0] for recipe, array in ids}


class ExampleLoop:
    """The same columns in plain Python: for each example, for each column."""

    def __init__(self, from_lists):
        self.from_lists = from_lists
        table = {word: i for i, word in enumerate(VOCABULARY)}
        hashed = LIBRARY or (lambda text: int(fc.fingerprint64([text])[0]))
        bucket = functools.partial(bisect.bisect_right, BOUNDARIES)

        def cross(pair):
            first, second = pair
            return cat64(cat64(DEFAULT_HASH_KEY, hashed(first)), hashed(second)) % BUCKETS

        self.encoders = [
            *((key, key, float, np.float32) for key in NUMBERS),
            (BUCKETIZED.name, NUMBERS[0], bucket, np.int32),
            *((key, key, lambda word: table.get(word, -1), np.int32) for key in TEXTS),
            *((key, key, lambda text: hashed(text) % BUCKETS, np.int32) for key in HASHED),
            (CROSS.name, CROSSED, cross, np.int32),
        ]

    def __call__(self, features, labels):
        given = {k: array.tolist() if self.from_lists else array for k, array in features.items()}
        given[CROSSED] = list(zip(*(given[key] for key in CROSSED), strict=True))
        work = [(encode, given[key], []) for _, key, encode, _ in self.encoders]
        for i in range(BATCH):
            for encode, values, results in work:
                results.append(encode(values[i]))
        columns = zip(self.encoders, work, strict=True)
        return {name: np.array(made, dtype) for (name, *_, dtype), (*_, made) in columns}


def cat64(first, second):
    """Two fingerprints as one, in Python's integers."""
    second = second * CAT & MASK
    mixed = first ^ CAT ^ ((second ^ second >> 47) * CAT & MASK)
    mixed = mixed * CAT & MASK
    mixed = (mixed ^ mixed >> 47) * CAT & MASK
    return mixed ^ mixed >> 47


def best(*calls):
    """Returns the seconds of each call's best round; a call may time itself and return them."""
    for call in calls:
        call()
    times, end = [[] for _ in calls], time.perf_counter() + SECONDS
    while not times[0] or time.perf_counter() < end:
        for call, its_times in zip(calls, times, strict=True):
            begin = time.perf_counter()
            its_times.append(call() or time.perf_counter() - begin)
    return [min(its_times) for its_times in times]


def each(function, batches):
    """Returns a call of the function with each batch in turn."""

    def call():
        for batch in batches:
            function(*batch)

    return call


def host():
    """The host half beside the loop over examples."""
    batches = make_batches()
    half, loops = HostHalf(COLUMNS, batches[0]), [ExampleLoop(False), ExampleLoop(True)]
    for batch in batches:
        made = half.by_name(half(*batch))
        made[BUCKETIZED.name] = BUCKETIZED.host_ids(batch[0]).values
        for name, array in [*loops[0](*batch).items(), *loops[1](*batch).items()]:
            np.testing.assert_array_equal(made[name], array, err_msg=name)
    rates = [BATCHES / s for s in best(*(each(call, batches) for call in (half, *loops)))]
    report(
        case="host",
        batches_per_s=rates[0],
        loop_batches_per_s=rates[1],
        ratio=rates[0] / rates[1],
        wanted_ratio=3.0,
        ratio_to_loop_over_lists=rates[0] / rates[2],
        library=bool(LIBRARY),
    )


def hashing():
    """Strings of 8 to 12 bytes hashed a second, by how many are given at once."""
    rng = np.random.default_rng(0)
    texts = [rng.bytes(length // 2).hex() for length in rng.choice([8, 10, 12], 2**16)]
    raw = [text.encode() for text in texts]
    assert fc.fingerprint64(texts).tolist() == fingerprint64_in_numpy(raw).tolist()
    functions = (fc.fingerprint64, fc.fingerprint64, fingerprint64_in_numpy)
    names = ("of str", "of bytes", "in numpy")
    for at_once in (len(texts), BATCH):
        starts = range(0, len(texts), at_once)
        parts = [[(x[i : i + at_once],) for i in starts] for x in (texts, raw, raw)]
        for name, s in zip(names, best(*map(each, functions, parts)), strict=True):
            rate = len(texts) / s
            report(case=f"hash {name}", at_once=at_once, strings_per_s=rate, wanted_above=2e6)


def device():
    """The compiled train step on prepared arrays beside the whole loop of `Estimator.train`."""
    batches, count = make_batches(), 4 * BATCHES
    half = HostHalf(COLUMNS, batches[0])
    values = est.variables.initialize(half.binding.recipes, seed=0)
    state = TrainState.make(values, steps.start_opt_state(half.binding, values), step=0, seed=0)
    leaves, structure = jax.tree.flatten(jax.device_put(state))
    step, inputs = steps.TrainSteps(half.binding, structure, None).one, [half(*b) for b in batches]
    estimator = est.Estimator(model_fn, tempfile.mkdtemp(), params={"columns": COLUMNS})

    def alone():
        nonlocal leaves
        for i in range(count):
            leaves, outputs = step(leaves, inputs[i % BATCHES])
        outputs["loss"].block_until_ready()

    def whole():
        watch = Stopwatch(3, 3 + count)
        estimator.train(lambda: iter(batches * 5), hooks=[watch], steps=3 + count)
        return watch.times[1] - watch.times[0]

    rates = [count / s for s in best(alone, whole, each(half, batches * 4))]
    names = ("device_batches_per_s", "whole_batches_per_s", "host_batches_per_s")
    report(case="device", **dict(zip(names, rates, strict=True)), ratio=rates[1] / rates[0])


def forms():
    """The host half of one vocabulary column, by the form that its feature has."""
    rng = np.random.default_rng(0)
    array, lengths = rng.choice(VOCABULARY, BATCH), rng.integers(1, 6, BATCH)
    ragged = [rng.choice(VOCABULARY, length).tolist() for length in lengths]
    values = np.concatenate(ragged)
    indices = np.argwhere(np.arange(lengths.max()) < lengths[:, None])
    features = {
        "unicode array": array,
        "list of str": array.tolist(),
        "object array": array.astype(object),
        "ragged lists": ragged,
        "SparseTensor": est.SparseTensor(indices, values, (BATCH, lengths.max())),
    }
    labels = np.zeros((BATCH, 1), np.float32)
    batches = [({"word0": feature}, labels) for feature in features.values()]
    calls = [each(HostHalf(EMBEDDED[:1], batch), [batch] * 10) for batch in batches]
    for form, s in zip(features, best(*calls), strict=True):
        count = len(values) if form in ("ragged lists", "SparseTensor") else BATCH
        report(case=f"forms, {form}", values=count, values_per_s=10 * count / s)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", help="the beginning of the names of the cases to run")
    args = parser.parse_args()
    for name, case in {"host": host, "hash": hashing, "device": device, "forms": forms}.items():
        if name.startswith(args.case):
            case()


if __name__ == "__main__":
    main()
