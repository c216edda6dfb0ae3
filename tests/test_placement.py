"""Placement: several devices give the numbers of one, whatever the size of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import (
    Notes,
    Traced,
    assert_close,
    batches,
    endless,
    features_only,
    line,
    make,
    steps_of,
    values_of,
)

import estimator as est
from estimator.placement import MeshPlacement


def on(count):
    """Returns a placement on so many devices."""
    if jax.device_count() < count:
        pytest.skip(f"{count} devices are needed")
    return est.DataParallel(jax.devices()[:count])


def masked(features, labels, mode):
    """Tags the mask of a dropout of ones."""
    est.tag("mask", est.layers.dropout(jnp.ones_like(features["x"]), 0.5, training=True))
    weight = est.get_variable("weight", (), 1.0, np.float32)
    loss = jnp.mean(features["x"]) * weight + 0 * jnp.sum(labels)
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))


def deep(features, labels, mode):
    net = est.layers.dense(features["x"], 8, jnp.tanh, name="hidden")
    predicted = est.layers.dense(net, 1, name="out")[:, 0]
    if mode == est.ModeKeys.PREDICT:
        return est.EstimatorSpec(mode, predictions=predicted)
    loss = jnp.mean((predicted - labels) ** 2)
    metrics = {"error": est.metrics.mean(jnp.abs(predicted - labels))}
    return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1), eval_metric_ops=metrics)


# Over four devices the batches of 8 rows divide, those of 3 and 6 do not: each computes them whole.
MIXED = [
    *batches(3, rows=8),
    *batches(1, rows=3),
    *batches(2, rows=8, seed=1),
    *batches(3, rows=6),
]


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    """What one device makes of MIXED: the estimator, its evaluation and predictions."""
    one = make(deep, str(tmp_path_factory.mktemp("one") / "model")).train(lambda: MIXED)
    return one, one.evaluate(lambda: MIXED), list(one.predict(lambda: MIXED))


@pytest.mark.parametrize(("count", "k"), [(2, 1), (4, 3)])
def test_several_devices_train_as_one_does(model_dir, on_one_device, count, k):
    one, results, answers = on_one_device
    several = make(
        deep,
        model_dir,
        train_distribute=on(count),
        eval_distribute=on(count),
        steps_per_execution=k,
    )
    several.train(lambda: MIXED)
    assert_close(values_of(several), values_of(one), 1e-6)
    assert_close(several.evaluate(lambda: MIXED), results, 1e-6)
    got = list(several.predict(lambda: features_of(MIXED)))
    np.testing.assert_allclose(got, answers, rtol=1e-5, atol=1e-6)


def features_of(data):
    return [features for features, _ in data]


def test_batch_normalisation_sees_the_whole_batch(tmp_path):
    def model_fn(features, labels, mode, params):
        normal = est.layers.batch_normalization(features["x"], momentum=0.5, training=True)
        return line({"x": normal}, labels, mode, params)

    data = batches(5, rows=8)
    one = make(model_fn, str(tmp_path / "one")).train(lambda: data)
    two = make(model_fn, str(tmp_path / "two"), train_distribute=on(2)).train(lambda: data)
    assert_close(values_of(two), values_of(one), 1e-5)


def test_dropout_masks_do_not_depend_on_the_devices(tmp_path):
    data = [*batches(3, rows=8), *batches(3, rows=6)]
    masks = []
    for distribute in (None, on(4)):
        hook = Notes(fetches="mask")
        estimator = make(masked, str(tmp_path / str(len(masks))), train_distribute=distribute)
        estimator.train(lambda: data, [hook])
        masks.append(np.concatenate([np.asarray(mask) for mask in hook.results]))
    assert set(np.unique(masks[0])) == {0.0, 2.0}
    np.testing.assert_array_equal(masks[1], masks[0])


def test_first_values_do_not_depend_on_the_devices(model_dir, on_one_device):
    several = make(deep, model_dir, train_distribute=on(4)).train(endless, steps=1)
    paths = [estimator.all_checkpoints()[0] for estimator in (on_one_device[0], several)]
    one, four = (est.load_variable(path, "hidden/kernel") for path in paths)
    np.testing.assert_array_equal(one, four)


def test_500_steps_on_several_devices_come_to_an_end(model_dir):
    estimator = make(deep, model_dir, train_distribute=on(4), log_step_count_steps=None)
    estimator.train(lambda: batches(1, rows=8)[0], steps=500)
    assert steps_of(estimator) == [0, 500]


def test_adam_on_several_devices_agrees_to_four_digits(tmp_path):
    """It divides by the root of tiny second moments, which magnifies the rounding of sums."""

    def model_fn(features, labels, mode):
        spec = deep(features, labels, mode)
        return spec._replace(train_op=optax.adam(0.01))

    data = [*batches(20, rows=8), *batches(20, rows=6)]
    one = make(model_fn, str(tmp_path / "one")).train(lambda: data)
    four = make(model_fn, str(tmp_path / "four"), train_distribute=on(4)).train(lambda: data)
    assert_close(values_of(four), values_of(one), 1e-4)


def told(caplog):
    return [text for text in caplog.messages if "does not divide" in text]


def test_an_input_whose_batches_never_divide_is_told_once(model_dir, caplog):
    estimator = make(deep, model_dir, train_distribute=on(4), eval_distribute=on(4))
    for _ in range(2):
        estimator.train(lambda: batches(3, rows=6))
    for _ in range(2):
        estimator.evaluate(lambda: batches(3, rows=6))
    message = (
        "DataParallel: a batch of 6 rows does not divide over 4 devices, so each device computes "
        "it whole: the numbers are right, but nothing is gained. Choose a batch size that is a "
        "multiple of 4."
    )
    assert told(caplog) == [message] * 2, "once for training, once for the rest"


def test_a_short_last_batch_is_not_worth_a_word(model_dir, caplog):
    estimator = make(deep, model_dir, train_distribute=on(4))
    estimator.train(lambda: [*batches(3, rows=8), *batches(1, rows=3)])
    assert told(caplog) == []


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([], "devices is empty. Give at least one, or None"),
        (["cpu:0"], r"devices are \['cpu:0'\]. Give different ones of one kind"),
        ([0, 1], r"devices are \[0, 1\]"),
        (jax.devices()[:1] * 2, "Give different ones"),
    ],
    ids=["none", "strings", "numbers", "twice"],
)
def test_devices_that_are_none_are_refused(devices, message):
    with pytest.raises(ValueError, match=message):
        est.DataParallel(devices)


def test_a_state_lives_on_all_devices_and_a_batch_is_split(model_dir):
    hook = Notes(fetches=["hidden/kernel"])
    seen = []

    def model_fn(features, labels, mode):
        jax.debug.inspect_array_sharding(features["x"], callback=seen.append)
        return deep(features, labels, mode)

    estimator = make(model_fn, model_dir, train_distribute=on(4))
    estimator.train(lambda: batches(1, rows=8), [hook])
    (kernel,) = hook.results[0]
    assert len(kernel.sharding.device_set) == 4
    assert kernel.sharding.is_fully_replicated
    assert any(s.shard_shape((8, 2)) == (2, 2) for s in seen), seen


@pytest.mark.parametrize(("train", "evaluate"), [(None, 2), (4, 2)], ids=str)
def test_train_and_evaluate_may_use_different_devices_in_turn(tmp_path, train, evaluate):
    data = batches(3, rows=8)
    alone = make(deep, str(tmp_path / "alone"))
    settings = {
        "train_distribute": None if train is None else on(train),
        "eval_distribute": None if evaluate is None else on(evaluate),
    }
    path = str(tmp_path / "mixed")
    mixed = make(deep, path, **settings)
    for restart in (False, True, False):
        if restart:
            mixed = make(deep, path, **settings)
            mixed.evaluate(lambda: data)
        for estimator in (alone, mixed):
            estimator.train(lambda: data)
        assert_close(mixed.evaluate(lambda: data), alone.evaluate(lambda: data), 1e-6)
        got, wanted = (list(e.predict(lambda: data)) for e in (mixed, alone))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert_close(values_of(mixed), values_of(alone), 1e-6)


def test_evaluating_on_other_devices_leaves_training_where_it_was(model_dir):
    """A train call without `train_distribute` runs on one device, whoever read the variables."""
    make(deep, model_dir).train(endless, steps=1)
    estimator = make(deep, model_dir, eval_distribute=on(2))
    estimator.evaluate(lambda: batches(1))
    hook = Notes(fetches="hidden/kernel")
    estimator.train(endless, [hook], steps=1)
    assert len(hook.results[0].sharding.device_set) == 1


def test_a_checkpoint_of_several_devices_goes_on_on_one(tmp_path):
    data = batches(4, rows=8)
    path = str(tmp_path / "m")
    make(deep, path, train_distribute=on(4)).train(lambda: data)
    one = make(deep, path).train(lambda: data)
    whole = make(deep, str(tmp_path / "w")).train(lambda: data).train(lambda: data)
    assert_close(values_of(one), values_of(whole), 1e-6)


def test_a_generator_half_read_on_a_mesh_is_not_disturbed(model_dir):
    estimator = make(deep, model_dir, train_distribute=on(2), eval_distribute=on(2))
    estimator.train(endless, steps=2)
    data = features_only(5)
    wanted = list(estimator.predict(lambda: data))
    answers = estimator.predict(lambda: data)
    got = [next(answers)]
    estimator.train(endless, steps=2)
    got += answers
    np.testing.assert_array_equal(got, wanted)


def test_compiled_steps_are_used_again_on_a_mesh(model_dir):
    traced = Traced(lambda features, labels, mode, params: line(features, labels, mode, params))
    estimator = make(traced, model_dir, train_distribute=on(2), eval_distribute=on(2))

    def all_calls():
        estimator.train(endless, steps=3)
        estimator.evaluate(lambda: batches(2))
        list(estimator.predict(lambda: features_only(2)))

    all_calls()
    once = dict(traced.counts)
    all_calls()
    assert traced.counts == once


def test_single_steps_between_blocks_are_split_over_the_devices_too(model_dir, monkeypatch):
    put = []
    whole = MeshPlacement.put_batch
    monkeypatch.setattr(
        MeshPlacement, "put_batch", lambda self, inputs: put.append(1) or whole(self, inputs)
    )
    estimator = make(line, model_dir, train_distribute=on(2), steps_per_execution=4)
    estimator.train(endless, hooks=[Notes()], steps=3)
    assert len(put) == 3
