"""One export: a model_fn's answers, traced with sizes left open, and written to a directory.

    write_export(directory, [ExportedMode(binding, live, batch, real=True)])

The model is traced with symbols in place of sizes that differ from request to request: the batch,
lengths, counts. One that computes with them in Python cannot be; it is exported for a few sizes of
the batch, and requests are filled up to the next one.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from estimator import export_files, steps
from estimator.batches import ArrayLeaf, Batch
from estimator.binding import Binding
from estimator.export_outputs import as_export_output, named_answers, spec_signatures
from estimator.host_features import HostOutput
from estimator.live import Live
from estimator.mode_keys import ModeKeys
from estimator.recipes import recipes_in, self_contained, to_json

_LOG = logging.getLogger(__name__)

PLATFORMS = ("cpu", "cuda", "tpu")
BATCH_SIZES = (1, 8, 64)
_TRIES = 10


def write_export(directory: str, modes: Sequence["ExportedMode"]) -> None:
    """Writes an export of one or several modes into a directory that is there and empty.

    Raises:
        ValueError, TypeError: if the model cannot be exported, and why.
    """
    live = modes[0].live
    names = {name for mode in modes for name in mode.binding.recipes.variables}
    data = export_files.weights_to_bytes({n: np.asarray(live.values[n]) for n in sorted(names)})
    files = {export_files.WEIGHTS: export_files.write_file(directory, export_files.WEIGHTS, data)}
    described = {mode.binding.mode: mode.write(directory, files) for mode in modes}
    examples = [example for mode in modes for example in mode.examples()]
    if examples:
        text = json.dumps(examples).encode()
        files[export_files.EXAMPLES] = export_files.write_file(
            directory, export_files.EXAMPLES, text
        )
    export_files.write_manifest(
        directory,
        {
            "jax": jax.__version__,
            "global_step": live.step,
            "modes": described,
            "modules": sorted({module for mode in modes for module in mode.modules()}),
            "files": files,
        },
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedMode:
    """Everything that the export of one mode needs.

    Attributes:
        binding: what the model_fn asks for in that mode.
        live: the variables.
        batch: a batch to trace with.
        real: whether the batch was seen, or is made up; a real one becomes an example.
        batch_sizes: sizes to export for where no size can be left open.
        as_text: whether to write readable StableHLO, too.
        parse: by name how features are read from records; None: they come as they are.
    """

    binding: Binding
    live: Live
    batch: Batch
    real: bool
    batch_sizes: Sequence[int] = BATCH_SIZES
    as_text: bool = False
    parse: Mapping[str, Any] | None = None

    def write(self, directory: str, files: dict[str, Any]) -> dict[str, Any]:
        """Writes the functions of a mode, notes them in `files`, and describes the mode."""
        binding = self.binding
        return {
            "variables": list(binding.recipes.variables),
            "inputs": self._inputs(),
            "used": list(binding.used),
            "host": [self._written(recipe) for recipe in binding.host],
            "checks": [[i, self._written(check)] for i, check in binding.checks],
            "length_buckets": binding.model_fn.length_buckets,
            "parse": self.parse,
            "signatures": {
                signature: self._signature(directory, signature, output, files)
                for signature, output in self._outputs.items()
            },
        }

    def examples(self) -> list[Any]:
        """Returns a request with its answers as JSON has it; none, if JSON cannot hold it."""
        if not self.real:
            return []
        names = list(self._outputs)
        step = steps.export_step(self.binding, self.live.step, self.live.seed, names)
        values = [self.live.values[name] for name in self.binding.recipes.variables]
        given = jax.device_get(step(values, self.binding.prepare(self.batch)))
        example = {
            "features": _plain(self.batch.features),
            "labels": _plain(self.batch.labels),
            "answers": dict(zip(names, given, strict=True)),
        }
        try:
            return [to_json(example)]
        except TypeError:
            return []

    def modules(self) -> list[str]:
        """Returns the modules that define the recipes, for the process that loads them."""
        recipes: list[Any] = [*self.binding.host, *(check for _, check in self.binding.checks)]
        for output in self._outputs.values():
            for _, answer in named_answers(output):
                if isinstance(answer, HostOutput):
                    recipes.append(answer.recipe)
        parts = [part for recipe in recipes for part in recipes_in(self_contained(recipe))]
        return [type(part).__module__ for part in parts]

    @property
    def _outputs(self) -> dict[str, Any]:
        """The export outputs by signature, of shapes in place of arrays."""
        return spec_signatures(self.binding.spec, value_of=lambda metric: 0.0)

    def _signature(
        self, directory: str, signature: str, output: Any, files: dict[str, Any]
    ) -> dict[str, Any]:
        """Writes the function of a signature, and describes its answers."""
        described = [
            {
                "name": name,
                "recipe": self._written(a.recipe) if isinstance(a, HostOutput) else None,
                "arrays": len(jax.tree.leaves(a)),
            }
            for name, a in named_answers(output)
        ]
        return {
            "method": as_export_output(output).method,
            "outputs": described,
            "modules": self._module(directory, signature, files),
        }

    def _module(
        self, directory: str, signature: str, files: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Traces a signature, with sizes left open if that can be, and writes what comes."""
        step = steps.export_step(self.binding, self.live.step, self.live.seed, [signature])
        values = [
            jax.ShapeDtypeStruct(self.live.values[name].shape, self.live.values[name].dtype)
            for name in self.binding.recipes.variables
        ]
        # Numbered: "a/b" and "a_b" are two signatures.
        base = f"{len(files)}_" + "".join(c if c.isalnum() else "_" for c in signature)

        def exported(name: str, batch: int | None, shapes: list[Any]) -> dict[str, Any]:
            with _without_source_paths():
                made = jax.export.export(step, platforms=PLATFORMS)(values, shapes)
            data = bytes(made.serialize())
            files[f"{name}.stablehlo"] = export_files.write_file(
                directory, f"{name}.stablehlo", data
            )
            if self.as_text:
                text = made.mlir_module().encode()
                files[f"{name}.mlir"] = export_files.write_file(directory, f"{name}.mlir", text)
            return {"file": f"{name}.stablehlo", "batch": batch}

        failure: Exception | None = None
        for shapes in self._open_shapes():
            try:
                return [exported(base, None, shapes)]
            except Exception as error:
                failure = failure or error
        if self.binding.mode != ModeKeys.PREDICT:
            raise ValueError(  # rows that fill up would count in the loss
                f"The mode {self.binding.mode!r} cannot be exported: the model_fn computes in "
                f"Python with sizes that differ from request to request ({failure})."
            ) from failure
        _LOG.warning(
            "The signature %r is exported for batches of %s rows, and requests are filled up: the "
            "model_fn computes in Python with sizes that differ from request to request (%s: %s).",
            signature,
            list(self.batch_sizes),
            type(failure).__name__,
            str(failure).partition("\n")[0],
        )
        made = []
        for size in self.batch_sizes:
            for shapes in self._open_shapes(size):
                try:
                    made.append(exported(f"{base}_{size}", size, shapes))
                    break
                except Exception as error:
                    failure = error
            else:
                raise ValueError(
                    f"The model cannot be exported for batches of {size} rows: {failure}"
                ) from failure
        return made

    def _open_shapes(self, rows: int | None = None) -> Iterator[list[Any]]:
        """Yields the shapes of the inputs, with symbols for open sizes.

        First every length has a symbol of its own; then those that were equal share one.
        """
        batch = self.batch
        made = [batch.host(r, self.binding.model_fn.length_buckets) for r in self.binding.host]
        count = max(batch.lengths, default=1)
        for shared in (False, True):
            scope = jax.export.SymbolicScope()

            def symbol(name: str, scope: Any = scope) -> Any:
                return jax.export.symbolic_shape(name, scope=scope)[0]

            first = symbol("batch") if rows is None else rows
            shapes = []
            for i in self.binding.used:
                shape = batch.leaves[i].shape
                if shape and shape[0] == count:
                    shape = (first, *shape[1:])
                kind = self.binding.kinds[i]
                assert isinstance(kind, ArrayLeaf)
                shapes.append(jax.ShapeDtypeStruct(shape, kind.dtype))
            for n, (recipe, array) in enumerate(zip(self.binding.host, made, strict=True)):
                sizes: list[Any] = []
                for axis, (dim, size) in enumerate(zip(recipe.dims, array.shape, strict=True)):
                    if dim == "batch":
                        sizes.append(first)
                    elif dim in ("length", "count"):
                        sizes.append(symbol(f"{dim}_{size}" if shared else f"{dim}_{n}_{axis}"))
                    else:
                        sizes.append(size)
                shapes.append(jax.ShapeDtypeStruct(tuple(sizes), array.dtype))
            yield shapes

    def _inputs(self) -> list[dict[str, Any]]:
        """Describes the leaves of a request: those that are used, or that host recipes read."""
        batch = self.batch
        count = max(batch.lengths, default=1)
        needed = self._read_by_recipes()
        described = []
        pairs = zip(batch.raw_paths, batch.leaves, self.binding.kinds, strict=True)
        for i, (path, leaf, kind) in enumerate(pairs):
            entry: dict[str, Any] = {"part": path[0], "path": list(path[1:])}
            entry["needed"] = i in self.binding.used or path in needed
            if isinstance(kind, ArrayLeaf) and i in self.binding.used:
                sizes = [
                    None if n == 0 and size == count else size for n, size in enumerate(leaf.shape)
                ]
                entry |= {"dtype": kind.dtype.name, "shape": sizes}
            described.append(entry)
        return described

    def _read_by_recipes(self) -> set[Any]:
        """Returns the paths of the leaves that host recipes look at."""
        features, labels = _watched(self.batch.features), _watched(self.batch.labels)
        for recipe in self.binding.host:
            recipe(features, labels)
        read = set()
        for path in self.batch.raw_paths:
            part = features if path[0] == "features" else labels
            # What is no dict tells nothing: any recipe may have read it.
            if path[1] in part.read if isinstance(part, _Watched) else bool(self.binding.host):
                read.add(path)
        return read

    def _written(self, recipe: Any) -> Any:
        try:
            return to_json(self_contained(recipe))
        except TypeError as error:
            raise TypeError(
                f"The model cannot be exported: {recipe!r} holds a Python function, which runs on "
                f"the host and cannot be written down ({error}). A normalizer_fn runs on the "
                "device, unless its column is crossed or its feature is no plain array; or write a "
                "HostRecipe of your own."
            ) from error


@contextlib.contextmanager
def _without_source_paths() -> Iterator[None]:
    """Keeps the paths of the user's files out of what is traced meanwhile."""
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


class _Watched(dict[Any, Any]):
    """A dict that notes which of its keys are read."""

    def __init__(self, items: Mapping[Any, Any]) -> None:
        super().__init__(items)
        self.read: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def items(self) -> Any:
        self.read.update(self)
        return super().items()

    def values(self) -> Any:
        self.read.update(self)
        return super().values()


def _watched(part: Any) -> Any:
    return _Watched(part) if isinstance(part, Mapping) else part


def write_aside(
    base: str | os.PathLike[str],
    write: Callable[[str], None],
    assets_extra: Mapping[str, str] | None,
) -> str:
    """Returns a new directory, named by the time, which appears when it is complete.

    Args:
        base: the directory that it is made in.
        write: writes into a directory that is there and empty.
        assets_extra: files to copy, by the path they get under `assets.extra`.

    Raises:
        ValueError: if such a path points elsewhere.
        RuntimeError: if the names of ten seconds are all taken.
    """
    base = os.path.abspath(base)
    os.makedirs(base, exist_ok=True)
    for _ in range(_TRIES):
        name = f"{int(time.time()):010d}"
        path, aside = os.path.join(base, name), os.path.join(base, f"temp-{name}")
        try:
            if os.path.exists(path):
                raise FileExistsError
            os.mkdir(aside)
        except FileExistsError:
            time.sleep(1)
            continue
        try:
            write(aside)
            _copy_assets(aside, assets_extra or {})
            os.rename(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return path
    raise RuntimeError(f"There is an export of each of the last {_TRIES} seconds in {base}.")


def _copy_assets(directory: str, assets: Mapping[str, str]) -> None:
    root = os.path.join(directory, "assets.extra")
    for given, source in assets.items():
        target = os.path.abspath(os.path.join(root, given))
        if not target.startswith(root + os.sep):
            raise ValueError(f"assets_extra: {given!r} does not lie in assets.extra.")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target)


def _plain(features: Any) -> Any:
    """Returns features as recipes can write them down."""
    if isinstance(features, Mapping):
        return {key: _plain(leaf) for key, leaf in features.items()}
    if isinstance(features, jax.Array):
        return np.asarray(features)
    if isinstance(features, np.ndarray) and features.dtype.kind in "OUS":
        return _tuples(features.tolist())
    return _tuples(features)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
