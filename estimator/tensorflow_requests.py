"""TensorFlow requests: what goes into a SavedModel, by name and dtype, and whether it is right.

Tensors are dense: rows are filled up with `""`, -1 or NaN. Their names are those of the features;
where TensorFlow takes that for no name, `_` stands in place of other characters.
"""

import keyword
import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from estimator.batches import Batch
from estimator.loaded_mode import RECORDS, Input, LoadedMode
from estimator.loaded_model import LoadedModel
from estimator.low_part import LowPart
from estimator.made_up import same_but_for_rounding
from estimator.messages import shown
from estimator.tf_example import example_record

_LOG = logging.getLogger(__name__)


def tensor_names(mode: LoadedMode) -> dict[Any, str]:
    """Returns the names of tensors by the places of the inputs that are needed.

    Raises:
        ValueError: if TensorFlow cannot tell two of them apart.
    """
    names: dict[Any, str] = {}
    for entry in mode.inputs:
        if not entry.needed:
            continue
        name = re.sub(r"[^A-Za-z0-9_]", "_", entry.name)
        name = name if name[0].isalpha() else f"input_{name}"
        name = f"{name}_" if keyword.iskeyword(name) or name == "self" else name
        if name.lower() in [known.lower() for known in names.values()]:
            raise ValueError(
                f"TensorFlow cannot tell the feature {entry.name!r} from another: it would be "
                f"called {name!r}, beside {sorted(names.values())}. Rename one of them."
            )
        names[entry.place] = name
    return names


def tensor_specs(tf: Any, mode: LoadedMode) -> dict[str, Any]:
    """Returns what goes into a mode, by name."""
    if mode.parse is not None:
        return {RECORDS: tf.TensorSpec([None], tf.string, RECORDS)}
    entries = {entry.place: entry for entry in mode.inputs}
    return {
        name: tf.TensorSpec(entries[place].shape, dtype_of(tf, mode, entries[place]), name)
        for place, name in tensor_names(mode).items()
    }


def dtype_of(tf: Any, mode: LoadedMode, entry: Input) -> Any:
    """Returns the dtype that TensorFlow's clients give an input in.

    Raises:
        ValueError: if nothing tells it.
    """
    if any(isinstance(r, LowPart) and tuple(r.path) == entry.place for r in mode.host):
        return tf.float64
    if entry.dtype is not None and entry.like in (None, "float"):
        return tf.as_dtype(entry.dtype)
    if entry.like is None:
        raise ValueError(
            f"The batch that was exported held no value of {entry.name!r}, so its dtype is not "
            "known. Give a receiver function, which describes it."
        )
    floats = [recipe.takes_floats for recipe in mode.host if entry.place in recipe.reads]
    if entry.dtype is None and any(floats) and False not in floats:
        return tf.float32  # among ints a gap could not be said
    kinds = {"str": tf.string, "int": tf.int64, "float": tf.float32, "bool": tf.bool}
    return kinds[entry.like]


def fill_of(dtype: Any) -> Any:
    """Returns what rows of a dtype of TensorFlow's are filled up with."""
    if dtype.is_floating:
        return float("nan")
    return -1 if dtype.is_integer else False if dtype.is_bool else ""


def nested(given: Mapping[Any, Any]) -> Any:
    """Returns features as a model_fn has them, of what lies at their places.

    >>> nested({("features", "a", "b"): 1, ("features", "c"): 2})
    {'a': {'b': 1}, 'c': 2}
    """
    features: Any = {}
    for (_, *path), value in given.items():
        if not path:
            return value
        inner = features
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    return features


def check_saved_model(tf: Any, loaded: LoadedModel, directory: str) -> None:
    """Asks a SavedModel the examples of the export it is made of; where there are none, others.

    Raises:
        ValueError: if TensorFlow cannot run it, or answers something else.
    """
    signatures = tf.saved_model.load(directory).signatures
    for name in loaded.signatures:
        mode = loaded.signature(name).mode
        asked = [e["features"] for e in loaded.examples if name in e["answers"]]
        count = 0
        for features in [*asked, _made_up(tf, mode, (0, 1)), _made_up(tf, mode, (0, 0))]:
            try:
                wanted = loaded(features, name)
                given = _tensors(tf, mode, features)
            except (TypeError, ValueError):
                continue  # made up wrongly, or of a form that dense tensors have not
            count += 1
            try:
                answers = signatures[name](**given)
            except Exception as error:
                raise ValueError(
                    f"TensorFlow cannot run the signature {name!r}: {error} (It knows no "
                    "jax.lax.top_k, for example: jax.numpy.argsort does the same.)"
                ) from error
            for key, answer in wanted.items():
                if not _same(answers[key].numpy(), answer):
                    raise ValueError(
                        f"TensorFlow answers {answers[key].numpy()} for {key} of the signature "
                        f"{name!r}, where {answer} is wanted; it was asked {shown(features)}. If "
                        "these rows are odd, export with a receiver function: others are asked "
                        "then."
                    )
        if not count:
            _LOG.warning("The signature %r was written, and could not be asked anything.", name)


def _made_up(tf: Any, mode: LoadedMode, values: tuple[int, ...]) -> Any:
    """Returns features of so many rows, or records of them: numbers, and texts of such lengths."""
    if mode.parse is not None:
        rows = [
            {
                name: [_value(kind.dtype, value)] * int(np.prod(kind.shape or ()))
                for name, kind in mode.parse.items()
            }
            for value in values
        ]
        return {RECORDS: [example_record(row) for row in rows]}
    given = {}
    for entry in mode.inputs:
        if entry.needed:
            dtype = np.dtype(dtype_of(tf, mode, entry).as_numpy_dtype)
            sizes = [1 if size is None else size for size in (entry.shape or (None, None))[1:]]
            leaf = [np.full(sizes, _value(dtype, value), dtype) for value in values]
            given[entry.place] = np.array(leaf, dtype)
    return nested(given)


def _value(dtype: np.dtype, value: int) -> Any:
    if dtype.kind in "OUS":
        return "a" * (1 + value)
    return value / 2 if dtype.kind == "f" else dtype.type(value).item()


def _tensors(tf: Any, mode: LoadedMode, features: Any) -> dict[str, Any]:
    """Returns features as dense tensors by name."""
    if mode.parse is not None:
        return {RECORDS: tf.constant(features[RECORDS])}
    batch = Batch(features, None)
    leaves = dict(zip(batch.raw_paths, batch.leaves, strict=True))
    specs, given = tensor_specs(tf, mode), {}
    for place, name in tensor_names(mode).items():
        dtype = specs[name].dtype
        given[name] = tf.constant(_dense(leaves[place], fill_of(dtype)), dtype)
    return given


def _dense(leaf: Any, fill: Any) -> np.ndarray:
    """Returns rows filled up to the longest.

    >>> _dense([["a"], [], ["b", "c"]], "").tolist()
    [['a', ''], ['', ''], ['b', 'c']]
    """
    if isinstance(leaf, np.ndarray) and leaf.dtype != object:
        return leaf
    rows = leaf.tolist() if isinstance(leaf, np.ndarray) else list(leaf)
    shape: list[int] = []
    level: list[Any] = [rows]
    while any(isinstance(item, list | tuple) for item in level):
        level = [item for item in level if isinstance(item, list | tuple)]
        shape.append(max(map(len, level)))
        level = [item for part in level for item in part]
    made = np.full(shape, fill, object)

    def place(item: Any, index: tuple[int, ...]) -> None:
        if isinstance(item, list | tuple):
            for n, inner in enumerate(item):
                place(inner, (*index, n))
        elif item is not None and item == item:  # NaN, too, stands for no string
            made[(*index, *[0] * (len(shape) - len(index)))] = item

    place(rows, ())
    return made


def _same(given: np.ndarray, wanted: np.ndarray) -> bool:
    if wanted.dtype == object:
        texts = [text.decode() if isinstance(text, bytes) else text for text in given.ravel()]
        return given.shape == wanted.shape and texts == wanted.ravel().tolist()
    return same_but_for_rounding(given, wanted)
