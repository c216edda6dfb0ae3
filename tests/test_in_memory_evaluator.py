"""InMemoryEvaluatorHook: evaluations in the middle of training, without checkpoints."""

import os

import pytest
from models import Notes, Traced, batches, endless, line, quiet, scalars

import estimator as est


def held_out():
    return batches(2, seed=1)


def evaluated(estimator):
    return [record["global_step"] for record in estimator.history]


def without_checkpoints(model_dir, model_fn=line, **settings):
    off = {"save_checkpoints_steps": None, "save_checkpoints_secs": None}
    return quiet(model_dir, model_fn, **off, **settings)


@pytest.mark.parametrize(("steps", "wanted"), [(5, [0, 2, 4, 5]), (4, [0, 2, 4]), (1, [0, 1])])
def test_it_evaluates_before_the_first_step_on_the_way_and_at_the_end(model_dir, steps, wanted):
    estimator = without_checkpoints(model_dir)
    hook = est.InMemoryEvaluatorHook(estimator, held_out, every_n_iter=2, name="near")
    estimator.train(endless, [hook], steps=steps)
    assert evaluated(estimator) == wanted
    assert [step for step, _ in scalars(estimator.eval_dir("near"))["loss"]] == wanted
    assert os.listdir(os.path.join(model_dir, "checkpoints")) == []


def test_its_numbers_are_those_of_a_checkpoint(model_dir):
    estimator = quiet(model_dir)
    hook = est.InMemoryEvaluatorHook(estimator, held_out, every_n_iter=4)
    estimator.train(endless, [hook], steps=8)
    estimator.train(endless, [hook], steps=3)
    results = estimator.evaluate(held_out)
    assert evaluated(estimator) == [0, 4, 8, 8, 11, 11]
    last, again = estimator.history[-2:]
    assert last["loss"] == again["loss"] == results["loss"]


def test_the_model_is_traced_once_for_all_evaluations(model_dir):
    model_fn = Traced()
    estimator = without_checkpoints(model_dir, model_fn)
    estimator.train(endless, [est.InMemoryEvaluatorHook(estimator, held_out)], steps=1)
    counts = dict(model_fn.counts)
    hook = est.InMemoryEvaluatorHook(estimator, held_out, every_n_iter=1)
    estimator.train(endless, [hook], steps=4)
    assert model_fn.counts == counts


def test_it_passes_on_steps_and_hooks(model_dir):
    estimator, notes = without_checkpoints(model_dir), Notes()
    hook = est.InMemoryEvaluatorHook(estimator, held_out, steps=1, hooks=[notes])
    estimator.train(endless, [hook], steps=1)
    assert [entry[1] for entry in notes.log].count("after_run") == 2
    assert [entry[1] for entry in notes.log].count("end") == 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"every_n_iter": 0}, ValueError, "every_n_iter > 0, given: 0"),
        ({"every_n_iter": -1}, ValueError, "every_n_iter > 0, given: -1"),
        ({"steps": 0}, ValueError, "steps > 0, given: 0"),
        ({"hooks": [3]}, TypeError, "SessionRunHook objects, got 3"),
        ({"input_fn": None}, TypeError, "input_fn must be a function"),
        ({"estimator": line}, TypeError, "estimator must be an Estimator"),
    ],
)
def test_it_says_no_to_what_cannot_be(model_dir, settings, error, message):
    given = {"estimator": quiet(model_dir), "input_fn": held_out, **settings}
    with pytest.raises(error, match=message):
        est.InMemoryEvaluatorHook(**given)


def test_it_serves_the_training_of_its_own_estimator_only(model_dir):
    estimator, other = quiet(model_dir), quiet(f"{model_dir}_1")
    hook = est.InMemoryEvaluatorHook(other, held_out)
    with pytest.raises(ValueError, match="of the Estimator that it was made for"):
        estimator.train(endless, [hook], steps=1)
    with pytest.raises(ValueError, match="of the Estimator that it was made for"):
        other.evaluate(held_out, hooks=[hook])
