"""Live variables: what a model's variables are now, and where they come from.

    live = variables.for_reading(binding)       # live, or loaded, or fresh
    live.values                                 # {"dense/kernel": Array}

Law: live variables serve a call only while they are the content of the newest checkpoint. A
damaged checkpoint is reported, and the one before it is used.
"""

import dataclasses
import logging
import os
import re
import secrets
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp

from estimator import checkpoint
from estimator.binding import Binding
from estimator.checkpoint import DamagedCheckpointError
from estimator.mode_keys import ModeKeys
from estimator.placement import Placement
from estimator.run_config import RunConfig
from estimator.train_state import TrainState
from estimator.variables import initialize
from estimator.warm_start import warm_values

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Live:
    """The variables of a model at one step.

    Attributes:
        values: the variables by name.
        step: the global step.
        seed: what its random keys come from.
        trainable: the names of those that the optimizer updates.
        checkpoint: the path they are the content of; None: no checkpoint.
        id: tells that checkpoint from another one of the same path.
        state: the train state they are part of, if they come from training in this process.
        opt_state: the optimizer's arrays by path, if they were loaded for training.
        readers: how many unfinished predict calls hold them.
    """

    values: dict[str, Any]
    step: int
    seed: int
    trainable: frozenset[str]
    checkpoint: str | None = None
    id: str | None = None
    state: TrainState | None = None
    opt_state: dict[str, Any] | None = None
    readers: int = 0

    @property
    def origin(self) -> str:
        """Where they come from, for messages."""
        return self.checkpoint or "The model, as it was first traced,"


class LiveVariables:
    """Keeps a model's variables between calls, and knows when to load them anew.

    Args:
        model_dir: where the checkpoints are.
        config: gives the seed.
        warm_start: what `check_warm_start` gave.
    """

    def __init__(self, model_dir: str, config: RunConfig, warm_start: Any) -> None:
        self._model_dir = model_dir
        self._config = config
        self._warm_start = warm_start
        self._drawn_seed: int | None = None
        self._live: Live | None = None
        self._fresh: tuple[Binding, Live] | None = None

    @property
    def seed(self) -> int:
        """The seed of a model that is not trained yet, drawn once if none is configured."""
        if self._config.random_seed is not None:
            return self._config.random_seed & 0xFFFFFFFF
        if self._drawn_seed is None:
            self._drawn_seed = secrets.randbits(32)
        return self._drawn_seed

    def keep(self, live: Live) -> None:
        """Serves later calls with these."""
        self._live = live

    def drop(self) -> None:
        """Forgets them: the next call loads."""
        self._live = self._fresh = None

    def newest(self, *, for_training: bool = False) -> Live | None:
        """Returns the content of the newest checkpoint that is whole; None if there is none.

        Args:
            for_training: reads the optimizer's state, too, and renames damaged checkpoints, so
                that their steps can be written again.

        Raises:
            DamagedCheckpointError: if there are checkpoints, all damaged, and it is not for
                training, which then begins anew.
        """
        damage: DamagedCheckpointError | None = None
        for path in reversed(checkpoint.all_checkpoints(self._model_dir)):
            try:
                live = self._load(path)
                if for_training and live.state is None and live.opt_state is None:
                    live.opt_state = checkpoint.read_opt_state(path)
                return live
            except DamagedCheckpointError as error:
                damage = error
                warnings.warn(
                    f"Checkpoint {path} is damaged, the one before it is used if there is one: "
                    f"{error}",
                    RuntimeWarning,
                    stacklevel=4,
                )
                if for_training:
                    _LOG.warning("It is kept as %s.", checkpoint.set_aside(path))
        if damage is not None and not for_training:
            raise damage  # untrained variables in place of trained ones would be no answer
        return None

    def has_reached(self, max_steps: int) -> bool:
        """Whether a whole checkpoint of that step is there; its call, if killed, has then ended."""
        path = checkpoint.latest_checkpoint(self._model_dir)
        if path is None or int(os.path.basename(path)) < max_steps:
            return False
        live = self.newest(for_training=True)
        if live is None or live.checkpoint is None or live.step < max_steps:
            return False
        self.keep(live)
        checkpoint.mark_ended(live.checkpoint)
        return True

    def for_reading(
        self, binding: Binding, placement: Placement, checkpoint_path: str | None = None
    ) -> Live:
        """Returns the variables that evaluate or predict uses.

        Args:
            binding: what the model_fn asks for.
            placement: where first values are made.
            checkpoint_path: a checkpoint; None: the newest.

        Raises:
            ValueError: if there is no such checkpoint, if it lacks a variable, or if the model
                must be trained first.
        """
        live = self._load(checkpoint_path) if checkpoint_path is not None else self.newest()
        if live is None:
            _LOG.info("No checkpoint in %s: variables have their first values.", self._model_dir)
            return self._untrained(binding, placement)
        check_asked(binding, live)
        if checkpoint_path is None:
            self._live = live
        return live

    def fresh_values(
        self, binding: Binding, placement: Placement, known: Collection[str] = ()
    ) -> dict[str, Any]:
        """Returns first values, but of variables that are known already."""
        asked = binding.recipes.variables
        recipes = dataclasses.replace(
            binding.recipes, variables={n: r for n, r in asked.items() if n not in known}
        )
        return initialize(recipes, self.seed, placement.state_sharding)

    def warm(self, binding: Binding) -> dict[str, Any]:
        """Returns the values of the warm start, by name; they go in the place of first values."""
        return warm_values(self._warm_start, binding.recipes.variables)

    def _untrained(self, binding: Binding, placement: Placement) -> Live:
        if self._fresh is not None and self._fresh[0] is binding:
            return self._fresh[1]
        warm = self.warm(binding)
        recipes = binding.recipes.variables.values()
        needing = [r.name for r in recipes if r.needs_init and r.name not in warm]
        if needing:
            raise ValueError(
                f"The model in {self._model_dir} is not trained: {needing} have no values yet. "
                "Call train first."
            )
        values = {**self.fresh_values(binding, placement, warm), **warm}
        live = Live(values, 0, self.seed, frozenset(binding.trainable))
        self._fresh = (binding, live)
        return live

    def _load(self, path: str) -> Live:
        manifest = checkpoint.read_manifest(path)
        if self._live is not None and self._live.id == manifest.id:
            return self._live
        _LOG.info("Restoring variables from %s.", path)
        values = {n: jnp.asarray(x) for n, x in checkpoint.read_variables(path).items()}
        trainable = frozenset(name for name, info in manifest.variables.items() if info.trainable)
        seed = self._config.random_seed
        seed = manifest.seed if seed is None else seed & 0xFFFFFFFF
        return Live(values, manifest.step, seed, trainable, path, manifest.id)


def check_asked(binding: Binding, live: Live) -> None:
    """Checks what a model_fn asks for against the variables there are.

    Raises:
        ValueError: if one is missing or has another shape; the message lists both sets.
    """
    asked, there = binding.recipes.variables, live.values
    missing = sorted(asked.keys() - there.keys())
    differ = [
        f"{there[name].dtype.name}{list(there[name].shape)} there, {recipe.describe()} here"
        for name, recipe in asked.items()
        if name in there
        and (tuple(there[name].shape), there[name].dtype) != (recipe.shape, recipe.dtype)
    ]
    if missing or differ:
        raise ValueError(
            f"{live.origin} does not fit the model_fn in mode {binding.mode!r}: missing "
            f"{missing}, of another shape or dtype {differ}. The model has {sorted(there)}, the "
            f"model_fn asks for {sorted(asked)}, given {_listed(binding.paths)}. Ask for the same "
            "variables in every mode and for every kind of batch; a model with other settings "
            "needs another model_dir."
        )
    unasked = sorted(n for n in live.trainable - asked.keys() if re.search(r"_[0-9]+(/|$)", n))
    if unasked and binding.mode != ModeKeys.TRAIN:
        warnings.warn(
            f"The model_fn does not ask for {unasked} in mode {binding.mode!r}. Layers without a "
            "name are numbered in the order of the calls: where a mode skips one, the later ones "
            "are mixed up. Name the layers, or call them in the same order in every mode.",
            UserWarning,
            stacklevel=2,
        )


def check_same_variables(binding: Binding, live: Live) -> None:
    """Checks that TRAIN asks for exactly the variables that the model has.

    Raises:
        ValueError: if it asks for others, fewer or more.
    """
    check_asked(binding, live)
    extra = sorted(live.values.keys() - binding.recipes.variables.keys())
    if extra:
        raise ValueError(
            f"{live.origin} has {sorted(live.values)}, but the model_fn asks only for "
            f"{sorted(binding.recipes.variables)} in TRAIN, without {extra}. Another model needs "
            "another model_dir; warm_start_from takes over what fits."
        )


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(paths[:10]) + (f" and {len(paths) - 10} more" if len(paths) > 10 else "")
