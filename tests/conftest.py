"""What all tests share: four CPU devices, a compilation cache, fixtures, no leaked threads.

The environment is set before anything imports jax, and processes that tests start inherit it.
What you have set yourself is kept: `JAX_PLATFORMS=cuda pytest` runs on your GPU.
"""

import functools
import gc
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Devices that share few threads can wait for one another inside a collective. Many threads (NPROC)
# prevent that, and the timeouts end a test that hangs all the same. Tests compile thousands of
# programs and run each a few times: XLA need not optimise them, which takes longer than running.
XLA_FLAGS = {
    "--xla_backend_optimization_level": 0,
    "--xla_llvm_disable_expensive_passes": "true",
    "--xla_cpu_use_fusion_emitters": "false",
    "--xla_cpu_parallel_codegen_split_count": 1,
    "--xla_force_host_platform_device_count": 4,
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds": 5,
    "--xla_cpu_collective_call_terminate_timeout_seconds": 20,
}
# XLA reports an error for each program that it reads from the cache: it misses in the machine two
# "features" that are only preferences of its compiler. Level 3 hides all but fatal messages.
DEFAULTS = {
    "JAX_PLATFORMS": "cpu",
    "NPROC": "64",
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MPLBACKEND": "Agg",
}


# Traces make objects by the million: looking for garbage less often saves a tenth of the time.
GC_THRESHOLDS = (100_000, 50, 100)


def set_environment() -> None:
    flags = os.environ.get("XLA_FLAGS", "").split()
    given = {flag.split("=")[0] for flag in flags}
    flags += [f"{name}={value}" for name, value in XLA_FLAGS.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


set_environment()
gc.set_threshold(*GC_THRESHOLDS)


@pytest.fixture
def model_dir(tmp_path: Path) -> str:
    """A directory for one model, not made yet."""
    return str(tmp_path / "model")


@pytest.fixture(scope="session")
def compiled_nets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Two Estimators of one model_dir, as two processes would have them."""
    from train_process import make_net

    model_dir = str(tmp_path_factory.mktemp("nets") / "model")
    return make_net(model_dir), make_net(model_dir)


@pytest.fixture
def nets(compiled_nets: tuple[Any, Any]) -> tuple[Any, Any]:
    """The two without their model_dir: as if they were new, but what they compiled is kept."""
    shutil.rmtree(compiled_nets[0].model_dir, ignore_errors=True)
    return compiled_nets


@pytest.fixture
def strict_promotion() -> Iterator[None]:
    """JAX refuses to mix dtypes, so that the package must say which one it means."""
    import jax

    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fails a test after which a thread named `estimator-*`, started by it, is still alive."""
    before = set(threading.enumerate())
    yield
    leaked = sorted(
        thread.name
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith("estimator-")
    )
    assert not leaked, f"threads outlive the test: {leaked}. Close or join what started them."


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any, str]]:
    """Gives by kind an Estimator, features of its kind, and its export; nobody may change them."""
    from exporting import BUILDERS

    @functools.cache
    def made(kind: str) -> tuple[Any, Any, str]:
        root = tmp_path_factory.mktemp("exported")
        estimator, features = BUILDERS[kind](str(root / "model"))
        return estimator, features, estimator.export_saved_model(root / "exports").decode()

    return made
