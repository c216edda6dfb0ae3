"""Retention: which checkpoints stay, and what is swept away."""

import os
import time
from pathlib import Path

import pytest
from test_checkpoint import assert_intact, names_in, save, snapshot, steps

from estimator import checkpoint
from estimator.checkpoint import CheckpointWriter


@pytest.mark.parametrize(
    ("keep_max", "left"),
    [(2, [5, 6]), (1, [6]), (None, [1, 2, 3, 4, 5, 6]), (0, [1, 2, 3, 4, 5, 6])],
)
def test_the_newest_checkpoints_are_kept(model_dir, keep_max, left):
    save(model_dir, 1, 2, 3, 4, 5, 6, keep_max=keep_max)
    assert names_in(model_dir) == [str(step) for step in left]


def test_one_checkpoint_for_every_n_hours_is_kept_for_good(model_dir):
    now = 0.0
    with CheckpointWriter(model_dir, keep_max=2, keep_every_n_hours=1, clock=lambda: now) as writer:
        for step in range(1, 11):  # at 0:30, 1:00, 1:30, ...
            now = step * 1800
            writer.save(snapshot(step), wait=True)
    # 3 is the first later than 1:00, 5 the first later than 2:00, 7 than 3:00.
    assert steps(model_dir) == [3, 5, 7, 9, 10]
    save(model_dir, 11, 12, keep_max=2)
    assert steps(model_dir) == [3, 5, 7, 11, 12]
    assert_intact(checkpoint.all_checkpoints(model_dir)[0])


def test_the_checkpoint_just_saved_is_kept_even_where_larger_steps_lie_about(model_dir):
    save(model_dir, 10, 20)
    save(model_dir, 5, keep_max=2)
    assert steps(model_dir) == [5, 10, 20]


def test_retention_refuses_numbers_that_make_no_sense(model_dir):
    with pytest.raises(ValueError, match="keep_max is -1"):
        CheckpointWriter(model_dir, keep_max=-1)
    with pytest.raises(ValueError, match="keep_every_n_hours is 0"):
        CheckpointWriter(model_dir, keep_every_n_hours=0)


def test_leftovers_of_killed_writers_are_swept_but_not_those_of_live_ones(model_dir):
    root = Path(save(model_dir, 1)).parent
    ages = {"2.saving-a": 7200, "3.orbax-checkpoint-tmp": 7200, "4.saving-b": 60, "5.saving-c": 300}
    for name, age in {**ages, "6.deleted-d": 0, "7.damaged": 9999, "notes.saving": 9999}.items():
        (root / name / "variables").mkdir(parents=True)
        for path in (root / name / "variables", root / name):
            os.utime(path, (time.time() - age,) * 2)
    with CheckpointWriter(model_dir) as writer:
        left = ["1", "4.saving-b", "5.saving-c", "7.damaged", "notes.saving"]
        assert names_in(model_dir) == left
        writer.save(snapshot(5))
    left[2] = "5"
    assert names_in(model_dir) == left
