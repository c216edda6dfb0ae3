"""Directories that cannot be written and full disks: one clear error, and no checkpoint spoilt."""

import contextlib
import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from models import scalars, steps_of
from train_process import make_net, shuffled

import estimator as est
from estimator import checkpoint


def test_a_model_dir_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    estimator = make_net(str(tmp_path / "file" / "model"))
    message = r"model_dir cannot be written: Not a directory: .*file/model"
    with pytest.raises(NotADirectoryError, match=message):
        estimator.train(shuffled(), steps=1)
    with pytest.raises(NotADirectoryError, match=r"Not a directory: .*file/model"):
        estimator.evaluate(shuffled(1))
    assert len(list(estimator.predict(shuffled(1)))) == 43


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 3 MB; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() != 0 or shutil.which("mount") is None or mount("-t", "tmpfs", disk):
        pytest.skip("mounting a disk needs more rights")
    yield disk
    assert subprocess.run(["umount", "-l", disk], check=False).returncode == 0


def mount(*arguments: Any) -> int:
    command = ["mount", "-o", "size=3m", *arguments[:-1], "none", arguments[-1]]
    return subprocess.run(command, check=False, capture_output=True).returncode


def test_a_read_only_model_dir_is_refused_and_can_be_read(small_disk, tmp_path):
    good = make_net(str(tmp_path / "good")).train(shuffled(), max_steps=6)
    model_dir = str(small_disk / "model")
    shutil.copytree(good.latest_checkpoint(), f"{model_dir}/checkpoints/6")
    assert subprocess.run(["mount", "-o", "remount,ro", small_disk], check=False).returncode == 0
    estimator = make_net(model_dir)
    assert len(list(estimator.predict(shuffled(1)))) == 43
    with pytest.raises(OSError, match=r"Read-only file system: .*disk/model"):
        estimator.train(shuffled(), steps=1)
    with pytest.raises(OSError, match=r"Read-only file system: .*disk/model"):
        estimator.evaluate(shuffled(1))
    with pytest.raises(OSError, match=r"model_dir cannot be written: Read-only file system"):
        make_net(str(small_disk / "new")).train(shuffled(), steps=1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("listeners", [(), (est.CheckpointSaverListener(),)], ids=["async", "sync"])
def test_a_full_disk_is_one_clear_error_and_spares_the_checkpoints(small_disk, listeners):
    model_dir = small_disk / "model"
    filler = small_disk / "filler"
    fill_but(filler, 800_000)
    estimator = make_net(str(model_dir), save_checkpoints_steps=1, keep_checkpoint_max=None)
    message = r"checkpoints/[0-9]+: .* could not be saved: .*[Nn]o space left.*Make room"
    with pytest.raises(OSError, match=message):
        estimator.train(shuffled(), max_steps=60, saving_listeners=listeners)
    steps = steps_of(estimator)
    assert steps == list(range(len(steps)))
    assert len(steps) > 2
    assert sorted(int(p.name) for p in (model_dir / "checkpoints").iterdir()) == steps
    for path in estimator.all_checkpoints():
        checkpoint.read_variables(path)
        checkpoint.read_opt_state(path)
    filler.unlink()
    estimator.train(shuffled(), max_steps=steps[-1] + 3)
    assert steps_of(estimator)[-1] == steps[-1] + 3
    scalars(str(model_dir))


def test_a_full_disk_prints_no_tracebacks_of_other_libraries(small_disk, monkeypatch):
    fill_but(small_disk / "filler", 300_000)
    noise: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    monkeypatch.setattr(threading, "excepthook", noise.append)
    estimator = make_net(
        str(small_disk / "model"), save_checkpoints_steps=1, keep_checkpoint_max=None
    )
    for _ in range(8):
        with pytest.raises((OSError, RuntimeError), match="could not be saved"):
            estimator.train(shuffled(), max_steps=60)
    gc.collect()
    time.sleep(0.1)
    assert not [str(note.exc_value) for note in noise]


def fill_but(path: Path, free: int) -> None:
    """Writes zeros until so many bytes are left."""
    path.write_bytes(bytes(shutil.disk_usage(path.parent).free - free))


def fill(path: Path) -> None:
    """Writes zeros until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass


def test_a_disk_that_is_full_of_summaries_is_one_clear_error(small_disk):
    model_dir = small_disk / "model"
    estimator = make_net(str(model_dir), save_checkpoints_steps=1000, save_summary_steps=1)
    estimator.train(shuffled(), steps=3)
    filler = small_disk / "filler"
    fill(filler)
    with pytest.raises(OSError, match=r"No space left on device"):
        estimator.train(shuffled(), steps=500)
    filler.unlink()
    estimator.train(shuffled(), steps=3)
    steps = [step for step, _ in scalars(str(model_dir))["loss"]]
    assert steps[-3:] == [4, 5, 6]


def test_a_failing_save_does_not_hide_the_error_that_ended_the_run(model_dir, monkeypatch):
    class Breaks(est.SessionRunHook):
        def after_run(self, run_context, run_values):
            monkeypatch.setattr("estimator.checkpoint._write", fails)
            run_context.session.save(model_dir, wait=False)
            raise LookupError("the first error")

    def fails(*_):
        raise OSError("no disk")

    with pytest.raises(LookupError, match="the first error"):
        make_net(model_dir).train(shuffled(), [Breaks()], steps=3)
