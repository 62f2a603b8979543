"""Rows of a triplet file, JSONL or TSV, of texts or of ids."""

import json
from collections.abc import Iterator
from pathlib import Path

from selfdistill_jax.data.jsonl import field, read_jsonl, read_lines
from selfdistill_jax.errors import InputError

TEXTS = ("query", "positive", "negative")
IDS = ("query_id", "positive_id", "negative_id")


def check_file(path: str | Path) -> Path:
    """The path of a file that `read_rows` knows the suffix of.

    Raises:
      InputError: the file is missing, a folder, or has an unknown suffix.
    """
    found = Path(path).expanduser()
    kind = _kind(found)
    if found.is_dir():
        raise InputError(f"{path}: is a folder; expected a .jsonl or .tsv file of triplets")
    if kind not in (".jsonl", ".json", ".tsv"):
        raise InputError(
            f"{path}: unknown suffix {kind!r}; expected .jsonl, .json or .tsv, or these with .gz"
        )
    if not found.is_file():
        raise InputError(f"{path}: no such file; expected a .jsonl or .tsv file of triplets")
    return found


def _kind(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    return suffixes[-1] if suffixes else ""


def has_ids(path: Path) -> bool:
    """Whether a file's first row names its columns as `IDS` are; what it holds is not checked.

    Raises:
      InputError: a TSV file's first line has some of these names, not as they should stand.
    """
    for number, line in read_lines(path):
        if _kind(path) == ".tsv":
            cells = [cell.strip().lower() for cell in line.split("\t")]
            if {*cells} & {*IDS} and cells not in (list(IDS), list(IDS[:2])):
                raise InputError(
                    f"{path}:{number}: columns {', '.join(cells)}; expected {', '.join(IDS)}, in "
                    "this order"
                )
            return cells[0] == IDS[0]
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return False
        return isinstance(row, dict) and IDS[0] in row and TEXTS[0] not in row
    return False


def read_rows(path: Path, names: tuple[str, str, str]) -> Iterator[tuple]:
    """Yields ``(line, query, positive, negative)``, from JSONL with two numbers behind them.

    Args:
      path: of `check_file`.
      names: of the columns, `TEXTS` or `IDS`. The negative is None where there is none. The numbers
        are JSONL's ``positive_score`` and ``negative_score``, NaN where there are none. A TSV file
        of texts may, one of ids must begin with the names; its third column may be left out.

    Raises:
      InputError: names file and line of what is wrong.
    """
    return _tsv(path, names) if _kind(path) == ".tsv" else _jsonl(path, names)


def _jsonl(path: Path, names: tuple[str, str, str]) -> Iterator[tuple]:
    query, positive, negative = names
    for line, row in read_jsonl(path):
        at = {"path": path, "line": line}
        texts = (
            field(row, query, str, **at),
            field(row, positive, str, **at),
            field(row, negative, str, **at) if row.get(negative) is not None else None,
        )
        scores = [
            field(row, f"{kind}_score", float, default=float("nan"), **at)
            for kind in ("positive", "negative")
        ]
        if (scores[0] == scores[0]) != (scores[1] == scores[1]):
            raise InputError(
                f"{path}:{line}: only one of positive_score and negative_score is there; "
                "expected both or none"
            )
        yield line, *texts, *scores


def _tsv(path: Path, names: tuple[str, str, str]) -> Iterator[tuple]:
    width = None
    for line, text in read_lines(path):
        columns = text.split("\t")
        if width is None:
            width = len(columns)
            if [column.strip().lower() for column in columns] == list(names)[:width]:
                continue
        if len(columns) != width or width not in (2, 3):
            raise InputError(
                f"{path}:{line}: {len(columns)} columns; expected "
                f"{width if width in (2, 3) else '3 (or 2, without the negative)'}, "
                "separated by tabs"
            )
        if not all(column.strip() for column in columns):
            raise InputError(f"{path}:{line}: an empty column; remove the row or fill it")
        yield line, *columns, *([None] * (3 - width))
