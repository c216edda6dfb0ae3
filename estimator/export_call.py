"""One export: a model_fn's answers, traced with sizes left open, and written to a directory.

    write_export(directory, [ExportedMode(binding, live, sample)])

The model is traced with symbols in place of sizes that differ from request to request: the batch,
lengths, counts. One that computes with them in Python cannot be; it is exported for a few sizes of
the batch, and requests are filled up to the next one.
"""

import contextlib
import dataclasses
import json
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from estimator import export_files, made_up, steps
from estimator.batches import ArrayLeaf, Batch
from estimator.binding import Binding
from estimator.export_batch import Sample, kind_of_values, plain, read_by_recipes
from estimator.export_outputs import as_export_output, named_answers, spec_signatures
from estimator.host_features import HostOutput
from estimator.live import Live
from estimator.mode_keys import ModeKeys
from estimator.recipes import recipes_in, self_contained, to_json

_LOG = logging.getLogger(__name__)

PLATFORMS = ("cpu", "cuda", "tpu")
BATCH_SIZES = (1, 8, 64)
# The dimensions of host recipes whose sizes differ from request to request, besides the batch.
_OPEN = ("length", "count")


def write_export(directory: str, modes: Sequence["ExportedMode"]) -> None:
    """Writes an export of one or several modes into a directory that is there and empty.

    Raises:
        ValueError, TypeError: if the model cannot be exported, and why.
    """
    live = modes[0].live
    names = {name for mode in modes for name in mode.binding.recipes.variables}
    data = export_files.weights_to_bytes({n: np.asarray(live.values[n]) for n in sorted(names)})
    files: dict[str, Any] = {}
    export_files.write_file(directory, export_files.WEIGHTS, data, files)
    described: dict[str, Any] = {}
    for mode in modes:
        described |= mode.write(directory, files)
    _check_names(described)
    examples = [example for mode in modes for example in mode.examples()]
    if examples:
        text = json.dumps(examples).encode()
        export_files.write_file(directory, export_files.EXAMPLES, text, files)
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
        sample: what it is traced with, and how it is asked; a real batch is kept.
        batch_sizes: sizes to export for where no size can be left open.
        as_text: whether to write readable StableHLO, too.
    """

    binding: Binding
    live: Live
    sample: Sample
    batch_sizes: Sequence[int] = BATCH_SIZES
    as_text: bool = False
    # What went wrong, if something did, in a trace with so many rows and those symbols.
    _errors: dict[Any, Exception | None] = dataclasses.field(default_factory=dict, init=False)

    @property
    def batch(self) -> Batch:
        """The batch that it is traced with."""
        return self.sample.batch

    def write(self, directory: str, files: dict[str, Any]) -> dict[str, Any]:
        """Writes the functions of a mode, notes them in `files`, and describes the mode by name.

        Its alternatives are modes of their own, which share its functions.
        """
        binding = self.binding
        described = {
            "variables": list(binding.recipes.variables),
            "inputs": self._inputs(),
            "used": list(binding.used),
            "host": [self._written(recipe) for recipe in binding.host],
            "checks": [[i, self._written(check)] for i, check in binding.checks],
            "length_buckets": binding.model_fn.length_buckets,
            "parse": self.sample.parse,
            "signatures": {
                signature: self._signature(directory, signature, output, files)
                for signature, output in self._outputs.items()
            },
        }
        others = self.sample.alternatives or {}
        return {binding.mode: described} | {
            f"{name}:{binding.mode}": _alternative(described, name, features)
            for name, features in others.items()
        }

    def examples(self) -> list[Any]:
        """Returns a request with its answers as JSON has it; none, if JSON cannot hold it."""
        if not self.sample.is_real:
            return []
        names = list(self._outputs)
        step = steps.export_step(self.binding, self.live.step, self.live.seed, names)
        values = [self.live.values[name] for name in self.binding.recipes.variables]
        given = jax.device_get(step(values, self.binding.prepare(self.batch)))
        example = {
            "features": plain(self.batch.features),
            "labels": plain(self.batch.labels),
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
        # Numbered: "a/b" and "a_b" are two signatures.
        base = f"{len(files)}_" + re.sub("[^A-Za-z0-9]", "_", signature)[:100]

        def written(name: str, rows: int | None, traced: Any) -> dict[str, Any]:
            data = bytes(traced.serialize())
            file = export_files.write_file(directory, f"{name}.stablehlo", data, files)
            if self.as_text:
                text = traced.mlir_module().encode()
                export_files.write_file(directory, f"{name}.mlir", text, files)
            return {"file": file, "batch": rows, "by_rows": _answers_by_rows(traced, rows)}

        try:
            traced = self._traced(step, None)
        except Exception as error:
            failure = error
        else:
            return [written(base, None, traced)]
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
        made: list[dict[str, Any]] = []
        for size in self.batch_sizes:
            try:
                traced = self._traced(step, size)
            except Exception as error:
                raise ValueError(
                    f"The model cannot be exported for batches of {size} rows: {error}"
                ) from error
            is_tried = bool(made)  # once, for all sizes
            if not (
                _answers_by_rows(traced, size) and (is_tried or self._is_rowwise(step, traced))
            ):
                raise ValueError(  # what fills up would count in them
                    f"The signature {signature!r} cannot be exported for batches of {size} rows, "
                    f"since it does not answer row by row, and requests are filled up: {failure}"
                )
            made.append(written(f"{base}_{size}", size, traced))
        return made

    def _is_rowwise(self, step: Any, traced: Any) -> bool:
        """Returns whether rows that fill up a request change nothing: it is tried."""
        values = [self.live.values[name] for name in self.binding.recipes.variables]
        kinds = traced.in_avals[len(values) :]

        def run(inputs: list[np.ndarray], rows: int) -> list[np.ndarray]:
            return [np.asarray(leaf) for leaf in step(values, inputs)[0]]

        try:
            return made_up.is_rowwise(run, kinds)
        except Exception:  # of so many rows the model_fn makes nothing
            return False

    def _traced(self, step: Any, rows: int | None) -> Any:
        """Returns what JAX exports of a step, with as many sizes left open as can be.

        Raises:
            Exception: what went wrong at first, if it cannot be exported.
        """
        failures: list[Exception] = []
        for symbols in self._symbols(rows):
            known = self._errors.get((rows, *symbols))
            if known is None:
                try:
                    with _without_source_paths():
                        export = jax.export.export(step, platforms=PLATFORMS)
                        return export(self._variables(), self._shapes(rows, symbols))
                except Exception as error:
                    known = error
                    self._is_traced(rows, symbols)  # if not, other signatures need not try
            failures.append(known)
        raise failures[0]

    def _symbols(self, rows: int | None) -> Iterator[list[str]]:
        """Yields symbols for the open sizes of the inputs.

        First each has one of its own; then lengths that were equal share one; then all that must
        be equal; then all that were.
        """
        alike = self._alike
        yield [f"{name}_{n}" for n, name in enumerate(alike)]
        if len({*alike}) < len(alike):
            yield [f"{s}_{n}" if s.startswith("count") else s for n, s in enumerate(alike)]
            yield self._symbols_of_ties(rows, alike)
            yield alike

    @property
    def _alike(self) -> list[str]:
        """Symbols for the open sizes, the same where they were equal."""
        sizes = [size for sizes in self._host_sizes() for size in sizes]
        return [f"{dim}_{size}" for dim, size in sizes if dim in _OPEN]

    def _symbols_of_ties(self, rows: int | None, alike: list[str]) -> list[str]:
        """Returns symbols for open sizes, of which as few as can be are the same.

        Those that must be equal are neighbours, such as ids and their weights. So it is tried in
        which places sizes before and behind may differ.
        """

        def parted(cuts: Sequence[int]) -> list[str]:
            return [f"{name}_{sum(n >= cut for cut in cuts)}" for n, name in enumerate(alike)]

        if not self._is_traced(rows, alike):
            return alike
        return parted([n for n in range(1, len(alike)) if self._is_traced(rows, parted([n]))])

    def _is_traced(self, rows: int | None, symbols: list[str]) -> bool:
        key = (rows, *symbols)
        if key not in self._errors:
            names = list(self._outputs)
            step = steps.export_step(self.binding, self.live.step, self.live.seed, names)
            self._errors[key] = None
            try:
                jax.eval_shape(step, self._variables(), self._shapes(rows, symbols))
            except Exception as error:  # the model_fn brings sizes together that may differ
                self._errors[key] = error
        return self._errors[key] is None

    def _variables(self) -> list[Any]:
        """Returns the shapes of the variables."""
        values = [self.live.values[name] for name in self.binding.recipes.variables]
        return [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values]

    def _host_sizes(self) -> list[list[tuple[str | int, int]]]:
        """Returns the dimensions of what each host recipe makes, with their sizes in the batch."""
        buckets = self.binding.model_fn.length_buckets
        return [
            list(zip(recipe.dims, self.batch.host(recipe, buckets).shape, strict=True))
            for recipe in self.binding.host
        ]

    def _shapes(self, rows: int | None, symbols: list[str]) -> list[Any]:
        """Returns the shapes of the inputs.

        Args:
            rows: the number of rows; None: it is left open.
            symbols: the names of the other open sizes, in their order.
        """
        scope, batch = jax.export.SymbolicScope(), self.batch

        def symbol(name: str) -> Any:
            return jax.export.symbolic_shape(name, scope=scope)[0]

        first = symbol("batch") if rows is None else rows
        count = max(batch.lengths, default=1)
        shapes = []
        for i in self.binding.used:
            shape = batch.leaves[i].shape
            if shape and shape[0] == count:
                shape = (first, *shape[1:])
            kind = self.binding.kinds[i]
            assert isinstance(kind, ArrayLeaf)
            shapes.append(jax.ShapeDtypeStruct(shape, kind.dtype))
        names = iter(symbols)
        for recipe, sizes in zip(self.binding.host, self._host_sizes(), strict=True):
            made = [
                first if dim == "batch" else symbol(next(names)) if dim in _OPEN else size
                for dim, size in sizes
            ]
            dtype = batch.host(recipe, self.binding.model_fn.length_buckets).dtype
            shapes.append(jax.ShapeDtypeStruct(tuple(made), dtype))
        return shapes

    def _inputs(self) -> list[dict[str, Any]]:
        """Describes the leaves of a request: those that are used, or that host recipes read."""
        batch = self.batch
        count = max(batch.lengths, default=1)
        needed = read_by_recipes(batch, self.binding.host)
        described = []
        pairs = zip(batch.raw_paths, batch.leaves, self.binding.kinds, strict=True)
        for i, (path, leaf, kind) in enumerate(pairs):
            entry: dict[str, Any] = {"part": path[0], "path": list(path[1:])}
            entry["needed"] = i in self.binding.used or path in needed
            entry["like"] = kind_of_values(leaf)
            if isinstance(kind, ArrayLeaf) and i in self.binding.used:
                sizes = [
                    None if n == 0 and size == count else size for n, size in enumerate(leaf.shape)
                ]
                entry |= {"dtype": kind.dtype.name, "shape": sizes}
            described.append(entry)
        return described

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


def _alternative(mode: Mapping[str, Any], name: str, features: Collection[Any]) -> dict[str, Any]:
    """Describes a mode that takes those features alone, and no records."""
    inputs = mode["inputs"]
    # A feature that is alone has no path: it is all of them.
    taken = [i for i, entry in enumerate(inputs) if {*entry["path"]} <= {*features}]
    lacking = [e["path"][0] for i, e in enumerate(inputs) if e["needed"] and i not in taken]
    if lacking:
        raise ValueError(
            f"receiver_tensors_alternatives: {name!r} lacks the features {lacking}, and the model "
            "looks at them."
        )
    place = {old: new for new, old in enumerate(taken)}
    return {
        **mode,
        "inputs": [inputs[i] for i in taken],
        "used": [place[i] for i in mode["used"]],
        "checks": [[place[i], check] for i, check in mode["checks"] if i in place],
        "parse": None,
        "signatures": {f"{name}:{key}": made for key, made in mode["signatures"].items()},
    }


def _check_names(modes: Mapping[str, Any]) -> None:
    """Checks that no signature has the name of another one.

    Raises:
        ValueError: if one has.
    """
    names = Counter(name for mode in modes.values() for name in mode["signatures"])
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise ValueError(
            f"There are several signatures {twice}: TRAIN and EVAL have the signatures 'train' and "
            "'eval', and an alternative one for each of PREDICT. Rename the export_outputs."
        )


def _answers_by_rows(traced: Any, rows: int | None) -> bool:
    """Returns whether each array of the answers has a row for each row of the batch."""
    shapes = [[str(size) for size in aval.shape] for aval in traced.out_avals]
    if rows is not None:
        return all(shape[:1] == [str(rows)] for shape in shapes)
    return all(
        shape[:1] == ["batch"] and not any("batch" in size for size in shape[1:])
        for shape in shapes
    )


@contextlib.contextmanager
def _without_source_paths() -> Iterator[None]:
    """Keeps the paths of the user's files out of what is traced meanwhile."""
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
