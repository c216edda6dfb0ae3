"""Checkpoints under a kill and on a broken disk: intact, or an error, but never wrong values."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_checkpoint import assert_intact, assert_same, flip, save, snapshot, steps

from estimator import checkpoint, manifest
from estimator.checkpoint import DamagedCheckpointError

# Imports once, then forks a child for every line it reads. Nothing in it has started a thread.
NURSERY = """
import os, sys
import orbax.checkpoint
from test_checkpoint import CheckpointWriter, snapshot
for first in sys.stdin:
    child = os.fork()
    if child == 0:
        os.write(1, b"%d\\n" % os.getpid())
        with CheckpointWriter(sys.argv[1], keep_max=3) as writer:
            for step in range(int(first), 100_000):
                writer.save(snapshot(step))
                os.write(1, b".")
    os.waitpid(child, 0)
    os.write(1, b"killed\\n")
"""


def test_after_sigkill_every_checkpoint_is_whole_and_the_newest_never_goes_back(model_dir):
    rng = random.Random(0)
    latest = 0
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", NURSERY, model_dir],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for _ in range(6):
            nursery.stdin.write(b"%d\n" % (latest + 1))
            child = int(nursery.stdout.readline())
            for _ in range(rng.randint(2, 6)):
                nursery.stdout.read(1)
            time.sleep(rng.random() * 0.03)
            os.kill(child, signal.SIGKILL)
            assert nursery.stdout.readline().endswith(b"killed\n")
            assert max(steps(model_dir), default=0) >= latest
            latest = max(steps(model_dir), default=0)
            for path in checkpoint.all_checkpoints(model_dir):
                assert_intact(path)
    assert latest > 6


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda data: None,
    "emptied": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "first bit flipped": lambda data: flip(data, 0),
    "middle bit flipped": lambda data: flip(data, len(data) // 2),
    "last bit flipped": lambda data: flip(data, len(data) - 1),
    "bit flipped at a third": lambda data: flip(data, len(data) // 3),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_gives_an_error_or_right_values_but_never_wrong_ones(model_dir, damage):
    path = save(model_dir, 1)
    checkpoint.mark_ended(path)
    wanted = snapshot(1)
    noticed = 0
    for file in [file for file in Path(path).rglob("*") if file.is_file()]:
        intact = file.read_bytes()
        changed = DAMAGES[damage](intact)
        if changed is None:
            file.unlink()
        else:
            file.write_bytes(changed)
        noticed += is_damaged(path, checkpoint.read_variables, wanted.variables)
        noticed += is_damaged(path, checkpoint.read_opt_state, wanted.opt_state)
        file.write_bytes(intact)
    assert noticed >= 5
    assert_intact(path)


def is_damaged(path: str, read: Callable[[str], Any], wanted: Any) -> bool:
    """Reads; what comes must be right, or an error of ours that names the checkpoint."""
    try:
        found = read(path)
    except DamagedCheckpointError as error:
        return f"{path}: " in str(error)
    assert_same(found, wanted)
    return False


def test_every_byte_of_a_manifest_is_protected(model_dir):
    path = save(model_dir, 1)
    wanted = checkpoint.read_manifest(path)
    file = Path(path, "manifest.json")
    intact = file.read_bytes()
    noticed = 0
    for at in range(len(intact)):
        file.write_bytes(flip(intact, at))
        try:
            assert checkpoint.read_manifest(path) == wanted
        except DamagedCheckpointError:
            noticed += 1
    assert noticed > 0.9 * len(intact)


def test_a_missing_item_is_damage(model_dir):
    path = save(model_dir, 1)
    shutil.rmtree(os.path.join(path, "variables"))
    with pytest.raises(
        DamagedCheckpointError, match=r"checkpoints.1: variables \['counts', .*does not exist"
    ):
        checkpoint.read_variables(path)
    assert checkpoint.list_variables(path)


def test_values_swapped_between_checkpoints_are_damage(model_dir):
    one, two = save(model_dir, 1), save(model_dir, 2)
    shutil.rmtree(os.path.join(one, "variables"))
    shutil.copytree(os.path.join(two, "variables"), os.path.join(one, "variables"))
    with pytest.raises(DamagedCheckpointError, match=r"variables '.*: shape, dtype and checksum"):
        checkpoint.read_variables(one)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(24, "Too many open files"),
        ValueError("RESOURCE_EXHAUSTED: Failed to open [OS error 24: EMFILE Too many open files]"),
    ],
)
def test_an_error_of_the_machine_is_not_called_damage(model_dir, monkeypatch, error):
    def fail(*args: Any) -> None:
        raise error

    path = save(model_dir, 1)
    monkeypatch.setattr(checkpoint, "_restore", fail)
    with pytest.raises(OSError, match=r"variables .*cannot be read now: .*may well be intact"):
        checkpoint.read_variables(path)


def test_a_format_of_the_future_is_refused_and_not_called_damage(model_dir, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "_FORMAT", 2)
        path = save(model_dir, 1)
    with pytest.raises(ValueError, match="has format 2, and this version reads format 1") as info:
        checkpoint.read_manifest(path)
    assert not isinstance(info.value, DamagedCheckpointError)
