"""What the benchmarks share: pairs measured in turn, a stopwatch for train calls, JSON lines.

compare("train tiny", "steps/s", here, by_hand, wanted=0.7)
"""

import json
import statistics
import time

import estimator as est

REPETITIONS = 9


class Stopwatch(est.SessionRunHook):
    """Times a train call from one step to another, waiting for the device at both."""

    def __init__(self, first, last):
        self.marks = [first, last]
        self.times = []

    def after_create_session(self, session, coord):
        self.marks = [session.global_step + mark for mark in self.marks]

    def before_run(self, run_context):
        return est.SessionRunArgs("loss")

    def after_run(self, run_context, run_values):
        if run_context.session.global_step == self.marks[len(self.times)]:
            run_values.results.block_until_ready()
            self.times.append(time.perf_counter())

    def next_step(self, global_step):
        later = [mark for mark in self.marks if mark > global_step]
        return later[0] if later else self.marks[-1]


def compare(name, unit, here, by_hand, wanted, repetitions=REPETITIONS, **more):
    """Measures both in turn and prints a line."""
    here(), by_hand()
    pairs = [(here(), by_hand()) for _ in range(repetitions)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    report(
        case=name,
        unit=unit,
        here=ours,
        by_hand=theirs,
        ratio=ours / theirs,
        wanted_ratio=wanted,
        **more,
    )


def report(**line):
    """Prints one JSON line."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
    print(json.dumps(rounded), flush=True)
