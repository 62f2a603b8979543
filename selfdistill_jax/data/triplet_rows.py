"""Reads the rows of a triplet file: JSONL or TSV, of texts or of ids."""

import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfdistill_jax.data.jsonl import field, read_jsonl, read_lines
from selfdistill_jax.data.tsv import read_tsv
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand, reason
from selfdistill_jax.progress import LOG

TEXTS = ("query", "positive", "negative")
IDS = ("query_id", "positive_id", "negative_id")
# In JSONL, a list in place of the negative, and of its score.
_LISTS = {
    "negative": "negatives",
    "negative_id": "negative_ids",
    "negative_score": "negative_scores",
}
_SCORES = ("positive_score", "negative_score")
_ALIASES = {"anchor": "query"}  # the name that sentence-transformers uses
_IGNORED = frozenset((
    "id", "_id", "idx", "index", "source", "dataset", "lang", "language", "url", "metadata", "meta",
    "comment",
))  # fmt: skip
_LABELS = frozenset(("label", "labels", "score", "scores", "similarity", "relevance"))
# Words in names of columns, here and in other tools' files. A first record of only such names is a
# header, if one that is refused: read as data it would become a triplet.
_WORDS = _IGNORED | _LABELS | frozenset((
    *TEXTS, *_ALIASES, "hard", "pos", "neg", "q", "p", "n", "d", "qid", "pid", "nid", "did",
    "question", "answer", "passage", "document", "doc", "context", "text", "sentence", "premise",
    "hypothesis", "title", "body", "content", "abstract", "queries", "positives", "negatives",
    "questions", "answers", "passages", "documents", "docs", "texts", "input", "output", "target",
    "response", "prompt", "instruction", "corpus", "user",
))  # fmt: skip
# `sentence1` and `negative_1` are such names, but `q1` and `doc1` are ids.
_NAME = re.compile(r"([a-z]+(?:[_-][a-z]+)*)(?:_\d+|(?<=[a-z]{4})\d+)?|_id")
_SEVERAL = re.compile(r".*neg(?:s|atives)?|.*neg.*\d")  # negatives, neg, negative_1, hard_neg2
_LABEL_ADVICE = "rows with labels are not trained on: keep the positive pairs as query and positive"
_SEVERAL_ADVICE = (
    "several negatives for a query: give a JSONL file with a list named 'negatives' in each row"
)


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

    Nothing else is checked: `read_rows` refuses a row that it does not understand.

    Raises:
      InputError: as `read_tsv` or `read_lines`.
    """
    if _kind(path) == ".tsv":
        _, cells = next(read_tsv(path), (0, []))
        names = cells if _is_header(cells) else []
    else:
        _, line = next(read_lines(path), (0, ""))
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return False
        names = row if isinstance(row, dict) else []
    known = {_known(name) for name in names}
    return bool(known & {*IDS}) and TEXTS[0] not in known


def read_rows(path: Path, names: tuple[str, str, str]) -> Iterator[tuple]:
    """Yields ``(line, query, positive, negatives, positive score, negative scores)``.

    Columns and fields are found by their names, in any order and case. Those that say nothing about
    the triplet, such as ``url``, are left out, and a line in the log names them; all others are
    refused. A TSV file without a header has two or three columns, in the order of `TEXTS`.

    Args:
      path: as `check_file` returns it.
      names: `TEXTS` or `IDS`. Negatives and their scores are tuples; without scores the positive's
        is NaN. A TSV file of ids must have a header.

    Raises:
      InputError: names the file, the line and the column that is wrong.
    """
    return _tsv(path, names) if _kind(path) == ".tsv" else _jsonl(path, names)


def _known(name: str) -> str:
    name = name.strip().lower()
    return _ALIASES.get(name, name)


def _is_header(cells: Sequence[str]) -> bool:
    names = [_known(cell) for cell in cells]
    return (
        # A text may be the single word "query", but hardly "query_id".
        not {*IDS, *_SCORES}.isdisjoint(names)
        or sum(name in TEXTS for name in names) >= 2
        or all(map(_is_name, names))
        or names == [str(i) for i in range(len(names))]  # pandas, for columns without names
    )


def _is_name(name: str) -> bool:
    found = _NAME.fullmatch(name)
    return bool(found) and all(word in _WORDS for word in re.split("[_-]", found[1] or "id"))


def _columns(
    fields: Sequence[str], names: Sequence[str], kind: str, where: str
) -> tuple[dict[str, str], list[str]]:
    """Returns the file's own spelling of each name that it has, and the fields to ignore.

    Args:
      fields: the cells of a TSV header or the fields of a JSONL row.
      names: `TEXTS` or `IDS`.
      kind: "column" or "field", for messages.
      where: file and line, for messages.

    Raises:
      InputError: a name is unknown, given twice, or missing though required.
    """
    single = (*names, *_SCORES)
    lists = {name: _LISTS[name] for name in single if name in _LISTS and kind == "field"}
    found, ignored, unknown = {}, [], []
    for given in fields:
        name = _known(given)
        if name in single or name in lists.values():
            if name in found:
                raise InputError(
                    f"{where}: {kind}s {found[name]!r} and {given!r} are both read as {name}; "
                    "remove one of them"
                )
            found[name] = given
        elif name in _IGNORED or (name in (*IDS, _LISTS[IDS[2]]) and names == TEXTS):
            ignored.append(given)
        else:
            unknown.append(given)
    spelt = (f"{name} or {lists[name]}" if name in lists else name for name in single)
    expected = f"expected {', '.join(spelt)}"
    if unknown:
        raise InputError(
            f"{where}: unknown {kind}{'s' * (len(unknown) > 1)} "
            f"{', '.join(map(repr, unknown))}; {expected}; {_advice(unknown, kind)}"
        )
    for name in names[:2]:
        if name not in found:
            present = ", ".join(map(repr, fields)) or "none"
            raise InputError(
                f"{where}: {kind} {name!r} is missing; add it ({kind}s there: {present})"
            )
    return found, ignored


def _advice(unknown: Sequence[str], kind: str) -> str:
    names = {name.strip().lower() for name in unknown}
    several = {name for name in names if _SEVERAL.fullmatch(name)}
    advice = []
    # `neg` holds a list in some tools' files and one text in others'.
    if names - several - _LABELS or "neg" in names:
        advice.append(f"rename the {kind}s to be read, and remove the rest")
    if several:
        advice.append(_SEVERAL_ADVICE)
    if names & _LABELS:
        advice.append(_LABEL_ADVICE)
    return "; ".join(advice)


def _log_ignored(path: Path, ignored: Collection[str], kind: str) -> None:
    if ignored:
        LOG.info("%s: %ss that are not used: %s", path, kind, ", ".join(ignored))


def _jsonl(path: Path, names: tuple[str, str, str]) -> Iterator[tuple]:
    layouts: dict[tuple[str, ...], dict[str, str]] = {}  # of the rows so far, few in any file
    ignored: dict[str, None] = {}
    for line, row in read_jsonl(path):
        found = layouts.get(tuple(row))
        if found is None:
            # A null says nothing, and a field that is always null may have any name.
            given = [name for name, value in row.items() if value is not None or name in names]
            found, others = _columns(given, names, "field", f"{path}:{line}")
            ignored |= dict.fromkeys(others)
            if len(given) == len(row):  # else another row of these fields may have no null
                layouts[tuple(row)] = found
        query, positive = (
            field(row, found.get(name, name), str, path=path, line=line) for name in names[:2]
        )
        negatives = _one_or_list(row, found, names[2], str, path=path, line=line)
        named = found.get(_SCORES[0], _SCORES[0])
        score = field(row, named, float, default=math.nan, path=path, line=line)
        scores = _one_or_list(row, found, _SCORES[1], float, path=path, line=line)
        if math.isnan(score) == bool(scores):
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
    """Returns the values of a field, or of the field that has a list in its place.

    Args:
      row: of the file.
      found: the file's own spelling of names.
      name: of the field for one value, a key of `_LISTS`.
      kind: ``str`` or ``float``.
      path, line: of the row, for messages.
    """
    one, many = (found.get(key, key) for key in (name, _LISTS[name]))
    where = f"{path}:{line}: field"
    if row.get(one) is not None and row.get(many) is not None:
        raise InputError(f"{where}s {one!r} and {many!r} are both there; remove one of them")
    if isinstance(row.get(one), list):
        raise InputError(f"{where} {one!r} is a list; expected one value, or the name {many!r}")
    if row.get(one) is not None:
        return (field(row, one, kind, path=path, line=line),)
    values = row.get(many)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise InputError(f"{where} {many!r} is no list; expected a list, or the name {name!r}")
    items = {f"{many}[{number}]": value for number, value in enumerate(values)}
    return tuple(field(items, key, kind, path=path, line=line) for key in items)


def _one_score(path: Path, line: int) -> InputError:
    return InputError(
        f"{path}:{line}: only one of positive_score and negative_score is there; expected both or "
        "none"
    )


def _tsv(path: Path, names: tuple[str, str, str]) -> Iterator[tuple]:
    records = read_tsv(path)
    first = next(records, None)
    if first is None:
        return
    line, cells = first
    width = len(cells)
    if _is_header(cells):
        found, ignored = _columns(cells, names, "column", f"{path}:{line}")
        _log_ignored(path, ignored, "column")
        places = {name: cells.index(given) for name, given in found.items()}
        if len({*_SCORES} & {*places}) == 1:
            raise _one_score(path, line)
    elif names == IDS:
        raise InputError(f"{path}:{line}: no header; expected a first line of {', '.join(IDS)}")
    elif width not in (2, 3):
        raise InputError(
            f"{path}:{line}: {width} columns; expected 3 (or 2, without the negative), "
            "separated by tabs"
        )
    else:
        places = dict(zip(names, range(width), strict=False))
        records = itertools.chain([first], records)
    texts = [(name, places[name]) for name in names if name in places]
    scores = [(name, places[name]) for name in _SCORES if name in places]
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
