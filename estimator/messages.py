"""Messages: the small phrases that errors share."""

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(given: str, wanted: Iterable[str]) -> str:
    """Returns `' Did you mean "x"?'` for the nearest wanted name, or nothing.

    >>> did_you_mean("acuracy", ["accuracy", "loss"])
    ' Did you mean "accuracy"?'
    >>> did_you_mean("acuracy", ["loss"])
    ''
    """
    near = difflib.get_close_matches(given[:100], list(wanted), n=1)
    return f' Did you mean "{near[0]}"?' if near else ""


def shown(value: Any) -> str:
    """Returns how a value is written in a message: not all of it, if it is long.

    >>> shown("a" * 100)[-5:]
    'aa...'
    """
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
