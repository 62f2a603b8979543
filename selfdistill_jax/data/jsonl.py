"""Lines of a text file, checked: every complaint names the file and the line."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfdistill_jax.errors import InputError

_JSON_NAMES = {
    str: "string",
    bool: "true/false",
    int: "number",
    float: "number",
    list: "list",
    dict: "object",
    type(None): "null",
}
_REQUIRED = object()


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields ``(line number, line)`` of the lines that are not blank; ``.gz`` is unpacked.

    Raises:
      InputError: the file is missing, not UTF-8 or a broken gzip file.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, 1):  # noqa: B007 the error below names it
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected a file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{path}: not a whole gzip file ({error})") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields ``(line number, object)`` of a JSONL file.

    Raises:
      InputError: as `read_lines`, or a line that is not one JSON object.
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{number}: malformed JSON at column {error.colno} ({error.msg}); "
                "expected one JSON object a line"
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}:{number}: a {_JSON_NAMES[type(row)]}; expected one JSON object a line"
            )
        yield number, row


def field(
    row: dict[str, Any], name: str, expected: type, *, path: Path, line: int, default=_REQUIRED
):
    """One checked field of a row; a required string must not be empty.

    Raises:
      InputError: the field is missing, empty or of another type than ``str`` or ``float``.
    """
    if name not in row or (row[name] is None and default is not _REQUIRED):
        if default is not _REQUIRED:
            return default
        present = ", ".join(map(repr, row)) or "none"
        raise InputError(f"{path}:{line}: field {name!r} is missing (fields there: {present})")
    value = row[name]
    fits = isinstance(value, (int, float) if expected is float else expected)
    if not fits or (expected is float and isinstance(value, bool)):
        raise InputError(
            f"{path}:{line}: field {name!r} is a {_JSON_NAMES[type(value)]}; "
            f"expected a {_JSON_NAMES[expected]}"
        )
    if default is _REQUIRED and expected is str and not value.strip():
        raise InputError(f"{path}:{line}: field {name!r} is empty; remove the row or fill it")
    return value


def digest(version: str, *paths: Path) -> str:
    """Fingerprint of files' bytes and of the reader's version."""
    total = hashlib.sha256(version.encode())
    for path in paths:
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
    return total.hexdigest()
