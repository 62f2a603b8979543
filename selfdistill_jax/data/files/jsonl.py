"""Reads JSONL files and checks their fields; every error names the file and the line."""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from selfdistill_jax.data.files.text import read_lines
from selfdistill_jax.errors import InputError

_JSON_NAMES: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_REQUIRED = object()


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields ``(line number, object)`` of a JSONL file (https://jsonlines.org); blanks are skipped.

    Raises:
      InputError: as for `read_lines`, or a line is not one JSON object.

    Example:
      >>> list(read_jsonl(Path("queries.jsonl")))  # doctest: +SKIP
      [(1, {'_id': 'q1', 'text': 'sort an array'})]
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if line.strip() == "[":
                raise InputError(
                    f"{path}:{number}: the beginning of a JSON array; expected one JSON object per "
                    "line"
                ) from None
            raise InputError(
                f"{path}:{number}: malformed JSON at column {error.colno} ({error.msg}); "
                "expected one JSON object per line"
            ) from None
        except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limit
            raise InputError(
                f"{path}:{number}: JSON that cannot be read ({error}); "
                "expected one JSON object per line"
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}:{number}: {_JSON_NAMES[type(row)]}; expected one JSON object per line"
            )
        yield number, row


def field(
    row: Mapping[str, Any],
    name: str,
    expected: type,
    *,
    path: Path,
    line: int,
    default=_REQUIRED,
    noun: str = "field",
):
    """Returns a field of a row after checking it; a required string must not be empty.

    Args:
      row: row as yielded by `read_jsonl`.
      name: name of the field.
      expected: expected type, ``str`` or ``float`` (which accepts whole numbers too).
      path: the row's file, for the message.
      line: the row's line, for the message.
      noun: word for a part of the row, for the message.
      default: value to return if the field is missing or null; without it the field is required.

    Raises:
      InputError: the field is missing, empty, of another type, or not a finite number.

    Example:
      >>> field({"title": "Arrays"}, "title", str, path=Path("corpus.jsonl"), line=1)
      'Arrays'
    """
    where = f"{path}:{line}: {noun} {name!r}"
    if name not in row or (row[name] is None and default is not _REQUIRED):
        if default is not _REQUIRED:
            return default
        present = ", ".join(map(repr, row)) or "none"
        raise InputError(f"{where} is missing; add it ({noun}s present: {present})")
    value = row[name]
    fits = isinstance(value, (int, float) if expected is float else expected)
    # bool is a subclass of int, but true is not a number in JSON.
    if not fits or (expected is float and isinstance(value, bool)):
        kind = _JSON_NAMES.get(type(value), f"of type {type(value).__name__}")
        raise InputError(f"{where} is {kind}; expected {_JSON_NAMES[expected]}")
    if expected is float and not math.isfinite(value):
        raise InputError(f"{where} is {value}; expected a finite number")
    if expected is str:
        if default is _REQUIRED and not value.strip():
            raise InputError(f"{where} is empty; remove the row or fill it")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:  # "\ud83d" alone is half of a character
                raise InputError(
                    f"{where} has half a surrogate pair at character {error.start}; "
                    "write the text as UTF-8"
                ) from None
    return value


def check_lookalikes(row: dict[str, Any], known: Collection[str], *, path: Path, line: int) -> None:
    """Refuses a row with a misspelt field, such as ``Title``, ``ID`` or ``id`` for ``_id``.

    A field whose name differs from a known one only in case, spaces, ``_`` and ``-`` would be
    ignored silently. It is accepted if the row has the known field too, since nothing is lost then.

    Args:
      row: row as yielded by `read_jsonl`.
      known: names of the fields that are read.
      path: the row's file, for the message.
      line: the row's line, for the message.

    Raises:
      InputError: a field is misspelt; the message has the expected name.

    Example:
      >>> check_lookalikes({"Title": "a"}, ("_id", "title"), path=Path("corpus.jsonl"), line=1)
      Traceback (most recent call last):
      ...
      selfdistill_jax.errors.InputError: corpus.jsonl:1: field 'Title' is not read; expected ...
    """
    others = [name for name in row if name not in known]
    if not others:  # nearly every row
        return
    spellings = {_plain(name): name for name in known if name not in row}
    for name in others:
        if expected := spellings.get(_plain(name)):
            raise InputError(
                f"{path}:{line}: field {name!r} is not read; expected {expected!r}; rename it"
            )


def _plain(name: str) -> str:
    return "".join(name.split()).replace("_", "").replace("-", "").lower()


def check_id(id_: str, *, path: Path, line: int) -> None:
    """Checks that an id fits a TREC run.

    Raises:
      InputError: the id is empty or has white space, which separates the columns of a run.

    Example:
      >>> check_id("d1", path=Path("corpus.jsonl"), line=1)
    """
    if id_.split() != [id_]:
        raise InputError(
            f"{path}:{line}: _id {id_!r} is empty or has white space, which separates the "
            "columns of a TREC run; rename it"
        )
