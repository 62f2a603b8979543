"""Reads tab-separated files, with or without CSV's quotation marks."""

import re
from collections.abc import Iterator
from pathlib import Path

from selfdistill_jax.data.files.text import decoded_lines
from selfdistill_jax.errors import InputError

# CSV (RFC 4180): a field has no quotation mark, or begins and ends with one and doubles the others.
# "++" and "*+" never backtrack, so that matching takes time linear in the length.
_QUOTED = r'"[^"]*+(?:""[^"]*+)*+'
_FIELD = rf'(?:{_QUOTED}"|[^"\t]*+)'
_WHOLE = re.compile(rf"{_FIELD}(?:\t{_FIELD})*+")
_OPEN = re.compile(rf"(?:{_FIELD}\t)*+{_QUOTED}")  # the last field continues in the next line
_FIELDS = re.compile(rf"({_FIELD})\t")  # fields of a record followed by a tab
# A quotation mark that is not closed within these limits is taken for text, so that the search for
# its pair does not read a large file into memory.
_MOST_LINES, _MOST_CHARACTERS = 1_000, 1_000_000


def read_tsv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields ``(line number, columns)`` of the records that are not blank.

    Whether quotation marks are CSV quoting or text is decided once for the file, see `_is_quoted`.
    For that, a file with quotation marks is read twice.

    Raises:
      InputError: as for `read_lines`, or some fields are quoted as in CSV and others have quotation
        marks that CSV does not allow.

    Example:
      >>> list(read_tsv(Path("triplets.tsv")))  # doctest: +SKIP
      [(1, ['query', 'positive']), (2, ['sort an array', 'np.sort'])]
    """
    quoted = width = None
    lines = decoded_lines(path)
    for number, line in lines:
        if '"' in line:
            if quoted is None:
                quoted = _is_quoted(path, width)
            if quoted:
                yield number, _unquoted(_rest_of_record(line, lines))
                continue
        line = line.rstrip("\r\n")
        if line.strip():
            columns = line.split("\t")
            width = width or len(columns)
            yield number, columns


def _rest_of_record(line: str, lines: Iterator[tuple[int, str]]) -> str:
    """Returns a record without its line end; a quoted field may hold further lines."""
    parts = [line]
    marks = line.count('"')
    while marks % 2 and (following := next(lines, None)):
        parts.append(following[1])
        marks += following[1].count('"')
    return "".join(parts).rstrip("\r\n")


def _unquoted(record: str) -> list[str]:
    return [
        field[1:-1].replace('""', '"') if field.startswith('"') else field
        for field in _FIELDS.findall(record + "\t")
    ]


def _is_quoted(path: Path, width: int | None) -> bool:
    """Returns whether the quotation marks of a file are CSV quoting.

    They are if all records with marks fit CSV. However, two stray marks, one at the beginning of a
    column and one at the end of a later column, fit as well, and would join everything between them
    into one field. So a record is inconclusive if each of its lines has the right number of columns
    with the marks as text, and another number, or several lines, with the marks as quoting.

    Args:
      path: path of the file.
      width: number of columns of the first record; None if that record has quotation marks.

    Raises:
      InputError: a record does not fit CSV although another one is surely quoted: a field of it has
        doubled marks, a tab or a line break, or it is the first record and all fields are quoted.
    """
    stray = sure = 0  # line of the first record of each kind, or 0
    doubtful = False
    for number, lines, fits in _marked_records(path):
        fields = _FIELDS.findall("\n".join(lines) + "\t") if fits else []
        plain = {line.count("\t") + 1 for line in lines if line.strip()}
        all_quoted = width is None and all(field.startswith('"') for field in fields)
        if width is None:
            width = len(fields) or min(plain)
        holds_breaks = len(lines) > 1 or len(fields) not in plain
        if not fits:
            stray = stray or number
        elif holds_breaks and plain == {width}:
            doubtful = True
        # `"""text"""` is also what a docstring looks like.
        elif holds_breaks or all_quoted or any('""' in field.strip('"') for field in fields):
            sure = sure or number
        if stray and sure:
            raise InputError(
                f"{path}:{stray}: a quotation mark that does not fit CSV, though line {sure} is "
                "quoted as CSV; put that column in quotation marks and double the marks inside it, "
                "or write the file without quoting"
            )
    return not stray and bool(sure or not doubtful)


def _marked_records(path: Path) -> Iterator[tuple[int, list[str], bool]]:
    """Yields the records with quotation marks: line number, lines, and whether they fit CSV."""
    start, parts, size = 0, [], 0  # the record whose last field is open
    for number, line in decoded_lines(path):
        text = line.rstrip("\r\n")
        if parts:
            parts.append(text)
            size += len(text)
            if _OPEN.fullmatch(f'"{text}'):  # matches a line without marks too
                if len(parts) > _MOST_LINES or size > _MOST_CHARACTERS:
                    yield start, parts, False
                    parts = []
                continue
            if _WHOLE.fullmatch(f'"{text}'):
                yield start, parts, True
                parts = []
                continue
            # The mark was text after all; this line may be the start of another record.
            yield start, parts[:-1], False
            parts = []
        if '"' not in text:
            continue
        if _OPEN.fullmatch(text):
            start, parts, size = number, [text], len(text)
        else:
            yield number, [text], _WHOLE.fullmatch(text) is not None
    if parts:
        yield start, parts, False
