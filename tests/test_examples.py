"""Each example runs and reaches what it says: `make test ARGS="-m slow"`, some minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_reaches_what_it_says(example, tmp_path):
    # As a user runs it: without the flags that make tests compile faster.
    kept = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "NPROC")}
    done = subprocess.run(
        [sys.executable, example],
        cwd=tmp_path,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
