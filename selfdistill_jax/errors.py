"""The one exception that means "what you gave is wrong": commands answer it with one line."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """A file, option or value from outside cannot be used.

    The message is a single line for the person at the terminal: what is wrong, where (file and
    line, or key), what was expected, what to do. Commands print it after ``error:`` and exit
    with 2; everything else that escapes is a defect of this package and keeps its traceback.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known.

    >>> nearest("bn25", ["random", "bm25"]), nearest("x", ["random", "bm25"])
    ("; did you mean 'bm25'?", '')
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
