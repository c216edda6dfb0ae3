"""Summaries: what a model_fn makes known, and the bytes that TensorBoard reads."""

import io
import os
import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import batches, endless, line, make, quiet, scalars

import estimator as est
from estimator import summary
from estimator.summary_protos import summary_values
from estimator.variables import trace


def tags_of(fn, *args):
    return list(trace(fn, *args)[0].summaries)


# What a model_fn may summarise.


def test_a_tag_is_made_of_family_scope_and_name():
    def fn(x):
        with est.variable_scope("outer"):
            summary.scalar("mean", x.mean())
            summary.histogram("all", x, family="net")

    assert tags_of(fn, np.ones(3)) == ["outer/mean", "net/outer/all"]


def test_a_name_that_is_taken_is_numbered():
    def fn(x):
        summary.scalar("x", x.mean())
        summary.histogram("x", x)
        summary.text("x", "three")

    assert tags_of(fn, np.ones(3)) == ["x", "x_1", "x_2"]


KINDS = {
    "scalar": lambda x: summary.scalar("s", x.sum()),
    "histogram": lambda x: summary.histogram("s", x),
    "image": lambda x: summary.image("s", jnp.ones((1, 2, 2, 1)) * x.sum()),
    "text": lambda x: summary.text("s", "words"),
    "tag": lambda x: summary.tag("s", x),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_summary_is_made_inside_the_body_of_an_inner_transform(kind):
    def fn(x):
        jax.lax.map(lambda row: (KINDS[kind](row), row)[1], x)

    with pytest.raises(ValueError, match=r'\("s"\) inside jax.lax.scan.*name it outside'):
        trace(fn, np.ones((3, 2), np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_summary_outside_a_model_fn_is_an_error(kind):
    with pytest.raises(RuntimeError, match=r'\("s"\) was called outside a model_fn'):
        KINDS[kind](jnp.ones(2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: summary.scalar("s", jnp.ones(2)),
            ValueError,
            r"one real number, got float32 of shape \(2,\)",
        ),
        (lambda: summary.scalar("s", jnp.complex64(1)), ValueError, "real number, got complex64"),
        (lambda: summary.image("s", jnp.ones((1, 0, 2, 1))), ValueError, "needs uint8 or"),
        (lambda: summary.image("s", jnp.ones((2, 2, 1))), ValueError, r"float32 of shape \(2, 2"),
        (lambda: summary.image("s", jnp.ones((1, 2, 2, 2))), ValueError, r"\[1, 3, 4\] channels"),
        (lambda: summary.image("s", jnp.ones((1, 2, 2, 1), int)), ValueError, "needs uint8 or"),
        (lambda: summary.image("s", jnp.ones((1, 2, 2, 1)), 0), ValueError, "max_outputs.*got 0"),
        (lambda: summary.scalar(1.0, "s"), TypeError, r"must be str.*summary.scalar\(name, value"),
        (lambda: summary.scalar("s", 1.0, ["c"]), TypeError, r"must be str, got 's' and \['c'\]"),
        (lambda: summary.text("s", 3), TypeError, "needs a str, a list of str.*got 3"),
        (lambda: summary.text("s", ["a", 3]), TypeError, "needs a str"),
    ],
)
def test_what_is_no_summary_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        trace(call)


# Histograms.


def histogram_of(values, tag="h"):
    (value,) = summary_values(tag, summary.Histogram(np.asarray(values)))
    return value.histo


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "bool"])
def test_a_histogram_counts_every_value_in_the_bucket_it_falls_into(dtype):
    values = np.random.default_rng(0).normal(0, 10, (30, 7)).astype(jnp.dtype(dtype))
    histo = histogram_of(values)
    wide = values.astype(np.float64).ravel()
    assert (histo.num, histo.min, histo.max) == (wide.size, wide.min(), wide.max())
    np.testing.assert_allclose([histo.sum, histo.sum_squares], [wide.sum(), (wide**2).sum()])
    limits, counts = np.array(histo.bucket_limit), np.array(histo.bucket)
    assert (np.diff(limits) > 0).all()
    cumulative = [(wide < limit).sum() for limit in limits]
    np.testing.assert_array_equal(np.cumsum(counts), cumulative)


def test_the_buckets_of_a_histogram_are_a_tenth_wide():
    limits = np.array(histogram_of(np.geomspace(1, 100, 1000)).bucket_limit)
    np.testing.assert_allclose(limits[2:] / limits[1:-1], 1.1, rtol=1e-9)


def test_of_a_run_of_empty_buckets_one_is_written():
    histo = histogram_of([-5.0, 1e-3, 3.0])
    assert sorted(histo.bucket) == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert list(histogram_of([]).bucket) == [0.0]


def test_values_that_are_not_finite_are_left_out_and_told(caplog):
    histo = histogram_of([1.0, np.nan, np.inf, 2.0], tag="net")
    assert (histo.num, histo.max) == (2, 2.0)
    assert 'summary.histogram("net"): 2 of 4 values are not finite' in caplog.text


# Images.


def pixels_of(value):
    """Decodes an unfiltered PNG by hand, checking its checksums."""
    data = io.BytesIO(value.image.encoded_image_string)
    assert data.read(8) == b"\x89PNG\r\n\x1a\n"
    chunks = {}
    while header := data.read(8):
        length, kind = struct.unpack(">I4s", header)
        body = data.read(length)
        assert struct.unpack(">I", data.read(4)) == (zlib.crc32(kind + body),)
        chunks[kind] = body
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    channels = {0: 1, 2: 3, 6: 4}[colour]
    assert (depth, channels) == (8, value.image.colorspace)
    assert (height, width) == (value.image.height, value.image.width)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


def images_of(pixels, most=3, tag="i"):
    return summary_values(tag, summary.Image(np.asarray(pixels), most))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bytes_are_written_as_they_are(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, channels), np.uint8)
    values = images_of(pixels)
    assert [value.tag for value in values] == ["i/image/0", "i/image/1"]
    for value, wanted in zip(values, pixels, strict=True):
        np.testing.assert_array_equal(pixels_of(value), wanted)


@pytest.mark.parametrize(
    ("floats", "wanted"),
    [
        ([0.0, 1.0, 2.0], [0, 127, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([-2.0, 0.0, 1.0], [1, 128, 191]),
        ([-1.0, 0.0, 2.0], [64, 128, 255]),
        ([0.5, np.nan, 1.0], [127, 255, 255]),
    ],
)
def test_floats_are_scaled_image_by_image(floats, wanted):
    pixels = np.float32([floats, [1.0, 1.0, 1.0]]).reshape(2, 1, 3, 1)
    first, second = images_of(pixels)
    assert pixels_of(first).ravel().tolist() == wanted
    assert pixels_of(second).ravel().tolist() == [255] * 3


def test_a_pixel_that_is_no_number_is_red():
    pixels = np.ones((1, 1, 2, 3), np.float32)
    pixels[0, 0, 1, 2] = np.inf
    assert pixels_of(images_of(pixels)[0]).tolist() == [[[255] * 3, [255, 0, 0]]]


def test_the_only_image_has_no_number_and_no_more_than_asked_for_are_fetched():
    assert images_of(np.ones((1, 2, 2, 1), np.float32), most=1)[0].tag == "i/image"
    (made,) = trace(lambda x: summary.image("i", x, 2), jnp.ones((5, 2, 2, 1)))[0].summaries
    assert made == "i"


# Runs.


def talkative(features, labels, mode, params):
    spec = line(features, labels, mode, params)
    x = features["x"]
    summary.histogram("x", x)
    summary.image("batch", x[None, :, :, None], max_outputs=1)
    summary.text("note", ["first", "second"])
    names = est.Lookup(("below", "above"))
    summary.text("side", est.host_output(names, jnp.int32(x[:2, 0] > 0)))
    hook = est.SummarySaverHook(save_steps=1)
    return spec._replace(evaluation_hooks=[hook])


def test_a_summary_is_computed_only_in_the_steps_that_write_it(model_dir):
    """The program of the other steps does not hold it; the host is called in those that do."""
    calls = []

    def model_fn(features, labels, mode, params):
        def called(x):
            calls.append(1)
            return x

        shape = jax.ShapeDtypeStruct((), np.float32)
        value = jax.pure_callback(called, shape, features["x"].sum())
        summary.scalar("costly", value)
        return line(features, labels, mode, params)

    estimator = quiet(model_dir, model_fn, save_summary_steps=4)
    estimator.train(endless, steps=10)
    assert [step for step, _ in scalars(model_dir)["costly"]] == [1, 5, 9]
    assert len(calls) == 3


@pytest.mark.parametrize(("every", "written"), [(0, []), (10, [1, 11, 21])])
def test_a_block_that_writes_no_summary_computes_none(model_dir, every, written):
    calls = []

    def model_fn(features, labels, mode, params):
        def called(x):
            calls.append(1)
            return x

        shape = jax.ShapeDtypeStruct((), np.float32)
        summary.scalar("costly", jax.pure_callback(called, shape, features["x"].sum()))
        return line(features, labels, mode, params)

    estimator = quiet(model_dir, model_fn, save_summary_steps=every, steps_per_execution=5)
    estimator.train(endless, steps=21)
    assert [step for step, _ in scalars(model_dir).get("costly", [])] == written
    assert len(calls) == len(written)


def test_an_evaluation_writes_the_summaries_of_its_first_batch_beside_its_results(model_dir):
    estimator = quiet(model_dir, talkative).train(endless, steps=2)
    estimator.evaluate(lambda: batches(3))
    estimator.evaluate(lambda: batches(3), name="other")
    for folder in ("eval", "eval_other"):
        directory = os.path.join(model_dir, folder)
        assert [step for step, _ in scalars(directory)["loss"]] == [2]
        assert len(os.listdir(directory)) == 1


def test_a_summary_named_like_a_result_gives_way_to_it(model_dir):
    def model_fn(features, labels, mode, params):
        summary.scalar("error", -1.0)
        summary.scalar("loss", -1.0)
        return talkative(features, labels, mode, params)

    results = quiet(model_dir, model_fn).evaluate(lambda: batches(3))
    found = scalars(os.path.join(model_dir, "eval"))
    assert found == {n: [(0, pytest.approx(results[n]))] for n in ("error", "loss")}


def test_without_such_a_hook_an_evaluation_writes_its_results_only(model_dir):
    def model_fn(features, labels, mode, params):
        summary.scalar("quiet", features["x"].mean())
        return line(features, labels, mode, params)

    estimator = quiet(model_dir, model_fn)
    estimator.evaluate(lambda: batches(2))
    assert scalars(os.path.join(model_dir, "eval")).keys() == {"loss", "error"}


def test_predict_has_no_summaries(model_dir):
    estimator = quiet(model_dir)
    hook = est.SummarySaverHook(save_steps=1)
    with pytest.raises(ValueError, match='SummarySaverHook: this run has no "summaries"'):
        list(estimator.predict(lambda: batches(1), hooks=[hook]))


def test_an_optimizer_may_tag_and_summarise(model_dir):
    def noted():
        def update(updates, state, params=None):
            summary.scalar("gradient_norm", optax.tree.norm(updates))
            summary.tag("gradients", updates)
            return updates, state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    def model_fn(features, labels, mode, params):
        spec = line(features, labels, mode, params)
        return spec._replace(train_op=optax.chain(noted(), optax.sgd(0.1)))

    seen = []

    class Gradients(est.SessionRunHook):
        def before_run(self, run_context):
            return est.SessionRunArgs("gradients")

        def after_run(self, run_context, run_values):
            seen.append(run_values.results)

    for k in (1, 2):
        seen.clear()
        path = f"{model_dir}{k}"
        estimator = make(model_fn, path, save_summary_steps=2, steps_per_execution=k)
        estimator.train(endless, [Gradients()], steps=4)
        norms = scalars(path)["gradient_norm"]
        assert [step for step, _ in norms] == [1, 3]
        np.testing.assert_allclose(norms[0][1], optax.tree.norm(seen[0]), rtol=1e-6)
        estimator.train(lambda: batches(3, rows=7))  # other sizes trace the same binding again


def test_an_optimizer_draws_other_random_keys_than_the_model_fn(model_dir):
    def drawn():
        def update(updates, state, params=None):
            summary.tag("of_optimizer", jax.random.key_data(est.next_rng_key()))
            return updates, state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    def model_fn(features, labels, mode, params):
        summary.tag("of_model", jax.random.key_data(est.next_rng_key()))
        spec = line(features, labels, mode, params)
        return spec._replace(train_op=optax.chain(drawn(), spec.train_op))

    hook = est.FinalOpsHook(["of_model", "of_optimizer"])
    quiet(model_dir, model_fn).train(endless, [hook], steps=2)
    of_model, of_optimizer = hook.final_ops_values
    assert (of_model != of_optimizer).any()


def test_an_optimizer_that_asks_for_variables_is_refused(model_dir):
    def update(updates, state, params=None):
        return updates, est.get_variable("mine", ())

    optimizer = optax.GradientTransformation(lambda params: np.float32(0), update)

    def model_fn(features, labels, mode, params):
        return line(features, labels, mode, params)._replace(train_op=optimizer)

    with pytest.raises(ValueError, match=r"train_op asks for the variables \['mine'\]"):
        quiet(model_dir, model_fn).train(endless, steps=1)
