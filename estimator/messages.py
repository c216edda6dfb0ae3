"""Messages: the small phrases that errors share."""

import difflib
from collections.abc import Iterable


def did_you_mean(given: str, wanted: Iterable[str]) -> str:
    """Returns `' Did you mean "x"?'` for the nearest wanted name, or nothing.

    >>> did_you_mean("acuracy", ["accuracy", "loss"])
    ' Did you mean "accuracy"?'
    >>> did_you_mean("acuracy", ["loss"])
    ''
    """
    near = difflib.get_close_matches(given, list(wanted), n=1)
    return f' Did you mean "{near[0]}"?' if near else ""
