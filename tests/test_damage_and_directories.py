"""Damaged checkpoints are passed over, and a model_dir may vanish, move and be shared."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import pytest
from models import Notes, steps_of
from resuming import assert_same, break_at, undisturbed
from train_process import content, make_net, shuffled

import estimator as est
from estimator import checkpoint

# Damage.


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path):
    path.unlink()


def damage_newest(model_dir: str, how: Any) -> None:
    """Damages the files of the newest checkpoint that hold its variables."""
    newest = checkpoint.latest_checkpoint(model_dir)
    assert newest is not None
    for path in (Path(newest) / "variables").rglob("d/*"):
        how(path)


def files_of(model_dir: str) -> dict[str, bytes]:
    paths = sorted((Path(model_dir) / "checkpoints").rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


@pytest.mark.parametrize("how", [flip, truncate, delete])
def test_a_damaged_checkpoint_is_passed_over_and_made_again(nets, how):
    estimator, _ = nets
    model_dir = estimator.model_dir
    break_at(10, estimator, shuffled(), max_steps=12)
    before = estimator.evaluate(shuffled(1), checkpoint_path=f"{model_dir}/checkpoints/6")
    damage_newest(model_dir, how)
    files = files_of(model_dir)
    message = r"checkpoints/9 is damaged, the one before it is used"
    with pytest.warns(RuntimeWarning, match=message):
        assert estimator.evaluate(shuffled(1)) == before
    with pytest.warns(RuntimeWarning, match=message):
        assert len(list(estimator.predict(shuffled(1)))) == 43
    assert files_of(model_dir) == files
    notes = Notes()
    with pytest.warns(RuntimeWarning, match=message):
        estimator.train(shuffled(), [notes], max_steps=12)
    assert notes.steps == [7, 8, 9, 10, 11, 12]
    assert os.path.isdir(f"{model_dir}/checkpoints/9.damaged")
    assert steps_of(estimator) == [0, 3, 6, 9, 12]
    assert_same(content(model_dir), undisturbed(12))


def test_a_damaged_optimizer_state_harms_training_only(nets):
    estimator, _ = nets
    model_dir = estimator.model_dir
    break_at(7, estimator, shuffled(), max_steps=12)
    for path in Path(model_dir, "checkpoints", "6", "opt_state").rglob("d/*"):
        truncate(path)
    assert estimator.evaluate(shuffled(1))["global_step"] == 6
    with pytest.warns(RuntimeWarning, match="checkpoints/6 is damaged, .*opt_state"):
        estimator.train(shuffled(), max_steps=12)
    assert_same(content(model_dir), undisturbed(12))


def test_a_damaged_last_checkpoint_is_made_again_by_the_same_max_steps(nets):
    trained, again = nets
    trained.train(shuffled(), max_steps=12)
    damage_newest(again.model_dir, flip)
    with pytest.warns(RuntimeWarning, match="checkpoints/12 is damaged"):
        again.train(shuffled(), max_steps=12)
    assert_same(content(again.model_dir), undisturbed(12))


def damage_every_checkpoint(estimator):
    for path in estimator.all_checkpoints():
        flip(Path(path, "manifest.json"))


def test_where_every_checkpoint_is_damaged_training_begins_anew(nets):
    trained, again = nets
    damage_every_checkpoint(trained.train(shuffled(), max_steps=3))
    with pytest.warns(RuntimeWarning, match="is damaged"):
        again.train(shuffled(), max_steps=12)
    assert steps_of(again)[-2:] == [9, 12]
    assert_same(content(again.model_dir), undisturbed(12))


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_where_every_checkpoint_is_damaged_nothing_is_evaluated_as_if_untrained(nets, call):
    trained, reads = nets
    damage_every_checkpoint(trained.train(shuffled(), max_steps=3))
    with (
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),
        pytest.raises(est.DamagedCheckpointError, match=r"checkpoints/[03]"),
    ):
        list(getattr(reads, call)(shuffled(1)))


# The directory.


def test_a_model_dir_deleted_between_calls_begins_at_zero_again(nets):
    estimator, _ = nets
    model_dir = estimator.model_dir
    untrained = estimator.evaluate(shuffled(1))
    estimator.train(shuffled(), max_steps=6)
    first = content(model_dir)
    assert estimator.evaluate(shuffled(1))["global_step"] == 6
    shutil.rmtree(model_dir)
    assert estimator.evaluate(shuffled(1)) == untrained
    shutil.rmtree(model_dir)
    assert len(list(estimator.predict(shuffled(1)))) == 43
    assert estimator.latest_checkpoint() is None
    notes = Notes()
    estimator.train(shuffled(), [notes], max_steps=6)
    assert notes.steps == [1, 2, 3, 4, 5, 6]
    assert_same(content(model_dir), first)
    assert list(Path(model_dir).glob("events.out.tfevents.*"))


def test_two_estimators_of_one_model_dir_see_what_the_other_has_trained(model_dir):
    one, two = (make_net(model_dir, continue_input=True) for _ in range(2))
    for turn, (trains, looks) in enumerate([(one, two), (two, one), (one, two)], start=1):
        trains.train(shuffled(), steps=4)
        seen = looks.evaluate(shuffled(1))
        assert seen["global_step"] == 4 * turn
        assert seen == trains.evaluate(shuffled(1))
        answers = [list(e.predict(shuffled(1, seed=1), "classes")) for e in (one, two)]
        assert answers[0] == answers[1]
    assert_same(content(model_dir), undisturbed(12))


def test_a_model_dir_may_be_moved_to_another_place(nets, tmp_path):
    estimator, _ = nets
    there = str(tmp_path / "there")
    break_at(8, estimator, shuffled(), max_steps=12)
    os.rename(estimator.model_dir, there)
    moved = make_net(there)
    assert moved.evaluate(shuffled(1))["global_step"] == 6
    moved.train(shuffled(), max_steps=12)
    assert_same(content(there), undisturbed(12))
    assert estimator.evaluate(shuffled(1))["global_step"] == 0


def test_live_variables_survive_neither_an_exception_nor_a_step_that_was_not_saved(model_dir):
    estimator = make_net(model_dir, save_checkpoints_steps=None, save_checkpoints_secs=None)
    estimator.train(shuffled(), max_steps=4)
    assert steps_of(estimator) == []
    assert estimator.evaluate(shuffled(1))["global_step"] == 0


def test_a_seed_drawn_by_one_object_is_that_of_the_next(model_dir):
    make_net(model_dir, random_seed=None).train(shuffled(), max_steps=3)
    seed = content(model_dir)["seed"]
    make_net(model_dir, random_seed=None).train(shuffled(), max_steps=6)
    assert content(model_dir)["seed"] == seed
    assert jax.random.key(seed).shape == ()
