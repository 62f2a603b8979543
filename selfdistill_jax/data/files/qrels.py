"""Reads files of relevance judgements, with BEIR's three columns or TREC's four."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from selfdistill_jax.data.files.text import read_lines
from selfdistill_jax.errors import InputError

_BEIR = "query-id, corpus-id and score, separated by tabs"
_TREC = "'query-id 0 document-id relevance' or, with tabs, 'query-id document-id score'"
_ROLES = ("query", "document", "score")
_NAMES = {
    "query-id": "query",
    "corpus-id": "document",
    "doc-id": "document",
    "document-id": "document",
    "score": "score",
    "relevance": "score",
}
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,9}", re.ASCII)  # fits the tables' int32


class QrelsLine(NamedTuple):
    line: int
    query: str
    document: str
    relevance: int


def read_qrels_lines(path: Path, *, trec: bool = False) -> Iterator[QrelsLine]:
    """Yields each judged pair once, in the order of the file.

    Args:
      path: file of BEIR's columns, separated by tabs. A first line that names them is a header; it
        may name them in any order, with ``_`` for ``-``, and ``doc-id`` for the document.
      trec: whether to also accept TREC's columns (query id, unused, document id, relevance),
        separated by white space; the first line then determines the file's format.

    Raises:
      InputError: a line has a wrong number of columns, an unknown header, a relevance that is not a
        whole number, or a pair that an earlier line judges differently.

    Example:
      >>> list(read_qrels_lines(Path("qrels/test.tsv")))  # doctest: +SKIP
      [QrelsLine(line=2, query='q1', document='d7', relevance=1)]
    """
    widths, expected = (3,), _BEIR
    if trec:
        widths, expected = (3, 4), f"{_TREC}, the same in every line"
    order: list[int] | None = None
    judged: dict[tuple[str, str], QrelsLine] = {}
    for line, text in read_lines(path):
        columns = [column.strip() for column in text.split("\t")]
        if trec and len(columns) != 3:
            columns = text.split()
        if len(columns) not in widths:
            raise InputError(f"{path}:{line}: {len(columns)} columns; expected {expected}")
        if order is None:
            widths = (len(columns),)
            order = _read_header(columns, where=f"{path}:{line}")
            if order is not None:
                continue
            order = [0, len(columns) - 2, len(columns) - 1]
        query, document, score = (columns[at] for at in order)
        if not _WHOLE_NUMBER.fullmatch(score):
            problem = "relevance" if len(columns) == 4 else "score"
            raise InputError(
                f"{path}:{line}: {problem} is {score!r}; expected a whole number "
                "(only the first line may be a header: query-id, corpus-id, score)"
            )
        found = QrelsLine(line, query, document, int(score))
        first = judged.setdefault((query, document), found)
        if first.relevance != found.relevance:
            raise InputError(
                f"{path}:{line}: document {document!r} of query {query!r} is judged "
                f"{found.relevance} here and {first.relevance} in line {first.line}; "
                "remove one of the lines"
            )
        if first is found:
            yield found


def _read_header(columns: list[str], *, where: str) -> list[int] | None:
    """Returns the columns of query, document and score, or None if the line is a judgement."""
    names = [_NAMES.get(column.lower().replace("_", "-")) for column in columns]
    # An id may be "score", but a judgement ends in a number, and a header does not.
    if len(columns) != 3 or _WHOLE_NUMBER.fullmatch(columns[-1]) or not any(names):
        return None
    if set(names) != set(_ROLES):
        raise InputError(
            f"{where}: the header names the columns {', '.join(map(repr, columns))}; expected "
            "'query-id', 'corpus-id' and 'score', in any order"
        )
    return [names.index(role) for role in _ROLES]
