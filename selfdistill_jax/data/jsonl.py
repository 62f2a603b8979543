"""Lines of a text file, checked: every complaint names the file and the line."""

import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from selfdistill_jax.errors import InputError

_JSON_NAMES = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_REQUIRED = object()


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields ``(line number, line)`` of the lines that are not blank; ``.gz`` is unpacked.

    Raises:
      InputError: the file is missing, unreadable, not UTF-8 or a broken gzip file.

    Example:
      >>> list(read_lines(Path("queries.tsv")))  # doctest: +SKIP
      [(1, 'q1\\tsort an array'), (3, 'q2\\topen a file')]
    """
    with _opened(path) as file:
        for number, raw in enumerate(file, 1):
            try:
                # The byte order mark that some editors put in front is no part of the first field.
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); "
                    "save it as UTF-8"
                ) from None
            if line.strip():
                yield number, line


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields ``(line number, object)`` of a JSONL file (https://jsonlines.org); blanks are skipped.

    Raises:
      InputError: as `read_lines`, or a line that is not one JSON object.

    Example:
      >>> list(read_jsonl(Path("queries.jsonl")))  # doctest: +SKIP
      [(1, {'_id': 'q1', 'text': 'sort an array'})]
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{number}: malformed JSON at column {error.colno} ({error.msg}); "
                "expected one JSON object a line"
            ) from None
        except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limit
            raise InputError(
                f"{path}:{number}: JSON that cannot be read ({error}); "
                "expected one JSON object a line"
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}:{number}: {_JSON_NAMES[type(row)]}; expected one JSON object a line"
            )
        yield number, row


def field(
    row: dict[str, Any], name: str, expected: type, *, path: Path, line: int, default=_REQUIRED
):
    """One checked field of a row; a required string must not be empty.

    Args:
      row: as `read_jsonl` yields it.
      name: of the field.
      expected: ``str`` or ``float`` (which takes whole numbers too).
      path: the file, for the message.
      line: its line, for the message.
      default: returned where the field is missing or null; without it the field is required.

    Raises:
      InputError: the field is missing, empty, of another type, or no finite number.

    Example:
      >>> field({"title": "Arrays"}, "title", str, path=Path("corpus.jsonl"), line=1)
      'Arrays'
    """
    where = f"{path}:{line}: field {name!r}"
    if name not in row or (row[name] is None and default is not _REQUIRED):
        if default is not _REQUIRED:
            return default
        present = ", ".join(map(repr, row)) or "none"
        raise InputError(f"{where} is missing; add it (fields there: {present})")
    value = row[name]
    fits = isinstance(value, (int, float) if expected is float else expected)
    # Python counts true and false among the whole numbers.
    if not fits or (expected is float and isinstance(value, bool)):
        raise InputError(f"{where} is {_JSON_NAMES[type(value)]}; expected {_JSON_NAMES[expected]}")
    if expected is float and not math.isfinite(value):
        raise InputError(f"{where} is {value}; expected a finite number")
    if expected is str:
        if default is _REQUIRED and not value.strip():
            raise InputError(f"{where} is empty; remove the row or fill it")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:  # "\ud83d" alone: half of a character
                raise InputError(
                    f"{where} holds half a surrogate pair at character {error.start}; "
                    "write the text as UTF-8"
                ) from None
    return value


def check_id(id_: str, seen: Container[str], *, path: Path, line: int) -> str:
    """An id that stands once and fits a TREC run, whose columns white space separates.

    Raises:
      InputError: `seen` has it, or it is empty or holds white space.

    Example:
      >>> check_id("d1", {"d2"}, path=Path("corpus.jsonl"), line=1)
      'd1'
    """
    if id_.split() != [id_]:
        raise InputError(
            f"{path}:{line}: _id {id_!r} is empty or holds white space, which the columns of a "
            "TREC run cannot express; rename it"
        )
    if id_ in seen:
        raise InputError(f"{path}:{line}: _id {id_!r} stands there twice; ids must be unique")
    return id_


def digest(version: str, *paths: Path) -> str:
    """Fingerprint of a reader's version and of files' content (unpacked; not their names).

    Raises:
      InputError: a file is missing, unreadable or a broken gzip file.

    Example:
      >>> len(digest("reader-1"))
      64
    """
    total = hashlib.sha256(version.encode())
    for path in paths:
        with _opened(path) as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected a file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); pack it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
