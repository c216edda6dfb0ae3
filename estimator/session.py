"""Session: what a hook sees of a run, and the shape of a hook.

    class PrintLoss(SessionRunHook):
        def before_run(self, run_context):
            return SessionRunArgs("loss")

        def after_run(self, run_context, run_values):
            print(float(run_values.results))

Values given to hooks are arrays that may still be on their way: a hook that does not read one does
not wait for the device. A hook that need not see every step says so in `next_step`, and costs
nothing in between.
"""

import abc
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from estimator.messages import did_you_mean

NAN_CURE = (
    "Look for NaN or infinity in a feature or a label, a label that is no class, a division by "
    "zero, a log of zero, an id that an embedding does not have; or lower the learning rate, or "
    "clip the gradients."
)

_LOG = logging.getLogger(__name__)


class Session(abc.ABC):
    """The variables and outputs of a run, by name.

    Attributes:
        global_step: the number of the training steps made so far, an int that costs nothing to
            read.
        batches: the number of batches that this run has seen so far.
        outputs: what the last step gave by name: arrays that may still be on their way.
        block: how many batches the next step sees at the most.
    """

    global_step: int
    batches: int
    outputs: dict[str, Any]
    block: int = 1

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Returns everything that `run` can fetch now."""

    @abc.abstractmethod
    def fetch(self, name: str) -> Any:
        """Returns the value of one name, not waiting for it."""

    def has(self, name: str) -> bool:
        """Returns whether the value is there now: outputs are, once a batch was seen."""
        return name in self.names()

    def run(self, fetches: Any) -> Any:
        """Returns the values of variables and outputs of the current step.

        Args:
            fetches: a name, or a list, tuple or dict of fetches.

        Returns:
            Arrays in the same structure. A variable is a copy, which later steps leave alone.

        Raises:
            ValueError: if there is no such name.
        """
        if isinstance(fetches, str):
            return self.fetch(fetches)
        if isinstance(fetches, Mapping):
            return {key: self.run(value) for key, value in fetches.items()}
        if isinstance(fetches, list | tuple):
            return type(fetches)([self.run(value) for value in fetches])
        raise TypeError(
            f"session.run takes a name, or a list, tuple or dict of names, got {fetches!r}. Tag a "
            "value inside the model_fn with estimator.tag(name, value) and fetch it by that name."
        )

    @property
    def interrupted(self) -> bool:
        """Whether a signal has asked the run to end: what takes long should wait for the next."""
        return False

    def bad_step(self) -> int | None:
        """Returns the first step of this run whose loss was not finite, or None.

        Reading it waits for the device.
        """
        return None

    def check_finite(self) -> bool:
        """Returns whether losses and variables are numbers, raising if the run is to fail else."""
        return True

    def save(self, directory: str, wait: bool) -> None:
        """Saves a checkpoint; only a training run can."""
        raise ValueError(
            f"A checkpoint for {directory} was asked for, but only a training run has one to "
            "save. Give a CheckpointSaverHook to train, not to evaluate or predict."
        )

    def save_now(self) -> bool:
        """Saves a checkpoint, complete with its listeners; returns whether the run should stop."""
        raise ValueError("Only a training run has a checkpoint to save.")

    def summary_writer(self, directory: str | None = None) -> Any:
        """Returns the event writer of a directory, by default that of the run."""
        raise ValueError(f"This run writes no event files, and so none into {directory}.")

    def check(self, fetches: Any, asked_by: str) -> None:
        """Raises ValueError at once if `fetches` holds a name that this run cannot give."""
        known = self.names()
        for name in jax.tree.leaves(fetches):
            if name in ("loss", "losses", "summaries") and name not in known:
                raise ValueError(
                    f'{asked_by}: this run has no "{name}". Predictions have no loss and no '
                    "summaries; an evaluation has both, but no losses. Give the hook to train."
                )
            if name not in known:
                raise ValueError(
                    f'{asked_by}: there is no "{name}" to fetch, only {sorted(known)}.'
                    f"{did_you_mean(str(name), known)} estimator.tag(name, value) in the model_fn "
                    "makes a value known."
                )


@dataclasses.dataclass(frozen=True)
class SessionRunArgs:
    """What a hook asks a step for: a name, or a list, tuple or dict of names."""

    fetches: Any
    feed_dict: None = None
    options: None = None

    @property
    def wants_summaries(self) -> bool:
        """Whether summaries are among the fetches: only then a step computes them."""
        return self.fetches == "summaries" or "summaries" in jax.tree.leaves(self.fetches)


@dataclasses.dataclass(frozen=True)
class SessionRunValues:
    """What a step gives back: `results` in the structure of the hook's `fetches`."""

    results: Any
    options: None = None
    run_metadata: None = None


class SessionRunContext:
    """What a hook may see and ask for around a step."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.original_args = SessionRunArgs(None)
        self._stop_requested = False

    @property
    def stop_requested(self) -> bool:
        """Whether some hook has asked the run to stop."""
        return self._stop_requested

    def request_stop(self) -> None:
        """Ends the run after this step; the other hooks still see the step."""
        self._stop_requested = True


class SessionRunHook:
    """Base of hooks: override what you need."""

    def begin(self) -> None:
        """Is called once, before the run has a session."""

    def after_create_session(self, session: Session, coord: Any) -> None:
        """Is called once the variables are there, before the first step.

        Args:
            session: the variables, by name.
            coord: `coord.request_stop()` ends the run before its first step.
        """

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Is called before a step; returns what it wants to see of it."""

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Is called after a step was sent to the device."""

    def end(self, session: Session) -> None:
        """Is called when the run ends without an exception."""

    def close(self) -> None:
        """Is called when the run is over, after an exception, too, to give back what is held."""

    def next_step(self, global_step: int) -> int | None:
        """Returns the next global step this hook must see the end of.

        None means the end of each block of `RunConfig(steps_per_execution=...)` steps; a step that
        is past means never again. By default a hook sees every step, and so takes blocks apart.

        Args:
            global_step: the number of steps made so far.
        """
        return global_step + 1


class CheckpointSaverListener:
    """Base of listeners, called around each save of a checkpoint."""

    def begin(self) -> None:
        """Is called once, before the run has a session."""

    def before_save(self, session: Session, global_step_value: int) -> None:
        """Is called before a checkpoint is written."""

    def after_save(self, session: Session, global_step_value: int) -> bool | None:
        """Is called when the checkpoint is complete; True asks the run to stop."""

    def end(self, session: Session, global_step_value: int) -> None:
        """Is called after the last checkpoint of the run."""


class NanLossDuringTrainingError(RuntimeError):
    """The loss, or a variable, is no longer a finite number."""


@contextlib.contextmanager
def giving_back(*closings: Callable[[], None]) -> Iterator[None]:
    """Makes all the calls when the block is left, though one of them fails.

    The first failure is raised then; others, and those behind an error of the block, which they
    would hide, are logged.
    """
    failures: list[Exception] = []

    def close_all() -> None:
        for closing in closings:
            try:
                closing()
            except Exception as failure:
                failures.append(failure)

    try:
        yield
    except BaseException:
        close_all()
        for failure in failures:
            _LOG.error("%s", failure)
        raise
    close_all()
    for failure in failures[1:]:
        _LOG.error("%s", failure)
    if failures:
        raise failures[0]


def check_hooks(hooks: Any, kind: type, where: str) -> tuple[Any, ...]:
    """Returns `hooks` as a tuple.

    Raises:
        TypeError: if it is no list, or one is no instance of `kind`.
    """
    if hooks is not None and not isinstance(hooks, list | tuple | set | frozenset):
        hint = f" Did you mean steps={hooks}?" if isinstance(hooks, int) else ""
        raise TypeError(f"{where} must be a list of {kind.__name__} objects, got {hooks!r}.{hint}")
    for hook in hooks or ():
        if not isinstance(hook, kind):
            raise TypeError(f"{where} must be {kind.__name__} objects, got {hook!r}.")
    return tuple(hooks or ())


def refuse_tracers(values: Any, where: str) -> None:
    """Raises TypeError if a hook is built around a traced array, which dies with its trace."""
    for value in jax.tree.leaves(values):
        if isinstance(value, jax.core.Tracer):
            raise TypeError(
                f"{where} was given a traced array, which is gone when the trace ends. Tag the "
                'value in the model_fn, estimator.tag("name", value), and give the hook its name.'
            )
