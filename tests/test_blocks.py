"""Several steps in one dispatch: the cadences and the numbers are those of single steps."""

import jax.numpy as jnp
import numpy as np
import pytest
from models import (
    QUIET,
    Notes,
    Traced,
    assert_close,
    batches,
    endless,
    joined,
    line,
    make,
    noisy,
    scalars,
    steps_of,
    values_of,
)

import estimator as est
from estimator.feed import Feed


class Blocks(Notes):
    """Sees the end of each block."""

    def next_step(self, global_step):
        return None


@pytest.mark.parametrize(("model_fn", "calls"), [(line, [1, 5, 6, 20]), (noisy, [13])])
def test_blocks_give_the_numbers_of_single_steps(tmp_path, model_fn, calls):
    ones = make(model_fn, str(tmp_path / "a"), **QUIET)
    fives = make(model_fn, str(tmp_path / "b"), steps_per_execution=5, **QUIET)
    for steps in calls:
        for estimator in (ones, fives):
            estimator.train(endless, steps=steps)
        assert_close(values_of(fives), values_of(ones), 1e-5)


def summed_up(features, labels, mode, params):
    """The line, and a summary of its labels."""
    est.summary.scalar("mean", jnp.mean(labels))
    return line(features, labels, mode, params)


CADENCES = ["save_summary_steps", "log_step_count_steps", "save_checkpoints_steps", "logging"]


def seen_at(cadence, every, k, path, caplog):
    """Returns the steps at which something of that cadence happened."""
    settings = {} if cadence == "logging" else {cadence: every}
    estimator = make(
        summed_up if cadence == "save_summary_steps" else line,
        path,
        steps_per_execution=k,
        keep_checkpoint_max=None,
        **(QUIET | settings),
    )
    hook = est.LoggingTensorHook({"at": "global_step"}, every_n_iter=every)
    caplog.clear()
    with caplog.at_level("INFO", "estimator"):
        estimator.train(endless, [hook] if cadence == "logging" else [], steps=23)
    lines = [record.getMessage() for record in caplog.records]
    logged = [line.split()[2] for line in lines if line.startswith("at = ")]
    written = {tag: [step for step, _ in rows] for tag, rows in scalars(path).items()}
    return steps_of(estimator), written, logged


@pytest.mark.parametrize("every", [3, 10])
@pytest.mark.parametrize("cadence", CADENCES)
def test_blocks_keep_every_cadence(tmp_path, caplog, cadence, every):
    """Whether it falls inside a block, or on the end of one."""
    ones, fives = (seen_at(cadence, every, k, str(tmp_path / str(k)), caplog) for k in (1, 5))
    assert fives == ones


def test_summaries_by_the_clock_are_written_with_blocks_too(model_dir):
    hook = est.SummarySaverHook(save_secs=0.0)
    estimator = make(summed_up, model_dir, steps_per_execution=5, **QUIET)
    estimator.train(endless, [hook], steps=20)
    found = scalars(model_dir)
    assert [step for step, _ in found["mean"]] == [step for step, _ in found["loss"]]


@pytest.mark.parametrize("every", [5, 10])
def test_the_profiler_traces_its_steps_with_blocks_too(model_dir, monkeypatch, every):
    traced = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda path: traced.append(path))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: None)
    hook = est.ProfilerHook(save_steps=every, output_dir="there")
    make(line, model_dir, steps_per_execution=5, **QUIET).train(endless, [hook], steps=21)
    assert len(traced) == 1 + 20 // every


def test_a_hook_without_a_next_step_sees_every_step(model_dir):
    hook, blocks = Notes(), Blocks()
    estimator = make(line, model_dir, steps_per_execution=5, **QUIET)
    estimator.train(endless, [hook, blocks], steps=12)
    assert hook.steps == blocks.steps == list(range(1, 13))


def test_a_hook_that_returns_none_sees_the_end_of_each_block_and_all_its_losses(tmp_path):
    single, blocks = Notes(fetches="loss"), Blocks(fetches="losses")
    make(line, str(tmp_path / "a"), **QUIET).train(endless, [single], steps=12)
    estimator = make(line, str(tmp_path / "b"), steps_per_execution=5, **QUIET)
    estimator.train(endless, [blocks], steps=12)
    assert blocks.steps[-1] == 12
    assert sorted(np.diff([0, *blocks.steps])) == [1, 1, 5, 5]
    losses = np.concatenate([np.asarray(result) for result in blocks.results])
    np.testing.assert_allclose(losses, single.results, rtol=1e-5)


def test_a_hook_is_called_at_the_step_it_waits_for_and_at_no_other(model_dir):
    class Odd(Notes):
        def next_step(self, global_step):
            return next(step for step in (3, 4, 11, 17, 99) if step > global_step)

    hook = Odd()
    estimator = make(line, model_dir, steps_per_execution=5, **QUIET)
    estimator.train(endless, [hook], steps=20)
    assert hook.steps == [3, 4, 11, 17]


def test_only_two_programs_are_compiled(model_dir):
    traced = Traced()
    estimator = make(traced, model_dir, steps_per_execution=5, **QUIET)
    estimator.train(endless, steps=1)
    one = traced.counts["train"]
    estimator.train(endless, steps=9)
    both = traced.counts["train"]
    for steps in (4, 10, 13):
        estimator.train(endless, steps=steps)
    assert both == one + 1
    assert traced.counts["train"] == both


def test_batches_of_other_shapes_go_one_by_one(tmp_path):
    data = batches(6) + batches(1, rows=3) + batches(7)
    blocks = Blocks()
    ones = make(line, str(tmp_path / "a"), **QUIET).train(lambda: data)
    fives = make(line, str(tmp_path / "b"), steps_per_execution=5, **QUIET)
    fives.train(lambda: data, [blocks])
    assert_close(values_of(fives), values_of(ones), 1e-6)
    assert blocks.steps[-1] == 14
    assert sorted(set(np.diff([0, *blocks.steps]))) == [1, 5]


def test_a_killed_run_of_blocks_goes_on_at_the_batch_after_the_checkpoint(tmp_path):
    x, y = joined(batches(9))
    input_fn = est.numpy_input_fn(x, y, batch_size=2, num_epochs=1, shuffle=False)
    whole = make(line, str(tmp_path / "a")).train(input_fn)

    class Breaks(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            if run_context.session.global_step > 9:
                raise ArithmeticError("enough")

        def next_step(self, global_step):
            return None

    killed = make(line, str(tmp_path / "b"), save_checkpoints_steps=3, steps_per_execution=4)
    with pytest.raises(ArithmeticError, match="enough"):
        killed.train(input_fn, [Breaks()])
    assert steps_of(killed)[-1] == 9
    assert_close(values_of(killed.train(input_fn)), values_of(whole), 1e-5)


def test_a_block_size_that_divides_no_cadence_is_told(model_dir, caplog):
    with caplog.at_level("WARNING", "estimator"):
        make(line, model_dir, steps_per_execution=3, save_checkpoints_steps=6).train(
            endless, steps=1
        )
    told = [r.getMessage() for r in caplog.records]
    assert any("steps_per_execution=3 does not divide log_step_count_steps=100" in m for m in told)
    assert not any("save_checkpoints_steps" in m for m in told)


def test_batches_that_would_crowd_the_memory_are_not_stacked(model_dir, monkeypatch):
    monkeypatch.setattr("estimator.feed._BLOCK_BYTES", 1)
    seen = []
    item = Feed.take
    monkeypatch.setattr(Feed, "take", lambda self, n=1: seen.append(item(self, n)) or seen[-1])
    make(line, model_dir, steps_per_execution=3).train(endless, steps=7)
    assert {taken.count for taken in seen} == {1}
