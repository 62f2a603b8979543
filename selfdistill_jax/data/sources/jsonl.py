"""Reads the lines of text and JSONL files; every error names the file and the line."""

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Collection, Container, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import reason

_GZIP = b"\x1f\x8b"
_SAVE = "save it as UTF-8"
# First bytes of files that are not UTF-8 text, the file's format, and advice. UTF-32's mark begins
# with UTF-16's, so it comes first.
_NOT_TEXT = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", _SAVE),
    (b"\x00\x00\xfe\xff", "UTF-32 text", _SAVE),
    (b"\xff\xfe", "UTF-16 text", _SAVE),
    (b"\xfe\xff", "UTF-16 text", _SAVE),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it"),
    (b"PK\x03\x04", "a zip file", "unpack it"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it"),
    (b"BZh91AY&SY", "a bzip2 file", "unpack it"),
)
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


def decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields ``(line number, line with its line end)`` of a UTF-8 file; ``.gz`` is unpacked.

    The file is read once and without seeking, so it may be a pipe.

    Raises:
      InputError: the file is missing, unreadable, not UTF-8 or a broken gzip file.
    """
    with _opened(path) as file:
        _check_text(path, file.peek(16)[:16])
        for number, raw in enumerate(file, 1):
            try:
                # A byte order mark is not part of the first field.
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); {_SAVE}"
                ) from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields ``(line number, line)`` of the lines that are not blank, without their line ends.

    Raises:
      InputError: as for `decoded_lines`.

    Example:
      >>> list(read_lines(Path("queries.tsv")))  # doctest: +SKIP
      [(1, 'q1\\tsort an array'), (3, 'q2\\topen a file')]
    """
    for number, line in decoded_lines(path):
        line = line.rstrip("\r\n")
        if line.strip():
            yield number, line


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
    """Returns a field of a row after checking it; a required string must not be empty.

    Args:
      row: row as yielded by `read_jsonl`.
      name: name of the field.
      expected: expected type, ``str`` or ``float`` (which accepts whole numbers too).
      path: the row's file, for the message.
      line: the row's line, for the message.
      default: value to return if the field is missing or null; without it the field is required.

    Raises:
      InputError: the field is missing, empty, of another type, or not a finite number.

    Example:
      >>> field({"title": "Arrays"}, "title", str, path=Path("corpus.jsonl"), line=1)
      'Arrays'
    """
    where = f"{path}:{line}: field {name!r}"
    if name not in row or (row[name] is None and default is not _REQUIRED):
        if default is not _REQUIRED:
            return default
        present = ", ".join(map(repr, row)) or "none"
        raise InputError(f"{where} is missing; add it (fields present: {present})")
    value = row[name]
    fits = isinstance(value, (int, float) if expected is float else expected)
    # bool is a subclass of int, but true is not a number in JSON.
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


def check_id(id_: str, seen: Container[str], *, path: Path, line: int) -> str:
    """Returns an id after checking that it is unique and fits a TREC run.

    Raises:
      InputError: the id is in ``seen``, is empty, or has white space, which separates the columns
        of a run.

    Example:
      >>> check_id("d1", {"d2"}, path=Path("corpus.jsonl"), line=1)
      'd1'
    """
    if id_.split() != [id_]:
        raise InputError(
            f"{path}:{line}: _id {id_!r} is empty or has white space, which separates the "
            "columns of a TREC run; rename it"
        )
    if id_ in seen:
        raise InputError(f"{path}:{line}: _id {id_!r} occurs twice; ids must be unique")
    return id_


def digest(version: str, *paths: Path) -> str:
    """Returns the SHA-256 of a reader's version and of the unpacked content of files.

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
def _opened(path: Path) -> Generator[io.BufferedReader | gzip.GzipFile]:
    """Opens a file for reading bytes, unpacked if its name ends in ``.gz``."""
    try:
        with path.open("rb") as file:
            if path.suffix != ".gz":
                yield file
                return
            head = file.peek(2)[:2]  # a pipe cannot go back to its start
            if head and not _GZIP.startswith(head):
                raise InputError(
                    f"{path}: not a gzip file; remove .gz from its name, or pack it with gzip"
                )
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected a file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); pack it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None


def _check_text(path: Path, head: bytes) -> None:
    """Refuses a file whose first bytes are not those of UTF-8 text, and says what it is."""
    if head.startswith(_GZIP):
        packed = path.suffix == ".gz"
        advice = "unpack it once" if packed else f"rename it to {path.name}.gz"
        raise InputError(f"{path}: a gzip file{' in a gzip file' * packed}; {advice}")
    for start, kind, advice in _NOT_TEXT:
        if head.startswith(start):
            raise InputError(f"{path}: {kind}, not UTF-8; {advice}")
    if b"\0" in head:  # UTF-16 without its mark, which would decode as UTF-8
        raise InputError(f"{path}: UTF-16 or a binary file, not UTF-8 text; {_SAVE}")
