"""RunConfig: the settings of a run that are not the model's.

    RunConfig(model_dir="runs/iris", save_checkpoints_steps=500, random_seed=42)

It is made once and never changed; `replace` makes another one.
"""

import dataclasses
import itertools
import numbers
import os
from collections.abc import Sequence
from typing import Any

from estimator.messages import did_you_mean
from estimator.placement import DataParallel

NAN_POLICIES = ("raise", "stop", "rollback")


class _Default:
    def __repr__(self) -> str:
        return "<default>"


_DEFAULT: Any = _Default()


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Settings of a run.

    >>> RunConfig(save_checkpoints_steps=10).save_checkpoints_secs is None
    True

    Attributes:
        model_dir: where checkpoints and summaries go.
        tf_random_seed: TensorFlow's name for `random_seed`.
        save_summary_steps: steps between two summaries; 0: none.
        save_checkpoints_steps: steps between two checkpoints.
        save_checkpoints_secs: seconds between two checkpoints; 600 if neither is given. Both None:
            no checkpoints at all.
        keep_checkpoint_max: how many checkpoints to keep; None or 0: all.
        keep_checkpoint_every_n_hours: one checkpoint in so many hours is kept for good.
        log_step_count_steps: steps between two log lines of loss and steps per second; None: none.
        train_distribute: `DataParallel(...)` to train on several devices.
        eval_distribute: likewise for evaluate and predict.
        random_seed: what all randomness of a run comes from; None: drawn once, and kept with the
            checkpoint.
        prefetch: batches that a thread prepares ahead; 0: none; None: two, where it pays (features
            made on the host, an accelerator).
        steps_per_execution: steps made in one dispatch. More is faster for small models; hooks that
            need every step take blocks apart. A step inside a block may round differently from one
            alone, so a resumed run then agrees to rounding, not to the bit.
        continue_input: whether a train call that follows one that has ended goes on in its input
            where that one stopped. After a call that was killed it always does.
        length_buckets: the lengths that sequences of a batch are padded to, ascending: few of them
            compile few programs. None: powers of two up to 8, then eight sizes from each power of
            two to the next.
        nan_policy: what happens when a loss or a variable is no longer a finite number: `"raise"`;
            `"stop"` ends the run, unsaved; `"rollback"` goes back to the newest checkpoint, leaves
            out the batches up to the bad one if the input knows its position, and goes on. (It
            raises if that helps nothing five times.)
        allocator: `"tuned"` keeps large blocks of memory in the process, on Linux with glibc: a
            recurrent model's step on a CPU is a sixth to a third faster. It holds for the whole
            process, whose memory then never shrinks; see `estimator/allocator.py`.

    Raises:
        ValueError, TypeError: if a setting cannot be.
    """

    model_dir: str | None = None
    tf_random_seed: int | None = None
    save_summary_steps: int | None = 100
    save_checkpoints_steps: int | None = _DEFAULT
    save_checkpoints_secs: float | None = _DEFAULT
    keep_checkpoint_max: int | None = 5
    keep_checkpoint_every_n_hours: float = 10000
    log_step_count_steps: int | None = 100
    train_distribute: DataParallel | None = None
    eval_distribute: DataParallel | None = None
    random_seed: int | None = None
    prefetch: int | None = None
    steps_per_execution: int = 1
    continue_input: bool = False
    length_buckets: Sequence[int] | None = None
    nan_policy: str = "raise"
    allocator: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.model_dir is not None:
            put(self, "model_dir", _checked_dir(self.model_dir))
        steps, secs = self.save_checkpoints_steps, self.save_checkpoints_secs
        if steps is _DEFAULT and secs is _DEFAULT:
            steps, secs = None, 600
        steps = None if steps is _DEFAULT else steps
        secs = None if secs is _DEFAULT else secs
        if steps is not None and secs is not None:
            raise ValueError(
                "RunConfig: `save_checkpoints_steps` and `save_checkpoints_secs` cannot be both "
                f"set, got {steps} and {secs}. Give one of them."
            )
        put(self, "save_checkpoints_steps", steps)
        put(self, "save_checkpoints_secs", secs)
        self._check_numbers()
        self._check_seeds()
        if self.length_buckets is not None:
            put(self, "length_buckets", _checked_buckets(self.length_buckets))
        if self.allocator not in (None, "tuned"):
            raise ValueError(
                f'RunConfig: allocator must be "tuned" or None, got {self.allocator!r}.'
            )
        if self.nan_policy not in NAN_POLICIES:
            raise ValueError(
                f"RunConfig: nan_policy must be one of {NAN_POLICIES}, got {self.nan_policy!r}."
            )
        for name in ("train_distribute", "eval_distribute"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, DataParallel):
                raise TypeError(f"RunConfig: {name} must be a DataParallel, got {value!r}.")

    def replace(self, **changes: Any) -> "RunConfig":
        """Returns a copy with other settings; setting one checkpoint cadence unsets the other.

        >>> RunConfig().replace(save_checkpoints_steps=7).save_checkpoints_secs is None
        True

        Raises:
            ValueError: if there is no such setting.
        """
        names = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise ValueError(
                    f"RunConfig.replace: there is no setting {name!r}.{did_you_mean(name, names)} "
                    f"Settings are {names}."
                )
        cadences = ("save_checkpoints_steps", "save_checkpoints_secs")
        for given, other in (cadences, cadences[::-1]):
            if given in changes and other not in changes:
                # What stays must be said: left out, the default cadence would come back.
                changes[other] = None if changes[given] is not None else getattr(self, other)
        if "random_seed" in changes and "tf_random_seed" not in changes:
            changes["tf_random_seed"] = changes["random_seed"]
        if "tf_random_seed" in changes and "random_seed" not in changes:
            changes["random_seed"] = changes["tf_random_seed"]
        return dataclasses.replace(self, **changes)

    def _check_numbers(self) -> None:
        for name in ("steps_per_execution", "keep_checkpoint_every_n_hours"):
            if getattr(self, name) is None:
                raise ValueError(f"RunConfig: {name} should be > 0, got None.")
        self._check("save_summary_steps", numbers.Integral)
        self._check("save_checkpoints_steps", numbers.Integral)
        self._check("save_checkpoints_secs", numbers.Real)
        self._check("keep_checkpoint_max", numbers.Integral)
        self._check("keep_checkpoint_every_n_hours", numbers.Real, above_zero=True)
        self._check("log_step_count_steps", numbers.Integral, above_zero=True)
        self._check("prefetch", numbers.Integral)
        self._check("steps_per_execution", numbers.Integral, above_zero=True)

    def _check(self, name: str, kind: Any, above_zero: bool = False) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"RunConfig: {name} should be a number, got {value!r}.")
        if value < 0 or (above_zero and value == 0):
            wanted = "> 0" if above_zero else ">= 0"
            raise ValueError(f"RunConfig: {name} should be {wanted}, got {value}.")

    def _check_seeds(self) -> None:
        given = [s for s in (self.random_seed, self.tf_random_seed) if s is not None]
        for seed in given:
            if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
                raise TypeError(f"RunConfig: random_seed must be an int, got {seed!r}.")
        if len(set(given)) > 1:
            raise ValueError(
                f"RunConfig: random_seed is {self.random_seed} and tf_random_seed "
                f"{self.tf_random_seed}. They are two names of one setting: give one."
            )
        if given:
            object.__setattr__(self, "random_seed", int(given[0]))
            object.__setattr__(self, "tf_random_seed", int(given[0]))


def _checked_buckets(buckets: Any) -> tuple[int, ...]:
    given = tuple(buckets) if isinstance(buckets, Sequence) and not isinstance(buckets, str) else ()
    whole = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in given)
    if not given or not whole or given[0] < 1 or any(a >= b for a, b in itertools.pairwise(given)):
        raise ValueError(
            "RunConfig: length_buckets must be positive ints in ascending order, such as (16, 64), "
            f"got {buckets!r}."
        )
    return tuple(int(n) for n in given)


def _checked_dir(path: Any) -> str:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"model_dir must be a path, got {path!r}.")
    if not os.fspath(path):
        raise ValueError("model_dir is empty. Give a path, or None for a temporary directory.")
    return os.fspath(path)
