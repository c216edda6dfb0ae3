"""Wrong use gives one clear error, spoils no checkpoint, and leaves training able to go on."""

import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import steps_of
from train_process import content, estimator_of, make_net, net, ordered, shuffled
from wrong_models import (
    returning_a_loss,
    returning_a_loss_of_each_row,
    with_a_class_for_a_train_op,
    with_a_number_for_a_metric,
    with_a_rate_of_the_batch,
    with_a_wider_layer,
    with_an_initializer_of_the_batch,
    with_another_optimizer,
    with_gradients_for_a_train_op,
    with_loss_none,
    with_one_layer_more,
    without_a_layer,
    without_loss,
    without_train_op,
)

import estimator as est


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> est.Estimator:
    """`net`, trained for six steps."""
    model_dir = str(tmp_path_factory.mktemp("good") / "model")
    return make_net(model_dir).train(shuffled(), max_steps=6)


@pytest.fixture
def trained(good) -> Iterator[str]:
    """Its model_dir; in the end, it must be able to go on from where it was."""
    before = content(good.model_dir)["step"]
    yield good.model_dir
    assert content(good.model_dir)["step"] == before
    good.train(shuffled(), steps=1)
    assert content(good.model_dir)["step"] == before + 1


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return make_net(str(tmp_path_factory.mktemp("untrained") / "model"))


@pytest.fixture
def untrained(compiled) -> est.Estimator:
    """An Estimator of `net` as if it were new: without model_dir, but what it compiled is kept."""
    shutil.rmtree(compiled.model_dir, ignore_errors=True)
    return compiled


# What a model_fn may do wrong.


@pytest.mark.parametrize(
    ("model_fn", "error", "message"),
    [
        (with_loss_none, ValueError, r"Missing loss: .* mode 'train' needs `loss`.* given only"),
        (
            without_train_op,
            ValueError,
            r"Missing train_op: .*'dense/bias', 'dense/kernel'.* train_op=optax.adam",
        ),
        (
            with_a_number_for_a_metric,
            TypeError,
            r'eval_metric_ops\["mean"\] must be a metric such as metrics.mean\(values\), got',
        ),
        (with_a_class_for_a_train_op, TypeError, "train_op must be an optax transformation"),
        (with_gradients_for_a_train_op, TypeError, "train_op must be an optax transformation"),
        (with_a_rate_of_the_batch, ValueError, "train_op holds a value that .* from the batch"),
        (
            with_another_optimizer,
            ValueError,
            r"checkpoints/[0-9]+ was written with another optimizer: it holds .*\[0/count .*"
            r"this one needs \[0/trace.*new model_dir",
        ),
        (
            without_a_layer,
            ValueError,
            r"checkpoints/[0-9]+ has \[.*'dense_2/kernel'\], .* asks only for \['dense/bias', "
            r"'dense/kernel', 'dense_1/bias', 'dense_1/kernel'\].*another model_dir",
        ),
        (
            with_a_wider_layer,
            ValueError,
            r"checkpoints/[0-9]+ does not fit .*float32\[4, 10\] there, "
            r"dense/kernel float32\[4, 11\] here.*"
            r"(checkpoint|model) has \['dense/bias'.*asks for .*another model_dir",
        ),
        (
            with_one_layer_more,
            ValueError,
            r"checkpoints/[0-9]+ does not fit .*missing \['extra/bias', 'extra/kernel'\].*"
            r"(checkpoint|model) has \['dense/bias'.*model_fn asks for .*'extra/kernel'",
        ),
        (returning_a_loss, TypeError, "model_fn should return an EstimatorSpec, got"),
        (returning_a_loss_of_each_row, ValueError, r"Loss must be a single number.*\(8,\).*mean"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_a_wrong_model_fn_is_refused_before_a_step_is_made(trained, model_fn, error, message):
    files = sorted(Path(trained, "checkpoints").rglob("*"))
    estimator = estimator_of(model_fn, trained)
    for _ in range(2):
        with pytest.raises(error, match=message):
            estimator.train(shuffled(), steps=2)
    assert sorted(Path(trained, "checkpoints").rglob("*")) == files


def test_a_missing_loss_in_evaluation_is_refused(trained):
    with pytest.raises(ValueError, match=r"Missing loss: .* mode 'eval' needs `loss`"):
        estimator_of(with_loss_none, trained).evaluate(shuffled(1))


def test_predictions_that_are_a_spec_are_refused(trained):
    with pytest.raises((TypeError, ValueError), match=r"Missing loss|must be an array"):
        estimator_of(without_loss, trained).train(shuffled(), steps=1)


def test_an_initializer_that_looks_at_the_batch_is_refused(untrained):
    model_dir = untrained.model_dir
    message = r"The initializer of scale float32\[4\] uses a value of the batch.*Scaffold\(init_fn"
    with pytest.raises(ValueError, match=message):
        estimator_of(with_an_initializer_of_the_batch, model_dir).train(shuffled(), steps=2)
    assert steps_of(untrained) == []
    untrained.train(shuffled(), steps=1)


def test_a_variable_that_only_evaluation_asks_for_is_refused(trained):
    def model_fn(features, labels, mode):
        return (with_one_layer_more if mode == est.ModeKeys.EVAL else net)(features, labels, mode)

    message = (
        r"checkpoints/[0-9]+ does not fit the model_fn in mode 'eval': missing \['extra/bias', "
        r"'extra/kernel'\].*(checkpoint|model) has \['dense/bias'.*asks for \['dense/bias'"
    )
    with pytest.raises(ValueError, match=message):
        estimator_of(model_fn, trained).evaluate(shuffled(1))


def test_a_variable_first_asked_for_at_another_batch_size_is_refused(model_dir):
    def model_fn(features, labels, mode):
        few = features["x"].shape[0] < 8
        return (with_one_layer_more if few else net)(features, labels, mode)

    estimator = estimator_of(model_fn, model_dir, save_checkpoints_steps=2)
    message = r'get_variable\("extra/kernel"\): the model has no such variable; it has \[.*dense'
    with pytest.raises(ValueError, match=message):
        estimator.train(lambda: [*ordered(3), *ordered(1, rows=5)])
    assert steps_of(estimator) == [0, 2]
    estimator.train(shuffled(), max_steps=4)
    with pytest.raises(ValueError, match=message):
        estimator.evaluate(lambda: [*ordered(1), *ordered(1, rows=5)])
    assert steps_of(estimator) == [0, 2, 4]


def test_a_tag_or_metric_first_seen_at_another_batch_size_is_refused(model_dir):
    def model_fn(features, labels, mode):
        spec = net(features, labels, mode)
        if features["x"].shape[0] < 8:
            est.tag("few", spec.loss)
        return spec

    estimator = estimator_of(model_fn, model_dir)
    with pytest.raises(ValueError, match=r"model_fn tags \['few'\] with this batch, but \[\]"):
        estimator.train(lambda: [*ordered(3), *ordered(1, rows=5)])
    assert steps_of(estimator) == [0, 3]


def two_towers(features, labels, mode):
    """One layer, and one more where there is a second feature."""
    hidden = est.layers.dense(features["x"], 3, name="a")
    if "more" in features:
        hidden += est.layers.dense(features["more"], 3, name="b")
    loss = jnp.mean(hidden**2)
    return est.EstimatorSpec(mode, predictions=hidden, loss=loss, train_op=optax.adam(0.1))


ONE = {"x": np.ones((8, 4), np.float32)}
TWO = {**ONE, "more": np.ones((8, 4), np.float32)}


@pytest.mark.parametrize("first", [ONE, TWO], ids=["more", "fewer"])
def test_another_kind_of_batch_with_other_variables_is_refused_in_training(model_dir, first):
    second = TWO if first is ONE else ONE
    estimator = estimator_of(two_towers, model_dir)
    message = r"b/kernel.* the model_fn asks|the model_fn asks .*b/kernel"
    with pytest.raises(ValueError, match=message):
        estimator.train(lambda: [first] * 4 + [second])
    assert steps_of(estimator) == [0, 3]
    estimator.train(lambda: [first])
    assert steps_of(estimator) == [0, 3, 4]


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_another_kind_of_batch_with_more_variables_is_refused_as_the_first_would_be(
    model_dir, call
):
    estimator = estimator_of(two_towers, model_dir).train(lambda: [ONE])
    message = r"checkpoints/1 does not fit the model_fn .*missing \['b/bias', 'b/kernel'\]"
    for batches in ([TWO], [ONE, TWO]):
        with pytest.raises(ValueError, match=message):
            list(getattr(estimator, call)(lambda batches=batches: batches))


# Misspelt names.


def test_a_misspelt_name_in_a_hook_is_refused_before_a_step_is_made(trained):
    message = r'LoggingTensorHook: there is no "los" to fetch, only \[.*Did you mean "loss"'
    with pytest.raises(ValueError, match=message):
        make_net(trained).train(shuffled(), [est.LoggingTensorHook(["los"], 1)], steps=2)
    with pytest.raises(ValueError, match=message):
        make_net(trained).evaluate(shuffled(1), hooks=[est.LoggingTensorHook(["los"], 1)])


@pytest.mark.parametrize(
    "hook", [est.FinalOpsHook("dens/kernel"), est.NanTensorHook("dens/kernel")]
)
def test_a_misspelt_variable_in_a_hook_is_refused(trained, hook):
    with pytest.raises(ValueError, match=r'no "dens/kernel" to fetch.*mean "dense/kernel"'):
        make_net(trained).train(shuffled(), [hook], steps=2)


def test_a_misspelt_predict_key_is_refused_at_the_call(trained):
    message = (
        r"model_fn predicts \['classes', 'probabilities'\], not \['clases'\].*mean \"classes\""
    )
    with pytest.raises(ValueError, match=message):
        make_net(trained).predict(shuffled(1), "clases")


def test_a_misspelt_variable_is_refused(trained):
    with pytest.raises(KeyError, match=r"no variable .*dense/kernal.* among .*mean .dense/kernel"):
        make_net(trained).get_variable_value("dense/kernal")


# Batches that do not fit.


def with_bad_batch(number: int, bad: Any) -> Any:
    """Returns an input_fn that gives good batches, and in place `number`, from 1 on, a bad one."""
    made = ordered(number + 4)
    made[number - 1] = bad
    return lambda: iter(made)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((8, 5), np.float32), r'\(5, 10\).*\(4, 10\)|features\["x"\]'),
        (np.ones((8, 4, 2), np.float32), r'\(2, 10\).*\(4, 10\)|features\["x"\]'),
        (np.array([["a"] * 4] * 8), r'features\["x"\] holds strings'),
    ],
    ids=["wider", "of another rank", "strings"],
)
def test_a_feature_of_another_shape_at_step_11_is_named(untrained, x, message):
    input_fn = with_bad_batch(11, ({"x": x}, np.zeros(8, np.int32)))
    with pytest.raises((TypeError, ValueError), match=message):
        untrained.train(input_fn)
    assert steps_of(untrained) == [0, 3, 6, 9]
    untrained.train(shuffled(), max_steps=10)
    assert content(untrained.model_dir)["step"] == 10


def test_labels_of_another_length_than_the_features_are_refused(untrained):
    features, labels = ordered(1)[0]
    message = (
        r'labels has length 7, the features \[8\]: the batch has features\["x"\] float32\[8, 4\]'
    )
    with pytest.raises(ValueError, match=message):
        untrained.train(lambda: (features, labels[:7]), steps=2)
    with pytest.raises(ValueError, match=message):
        untrained.train(with_bad_batch(5, (features, labels[:7])))
    assert steps_of(untrained) == [0, 3]
    with pytest.raises(ValueError, match=message):
        untrained.evaluate(with_bad_batch(2, (features, labels[:7])))
    untrained.train(shuffled(), max_steps=4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (({"y": np.ones((8, 4), np.float32)}, np.zeros(8, np.int32)), "'x'"),
        (np.ones((8, 4), np.float32), "x|index|label"),
        (({"x": np.ones((8, 4))}, np.zeros(8), 1), r"batch 5 of input_fn should be .*length 3"),
        (None, "batch 5 of input_fn is None"),
    ],
    ids=["without the feature", "an array", "of three", "none"],
)
def test_a_batch_of_another_make_is_refused_at_its_step(untrained, bad, message):
    with pytest.raises((TypeError, ValueError, KeyError, IndexError), match=message):
        untrained.train(with_bad_batch(5, bad))
    assert steps_of(untrained) == [0, 3]
    untrained.train(shuffled(), max_steps=4)


def with_ids(features, labels, mode):
    """The net; it uses `id`, if there is one."""
    spec = net({"x": features["x"]}, labels, mode)
    if "id" not in features:
        return spec
    return spec._replace(loss=spec.loss + 0.0 * jnp.mean(features["id"]))


@pytest.mark.parametrize(("too_big", "prefetch"), [(2**31, 0), (-(2**40), 2)])
def test_an_id_that_does_not_fit_is_refused_by_name_if_it_is_used(untrained, too_big, prefetch):
    def input_fn():
        for i, (features, labels) in enumerate(ordered(8)):
            ids = np.arange(8, dtype=np.int64)
            ids[3] = too_big if i == 4 else 3
            yield {**features, "id": ids}, labels

    estimator = estimator_of(with_ids, untrained.model_dir, prefetch=prefetch)
    with pytest.raises(OverflowError, match=rf'features\["id"\] holds {too_big}, which does not'):
        estimator.train(input_fn)
    assert steps_of(estimator) == [0, 3]
    unused = untrained.train(input_fn)
    assert steps_of(unused)[-1] == 11


# Inputs, hooks and listeners that end or raise.


class BlockEnds(est.SessionRunHook):
    """Counts steps and leaves blocks whole."""

    def __init__(self):
        self.step = 0

    def after_run(self, run_context, run_values):
        self.step = run_context.session.global_step

    def next_step(self, global_step):
        return None


@pytest.mark.parametrize(("prefetch", "block"), [(0, 4), (2, 1), (2, 4)])
def test_an_input_that_raises_surfaces_where_it_raised(model_dir, prefetch, block):
    def opens_the_file(i):
        raise LookupError(f"no file {i}")

    def input_fn():
        for i, batch in enumerate(ordered(9), start=1):
            yield batch if i != 7 else opens_the_file(i)

    estimator = make_net(model_dir, prefetch=prefetch, steps_per_execution=block)
    hook = BlockEnds()
    with pytest.raises(LookupError, match=r"^'?no file 7'?$") as caught:
        estimator.train(input_fn, [hook])
    assert hook.step == 6
    assert "opens_the_file" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert steps_of(estimator)[-1] in (3, 6)
    with pytest.raises(LookupError, match="no file 7"):
        estimator.evaluate(input_fn)
    with pytest.raises(LookupError, match="no file 7"):
        list(estimator.predict(input_fn))
    estimator.train(shuffled(), steps=1)


def test_an_input_fn_that_raises_at_once_surfaces_unchanged(trained):
    def input_fn():
        raise LookupError("no table")

    estimator = make_net(trained)
    for call in (estimator.train, estimator.evaluate, lambda f: list(estimator.predict(f))):
        with pytest.raises(LookupError, match=r"^'?no table'?$"):
            call(input_fn)


def test_an_empty_input_is_an_error_except_in_predict(trained):
    estimator = make_net(trained)
    with pytest.raises(ValueError, match=r"train: the input is empty. input_fn must give at least"):
        estimator.train(lambda: iter(()), steps=3)
    with pytest.raises(ValueError, match=r"evaluate: the input is empty. input_fn must give at"):
        estimator.evaluate(lambda: iter(()))
    assert list(estimator.predict(lambda: iter(()))) == []
    assert list(estimator.predict(lambda: iter(()), "classes")) == []


@pytest.mark.parametrize("where", ["hook", "listener"])
@pytest.mark.usefixtures("trained")
def test_an_error_in_a_hook_or_a_listener_leaves_the_last_checkpoint(good, where):
    class Hook(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            raise LookupError("mine")

    class Listener(est.CheckpointSaverListener):
        def before_save(self, session, global_step_value):
            raise LookupError("mine")

    given = {"hooks": [Hook()]} if where == "hook" else {"saving_listeners": [Listener()]}
    with pytest.raises(LookupError, match=r"^'?mine'?$"):
        good.train(shuffled(), steps=2, **given)
    assert jax.tree.leaves(good.evaluate(shuffled(1)))


def test_a_variable_of_another_dtype_than_in_the_checkpoint_is_named(model_dir):
    def model_fn(features, labels, mode, params):
        weight = est.get_variable("weight", (4,), dtype=params["dtype"])
        loss = jnp.mean((features["x"] @ weight.astype(np.float32)) ** 2)
        return est.EstimatorSpec(mode, loss=loss, train_op=optax.sgd(0.1))

    def estimator(dtype):
        return est.Estimator(model_fn, model_dir, params={"dtype": dtype})

    estimator(np.float32).train(lambda: {"x": np.ones((8, 4), np.float32)}, steps=1)
    with pytest.raises(ValueError, match=r"float32\[4\] there, weight bfloat16\[4\] here"):
        estimator(jnp.bfloat16).train(lambda: {"x": np.ones((8, 4), np.float32)}, steps=1)
