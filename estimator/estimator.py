"""The Estimator: a model_fn with a directory; wiring only.

    estimator = Estimator(model_fn, model_dir="runs/iris", params={"n_classes": 3})
    estimator.train(train_input_fn, steps=1000)
    estimator.evaluate(eval_input_fn)                   # {"accuracy": 0.97, "loss": 0.1, ...}
    for answer in estimator.predict(predict_input_fn):
        ...

Compiled steps and variables are kept between calls: a second call starts at once.
"""

import contextlib
import copy
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from estimator import allocator, checkpoint
from estimator.arguments import (
    check_count,
    check_no_overrides,
    checked_checkpoint,
    config_for,
)
from estimator.batches import Batch
from estimator.binding import Binding
from estimator.evaluate_call import EvaluateCall
from estimator.events import EventWriters
from estimator.export_methods import ExportMethods
from estimator.feed import Feed
from estimator.history import History
from estimator.live import Live, LiveVariables
from estimator.mode_keys import ModeKeys
from estimator.model import Model
from estimator.model_fn import ModelFn
from estimator.placement import Placement, placement_for
from estimator.predict_call import PredictCall
from estimator.run_config import RunConfig
from estimator.session import CheckpointSaverListener, SessionRunHook, check_hooks
from estimator.signals import Interrupt
from estimator.sources import call_input_fn, open_source
from estimator.train_call import TrainCall
from estimator.train_loop import TrainSession
from estimator.warm_start import WarmStart, check_warm_start

_LOG = logging.getLogger(__name__)


class Estimator(ExportMethods):
    """Trains, evaluates and asks a model that a model_fn describes.

    Args:
        model_fn: `model_fn(features, labels, mode, params, config) -> EstimatorSpec`; it takes
            `features` and whichever of the others it needs.
        model_dir: where checkpoints and summaries go; by default that of the config, else a
            temporary directory.
        config: the settings of the run.
        params: handed to the model_fn, a copy each time.
        warm_start_from: first values: a path, a dict of arrays by name, or `WarmStartSettings`.

    Raises:
        ValueError, TypeError: if an argument is not what it should be.
    """

    def __init__(
        self,
        model_fn: Callable[..., Any],
        model_dir: str | os.PathLike[str] | None = None,
        config: RunConfig | None = None,
        params: Mapping[str, Any] | None = None,
        warm_start_from: WarmStart = None,
    ) -> None:
        self._config = config_for(config, model_dir)
        if self._config.allocator == "tuned":
            allocator.tune()
        self._model = Model(ModelFn(model_fn, params, self._config))
        self._warm_start_from = warm_start_from
        warm_start = check_warm_start(warm_start_from)
        self._variables = LiveVariables(self.model_dir, self._config, warm_start)
        self._writers = EventWriters()
        self._history = History(self.model_dir)
        # One for training and one for the rest: each warns once of batches that do not divide.
        self._train_placement = functools.cache(placement_for)
        self._read_placement = functools.cache(placement_for)
        self._training: TrainSession | None = None
        self._interrupted: str | None = None
        self._seen: Batch | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_no_overrides(cls, Estimator)

    @property
    def model_dir(self) -> str:
        """The directory of checkpoints and summaries."""
        assert self._config.model_dir is not None
        return self._config.model_dir

    @property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return self._config

    @property
    def params(self) -> Any:
        """A copy of the params."""
        return copy.deepcopy(self._model.model_fn.params)

    @property
    def model_fn(self) -> Callable[..., Any]:
        """The model_fn with its params: a function of `features, labels, mode, config`."""
        return self._model.model_fn

    @property
    def history(self) -> list[dict[str, Any]]:
        """All evaluations and logged training values so far, oldest first; see `history.py`."""
        return self._history.records()

    @property
    def interrupted(self) -> str | None:
        """The signal that ended the last train call early, such as `"SIGTERM"`; None: none did."""
        return self._interrupted

    def train(
        self,
        input_fn: Callable[..., Any],
        hooks: Sequence[SessionRunHook] | None = None,
        steps: int | None = None,
        max_steps: int | None = None,
        saving_listeners: Sequence[CheckpointSaverListener] | None = None,
    ) -> "Estimator":
        """Trains the model, going on where the newest checkpoint is.

        Ctrl-C and SIGTERM save a checkpoint and end the call, which `interrupted` then tells; a
        second Ctrl-C raises.

        Args:
            input_fn: returns batches `(features, labels)`: an iterable, or plain arrays, which are
                one batch, repeated. It takes whichever of `mode, params, config` it names.
            hooks: called around each step.
            steps: how many steps to make in this call; None: until the input ends.
            max_steps: the global step to stop at, in place of `steps`.
            saving_listeners: called around each save.

        Returns:
            The estimator itself.

        Raises:
            ValueError, TypeError: if an argument is not what it should be, the input is empty, or
                the checkpoint does not fit the model_fn.
            NanLossDuringTrainingError: if the loss or a variable is no longer a number.
        """
        return self._train(input_fn, hooks, steps, max_steps, saving_listeners)

    def evaluate(
        self,
        input_fn: Callable[..., Any],
        steps: int | None = None,
        hooks: Sequence[SessionRunHook] | None = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        name: str | None = None,
    ) -> dict[str, Any]:
        """Evaluates the model over a whole input.

        Args:
            input_fn: returns batches, as for `train`; plain arrays are one batch, seen once.
            steps: how many batches at the most; None: all.
            hooks: called around each batch.
            checkpoint_path: the checkpoint to evaluate; None: the newest. Where there is none, the
                variables have their first values.
            name: tells several evaluations apart: summaries go to `eval_<name>`.

        Returns:
            The metrics by name, `loss` (the mean over batches) and `global_step`.

        Raises:
            ValueError, TypeError: if an argument is not what it should be, or the input is empty.
        """
        path = checked_checkpoint("evaluate", checkpoint_path)
        self._wait_for_saves()
        placement = self._read_placement(self._config.eval_distribute)

        def live_of(binding: Binding) -> Live:
            return self._variables.for_reading(binding, placement, path)

        return self._evaluate(input_fn, steps, hooks, name, live_of)

    def predict(
        self,
        input_fn: Callable[..., Any],
        predict_keys: Sequence[str] | str | None = None,
        hooks: Sequence[SessionRunHook] | None = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        yield_single_examples: bool = True,
    ) -> Iterator[Any]:
        """Yields the model's predictions.

        The input is opened, and the variables are fixed, at the first `next`. (With `predict_keys`
        the input is opened at once, to check them.) Several calls may be read in turn.

        Args:
            input_fn: returns batches of features; labels are dropped. Plain arrays are one batch.
            predict_keys: the names of the predictions to yield; None: all.
            hooks: called around each batch.
            checkpoint_path: the checkpoint to ask; None: the newest.
            yield_single_examples: whether to yield example by example, or whole batches.

        Returns:
            A generator of dicts of arrays by name, or of arrays where the model predicts one.

        Raises:
            ValueError, TypeError: if an argument is not what it should be.
        """
        given_hooks = check_hooks(hooks, SessionRunHook, "predict: hooks")
        path = checked_checkpoint("predict", checkpoint_path)
        if not callable(input_fn):
            raise TypeError(f"predict: input_fn must be a function, got {input_fn!r}.")
        keys = (predict_keys,) if isinstance(predict_keys, str) else predict_keys
        keys = None if keys is None else tuple(keys)
        placement = self._read_placement(self._config.eval_distribute)
        call = PredictCall(
            model=self._model,
            writers=self._writers,
            placement=placement,
            prefetch=self._config.prefetch,
            hooks=given_hooks,
            keys=keys,
            single=yield_single_examples,
            directory=self.model_dir,
        )

        def live_of(binding: Binding) -> Live:
            self._wait_for_saves()
            return self._variables.for_reading(binding, placement, path)

        def opened() -> Feed:
            feed = self._open(input_fn, ModeKeys.PREDICT, placement, repeat=False)
            call.check(feed)
            return feed

        early = None if keys is None else opened()

        def answers() -> Iterator[Any]:
            with self._closing(opened() if early is None else early) as feed:
                yield from call.answers(feed, live_of)

        return answers()

    def get_variable_names(self) -> list[str]:
        """Returns the names of all variables in the newest checkpoint, and `global_step`.

        Raises:
            ValueError: if there is no checkpoint.
        """
        return [name for name, _ in checkpoint.list_variables(self._trained())]

    def get_variable_value(self, name: str) -> np.ndarray:
        """Returns the value of one variable in the newest checkpoint.

        Raises:
            ValueError: if there is no checkpoint.
            KeyError: if it has no such variable.
        """
        return np.asarray(checkpoint.load_variable(self._trained(), name))

    def latest_checkpoint(self) -> str | None:
        """Returns the path of the newest checkpoint, waiting for a save that is under way."""
        self._wait_for_saves()
        return checkpoint.latest_checkpoint(self.model_dir)

    def all_checkpoints(self) -> list[str]:
        """Returns the paths of all checkpoints, oldest first; each ends in its step."""
        self._wait_for_saves()
        return checkpoint.all_checkpoints(self.model_dir)

    def eval_dir(self, name: str | None = None) -> str:
        """Returns the directory where the summaries of an evaluation go."""
        return os.path.join(self.model_dir, f"eval_{name}" if name else "eval")

    def _train(
        self,
        input_fn: Callable[..., Any],
        hooks: Sequence[SessionRunHook] | None,
        steps: int | None,
        max_steps: int | None,
        saving_listeners: Sequence[CheckpointSaverListener] | None,
        is_all: bool = True,
    ) -> "Estimator":
        """Trains; unless that `is_all`, what follows is still to be done when it is over."""
        self._interrupted = None
        given_hooks = check_hooks(hooks, SessionRunHook, "train: hooks")
        listeners = check_hooks(
            saving_listeners, CheckpointSaverListener, "train: saving_listeners"
        )
        check_count("train", "steps", steps)
        check_count("train", "max_steps", max_steps)
        if steps is not None and max_steps is not None:
            raise ValueError(
                f"train: can not provide both steps and max_steps, got {steps} and {max_steps}."
            )
        self._wait_for_saves()
        if max_steps is not None and self._variables.has_reached(max_steps):
            _LOG.info("Skipping training: max_steps=%d was reached already.", max_steps)
            return self
        placement = self._train_placement(self._config.train_distribute)
        call = TrainCall(
            model=self._model,
            variables=self._variables,
            config=self._config,
            model_dir=self.model_dir,
            writers=self._writers,
            history=self._history,
            placement=placement,
            hooks=given_hooks,
            listeners=listeners,
            steps=steps,
            max_steps=max_steps,
            is_all=is_all,
        )
        limited = steps is not None or max_steps is not None
        # From the first trace on: a signal in the middle of compiling would end the process.
        with (
            Interrupt() as interrupt,
            self._feed(input_fn, ModeKeys.TRAIN, placement, repeat=limited) as feed,
        ):
            session, all_hooks = call.start(feed)
            self._training = session
            try:
                self._interrupted = call.run(session, feed, all_hooks, interrupt)
            finally:
                self._training = None
        return self

    def _evaluate(
        self,
        input_fn: Callable[..., Any],
        steps: int | None,
        hooks: Sequence[SessionRunHook] | None,
        name: str | None,
        live_of: Callable[[Binding], Live],
    ) -> dict[str, Any]:
        """Evaluates the variables that `live_of` gives: a checkpoint's, or those in training."""
        given_hooks = check_hooks(hooks, SessionRunHook, "evaluate: hooks")
        check_count("evaluate", "steps", steps)
        placement = self._read_placement(self._config.eval_distribute)
        call = EvaluateCall(
            model=self._model,
            writers=self._writers,
            history=self._history,
            placement=placement,
            prefetch=self._config.prefetch,
            hooks=given_hooks,
            steps=steps,
            name=name or None,
            directory=self.eval_dir(name),
        )
        with self._feed(input_fn, ModeKeys.EVAL, placement) as feed:
            return call.run(feed, live_of)

    @contextlib.contextmanager
    def _feed(
        self, input_fn: Callable[..., Any], mode: str, placement: Placement, repeat: bool = False
    ) -> Iterator[Feed]:
        with self._closing(self._open(input_fn, mode, placement, repeat)) as feed:
            yield feed

    @contextlib.contextmanager
    def _closing(self, feed: Feed) -> Iterator[Feed]:
        """Closes a feed in the end, and keeps its last batch in mind for an export."""
        try:
            yield feed
        finally:
            feed.close()
            self._seen = self._seen if feed.last is None else feed.last

    def _open(
        self, input_fn: Callable[..., Any], mode: str, placement: Placement, repeat: bool
    ) -> Feed:
        returned = call_input_fn(input_fn, mode=mode, params=self.params, config=self._config)
        # A block is stacked on the host first, and placed whole.
        blocks = mode == ModeKeys.TRAIN and self._config.steps_per_execution > 1
        return Feed(
            open_source(returned, repeat=repeat),
            self._model.bindings(mode),
            with_labels=mode != ModeKeys.PREDICT,
            place=placement.put_batch if placement.moves_batches and not blocks else None,
        )

    def _wait_for_saves(self) -> None:
        if self._training is not None:
            self._training.wait_for_saves()

    def _trained(self) -> str:
        path = self.latest_checkpoint()
        if path is None:
            raise ValueError(
                f"Could not find a trained model in model_dir: {self.model_dir}. Call train first."
            )
        return path
