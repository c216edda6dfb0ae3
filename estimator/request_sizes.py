"""Request sizes: how large the arrays become that a request is made into.

    check_size("text", [["a"], ["b", "c"]], most_values=10)

Rows are filled up to the longest; texts, in an array of texts, to the longest text. So a small body
can ask for a huge array: whoever takes requests from strangers looks before it is made.
"""

from collections.abc import Mapping
from typing import Any


def check_size(name: str, value: Any, most_values: int) -> None:
    """Checks how many values, or characters, lists have once all are as long as the longest.

    >>> check_size("text", [["a"], ["b"] * 3], most_values=5)
    Traceback (most recent call last):
    ValueError: text would have 6 values or characters, once its rows are as long as the ...

    Args:
        name: of the feature, for messages.
        value: a feature, or features by name.
        most_values: how many it may have.

    Raises:
        ValueError: if it has more.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_size(str(key), part, most_values)
    if not isinstance(value, list):
        return
    size, texts, longest = 1, 0, 0
    level: list[list[Any]] = [value]
    while level:
        size *= max(map(len, level))
        inner = [item for part in level for item in part if isinstance(item, list) and item]
        if not inner:
            words = [item for part in level for item in part if isinstance(item, str | bytes)]
            texts, longest = len(words), max(map(len, words), default=0)
        if max(size, texts * longest) > most_values:
            raise ValueError(
                f"{name} would have {max(size, texts * longest)} values or characters, once its "
                f"rows are as long as the longest, and may have {most_values}. Ask for fewer rows "
                "at once."
            )
        level = inner
