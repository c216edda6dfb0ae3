"""A loaded export beside the bare jitted function, in one run.

    python benchmarks/serve.py      # half a minute

The 784-256-128-10 network. One JSON line a case: microseconds of a call of `loaded(features)`, from
a dict of numpy arrays to numpy answers, those of the jitted function of the same weights, fetched
likewise, and their difference, with the one that is wanted at the most. Repetitions alternate.
"""

import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from loop import MLP, ByHand, make_data, make_estimator
from measure import REPETITIONS, report

import estimator as est

CALLS = 200


def microseconds(ask):
    """Returns the time of one of many calls."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        ask()
    return (time.perf_counter() - begin) / CALLS * 1e6


def main():
    sizes, _ = MLP
    x, y = make_data(sizes, 64, 1)
    estimator = make_estimator(sizes)
    estimator.train(lambda: ({"x": x}, y), steps=1)
    loaded = est.export.load(estimator.export_saved_model(tempfile.mkdtemp()))
    hand = ByHand(sizes)
    hand.params = [
        (loaded.variables[f"{name}/kernel"], loaded.variables[f"{name}/bias"])
        for name in ("dense", "dense_1", "dense_2")
    ]
    hand.params = jax.tree.map(jnp.asarray, hand.params)
    for rows, wanted in ((1, 100), (64, None)):
        asked = {"x": x[:rows]}

        def here(asked=asked):
            return loaded(asked)

        def by_hand(asked=asked):
            return jax.device_get(hand.predict_step(hand.params, asked["x"]))

        given, bare = here(), by_hand()
        np.testing.assert_allclose(given["probabilities"], bare["probabilities"], rtol=1e-5)
        pairs = [(microseconds(here), microseconds(by_hand)) for _ in range(REPETITIONS)]
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        report(
            case=f"batch {rows}",
            unit="us",
            here=ours,
            by_hand=theirs,
            more=ours - theirs,
            wanted_more_below=wanted,
        )


if __name__ == "__main__":
    main()
