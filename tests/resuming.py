"""What tests of resuming share: how a run breaks, and what it would hold had it not."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_process import content, make_net, shuffled

import estimator as est


class Breaks(est.SessionRunHook):
    """Raises after a step, as a bug would end a run."""

    def __init__(self, step):
        self.step = step

    def after_run(self, run_context, run_values):
        if run_context.session.global_step >= self.step:
            raise RuntimeError("broken")


def break_at(step, estimator, input_fn, **limits):
    """Trains until a hook raises after a step."""
    with pytest.raises(RuntimeError, match="broken"):
        estimator.train(input_fn, [Breaks(step)], **limits)


def assert_same(actual: dict[str, Any], wanted: dict[str, Any], tolerance: float = 0.0) -> None:
    """Compares what two checkpoints hold: bit by bit, or arrays with a tolerance."""
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, np.ndarray) and tolerance and value.dtype.kind == "f":
            np.testing.assert_allclose(
                actual[name], value, rtol=tolerance, atol=tolerance, err_msg=name
            )
        elif isinstance(value, np.ndarray):
            assert actual[name].dtype == value.dtype, name
            assert actual[name].tobytes() == value.tobytes(), name
        else:
            assert actual[name] == value, name


@functools.cache
def undisturbed(max_steps: int) -> dict[str, Any]:
    """Returns what the last checkpoint holds of one call that nothing has disturbed."""
    with tempfile.TemporaryDirectory() as model_dir:
        make_net(model_dir).train(shuffled(), max_steps=max_steps)
        return content(model_dir)


class Nursery:
    """Starts children that train, and kills them."""

    def __init__(self) -> None:
        tests = Path(__file__).parent
        path = os.pathsep.join([str(tests), str(tests.parent)])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(tests / "train_process.py")],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def train(self, kill: tuple[int, float, int] | None = None, **call: Any) -> tuple[int, int]:
        """Makes a child train, and returns its exit code and how many steps it was seen to make.

        `kill` holds a number of steps after which, a number of seconds later, a signal is sent.
        """
        self._in.write(json.dumps(call).encode() + b"\n")
        child = int(self._out.readline())
        dots = 0
        while self._out.read(1) == b".":
            dots += 1
            if kill is not None and dots == kill[0]:
                threading.Event().wait(kill[1])
                os.kill(child, kill[2])
        return int(self._out.readline()), dots

    def close(self) -> None:
        self._in.close()
        self._out.close()
        self._process.wait()
