"""RunConfig: defaults, what excludes what, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

import estimator as est
from estimator import RunConfig


def test_defaults_are_those_of_tensorflow():
    config = RunConfig()
    assert config.save_summary_steps == 100
    assert config.save_checkpoints_secs == 600
    assert config.save_checkpoints_steps is None
    assert config.keep_checkpoint_max == 5
    assert config.keep_checkpoint_every_n_hours == 10000
    assert config.log_step_count_steps == 100
    assert config.model_dir is None
    assert config.tf_random_seed is None
    assert config.train_distribute is None
    assert config.eval_distribute is None


@pytest.mark.parametrize(
    ("given", "steps", "secs"),
    [
        ({}, None, 600),
        ({"save_checkpoints_steps": 5}, 5, None),
        ({"save_checkpoints_secs": 5}, None, 5),
        ({"save_checkpoints_secs": 0.5}, None, 0.5),
        ({"save_checkpoints_steps": 5, "save_checkpoints_secs": None}, 5, None),
        ({"save_checkpoints_steps": None, "save_checkpoints_secs": 5}, None, 5),
        ({"save_checkpoints_steps": None, "save_checkpoints_secs": None}, None, None),
        ({"save_checkpoints_steps": None}, None, None),
        ({"save_checkpoints_secs": None}, None, None),
    ],
)
def test_one_checkpoint_cadence_unsets_the_other(given, steps, secs):
    config = RunConfig(**given)
    assert (config.save_checkpoints_steps, config.save_checkpoints_secs) == (steps, secs)


def test_two_checkpoint_cadences_are_refused():
    with pytest.raises(ValueError, match="cannot be both set, got 5 and 6"):
        RunConfig(save_checkpoints_steps=5, save_checkpoints_secs=6)
    with pytest.raises(ValueError, match="cannot be both set, got 5 and 6"):
        RunConfig().replace(save_checkpoints_steps=5, save_checkpoints_secs=6)


@pytest.mark.parametrize(
    ("before", "changes", "steps", "secs"),
    [
        ({}, {"save_checkpoints_steps": 7}, 7, None),
        ({"save_checkpoints_steps": 5}, {"save_checkpoints_secs": 7}, None, 7),
        ({"save_checkpoints_steps": 5}, {"save_summary_steps": 7}, 5, None),
        # Unsetting what is not set leaves the other cadence alone, as in TensorFlow.
        ({}, {"save_checkpoints_steps": None}, None, 600),
        ({"save_checkpoints_steps": 5}, {"save_checkpoints_secs": None}, 5, None),
        ({}, {"save_checkpoints_steps": None, "save_checkpoints_secs": None}, None, None),
    ],
)
def test_replace_keeps_one_checkpoint_cadence(before, changes, steps, secs):
    config = RunConfig(**before).replace(**changes)
    assert (config.save_checkpoints_steps, config.save_checkpoints_secs) == (steps, secs)


def test_replace_returns_a_copy_and_leaves_the_rest():
    config = RunConfig(model_dir="a", random_seed=3)
    other = config.replace(save_summary_steps=7)
    assert (config.save_summary_steps, other.save_summary_steps) == (100, 7)
    assert (other.model_dir, other.random_seed, other.tf_random_seed) == ("a", 3, 3)


def test_replacing_what_is_no_setting_gets_the_nearest_name():
    with pytest.raises(ValueError, match="no setting 'save_sumary_steps'"):
        RunConfig().replace(save_sumary_steps=3)


def test_a_config_cannot_be_set():
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
        RunConfig().model_dir = "a"


def test_equal_configs_are_equal_and_show_no_secret_default():
    assert RunConfig() == RunConfig()
    assert RunConfig() != RunConfig(random_seed=3)
    assert "default" not in repr(RunConfig())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("save_summary_steps", -1),
        ("save_checkpoints_steps", -1),
        ("save_checkpoints_secs", -1),
        ("keep_checkpoint_max", -1),
        ("keep_checkpoint_every_n_hours", 0),
        ("log_step_count_steps", 0),
        ("prefetch", -1),
        ("steps_per_execution", 0),
        ("steps_per_execution", None),
    ],
)
def test_a_number_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"RunConfig: {name} should be >.*, got {value}"):
        RunConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("save_summary_steps", "3"),
        ("save_summary_steps", 1.5),
        ("save_summary_steps", True),
        ("save_checkpoints_secs", "600"),
        ("random_seed", 1.5),
        ("tf_random_seed", "1"),
        ("model_dir", 3),
        ("train_distribute", "all"),
        ("eval_distribute", [0]),
    ],
)
def test_a_setting_of_another_type_is_refused(name, value):
    with pytest.raises(TypeError, match=name.removeprefix("tf_")):
        RunConfig(**{name: value})


@pytest.mark.parametrize("name", ["save_summary_steps", "save_checkpoints_steps", "random_seed"])
def test_a_whole_number_of_numpy_is_a_whole_number(name):
    assert getattr(RunConfig(**{name: np.int64(3)}), name) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("save_summary_steps", 0),
        ("save_summary_steps", None),
        ("keep_checkpoint_max", 0),
        ("keep_checkpoint_max", None),
        ("log_step_count_steps", None),
        ("prefetch", 0),
        ("keep_checkpoint_every_n_hours", 0.5),
    ],
)
def test_settings_may_switch_things_off(name, value):
    assert getattr(RunConfig(**{name: value}), name) == value


def test_an_empty_model_dir_is_refused():
    with pytest.raises(ValueError, match="model_dir is empty"):
        RunConfig(model_dir="")


def test_a_path_is_a_model_dir(tmp_path):
    assert RunConfig(model_dir=tmp_path).model_dir == str(tmp_path)


@pytest.mark.parametrize("given", [{"random_seed": 3}, {"tf_random_seed": 3}])
def test_the_seed_has_two_names(given):
    config = RunConfig(**given)
    assert config.random_seed == config.tf_random_seed == 3
    for name in ("random_seed", "tf_random_seed"):
        changed = config.replace(**{name: 4})
        assert changed.random_seed == changed.tf_random_seed == 4


def test_two_different_seeds_are_refused():
    with pytest.raises(ValueError, match="random_seed is 3 and tf_random_seed 4"):
        RunConfig(random_seed=3, tf_random_seed=4)


def test_devices_are_kept_as_a_tuple_and_may_not_be_none_at_all():
    devices = jax.devices()[:2]
    assert est.DataParallel(devices).devices == tuple(devices)
    assert RunConfig(train_distribute=est.DataParallel(devices)) == RunConfig(
        train_distribute=est.DataParallel(tuple(devices))
    )
    with pytest.raises(ValueError, match="devices is empty"):
        est.DataParallel([])
