"""Exporters: what is written of a model for serving, and when.

    exporter = BestExporter("best", metric="accuracy", mode="max")
    train_and_evaluate(estimator, train_spec, EvalSpec(eval_input_fn, exporters=exporter))
    # model_dir/export/best/<time>/, and best.json beside it: its step and its results

An exporter is called after each evaluation, and once more, with `is_the_final_export`, when the run
is over.
"""

import abc
import inspect
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from estimator.history import plain_results
from estimator.messages import did_you_mean

_LOG = logging.getLogger(__name__)

_BEST = "best.json"


class Exporter(abc.ABC):
    """Base of exporters."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name of its directory under `export/`."""

    @abc.abstractmethod
    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> Any:
        """Exports the model, if it should.

        Args:
            estimator: the Estimator.
            export_path: the directory to export into, `model_dir/export/<name>`.
            checkpoint_path: the checkpoint that was evaluated.
            eval_result: its results.
            is_the_final_export: whether the run is over. It may be called for the same checkpoint
                before, when nobody knew that yet.

        Returns:
            The path of the export; None, if there is none.
        """


class _ModelExporter(Exporter):
    """Writes the model by `export_saved_model`; a subclass says when."""

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable[[], Any] | None = None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{type(self).__name__}: name must be a text, got {name!r}.")
        if serving_input_receiver_fn is not None and not callable(serving_input_receiver_fn):
            raise TypeError(
                f"{type(self).__name__}: serving_input_receiver_fn must be a function, got "
                f"{serving_input_receiver_fn!r}."
            )
        self._name = name
        self._serving_input_receiver_fn = serving_input_receiver_fn
        self._assets_extra = assets_extra
        self._as_text = as_text

    @property
    def name(self) -> str:
        """The name of its directory under `export/`."""
        return self._name

    def write(self, estimator: Any, export_path: str, checkpoint_path: str) -> Any:
        """Writes one export and returns its path; override it for a format of your own."""
        return estimator.export_saved_model(
            export_path,
            self._serving_input_receiver_fn,
            assets_extra=self._assets_extra,
            as_text=self._as_text,
            checkpoint_path=checkpoint_path,
        )

    def _written(self, estimator: Any, export_path: str, checkpoint_path: str) -> Any:
        written = self.write(estimator, export_path, checkpoint_path)
        if not isinstance(written, str | bytes | os.PathLike):
            raise TypeError(
                f"{type(self).__name__}: write must return the path of the export, got {written!r}."
            )
        return written


class FinalExporter(_ModelExporter):
    """Exports the model once, when the run is over.

    >>> FinalExporter("final").name
    'final'

    Args:
        name: the name of its directory under `export/`.
        serving_input_receiver_fn: describes the requests; None: they are as the last batch.
        assets_extra: files to add, by the path they get.
        as_text: whether to write a readable form beside the other.

    Raises:
        ValueError: if an argument is not what it should be.
    """

    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> Any:
        """Exports at the end; see `Exporter.export`."""
        if not is_the_final_export:
            return None
        _LOG.info("Performing the final export in the end of training.")
        return self._written(estimator, export_path, checkpoint_path)


class LatestExporter(_ModelExporter):
    """Exports every model that is evaluated, and keeps the latest.

    >>> LatestExporter("latest", exports_to_keep=2).name
    'latest'

    Args:
        name, serving_input_receiver_fn, assets_extra, as_text: as for `FinalExporter`.
        exports_to_keep: how many; None: all.

    Raises:
        ValueError: if an argument is not what it should be.
    """

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable[[], Any] | None = None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        exports_to_keep: int | None = 5,
    ) -> None:
        super().__init__(name, serving_input_receiver_fn, assets_extra, as_text)
        self._keep = _checked_keep("LatestExporter", exports_to_keep)
        self._last: tuple[str | None, Any] = (None, "")

    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> Any:
        """Exports, but the same checkpoint only once; see `Exporter.export`."""
        before, written = self._last
        if before == checkpoint_path and os.path.exists(os.fsdecode(written)):
            return written
        written = self._written(estimator, export_path, checkpoint_path)
        self._last = (checkpoint_path, written)
        collect(export_path, self._keep)
        return written


class BestExporter(_ModelExporter):
    """Exports a model whenever an evaluation finds it better than all before.

    The best results are kept in `best.json` beside the exports: a run that is continued never
    exports a worse model.

    >>> BestExporter(metric="accuracy", mode="max").name
    'best_exporter'

    Args:
        name, serving_input_receiver_fn, assets_extra, as_text: as for `FinalExporter`.
        event_file_pattern: taken for the sake of TensorFlow's signature; `best.json` knows better.
        compare_fn: `compare_fn(best_eval_result, current_eval_result)` returns whether the current
            results are better; None: whether the loss is smaller.
        exports_to_keep: how many; None: all.
        metric: the name of the metric to compare by, in place of compare_fn.
        mode: whether the best of the metric is its "min" or its "max".

    Attributes:
        metric_name: the metric to compare by; None: compare_fn does.

    Raises:
        ValueError: if an argument is not what it should be.
    """

    def __init__(
        self,
        name: str = "best_exporter",
        serving_input_receiver_fn: Callable[[], Any] | None = None,
        event_file_pattern: str | None = "eval/*.tfevents.*",
        compare_fn: Callable[..., bool] | None = None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        exports_to_keep: int | None = 5,
        metric: str | None = None,
        mode: str | None = None,
    ) -> None:
        super().__init__(name, serving_input_receiver_fn, assets_extra, as_text)
        del event_file_pattern
        self._keep = _checked_keep("BestExporter", exports_to_keep)
        if compare_fn is not None:
            _check_compare_fn(compare_fn)
            if metric is not None or mode is not None:
                raise ValueError("BestExporter: give compare_fn, or metric and mode, not both.")
        elif (metric is None) != (mode is None) or mode not in (None, "min", "max"):
            raise ValueError(
                f'BestExporter: give metric and mode, "min" or "max", got metric={metric!r} and '
                f"mode={mode!r}."
            )
        self._compare_fn = compare_fn
        self.metric_name = None if compare_fn is not None else metric or "loss"
        self._mode = mode or "min"

    def check_names(self, names: Iterable[str]) -> None:
        """Checks its metric against those that the evaluation reports.

        Raises:
            ValueError: if there is no such metric; the message lists them all.
        """
        names = sorted(names)
        if self.metric_name is not None and self.metric_name not in names:
            raise ValueError(
                f"BestExporter: there is no metric {self.metric_name!r}."
                f"{did_you_mean(self.metric_name, names)} The evaluation reports {names}."
            )

    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> Any:
        """Exports, if the results are the best so far; see `Exporter.export`."""
        current = plain_results(eval_result)
        best = _read_best(export_path)
        if not self._is_better(None if best is None else best["results"], current):
            return None
        _LOG.info("Performing best model export.")
        written = self._written(estimator, export_path, checkpoint_path)
        shown = os.path.basename(os.fsdecode(written))
        step = current.get("global_step")
        _write_best(export_path, {"global_step": step, "export": shown, "results": current})
        collect(export_path, self._keep)
        return written

    def _is_better(self, best: Mapping[str, Any] | None, current: Mapping[str, Any]) -> bool:
        if self.metric_name is None:
            assert self._compare_fn is not None
            return best is None or bool(
                self._compare_fn(best_eval_result=best, current_eval_result=current)
            )
        self.check_names(current)
        value = current[self.metric_name]
        before = None if best is None else best.get(self.metric_name)
        if math.isnan(value):
            return False
        if before is None or math.isnan(before):
            return True
        return bool(value < before if self._mode == "min" else value > before)


def collect(export_path: str, keep: int | None) -> None:
    """Deletes old exports: directories whose name is a time, of ten digits.

    Args:
        export_path: the directory that holds them.
        keep: how many of the latest to keep; None: all.
    """
    if keep is None or not os.path.isdir(export_path):
        return
    exports = sorted(n for n in os.listdir(export_path) if re.fullmatch("[0-9]{10}", n))
    for name in exports[:-keep]:
        path = os.path.join(export_path, name)
        try:
            shutil.rmtree(path)
        except OSError as error:
            _LOG.warning("The old export %s cannot be deleted: %s.", path, error)


def _checked_keep(where: str, keep: Any) -> int | None:
    if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep <= 0):
        raise ValueError(f"{where}: exports_to_keep must be a positive int or None, got {keep!r}.")
    return keep


def _check_compare_fn(compare_fn: Any) -> None:
    if not callable(compare_fn):
        raise ValueError(f"BestExporter: compare_fn must be a function, got {compare_fn!r}.")
    wanted = {"best_eval_result", "current_eval_result"}
    given = inspect.signature(compare_fn).parameters
    if {*given} != wanted:
        raise ValueError(
            f"BestExporter: compare_fn must take {sorted(wanted)}, by these names; it takes "
            f"{[*given]}."
        )


def _read_best(export_path: str) -> dict[str, Any] | None:
    path = os.path.join(export_path, _BEST)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if isinstance(found["results"], dict):
            return dict(found)
    except (ValueError, LookupError, TypeError):
        pass
    raise ValueError(
        f"{path} is not what BestExporter has written. Delete it, and the next evaluation counts "
        "as the best."
    )


def _write_best(export_path: str, best: Mapping[str, Any]) -> None:
    os.makedirs(export_path, exist_ok=True)
    path = os.path.join(export_path, _BEST)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(best, file, indent=1)
    os.replace(f"{path}.new", path)
