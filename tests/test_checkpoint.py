"""Checkpoints: what comes back, what saving promises, and who else can read them."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from estimator import checkpoint
from estimator.checkpoint import CheckpointWriter, DamagedCheckpointError, Snapshot

DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
    *("bfloat16", "int4", "float8_e4m3fn", "float8_e5m2"),
]
NAMES = ["a", "a/b", "a/b/c:0", "a.b", "a//b", "../up", "é/ü", "日本 語", "_METADATA", "x" * 300]


def snapshot(step: Any, **changes: Any) -> Snapshot:
    """Values that tell their step, large enough to be stored outside orbax's own manifest."""
    rng = np.random.default_rng(abs(int(step)))
    values = {
        "step": step,
        "seed": 3,
        "variables": {
            "dense/kernel": rng.normal(size=(40, 50)).astype(np.float32),
            "dense/bias": rng.normal(size=(50,)).astype(np.float32),
            "counts": np.full(3, step, np.int32),
        },
        "trainable": frozenset({"dense/kernel", "dense/bias"}),
        "opt_state": {"0/mu/dense/kernel": rng.normal(size=(40, 50)).astype(np.float32)},
        "position": {"epoch": 1, "batch": step},
    }
    return Snapshot(**values | changes)


def save(model_dir: str, *steps: int, **options: Any) -> str:
    path = ""
    with CheckpointWriter(model_dir, **options) as writer:
        for step in steps:
            path = writer.save(snapshot(step), wait=True)
    return path


def steps(model_dir: str) -> list[int]:
    return [int(os.path.basename(path)) for path in checkpoint.all_checkpoints(model_dir)]


def assert_same(actual: dict[str, np.ndarray], wanted: Any) -> None:
    assert actual.keys() == wanted.keys()
    for name, array in actual.items():
        want = np.asarray(wanted[name])
        assert type(array) is np.ndarray
        assert (array.dtype, array.shape) == (want.dtype, want.shape), name
        assert array.tobytes() == want.tobytes(), name


def assert_intact(path: str) -> None:
    wanted = snapshot(int(os.path.basename(path)))
    assert_same(checkpoint.read_variables(path), wanted.variables)
    assert_same(checkpoint.read_opt_state(path), wanted.opt_state)
    assert checkpoint.read_manifest(path).position == wanted.position


def names_in(model_dir: str) -> list[str]:
    return sorted(os.listdir(os.path.join(model_dir, "checkpoints")))


# What comes back.


def test_every_dtype_rank_and_name_comes_back_bit_for_bit(model_dir):
    arrays: dict[str, Any] = {}
    for dtype in DTYPES:
        values = np.array([[0, 1, 1], [1, 0, 1]]).astype(jnp.dtype(dtype))
        arrays |= {dtype: values, f"{dtype}/0d": values[0, 1], f"{dtype}/empty": values[:0]}
    arrays["odd floats"] = np.array([np.nan, -0.0, np.inf, 5e-324])
    arrays["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    arrays["strided"] = np.arange(10)[::-3]
    arrays["jax"] = jnp.arange(6, dtype=jnp.bfloat16).reshape(3, 2)
    arrays |= {name: np.full(3, i, np.float32) for i, name in enumerate(NAMES)}
    with CheckpointWriter(model_dir) as writer:
        path = writer.save(
            snapshot(1, variables=arrays, trainable=frozenset(NAMES), opt_state=arrays)
        )
    assert_same(checkpoint.read_variables(path), arrays)
    assert_same(checkpoint.read_opt_state(path), arrays)
    for name, array in arrays.items():
        assert_same({name: np.asarray(checkpoint.load_variable(path, name))}, {name: array})


def test_big_endian_arrays_come_back_with_native_bytes(model_dir):
    with CheckpointWriter(model_dir) as writer:
        path = writer.save(snapshot(1, opt_state={"x": np.arange(5, dtype=">f4")}))
    assert_same(checkpoint.read_opt_state(path), {"x": np.arange(5, dtype=np.float32)})


def test_the_manifest_says_what_was_saved(model_dir):
    path = save(model_dir, 7, clock=lambda: 1234.5)
    found = checkpoint.read_manifest(path)
    assert (found.step, found.seed, found.saved_at) == (7, 3, 1234.5)
    assert found.position == {"epoch": 1, "batch": 7}
    kernel = found.variables["dense/kernel"]
    assert (kernel.shape, kernel.dtype, kernel.trainable) == ((40, 50), "float32", True)
    assert not found.variables["counts"].trainable
    assert not found.opt_state["0/mu/dense/kernel"].trainable


def test_the_id_of_a_checkpoint_is_new_with_every_save(model_dir):
    path = save(model_dir, 1)
    first = checkpoint.read_manifest(path).id
    shutil.rmtree(path)
    assert checkpoint.read_manifest(save(model_dir, 1)).id != first


@pytest.mark.parametrize("opt_state", [{}, {"empty": np.zeros((0, 2))}])
def test_items_without_bytes_are_absent(model_dir, opt_state):
    with CheckpointWriter(model_dir) as writer:
        path = writer.save(snapshot(1, opt_state=opt_state))
        nothing = writer.save(snapshot(2, variables={}, trainable=frozenset(), opt_state=opt_state))
    assert not os.path.exists(os.path.join(path, "opt_state"))
    assert_same(checkpoint.read_opt_state(path), opt_state)
    assert_same(checkpoint.read_variables(nothing), {})


def test_one_variable_is_read_while_another_is_damaged(model_dir):
    rng = np.random.default_rng(0)
    variables = {n: rng.integers(0, 256, 40_000).astype(np.uint8) for n in ("good", "evil")}
    with CheckpointWriter(model_dir) as writer:
        path = writer.save(snapshot(1, variables=variables, trainable=frozenset()))
    damage_bytes_of(path, variables["evil"])
    assert_same(checkpoint.read_variables(path, ["good"]), {"good": variables["good"]})
    with pytest.raises(DamagedCheckpointError, match=r"variables.*evil.* is not as it was written"):
        checkpoint.read_variables(path, ["evil"])
    with pytest.raises(DamagedCheckpointError, match="variables"):
        checkpoint.read_variables(path)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] if data else data


def damage_bytes_of(path: str, array: np.ndarray) -> None:
    """Flips a bit of a random array, which nothing has compressed, wherever it lies on the disk."""
    found = 0
    for file in Path(path, "variables").rglob("d/*"):
        data = file.read_bytes()
        at = data.find(array[1000:1100].tobytes())
        if at >= 0:
            file.write_bytes(flip(data, at))
            found += 1
    assert found, "the array's bytes are in no file"


def test_an_unknown_variable_is_refused_with_the_nearest_name(model_dir):
    path = save(model_dir, 1)
    with pytest.raises(KeyError, match=r"kernle.* among .*Did you mean .dense/kernel"):
        checkpoint.read_variables(path, ["dense/kernle"])


def test_one_variable_and_the_list_are_found_by_path_or_model_dir(model_dir):
    path = save(model_dir, 4, 9)
    shapes = [
        ("counts", [3]),
        ("dense/bias", [50]),
        ("dense/kernel", [40, 50]),
        ("global_step", []),
    ]
    for place in (path, model_dir, Path(model_dir)):
        assert checkpoint.resolve(place) == path
        assert checkpoint.list_variables(place) == shapes
        step = checkpoint.load_variable(place, "global_step")
        assert (step, type(step)) == (9, np.int64)
        assert checkpoint.load_variable(place, "counts").tolist() == [9, 9, 9]
    copy = shutil.copytree(path, os.path.join(model_dir, "best"))
    assert checkpoint.load_variable(copy, "counts").tolist() == [9, 9, 9]


def test_a_directory_without_checkpoints_is_said_to_be_one(model_dir):
    assert checkpoint.all_checkpoints(model_dir) == []
    assert checkpoint.latest_checkpoint(model_dir) is None
    with pytest.raises(ValueError, match="neither a checkpoint nor the directory of a model"):
        checkpoint.list_variables(model_dir)
    with pytest.raises(DamagedCheckpointError, match="there is no such directory"):
        checkpoint.read_variables(os.path.join(model_dir, "checkpoints", "5"))


def test_only_directories_named_by_a_step_are_listed_by_number(model_dir, monkeypatch):
    save(model_dir, 100, 20, 3)
    root = Path(model_dir, "checkpoints")
    for name in ("07", "-1", "8.damaged", "9.orbax-checkpoint-tmp", "x", "٣", "5.deleted-1"):
        (root / name).mkdir()
    (root / "6").write_text("a file")
    assert steps(model_dir) == [3, 20, 100]
    monkeypatch.chdir(root.parent.parent)
    path = checkpoint.latest_checkpoint(root.parent.name)
    assert path == str(root / "100")


# Saving.


def test_what_happens_to_an_array_after_save_does_not_change_what_is_saved(model_dir):
    mutable = np.arange(200_000.0)
    donated = jnp.arange(200_000.0)
    step = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    with CheckpointWriter(model_dir) as writer:
        arrays = {"mutable": mutable, "donated": donated}
        path = writer.save(snapshot(1, variables=arrays, trainable=frozenset()))
        mutable[:] = -1
        step(donated).block_until_ready()
    wanted = np.arange(200_000.0)
    found = checkpoint.read_variables(path)
    assert_same(found, {"mutable": wanted, "donated": wanted.astype(np.float32)})


def test_a_saved_step_is_not_written_again(model_dir):
    path = save(model_dir, 1)
    identity = checkpoint.read_manifest(path).id
    with CheckpointWriter(model_dir) as writer:
        assert writer.save(snapshot(1, seed=99), wait=True) == path
        assert writer.save(snapshot(2)) == writer.save(snapshot(2))
    assert checkpoint.read_manifest(path).id == identity


def test_a_step_set_aside_is_written_again(model_dir):
    path = save(model_dir, 1)
    assert checkpoint.set_aside(path) == f"{path}.damaged"
    assert steps(model_dir) == []
    assert checkpoint.set_aside(save(model_dir, 1)) == f"{path}.damaged-1"
    assert_intact(save(model_dir, 1))
    assert names_in(model_dir) == ["1", "1.damaged", "1.damaged-1"]


def test_a_checkpoint_is_running_until_it_is_marked_as_ended(model_dir):
    path = save(model_dir, 1)
    assert checkpoint.is_checkpoint(path)
    assert not checkpoint.is_checkpoint(model_dir)
    assert not checkpoint.has_ended(path)
    checkpoint.mark_ended(path)
    checkpoint.mark_ended(path)
    assert checkpoint.has_ended(path)
    assert_intact(path)
    checkpoint.set_aside(path)
    assert not checkpoint.has_ended(save(model_dir, 1))
    with pytest.raises(FileNotFoundError, match=r"checkpoints.2: there is no such checkpoint"):
        checkpoint.mark_ended(os.path.join(model_dir, "checkpoints", "2"))


def test_no_thread_outlives_the_writer_and_it_cannot_be_used_again(model_dir):
    before = set(threading.enumerate())
    writer = CheckpointWriter(model_dir)
    writer.save(snapshot(1))
    writer.close()
    writer.close()
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("estimator-")]
    for thread in left:  # orbax has told these to end, and did not wait for them
        thread.join(timeout=5)
        assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="this writer is closed"):
        writer.save(snapshot(2))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"step": -1}, ValueError, "the step is -1; give an int"),
        ({"step": 1.0}, ValueError, "the step is 1.0; give an int"),
        ({"step": True}, ValueError, "the step is True; give an int"),
        ({"trainable": frozenset({"kernel"})}, ValueError, "'kernel'.* not among the variables"),
        (
            {"variables": {"global_step": np.ones(1)}, "trainable": frozenset()},
            ValueError,
            "rename",
        ),
        ({"position": b"x"}, TypeError, "position must be something JSON can hold, and .*bytes"),
        ({"opt_state": {"s": np.array(["a"])}}, TypeError, "optimizer's 's' is of str32"),
        ({"opt_state": {"o": np.array([None])}}, TypeError, "'o' is of object"),
    ],
)
def test_what_cannot_be_saved_is_refused_at_the_call(model_dir, changes, error, match):
    with CheckpointWriter(model_dir) as writer, pytest.raises(error, match=match):
        writer.save(snapshot(**{"step": 1} | changes))
    assert steps(model_dir) == []


def test_only_the_first_process_saves(model_dir, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with (
        CheckpointWriter(model_dir) as writer,
        pytest.raises(RuntimeError, match=r"this is process 1 of 1; let process 0 save"),
    ):
        writer.save(snapshot(1))


def test_an_asynchronous_error_is_raised_once_and_spares_earlier_checkpoints(
    model_dir, monkeypatch
):
    def full(path: str, manifest: Any) -> None:
        raise OSError(28, "No space left on device")

    writer = CheckpointWriter(model_dir)
    good = writer.save(snapshot(1), wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_manifest", full)
        writer.save(snapshot(2))
        with pytest.raises(OSError, match=r"checkpoints.2: .* could not be saved: No space"):
            writer.save(snapshot(3))
    writer.wait()
    assert names_in(model_dir) == ["1"]
    assert_intact(good)
    assert_intact(writer.save(snapshot(3), wait=True))
    writer.close()


def test_an_error_inside_orbax_is_raised_in_our_words_and_not_logged(
    model_dir, caplog, monkeypatch
):
    import orbax.checkpoint as ocp

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ValueError("first line\nsecond line")

    caplog.set_level(logging.INFO)
    good = save(model_dir, 1)
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "finalize", fail)
    writer = CheckpointWriter(model_dir)
    writer.save(snapshot(2))
    match = r"checkpoints.2: .*could not be saved: ValueError: first line\. Checkpoints before it"
    with pytest.raises(RuntimeError, match=match):
        writer.close()
    assert names_in(model_dir) == ["1"]
    assert_intact(good)
    assert [record for record in caplog.records if "orbax" in record.pathname] == []
    assert logging.getLogger("absl").filters == []


def test_a_file_in_place_of_the_directory_is_an_error_that_names_it(model_dir):
    os.makedirs(model_dir)
    Path(model_dir, "checkpoints").write_text("in the way")
    writer = CheckpointWriter(model_dir)
    writer.save(snapshot(1))
    with pytest.raises(OSError, match=r"checkpoints.1: this checkpoint could not be saved"):
        writer.close()
    assert checkpoint.latest_checkpoint(model_dir) is None


def test_a_failed_save_does_not_hide_the_error_in_flight(model_dir, caplog):
    os.makedirs(model_dir)
    Path(model_dir, "checkpoints").write_text("in the way")

    def train() -> None:
        with CheckpointWriter(model_dir) as writer:
            writer.save(snapshot(1))
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train()
    assert "could not be saved" in caplog.text


def test_two_writers_share_a_directory(model_dir):
    with CheckpointWriter(model_dir, keep_max=3) as one, CheckpointWriter(model_dir, 3) as two:
        for step in range(1, 8):
            one.save(snapshot(step))
            two.save(snapshot(step))
            one.wait()
            two.wait()
            assert_intact(checkpoint.all_checkpoints(model_dir)[-1])
        shutil.rmtree(os.path.join(model_dir, "checkpoints"))
        assert_intact(one.save(snapshot(1), wait=True))
        assert two.save(snapshot(2), wait=True)
    assert names_in(model_dir) == ["1", "2"]


# The neighbours.


def test_orbax_itself_reads_our_checkpoints(model_dir):
    import orbax.checkpoint as ocp

    path = save(model_dir, 1)
    assert sorted(json.loads(Path(path, "manifest.json").read_bytes())) == ["body", "crc32"]
    with warnings.catch_warnings(), ocp.PyTreeCheckpointer() as checkpointer:
        warnings.simplefilter("ignore")
        found = checkpointer.restore(os.path.join(path, "variables"))
    assert_same({name: np.asarray(value) for name, value in found.items()}, snapshot(1).variables)


def test_importing_and_reading_a_manifest_needs_no_orbax(model_dir):
    path = save(model_dir, 1)
    code = (
        "import sys; from estimator import checkpoint; "
        f"assert checkpoint.list_variables({path!r}); sys.exit('orbax' in sys.modules)"
    )
    root = str(Path(__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
