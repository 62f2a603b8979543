"""Defines `InputError`, which commands report in one line instead of a traceback."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Reports a file, option or value given by the user that cannot be used.

    The message is a single line for the user: what is wrong, where (file and line, or key), what
    was expected, and what to do. Commands print it after ``error:`` and exit with status 2. Any
    other exception is a defect of this package and keeps its traceback.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a suggestion to append to a message about an unknown name, or an empty string.

    >>> nearest("bn25", ["random", "bm25"]), nearest("x", ["random", "bm25"])
    ("; did you mean 'bm25'?", '')
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
