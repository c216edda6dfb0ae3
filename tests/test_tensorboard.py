"""TensorBoard's own reader finds every tag and value of a run."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from models import batches, make
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import estimator as est
from estimator import metrics, summary

STEPS = 7


def model_fn(features, labels, mode, params):
    from models import line

    x = features["x"]
    summary.scalar("mean", x.mean())
    with est.variable_scope("inner"):
        summary.histogram("x", x)
        summary.image("batch", x[None, :, :, None], max_outputs=2)
    summary.text("note", ["first", "second"])
    names = est.Lookup(("below", "above"))
    summary.text("side", est.host_output(names, jnp.int32(x[:2, 0] > 0)))
    spec = line(features, labels, mode, params)
    ups = metrics.recall_at_thresholds(labels > 0, jnp.clip(x[:, 0], 0, 1), [0.1, 0.5])
    return spec._replace(
        eval_metric_ops={**spec.eval_metric_ops, "ups": ups} if mode == "eval" else None,
        evaluation_hooks=[est.SummarySaverHook(save_steps=1)],
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with everything: its directory, the batches, the evaluation's results."""
    directory = str(tmp_path_factory.mktemp("run") / "model")
    config = {"save_summary_steps": 3, "log_step_count_steps": 2}
    estimator = make(model_fn, directory, **config)
    data = batches(STEPS)
    estimator.train(lambda: data)
    estimator.train(lambda: data[:1])
    return directory, data, estimator.evaluate(lambda: data)


def read(directory):
    everything = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    reader = EventAccumulator(directory, size_guidance=everything)
    reader.Reload()
    return reader


TRAINED_AT = [1, 4, 7, 8]  # the cadence begins anew with the second call


def test_scalars_of_training(run):
    directory, data, _ = run
    reader = read(directory)
    assert sorted(reader.Tags()["scalars"]) == ["global_step/sec", "loss", "mean"]
    for tag, steps in (("mean", TRAINED_AT), ("loss", TRAINED_AT), ("global_step/sec", [3, 5, 7])):
        assert [event.step for event in reader.Scalars(tag)] == steps
    means = [data[(step - 1) % STEPS][0]["x"].mean() for step in TRAINED_AT]
    np.testing.assert_allclose([e.value for e in reader.Scalars("mean")], means, rtol=1e-5)


def test_histograms_and_images_of_training(run):
    directory, data, _ = run
    reader = read(directory)
    assert reader.Tags()["histograms"] == ["inner/x"]
    events = reader.Histograms("inner/x")
    assert [event.step for event in events] == TRAINED_AT
    first = data[0][0]["x"]
    value = events[0].histogram_value
    np.testing.assert_allclose(
        [value.min, value.max, value.sum], [first.min(), first.max(), first.sum()], rtol=1e-5
    )
    assert reader.Tags()["images"] == ["inner/batch/image/0"]
    image = reader.Images("inner/batch/image/0")[0]
    assert (image.height, image.width) == first.shape


def test_texts_of_training(run):
    directory, data, _ = run
    reader = read(directory)
    assert sorted(reader.Tags()["tensors"]) == ["note", "side"]
    assert sorted(reader.PluginTagToContent("text")) == ["note", "side"]
    texts = {
        tag: make_ndarray(reader.Tensors(tag)[0].tensor_proto).tolist() for tag in ("note", "side")
    }
    sides = [b"above" if x > 0 else b"below" for x in data[0][0]["x"][:2, 0]]
    assert texts == {"note": [b"first", b"second"], "side": sides}


def test_results_and_summaries_of_an_evaluation(run):
    directory, data, results = run
    reader = read(os.path.join(directory, "eval"))
    scalars = {tag: reader.Scalars(tag) for tag in reader.Tags()["scalars"]}
    assert scalars.keys() == {"loss", "error", "mean"}
    for tag in ("loss", "error"):
        assert [(e.step, e.value) for e in scalars[tag]] == [(8, pytest.approx(results[tag]))]
    assert scalars["mean"][0].value == pytest.approx(data[0][0]["x"].mean(), rel=1e-5)
    assert sorted(reader.Tags()["tensors"]) == ["checkpoint_path", "note", "side", "ups"]
    np.testing.assert_allclose(make_ndarray(reader.Tensors("ups")[0].tensor_proto), results["ups"])
    assert reader.Tags()["histograms"] == ["inner/x"]
    (path,) = make_ndarray(reader.Tensors("checkpoint_path")[0].tensor_proto).reshape(1)
    assert path.decode() == os.path.join(directory, "checkpoints", "8")


def test_a_directory_has_one_file_a_process(run):
    directory, _, _ = run
    for folder in (directory, os.path.join(directory, "eval")):
        assert len([name for name in os.listdir(folder) if "tfevents" in name]) == 1
