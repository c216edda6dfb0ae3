"""train_and_evaluate, killed at random moments: in a step, a save, an evaluation, an export."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from resuming import Nursery, assert_same
from train_process import content

from estimator.history import History

CALL = {"settings": {}, "source": {"seed": 3}, "limits": {"every_n_steps": 4}}


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(nursery, tmp_path_factory):
    """The model directory of a run that was never killed."""
    model_dir = str(tmp_path_factory.mktemp("whole") / "model")
    assert nursery.train(model_dir=model_dir, **CALL)[0] == 0
    assert content(model_dir)["step"] == 80  # the loss was best at step 72
    return model_dir


def best_of(model_dir):
    """Returns what best.json says, and the variables that were exported."""
    directory = Path(model_dir) / "export" / "best"
    best = json.loads((directory / "best.json").read_text())
    with np.load(directory / best["export"]) as file:
        return best, dict(file)


def assert_same_run(model_dir, whole):
    assert_same(content(model_dir), content(whole))
    assert History(model_dir).evaluations() == History(whole).evaluations()
    (best, weights), (wanted, wanted_weights) = best_of(model_dir), best_of(whole)
    assert best == wanted
    assert_same(weights, wanted_weights)
    assert {*os.listdir(Path(model_dir) / "export" / "best")} == {
        *os.listdir(Path(whole) / "export" / "best")
    }


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_killed_run_has_the_variables_the_best_export_and_the_stop_of_a_whole_one(
    nursery, whole, model_dir, kills
):
    seed = random.randrange(2**32)
    print(f"killed at moments of random.Random({seed})")
    rng = random.Random(seed)
    for _ in range(kills):
        kill = (rng.randint(1, 240 // kills), rng.random() * 0.01, signal.SIGKILL)
        if nursery.train(kill, model_dir=model_dir, **CALL)[0] == 0:
            break
    else:
        assert nursery.train(model_dir=model_dir, **CALL)[0] == 0
    assert_same_run(model_dir, whole)


def test_a_run_killed_between_its_last_evaluation_and_its_end_stops_where_it_would_have(
    nursery, whole, model_dir
):
    shutil.copytree(whole, model_dir)
    last = Path(model_dir) / "checkpoints" / "80"
    os.remove(last / "ended")
    code, dots = nursery.train(model_dir=model_dir, **CALL)
    assert (code, dots) == (0, 2)  # an evaluation of two batches
    os.remove(last / "ended")
    os.remove(last / "trained")
    code, dots = nursery.train(model_dir=model_dir, **CALL)
    assert (code, dots) == (0, 3)  # and a save, that is there; no step
    assert_same_run(model_dir, whole)
