"""The methods of an Estimator that write exports."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from estimator.arguments import checked_checkpoint
from estimator.batches import Batch
from estimator.export_batch import in_any_form, sample_of
from estimator.export_call import BATCH_SIZES, ExportedMode, write_export
from estimator.export_files import write_aside
from estimator.live import LiveVariables
from estimator.loaded_model import load
from estimator.mode_keys import ModeKeys
from estimator.model import Model
from estimator.tensorflow_export import write_saved_model

_MODES = (ModeKeys.TRAIN, ModeKeys.EVAL, ModeKeys.PREDICT)


class ExportMethods:
    """What an Estimator writes for other processes; only an Estimator inherits from it."""

    _model: Model
    _variables: LiveVariables
    _seen: Batch | None
    _warm_start_from: Any
    _read_placement: Callable[[Any], Any]
    _wait_for_saves: Callable[[], None]
    model_dir: Any

    def export_saved_model(
        self,
        export_dir_base: str | os.PathLike[str],
        serving_input_receiver_fn: Callable[[], Any] | None = None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | os.PathLike[str] | None = None,
        experimental_mode: str = ModeKeys.PREDICT,
        batch_sizes: Sequence[int] = BATCH_SIZES,
        format: str = "jax",
    ) -> bytes:
        """Writes the model for other processes, which ask it without the code that made it.

        Args:
            export_dir_base: the directory that gets a new one, named by the time in seconds.
            serving_input_receiver_fn: describes the inputs, see `estimator.export`; None: those of
                the last batch seen, a few rows of which are kept in the export as an example.
            assets_extra: files to copy into `assets.extra`: their paths by the path they get.
            as_text: whether to write StableHLO as text, too.
            checkpoint_path: the checkpoint to export; None: the newest.
            experimental_mode: the mode to export.
            batch_sizes: what to export for where the size of a batch cannot be left open.
            format: `"jax"`; or `"tensorflow"`: TensorFlow's SavedModel, for its servers and
                clients, of the mode PREDICT.

        Returns:
            The path, which `estimator.export.load` reads; or TensorFlow.

        Raises:
            ValueError, TypeError: if the model is not trained, or cannot be exported.
            ImportError: if there is no TensorFlow, where its format is wanted.
        """
        if format not in ("jax", "tensorflow"):
            raise ValueError(f'format must be "jax" or "tensorflow", got {format!r}.')
        if format == "tensorflow":
            if experimental_mode != ModeKeys.PREDICT or as_text:
                raise ValueError(
                    "A SavedModel of TensorFlow's serves: it is of the mode PREDICT, without "
                    "as_text."
                )
            with tempfile.TemporaryDirectory() as directory:
                path = self.export_saved_model(
                    directory,
                    serving_input_receiver_fn,
                    checkpoint_path=checkpoint_path,
                    batch_sizes=batch_sizes,
                )
                return write_saved_model(load(path), export_dir_base, assets_extra).encode()
        receivers = {experimental_mode: serving_input_receiver_fn}
        return self._exported(
            "export_saved_model",
            export_dir_base,
            receivers,
            assets_extra,
            as_text,
            checkpoint_path,
            batch_sizes,
        )

    def export_savedmodel(
        self,
        export_dir_base: str | os.PathLike[str],
        serving_input_receiver_fn: Callable[[], Any] | None = None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | os.PathLike[str] | None = None,
        strip_default_attrs: bool = False,
    ) -> bytes:
        """Does what `export_saved_model` does, under its older name.

        Args:
            export_dir_base, serving_input_receiver_fn, assets_extra, as_text, checkpoint_path: as
                for `export_saved_model`.
            strip_default_attrs: means nothing here.

        Returns:
            The path.

        Raises:
            ValueError, TypeError: as `export_saved_model` does.
        """
        del strip_default_attrs
        return self.export_saved_model(
            export_dir_base, serving_input_receiver_fn, assets_extra, as_text, checkpoint_path
        )

    def experimental_export_all_saved_models(
        self,
        export_dir_base: str | os.PathLike[str],
        input_receiver_fn_map: Mapping[str, Callable[[], Any] | None],
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | os.PathLike[str] | None = None,
    ) -> bytes:
        """Writes several modes of the model into one export, with one set of variables.

        TRAIN and EVAL have one signature each, `train` and `eval`, which answers `loss`,
        `metrics/<name>/value` and `predictions/<name>`.

        Args:
            export_dir_base, assets_extra, as_text, checkpoint_path: as for `export_saved_model`.
            input_receiver_fn_map: a receiver function for each mode to export; None: the inputs
                are those of the last batch seen.

        Returns:
            The path.

        Raises:
            ValueError, TypeError: as `export_saved_model` does, or if there is no such mode.
        """
        return self._exported(
            "experimental_export_all_saved_models",
            export_dir_base,
            input_receiver_fn_map,
            assets_extra,
            as_text,
            checkpoint_path,
            BATCH_SIZES,
        )

    def _exported(
        self,
        where: str,
        base: str | os.PathLike[str],
        receivers: Mapping[str, Callable[[], Any] | None],
        assets_extra: Mapping[str, str] | None,
        as_text: bool,
        checkpoint_path: str | os.PathLike[str] | None,
        batch_sizes: Sequence[int],
    ) -> bytes:
        if not receivers or not {*receivers} <= {*_MODES}:
            raise ValueError(
                f"{where}: No valid modes for exporting found. Got {[*receivers]}, wanted some of "
                f"{list(_MODES)}."
            )
        path = checked_checkpoint(where, checkpoint_path)
        self._wait_for_saves()
        modes = []
        for mode in _MODES:
            if mode not in receivers:
                continue
            sample = sample_of(receivers[mode], self._seen, mode)
            batch, binding = in_any_form(sample.batch, self._model.bindings(mode))
            live = self._variables.for_reading(binding, self._read_placement(None), path)
            if live.checkpoint is None and self._warm_start_from is None:
                raise ValueError(
                    f"Couldn't find trained model at {self.model_dir}. Call train first."
                )
            sizes = tuple(batch_sizes)
            sample = sample._replace(batch=batch)
            modes.append(ExportedMode(binding, live, sample, sizes, as_text))

        def write(directory: str) -> None:
            write_export(directory, modes)

        return os.fsencode(write_aside(base, write, assets_extra))
