"""Vocabulary columns: the id of a word is its place in a list, or its line in a file.

    categorical_column_with_vocabulary_list("color", ["red", "green", "blue"], num_oov_buckets=1)
    categorical_column_with_vocabulary_file("city", "cities.txt")

A word that is not in the vocabulary has no id; or the default; or one of the buckets behind the
vocabulary, by its hash.
"""

import abc
import dataclasses
import functools
import gzip
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from feature_columns.categorical import KeyedColumn, as_texts
from feature_columns.columns import checked_count, checked_key
from feature_columns.entries import Entries
from feature_columns.hashing import fingerprint64
from feature_columns.parse_spec import string_or_integer

_SHOWN = 4


class VocabularyColumn(KeyedColumn):
    """What both kinds of vocabulary columns do."""

    default_value: int
    num_oov_buckets: int

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many words there are."""

    @property
    @abc.abstractmethod
    def words(self) -> Sequence[Any]:
        """The words, in the order of their ids."""

    @property
    def num_buckets(self) -> int:
        """How many ids there are."""
        return self.size + self.num_oov_buckets

    @functools.cached_property
    def _table(self) -> dict[Any, int]:
        table = {word: i for i, word in enumerate(self.words)}
        if self.dtype.kind == "U":
            table |= {word.encode(): i for word, i in table.items()}
        return table

    def host_ids(self, raw: Mapping[str, Any]) -> Entries:
        """Returns the place of each word in the vocabulary."""
        found = self.host_values(raw)
        words = found.values if isinstance(found.values, list) else found.values.tolist()
        places = map(self._table.get, words, itertools.repeat(-1))
        ids = np.fromiter(places, np.int64, len(words))
        if not self.num_oov_buckets:
            if self.default_value != -1:
                ids[ids < 0] = self.default_value
        elif (unknown := ids < 0).any():
            hashes = fingerprint64(as_texts(found.values_where(unknown)))
            ids[unknown] = self.size + (hashes % np.uint64(self.num_oov_buckets)).astype(np.int64)
        return found.with_values(ids)


@dataclasses.dataclass(frozen=True, repr=False)
class VocabularyListColumn(VocabularyColumn):
    """Made by `categorical_column_with_vocabulary_list`."""

    key: str
    vocabulary_list: tuple[Any, ...]
    dtype: np.dtype
    default_value: int
    num_oov_buckets: int
    factory = "categorical_column_with_vocabulary_list"

    @property
    def size(self) -> int:
        """How many words there are."""
        return len(self.vocabulary_list)

    @property
    def words(self) -> Sequence[Any]:
        """The words, in the order of their ids."""
        return self.vocabulary_list

    def __repr__(self) -> str:
        words = [repr(word) for word in self.vocabulary_list[:_SHOWN]]
        more = [f"... {self.size} words"] if self.size > _SHOWN else []
        return (
            f"VocabularyListColumn(key={self.key!r}, vocabulary_list=({', '.join(words + more)}), "
            f"dtype={self.dtype!r}, default_value={self.default_value}, "
            f"num_oov_buckets={self.num_oov_buckets})"
        )


@dataclasses.dataclass(frozen=True)
class VocabularyFileColumn(VocabularyColumn):
    """Made by `categorical_column_with_vocabulary_file`."""

    key: str
    vocabulary_file: str
    vocabulary_size: int
    dtype: np.dtype
    default_value: int
    num_oov_buckets: int
    factory = "categorical_column_with_vocabulary_file"
    reads_files = True

    def self_contained(self) -> VocabularyListColumn:
        """Returns a column of the same words, which needs no file."""
        return VocabularyListColumn(
            self.key, tuple(self.words), self.dtype, self.default_value, self.num_oov_buckets
        )

    @property
    def size(self) -> int:
        """How many words there are."""
        return self.vocabulary_size

    @functools.cached_property
    def words(self) -> Sequence[Any]:
        """The words, in the order of their ids, read when first asked for.

        Raises:
            ValueError: if the file has fewer words than it had, or one of them twice.
        """
        words = _read_lines(self.vocabulary_file)[: self.vocabulary_size]
        where = f"categorical_column_with_vocabulary_file({self.key}): {self.vocabulary_file}"
        if len(words) < self.vocabulary_size:
            raise ValueError(
                f"{where} has {len(words)} lines, but vocabulary_size is {self.vocabulary_size}."
            )
        return _checked_words(words, self.dtype, where)


def categorical_column_with_vocabulary_list(
    key: str,
    vocabulary_list: Iterable[Any],
    dtype: Any = None,
    default_value: int = -1,
    num_oov_buckets: int = 0,
) -> VocabularyListColumn:
    """Returns a categorical column whose ids are places in a list of words.

    >>> color = categorical_column_with_vocabulary_list("color", ["red", "green"])
    >>> color.host_ids({"color": ["green", "pink"]}).values
    array([ 1, -1])

    Args:
        key: the name of the feature; `""` and `None`, or -1, are missing.
        vocabulary_list: strings, or integers, in the order of their ids, without duplicates.
        dtype: `str`, or a numpy dtype of integers; None: that of the words.
        default_value: the id of words that are not listed; -1: they have none.
        num_oov_buckets: how many ids, behind those of the list, such words have by their hash.

    Raises:
        ValueError: if the list is empty or names a word twice, its words are not of the dtype, or
            both a default and buckets are given.
    """
    where = f"categorical_column_with_vocabulary_list({key})"
    checked_key(key, "categorical_column_with_vocabulary_list")
    if isinstance(vocabulary_list, str | bytes):
        raise ValueError(f"{where}: vocabulary_list must be a list of words, got one string.")
    if isinstance(vocabulary_list, Set):
        raise ValueError(
            f"{where}: vocabulary_list is a {type(vocabulary_list).__name__}, whose order differs "
            "from process to process, and with it the ids. Give a list, such as sorted(words)."
        )
    words = [w.item() if isinstance(w, np.generic) else w for w in vocabulary_list]
    if not words:
        raise ValueError(f"{where}: vocabulary_list must hold at least one word, it is empty.")
    numeric = isinstance(words[0], int)
    of_words = np.dtype(np.int64) if numeric else np.dtype(str)
    given = of_words if dtype is None else string_or_integer(dtype, where)
    if (given.kind == "U") == numeric:
        raise ValueError(
            f"{where}: the vocabulary holds {words[0]!r}, which dtype {dtype!r} does not. Give "
            f"words of that dtype, or dtype={'np.int64' if numeric else 'str'}."
        )
    checked = _checked_words(words, given, f"{where}: vocabulary_list")
    default, buckets = _checked_unknown(default_value, num_oov_buckets, len(words), where)
    return VocabularyListColumn(key, checked, given, default, buckets)


def categorical_column_with_vocabulary_file(
    key: str,
    vocabulary_file: str | os.PathLike[str],
    vocabulary_size: int | None = None,
    dtype: Any = str,
    default_value: int | None = None,
    num_oov_buckets: int = 0,
    file_format: str | None = None,
) -> VocabularyFileColumn:
    """Returns a categorical column whose ids are line numbers of a file, from 0.

    Args:
        key: the name of the feature; `""` and `None`, or -1, are missing.
        vocabulary_file: the path of a text file in UTF-8, one word a line; `.gz` is unpacked.
        vocabulary_size: how many lines count; None: all.
        dtype: `str`, or a numpy dtype of integers.
        default_value: the id of words that are not in the file; None or -1: they have none.
        num_oov_buckets: how many ids, behind those of the file, such words have by their hash.
        file_format: `"text"`, the only one.

    Raises:
        ValueError: if there is no such file, it is empty, or both a default and buckets are given;
            with the first batch, if it has fewer lines than `vocabulary_size` or a word twice.
    """
    where = f"categorical_column_with_vocabulary_file({key})"
    checked_key(key, "categorical_column_with_vocabulary_file")
    if file_format not in (None, "text"):
        raise ValueError(
            f'{where}: file_format must be "text", one word a line, got {file_format!r}.'
        )
    path = os.fspath(vocabulary_file)
    if not os.path.isfile(path):
        raise ValueError(f"{where}: there is no vocabulary_file {path!r}.")
    if vocabulary_size is None:
        size = len(_read_lines(path))
        if not size:
            raise ValueError(f"{where}: the vocabulary_file {path!r} is empty.")
    else:
        size = checked_count(vocabulary_size, "vocabulary_size", where)
    default = -1 if default_value is None else default_value
    default, buckets = _checked_unknown(default, num_oov_buckets, size, where)
    return VocabularyFileColumn(key, path, size, string_or_integer(dtype, where), default, buckets)


def _checked_words(words: Sequence[Any], dtype: np.dtype, where: str) -> tuple[Any, ...]:
    """Returns the words as str, or as ints."""
    checked = tuple(_word(word, dtype, where) for word in words)
    if len(set(checked)) < len(checked):
        twice = Counter(checked).most_common(1)[0][0]
        raise ValueError(f"{where} names {twice!r} more than once; a word has one id.")
    return checked


def _word(word: Any, dtype: np.dtype, where: str) -> Any:
    text = isinstance(word, str | bytes)
    try:
        if dtype.kind == "U" and text:
            return word.decode() if isinstance(word, bytes) else str(word)
        if dtype.kind != "U" and (text or (isinstance(word, int) and not isinstance(word, bool))):
            return int(word)
    except ValueError:
        pass
    kind = "str" if dtype.kind == "U" else "int"
    raise ValueError(f"{where} holds {word!r}, a {type(word).__name__}, which is no {kind}.")


def _checked_unknown(default: Any, buckets: int, size: int, where: str) -> tuple[int, int]:
    buckets = checked_count(buckets, "num_oov_buckets", where, least=0)
    if buckets and default != -1:
        raise ValueError(
            f"{where}: can't specify both num_oov_buckets={buckets} and default_value={default}. "
            "A word that is not in the vocabulary has one id: give one of the two."
        )
    whole = isinstance(default, int | np.integer) and not isinstance(default, bool)
    if not whole or not -1 <= default < size:
        raise ValueError(
            f"{where}: default_value must be the id of a word, in [0, {size}), or -1 for none, "
            f"got {default!r}."
        )
    return int(default), buckets


def _read_lines(path: str) -> list[str]:
    opened = gzip.open if path.endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            return [line.removesuffix("\n").removesuffix("\r") for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"The vocabulary_file {path!r} is no text in UTF-8: {error}.") from error
