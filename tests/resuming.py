"""What tests of resuming share: how a run breaks, and what it would hold had it not."""

import functools
import tempfile
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
