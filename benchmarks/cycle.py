"""train_and_evaluate beside the bare steps and batches in one loop, in one run.

    python benchmarks/cycle.py      # all cases, one minute

Twenty cycles of 50 training steps and one evaluation of 10 batches, of the 4-10-10-3 model with
batches of 32. One JSON line a case: the seconds of a call of train_and_evaluate (whole: opening the
inputs, its first and last checkpoint, summaries, history), those of a hand-written loop that makes
the same 1,000 steps and 200 batches, their ratio, and the ratio that is wanted at the most. The
second case makes 50 steps in one dispatch (by hand still one by one), without log lines between.
The third saves a checkpoint for each evaluation, which takes orbax its time; it is told, not
wanted. Repetitions alternate; give the machine nothing else to do.
"""

import time

import numpy as np
from loop import TINY, ByHand, make_data, make_estimator
from measure import compare

import estimator as est

CYCLES, STEPS, BATCHES = 20, 50, 10


def by_hand(hand, data, held_out, batch):
    """Returns the seconds that the bare steps and batches take."""
    begin = time.perf_counter()
    for _ in range(CYCLES):
        hand.train(*data, batch, STEPS)
        hand.evaluate(*held_out, batch)
    return time.perf_counter() - begin


def cycle_case(name, wanted, config, **when):
    """Compares the seconds of a run."""
    sizes, batch = TINY
    data = make_data(sizes, batch)
    held_out = [array[: BATCHES * batch] for array in data]
    hand, estimator = ByHand(sizes), make_estimator(sizes, **config)
    train_fn = est.numpy_input_fn({"x": data[0]}, data[1], batch, num_epochs=None, shuffle=False)
    eval_fn = est.numpy_input_fn({"x": held_out[0]}, held_out[1], batch, shuffle=False)
    last = [0]

    def here():
        last[0] += CYCLES * STEPS
        begin = time.perf_counter()
        metrics, _ = est.train_and_evaluate(
            estimator,
            est.TrainSpec(train_fn, max_steps=last[0]),
            est.EvalSpec(eval_fn, **when),
        )
        seconds = time.perf_counter() - begin
        assert metrics["global_step"] == last[0]
        evaluated = {r["global_step"] for r in estimator.history if r["mode"] == "eval"}
        assert evaluated == set(range(STEPS, last[0] + 1, STEPS))
        return seconds

    compare(name, "s", here, lambda: by_hand(hand, data, held_out, batch), wanted)
    assert np.isfinite(estimator.get_variable_value("dense/kernel")).all()


def main():
    cycle_case("evaluations by steps", 2.0, {}, every_n_steps=STEPS)
    blocks = {"steps_per_execution": STEPS, "save_summary_steps": 0, "log_step_count_steps": None}
    cycle_case("the same, in blocks of 50 steps", 2.0, blocks, every_n_steps=STEPS)
    cycle_case(
        "a checkpoint for each evaluation", None, {"save_checkpoints_steps": STEPS}, throttle_secs=0
    )


if __name__ == "__main__":
    main()
