"""Labels of a head: names to ids, and a look at their values, on the host.

    kind = LabelKind("MultiClassHead", vocabulary=("cat", "dog", "owl"), whole=True)
    one_each(labels, kind)              # one for each row of a batch
    one_each_step(labels, kind)         # one for each step of each row

A wrong label is an error in the thread that reads the input, before any step has seen it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import estimator as est
import feature_columns as fc

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class LabelKind(est.Recipe):
    """What labels must be.

    Attributes:
        where: who wants them, for error messages.
        vocabulary: the names of the classes, where labels are names.
        whole: whether they are whole numbers.
        low: the smallest that may be.
        high: the largest that may be.
        cure: what to do about another, for error messages.
    """

    where: str
    vocabulary: tuple[str, ...] | None = None
    whole: bool = False
    low: float = -np.inf
    high: float = np.inf
    cure: str = "Look at what input_fn makes of them."

    @property
    def is_bounded(self) -> bool:
        """Whether not all numbers are labels."""
        return np.isfinite(self.low) or np.isfinite(self.high)

    def check(self, values: np.ndarray) -> None:
        """Raises a ValueError if a label is out of range, and says which."""
        good = (values >= self.low) & (values <= self.high)
        if not good.all():
            raise ValueError(
                f"{self.where}: labels must lie between {self.low:g} and {self.high:g}, got "
                f"{values[~good].flat[0]}. {self.cure}"
            )

    def ids(self, names: np.ndarray) -> np.ndarray:
        """Returns the places of names in the vocabulary, int32 of the shape of the names.

        Raises:
            ValueError: if a name is not in the vocabulary.
        """
        assert self.vocabulary is not None
        table = _places(self.vocabulary)
        found = [table.get(name, -1) for name in names.ravel().tolist()]
        ids = np.array(found, np.int32).reshape(names.shape)
        if (ids < 0).any():
            shown = ", ".join(map(repr, self.vocabulary[:_SHOWN]))
            more = ", ..." if len(self.vocabulary) > _SHOWN else ""
            raise ValueError(
                f"{self.where}: the label {names[ids < 0].flat[0]!r} is not in label_vocabulary: "
                f"[{shown}{more}]. Labels must be names of it."
            )
        return ids


@functools.lru_cache(maxsize=16)
def _places(vocabulary: tuple[str, ...]) -> dict[Any, int]:
    table: dict[Any, int] = {name: i for i, name in enumerate(vocabulary)}
    return table | {name.encode(): i for i, name in enumerate(vocabulary)}


def one_each(labels: Any, kind: LabelKind) -> jax.Array:
    """Returns labels of rows, checked: ids of names, int32 of shape (batch, 1), or numbers.

    >>> kind = LabelKind("doc", ("cat", "dog"))
    >>> est.preview(lambda x, y: one_each(y, kind), [1, 2], ["dog", "cat"])[0].tolist()
    [[1], [0]]

    Args:
        labels: labels as a model_fn was given them.
        kind: what they must be.

    Raises:
        ValueError: if they are something else.
    """
    if kind.vocabulary is not None:
        return est.host_feature(LabelIds(_path(labels, kind), kind))
    if not isinstance(labels, jax.Array | np.ndarray):
        raise ValueError(
            f"{kind.where}: labels are no array of numbers. Make numbers of them in input_fn; to a "
            "classifier names of classes may be given with label_vocabulary=[all names]."
        )
    if kind.is_bounded:
        est.host_check(labels, LabelCheck(kind))
    numbers = jnp.asarray(labels)
    if kind.whole and not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise ValueError(
            f"{kind.where}: labels must be whole numbers, got {numbers.dtype}. Cast them in "
            "input_fn: labels.astype(np.int32)."
        )
    return numbers if kind.whole else numbers.astype(jnp.float32)


def one_each_step(values: Any, kind: LabelKind, lengths: est.HostRecipe | None = None) -> jax.Array:
    """Returns labels of steps, checked: int32 or float32, of shape (batch, steps).

    Args:
        values: a leaf as a model_fn was given it: an array with padding, lists of different
            lengths, or a `SparseTensor`.
        kind: what they must be.
        lengths: makes the lengths of the sequences, or bools of shape (batch, steps) that tell
            which steps are there; None: they are not compared.

    Raises:
        ValueError: if they are something else; or, in the thread that reads the input, if a row
            has too few.
    """
    return est.host_feature(StepLabels(_path(values, kind), kind, lengths))


def _path(labels: Any, kind: LabelKind) -> tuple[Any, ...]:
    path = est.raw_path(labels)
    if path is None:
        raise ValueError(
            f"{kind.where}: names, and labels of steps, must come as input_fn gave them, not "
            "computed in the model_fn."
        )
    return path


@dataclasses.dataclass(frozen=True)
class LabelCheck(est.HostCheck):
    """Refuses labels out of range."""

    kind: LabelKind

    def __call__(self, values: np.ndarray) -> None:
        """Raises a ValueError that says which."""
        self.kind.check(np.asarray(values))


@dataclasses.dataclass(frozen=True)
class LabelIds(est.HostRecipe):
    """The places of labels in a vocabulary, one for each row."""

    path: tuple[Any, ...]
    kind: LabelKind
    dtype = np.dtype(np.int32)
    dims = ("batch", 1)

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns int32 of shape (batch, 1).

        Raises:
            ValueError: if a label is not in the vocabulary, or a row has several.
        """
        found = fc.entries(est.raw_value(self.path, features, labels), self.kind.where)
        if found.index is not None or found.shape[1:] != (1,):
            raise ValueError(
                f"{self.kind.where}: there must be one label for each row, got {len(found.values)} "
                f"labels in shape {found.shape}."
            )
        names = np.empty(found.shape, object)
        names[:, 0] = found.values
        return self.kind.ids(names)


@dataclasses.dataclass(frozen=True)
class StepLabels(est.HostRecipe):
    """Labels of steps, 0 behind the end of a sequence."""

    may_hold_functions = True

    path: tuple[Any, ...]
    kind: LabelKind
    lengths: est.HostRecipe | None
    dims = ("batch", "length")
    fill = 0

    @property
    def dtype(self) -> np.dtype:
        """Of ids and whole numbers int32, of others float32."""
        whole = self.kind.whole or self.kind.vocabulary is not None
        return np.dtype(np.int32 if whole else np.float32)

    @functools.cached_property
    def name(self) -> str:
        """Names the labels, and who takes them."""
        lengths = None if self.lengths is None else self.lengths.name
        return f"StepLabels({self.path}, {self.kind!r}, {lengths})"

    def __call__(self, features: Any, labels: Any) -> np.ndarray:
        """Returns int32 or float32 of shape (batch, steps).

        Raises:
            ValueError: if a row has fewer labels than steps, or a label is not what it must be.
        """
        rows, ragged = _rows(est.raw_value(self.path, features, labels), self.kind.where)
        widths = np.array([len(row) for row in rows], np.int64)
        present = self._present(features, labels, widths)
        need = np.where(present, np.arange(1, present.shape[1] + 1), 0).max(1, initial=0)
        # Rows that say how long they are may leave out the steps that are not there.
        short = ragged & (widths == present.sum(1))
        wrong = ~short & ((widths != need) if ragged else (widths < need))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{self.kind.where}: row {row} has {widths[row]} labels or weights, but its "
                f"sequence has {need[row]} steps. Each step needs one."
            )
        made = np.zeros(present.shape, self.dtype)
        if isinstance(rows, np.ndarray):
            made[present] = self._numbers(rows[:, : present.shape[1]][present[:, : rows.shape[1]]])
            return made
        flat: list[Any] = []
        for number, values in enumerate(rows):
            there = np.flatnonzero(present[number])
            flat += values if short[number] else [values[i] for i in there]
        made[present] = self._numbers(flat)
        return made

    def _present(self, features: Any, labels: Any, widths: np.ndarray) -> np.ndarray:
        """Returns which steps are there, bools of shape (batch, steps)."""
        told = widths if self.lengths is None else np.asarray(self.lengths(features, labels))
        if told.ndim == 2:
            return told != 0
        return np.arange(int(told.max(initial=0))) < told[:, None]

    def _numbers(self, flat: Any) -> np.ndarray:
        if self.kind.vocabulary is not None:
            names = np.empty(len(flat), object)
            names[:] = flat
            return self.kind.ids(names)
        numbers = np.asarray(flat)
        if len(flat) and (numbers.dtype.kind not in "biuf" or numbers.ndim != 1):
            raise ValueError(
                f"{self.kind.where}: labels of steps must be numbers, got {flat[0]!r}. Names need "
                "label_vocabulary."
            )
        if len(flat) and self.kind.whole and numbers.dtype.kind not in "biu":
            raise ValueError(
                f"{self.kind.where}: labels must be whole numbers, got {numbers.dtype}. Cast them "
                "in input_fn: labels.astype(np.int32)."
            )
        if self.kind.is_bounded:
            self.kind.check(numbers)
        return numbers


def _rows(raw: Any, where: str) -> tuple[list[list[Any]] | np.ndarray, bool]:
    """Returns the values of each row, and whether rows say how long they are."""
    if isinstance(raw, jax.Array | np.ndarray) and raw.dtype != object and raw.ndim > 1:
        return np.asarray(raw).reshape(len(raw), -1), False
    if isinstance(raw, est.SparseTensor):
        found = fc.entries(raw, where)
        rows: list[list[Any]] = [[] for _ in range(found.shape[0])]
        for row, value in zip(found.positions[0], found.values, strict=True):
            rows[row].append(value)
        return rows, True
    rows = [np.ravel(row).tolist() if np.ndim(row) else [row] for row in raw]
    return rows, len({len(row) for row in rows}) > 1


def checked_vocabulary(vocabulary: Any, n_classes: int, where: str) -> tuple[str, ...] | None:
    """Returns a label vocabulary as a tuple; None: there is none.

    Raises:
        ValueError: if it is no list, or has another size than there are classes.
    """
    if vocabulary is None:
        return None
    is_list = isinstance(vocabulary, list | tuple)
    if not is_list or not all(isinstance(name, str) for name in vocabulary):
        raise ValueError(
            f"{where}: label_vocabulary must be a list of strings, got {vocabulary!r}."
        )
    if not len(set(vocabulary)) == len(vocabulary) == n_classes:
        raise ValueError(
            f"{where}: label_vocabulary has {len(vocabulary)} names, {len(set(vocabulary))} "
            f"different names, but there are {n_classes} classes. Name each class once."
        )
    return tuple(vocabulary)
