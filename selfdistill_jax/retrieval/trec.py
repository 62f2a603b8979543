"""Reads and writes TREC files: runs (a system's results) and relevance judgements (qrels)."""

import contextlib
import gzip
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from selfdistill_jax.data.files.qrels import read_qrels_lines
from selfdistill_jax.data.files.text import read_lines
from selfdistill_jax.data.stored_texts import StoredTexts
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import explained, new_file

Run = dict[str, dict[str, float]]  # query id -> document id -> score
Qrels = dict[str, dict[str, int]]  # query id -> document id -> relevance

_RUN_COLUMNS = "query-id Q0 document-id rank score tag"


def ranking(documents: Mapping[str, float]) -> list[str]:
    """Returns document ids in trec_eval's order: by falling float32 score, then by falling id.

    Example:
      >>> ranking({"a": 1.0, "b": 1.0, "c": 2.0})
      ['c', 'b', 'a']
    """
    with np.errstate(over="ignore"):  # trec_eval also reads 1e300 as infinite
        scores = np.array(list(documents.values()), np.float32).tolist()
    return [id_ for _, id_ in sorted(zip(scores, documents, strict=True), reverse=True)]


def run_from_rows(
    query_ids: Sequence[str], document_ids: Sequence[str], scores: np.ndarray, rows: np.ndarray
) -> Run:
    """Makes a run from the rows and scores of a search.

    Args:
      query_ids: Q ids.
      document_ids: ids of the whole collection, in row order.
      scores: ``[Q, k]``.
      rows: ``[Q, k]`` document rows; a negative row means no result and is left out.

    Raises:
      ValueError: the shapes do not match.

    Example:
      >>> run_from_rows(["q"], ["a", "b"], np.array([[2.0, 0.0]]), np.array([[1, -1]]))
      {'q': {'b': 2.0}}
    """
    if scores.shape != rows.shape or len(query_ids) != len(rows):
        raise ValueError(
            f"scores {scores.shape} and rows {rows.shape} must be [{len(query_ids)} queries, k]"
        )
    used = np.unique(rows[rows >= 0])
    found = (
        document_ids.take(used)
        if isinstance(document_ids, StoredTexts)
        else (document_ids[row] for row in used)
    )
    names = dict(zip(used.tolist(), found, strict=True))
    return {
        query: {names[r]: s for s, r in zip(*pair, strict=True) if r >= 0}
        for query, *pair in zip(query_ids, scores.tolist(), rows.tolist(), strict=True)
    }


def count_own_relevant(qrels: Mapping[str, Mapping[str, int]]) -> int:
    """Counts the queries for which the document with the same id is relevant.

    If there are any, queries and documents are numbered independently, and equal ids mean nothing.
    If there are none, a document with a query's id is the query itself, as in BEIR's ArguAna and
    Quora, and does not count as a result.

    Example:
      >>> count_own_relevant({"1": {"1": 1}, "2": {"1": 1}})
      1
    """
    return sum(documents.get(query, 0) > 0 for query, documents in qrels.items())


def without_own(run: Run, k: int | None = None) -> Run:
    """Drops each query's document with the same id, then keeps the first k results (None: all).

    Example:
      >>> without_own({"a": {"a": 1.0, "b": 0.5, "c": 0.4}}, 1)
      {'a': {'b': 0.5}}
    """
    return {
        query: dict(itertools.islice(((d, s) for d, s in found.items() if d != query), k))
        for query, found in run.items()
    }


def write_run(path: str | Path, run: Mapping[str, Mapping[str, float]], *, tag: str) -> None:
    """Writes a run in TREC's six columns, gzipped if the name ends in ``.gz``.

    Queries are in the given order, documents in the order of `ranking`, ranks start at 1. Scores
    have 9 digits, which represent a float32 exactly. The file appears complete or not at all.

    Args:
      path: path of the file; an existing file is replaced.
      run: query id -> document id -> score.
      tag: name of the system.

    Raises:
      InputError: an id or the tag is empty or contains white space (the format has no quoting), a
        score is not finite, or the file cannot be written.
    """
    path = Path(path)
    advice = "free some space, or give a writable path"
    with explained(path, "the run", advice), new_file(path) as raw, contextlib.ExitStack() as stack:
        file = raw
        if path.suffix == ".gz":  # no name or time in the header, so equal runs give equal files
            file = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            stack.enter_context(file)
        for query, documents in run.items():
            _check_ids(path, query, tag, *documents)
            for rank, document in enumerate(ranking(documents), 1):
                score = documents[document]
                if not math.isfinite(score):
                    raise InputError(
                        f"{path}: the score of query {query!r} and document {document!r} is "
                        f"{score}; expected a finite number"
                    )
                line = f"{query} Q0 {document} {rank} {score:.9g} {tag}\n"
                file.write(line.encode())


def _check_ids(path: Path, *ids: str) -> None:
    for id_ in ids:
        if id_.split() != [id_]:
            raise InputError(
                f"{path}: the id or tag {id_!r} is empty or contains white space, which a TREC run "
                "cannot represent; rename it"
            )


def read_run(path: str | Path) -> Run:
    """Reads a TREC run, gzipped if the name ends in ``.gz``; the rank column is not used.

    Raises:
      InputError: a line does not have six columns, a score is not a finite number, a document is
        listed twice for a query, or the file has no lines. The message names file and line.
    """
    path, run = Path(path), {}
    for number, line in read_lines(path):
        columns = line.split()
        if len(columns) != 6:
            raise InputError(
                f"{path}:{number}: {len(columns)} columns; expected the 6 of a TREC run: "
                f"{_RUN_COLUMNS}"
            )
        query, _, document, _, text, _ = columns
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise InputError(f"{path}:{number}: score is {text!r}; expected a finite number")
        documents = run.setdefault(query, {})
        if document in documents:
            raise InputError(
                f"{path}:{number}: document {document!r} is listed twice for query "
                f"{query!r}; remove one of the lines"
            )
        documents[document] = score
    if not run:
        raise InputError(f"{path}: no lines; expected a TREC run: {_RUN_COLUMNS}")
    return run


def read_qrels(path: str | Path) -> Qrels:
    """Reads relevance judgements, gzipped if the name ends in ``.gz``.

    The first line decides the format: TREC's four columns (query id, unused, document id,
    relevance) or BEIR's three, separated by tabs, with or without BEIR's header line.

    Raises:
      InputError: `read_qrels_lines` refuses a line, or the file has no judgements.
    """
    path, qrels = Path(path), {}
    for _, query, document, relevance in read_qrels_lines(path, trec=True):
        qrels.setdefault(query, {})[document] = relevance
    if not qrels:
        raise InputError(f"{path}: no judgements; expected lines in TREC's or BEIR's columns")
    return qrels
