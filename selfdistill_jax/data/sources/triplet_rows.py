"""Reads the rows of a triplet file, JSONL or TSV, with texts or with ids."""

import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from selfdistill_jax.data.files.jsonl import field, read_jsonl
from selfdistill_jax.data.files.text import read_lines
from selfdistill_jax.data.sources.triplet_columns import (
    IDS,
    LISTS,
    SCORES,
    TEXTS,
    find_columns,
    is_header,
    known_name,
)
from selfdistill_jax.data.files.tsv import read_tsv
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand, reason
from selfdistill_jax.progress import LOG


def check_file(path: str | Path) -> Path:
    """Returns the path of a triplet file after checking that it exists and its suffix is known.

    Raises:
      InputError: the file is missing, a folder, or has an unknown suffix.
    """
    found = expand(path)
    kind = _kind(found)
    try:
        is_folder, is_file = found.is_dir(), found.is_file()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None
    if is_folder:
        raise InputError(f"{path}: is a folder; expected a .jsonl or .tsv file of triplets")
    if kind not in (".jsonl", ".json", ".tsv"):
        raise InputError(
            f"{path}: unknown suffix {kind!r}; expected .jsonl, .json or .tsv, or these with .gz"
        )
    if not is_file:
        raise InputError(f"{path}: no such file; expected a .jsonl or .tsv file of triplets")
    return found


def _kind(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    return suffixes[-1] if suffixes else ""


def has_ids(path: Path) -> bool:
    """Returns whether the first row names columns of `IDS` and no query text.

    Nothing else is checked; `read_rows` does that.

    Raises:
      InputError: as for `read_tsv` or `read_lines`.
    """
    if _kind(path) == ".tsv":
        _, cells = next(read_tsv(path), (0, []))
        names = cells if is_header(cells) else []
    else:
        _, line = next(read_lines(path), (0, ""))
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return False
        names = row if isinstance(row, dict) else []
    known = {known_name(name) for name in names}
    return bool(known & {*IDS}) and TEXTS[0] not in known


def read_rows(path: Path, names: tuple[str, str, str]) -> Iterator[tuple]:
    """Yields ``(line, query, positive, negatives, positive score, negative scores)``.

    Negatives and their scores are tuples; without scores, the positive score is NaN.

    Columns and fields are found by name, in any order and case. Those that do not concern the
    triplet, such as ``url``, are ignored, and the log names them; all others are refused. A TSV
    file without a header has two or three columns, in the order of `TEXTS`.

    Args:
      path: as returned by `check_file`.
      names: `TEXTS` or `IDS`; a TSV file of ids must have a header.

    Raises:
      InputError: a row is invalid; the message names the file, the line and the column.
    """
    return _tsv(path, names) if _kind(path) == ".tsv" else _jsonl(path, names)


def _log_ignored(path: Path, ignored: Collection[str], kind: str) -> None:
    if ignored:
        LOG.info("%s: %ss that are not used: %s", path, kind, ", ".join(ignored))


def _jsonl(path: Path, names: tuple[str, str, str]) -> Iterator[tuple]:
    layouts: dict[tuple[str, ...], dict[str, str]] = {}  # by a row's fields; few in any file
    ignored: dict[str, None] = {}
    for line, row in read_jsonl(path):
        found = layouts.get(tuple(row))
        if found is None:
            # A null is no value, so a field that is always null may have any name.
            given = [name for name, value in row.items() if value is not None or name in names]
            found, others = find_columns(given, names, "field", f"{path}:{line}")
            ignored |= dict.fromkeys(others)
            if len(given) == len(row):  # else another row with these fields may have no null
                layouts[tuple(row)] = found
        query, positive = (
            field(row, found.get(name, name), str, path=path, line=line) for name in names[:2]
        )
        negatives = _one_or_list(row, found, names[2], str, path=path, line=line)
        named = found.get(SCORES[0], SCORES[0])
        score = field(row, named, float, default=math.nan, path=path, line=line)
        scores = _one_or_list(row, found, SCORES[1], float, path=path, line=line)
        no_scores = not scores and row.get(found.get(LISTS[SCORES[1]], LISTS[SCORES[1]])) != []
        if math.isnan(score) != no_scores:
            raise _one_score(path, line)
        if scores and len(scores) != max(len(negatives), 1):
            raise InputError(
                f"{path}:{line}: {len(scores)} scores for {len(negatives)} negatives; expected one "
                "for each"
            )
        yield line, query, positive, negatives, score, scores[: len(negatives)]
    _log_ignored(path, ignored, "field")


def _one_or_list(
    row: dict[str, Any], found: Mapping[str, str], name: str, kind: type, *, path: Path, line: int
) -> tuple:
    """Returns the values of a field, or of the list field that may replace it.

    Args:
      row: row of the file.
      found: the file's own spelling of each name.
      name: name of the field for one value, a key of `LISTS`.
      kind: expected type of a value, ``str`` or ``float``.
      path, line: position of the row, for messages.
    """
    one, many = (found.get(key, key) for key in (name, LISTS[name]))
    where = f"{path}:{line}: field"
    if row.get(one) is not None and row.get(many) is not None:
        raise InputError(f"{where}s {one!r} and {many!r} are both present; remove one of them")
    if isinstance(row.get(one), list):
        raise InputError(f"{where} {one!r} is a list; expected one value; rename it to {many!r}")
    if row.get(one) is not None:
        return (field(row, one, kind, path=path, line=line),)
    values = row.get(many)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise InputError(f"{where} {many!r} is not a list; make it a list or rename it to {name!r}")
    items = {f"{many}[{number}]": value for number, value in enumerate(values)}
    return tuple(field(items, key, kind, path=path, line=line) for key in items)


def _one_score(path: Path, line: int) -> InputError:
    return InputError(
        f"{path}:{line}: only one of positive_score and negative_score is present; expected both "
        "or neither"
    )


def _tsv(path: Path, names: tuple[str, str, str]) -> Iterator[tuple]:
    records = read_tsv(path)
    first = next(records, None)
    if first is None:
        return
    line, cells = first
    width = len(cells)
    if is_header(cells):
        found, ignored = find_columns(cells, names, "column", f"{path}:{line}")
        _log_ignored(path, ignored, "column")
        places = {name: cells.index(given) for name, given in found.items()}
        if len({*SCORES} & {*places}) == 1:
            raise _one_score(path, line)
    elif names == IDS:
        raise InputError(f"{path}:{line}: no header; expected a first line: {', '.join(IDS)}")
    elif width not in (2, 3):
        raise InputError(
            f"{path}:{line}: {width} columns; expected 3 (or 2, without the negative), "
            "separated by tabs"
        )
    else:
        places = dict(zip(names, range(width), strict=False))
        records = itertools.chain([first], records)
    texts = [(name, places[name]) for name in names if name in places]
    scores = [(name, places[name]) for name in SCORES if name in places]
    for line, cells in records:
        if len(cells) != width:
            raise InputError(
                f"{path}:{line}: {len(cells)} columns; expected {width}, separated by tabs"
            )
        for name, place in texts:
            if not cells[place].strip():
                raise InputError(
                    f"{path}:{line}: column {name!r} is empty; remove the row or fill it"
                )
        query, positive, *negatives = (cells[place] for _, place in texts)
        score, *others = [_number(cells[place], name, path, line) for name, place in scores] or [
            math.nan
        ]
        yield line, query, positive, tuple(negatives), score, tuple(others)


def _number(text: str, name: str, path: Path, line: int) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{path}:{line}: column {name!r} is {text!r}; expected a finite number")
    return number
