"""Stores a collection in flat files, which are built once and opened by every run.

Texts and ids are read from disk when they are needed, see `StoredTexts`; numbers are memory-mapped.
Building reads the source once, row by row. So neither takes memory for the texts of a collection.
"""

import dataclasses
import json
from array import array
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.data.cache import new_folder, reports_damaged_cache
from selfdistill_jax.data.collection import (
    SAMPLE_NEGATIVE,
    Document,
    Judgement,
    Source,
)
from selfdistill_jax.data.id_rows import IdRows
from selfdistill_jax.data.stored_texts import StoredTexts, TextWriter
from selfdistill_jax.io import short_name
from selfdistill_jax.progress import LOG, Progress

_VERSION = "2.1.0"  # version of the folder's layout
_INFO = "collection.json"
_NUMBERS = "{}.npy"  # [rows, columns]
_OWN = "own_documents"
_AT_ONCE = 2**16  # examples that are in memory while they are written


@dataclasses.dataclass(frozen=True)
class Examples:
    """Holds the training examples as arrays; K is the largest number of an example's negatives.

    Attributes:
      query, positive: ``[n]`` int32 rows.
      negatives: ``[n, K]`` int32 rows, `SAMPLE_NEGATIVE` after the last.
      scores: ``[n, 1 + K]`` float32, a teacher's scores of the positive and the negatives, or NaN.
      source: ``[n]`` int8, number of each example's file among several; None for a single one.
    """

    query: np.ndarray
    positive: np.ndarray
    negatives: np.ndarray
    scores: np.ndarray
    source: np.ndarray | None = None

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.query)


class Collection:
    """Reads a built collection; see `open_collection`.

    Attributes:
      name: name for messages.
      fingerprint: hex digest of the content.
      description: origin of the data, see `Source.describe`.
      documents: title and text of every document, joined, in row order.
      queries: text of every query, in row order.
      corpus_size: number of leading documents that evaluation searches.
      training_pool: range of document rows that negatives are drawn from.
      document_ids: ids of the first ``corpus_size`` documents, in row order.
      all_document_ids: ids of all documents, in row order.
      query_ids: ids of all queries, in row order.
      own_documents: ``[n, 2]`` int32, rows of each query and document with the same id, among the
        documents that evaluation searches.
      splits: the splits that have judgements.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        with reports_damaged_cache(folder):
            info = json.loads((folder / _INFO).read_text())
            self.documents, self.queries, ids, self.query_ids = (
                StoredTexts(folder / name)
                for name in ("documents", "queries", "documents.ids", "queries.ids")
            )
            if [*map(len, (ids, self.query_ids))] != [len(self.documents), len(self.queries)]:
                raise ValueError("the numbers of texts and ids differ")
            self.corpus_size = info["corpus_size"] or len(ids)
            self.all_document_ids = ids
            self.document_ids = StoredTexts(folder / "documents.ids", self.corpus_size)
        self.own_documents = self._numbers(_OWN)
        self.name: str = info["name"]
        self.fingerprint: str = info["fingerprint"]
        self.description: dict[str, Any] = info["description"]
        self.splits = tuple(info["splits"])
        self._absent: list[str] = info["absent"]
        self.training_pool = range(info["pool_start"], len(ids))

    def judgements(self, split: str) -> list[Judgement]:
        """Returns the judgements of a split, with ids of the documents outside the corpus."""
        if split not in self.splits:
            return []
        return [
            Judgement(query, self._absent[-1 - document] if document < 0 else document, relevance)
            for query, document, relevance in self._numbers(f"judgements.{split}").tolist()
        ]

    def examples(self) -> Examples:
        """Returns the training examples, memory-mapped."""
        rows, scores, source = map(self._numbers, ("examples", "scores", "sources"))
        several = source if len(source) else None
        return Examples(rows[:, 0], rows[:, 1], rows[:, 2:], scores, several)

    def _numbers(self, name: str) -> np.ndarray:
        with reports_damaged_cache(self.folder):
            return np.load(self.folder / _NUMBERS.format(name), mmap_mode="r")

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Returns query id -> document id -> relevance, with documents outside the corpus."""
        qrels: dict[str, dict[str, int]] = {}
        for query, document, relevance in self.judgements(split):
            judged = qrels.setdefault(self.query_ids[query], {})
            id_ = document if isinstance(document, str) else self.document_ids[document]
            judged[id_] = relevance
        return qrels


def open_collection(source: Source, cache: Path) -> Collection:
    """Opens a source's stored collection; builds it in the cache first if it is missing.

    Args:
      source: collection to read; building checks its whole content.
      cache: cache folder; files go to ``collections/<name>-<fingerprint>-<version>``.

    Raises:
      InputError: the source's content is invalid, and nothing is left in the cache; or the files
        in the cache are damaged.
    """
    fingerprint = source.fingerprint()
    folder = cache / "collections" / f"{short_name(source.name)}-{fingerprint[:16]}-v{_VERSION}"
    if not folder.is_dir():
        build_collection(source, folder, fingerprint)
    return Collection(folder)


def build_collection(source: Source, folder: Path, fingerprint: str) -> None:
    """Writes everything that a source holds into a new folder.

    Args:
      source: collection to read.
      folder: folder to make; it is written whole or not at all.
      fingerprint: the source's fingerprint.

    Raises:
      InputError: the source's content is invalid, or the folder cannot be written.
    """
    with new_folder(folder) as new:
        documents = _write_texts(source, "documents", new)
        queries = _write_texts(source, "queries", new)
        own = queries.shared_with(documents)
        own = own[own[:, 1] < (source.corpus_size or len(documents))]
        np.save(new / _NUMBERS.format(_OWN), own)
        absent: dict[str, int] = {}
        splits = [s for s in source.splits if _write_judgements(source, s, absent, new)]
        _write_examples(source, new)
        info = {
            "name": source.name,
            "fingerprint": fingerprint,
            "description": source.describe(),
            "corpus_size": source.corpus_size,
            "pool_start": source.pool_start,
            "splits": splits,
            "absent": list(absent),
        }
        (new / _INFO).write_text(json.dumps(info, indent=2))


def _write_texts(source: Source, table: str, folder: Path) -> IdRows:
    """Writes the texts and ids of the documents or queries, and returns the rows of the ids."""
    rows, empty, label = IdRows(), 0, f"Reading {source.name}, {table}"
    with (
        TextWriter(folder / table) as texts,
        TextWriter(folder / f"{table}.ids") as ids,
        Progress(label, None, unit="rows") as bar,
    ):
        for row in getattr(source, table)():
            text = row.content if isinstance(row, Document) else row.text
            empty += isinstance(row, Document) and not text
            texts.add(text)
            ids.add(row.id)
            rows.add(row.id)
            bar.update(1)
    if empty:
        LOG.warning(
            "%s: %s of %s documents have neither title nor text; they are encoded as an empty text",
            source.name, f"{empty:,}", f"{len(rows):,}",
        )  # fmt: skip
    return rows


def _write_judgements(source: Source, split: str, absent: dict[str, int], folder: Path) -> bool:
    """Writes a split's judgements, and returns whether there are any.

    A document without a row gets the row -1 - i, where i is its position in ``absent``.
    """
    numbers = array("i")
    for query, document, relevance in source.judgements(split):
        if isinstance(document, str):
            document = -1 - absent.setdefault(document, len(absent))
        numbers.extend((query, document, relevance))
    if numbers:
        rows = np.frombuffer(numbers, np.int32).reshape(-1, 3)
        np.save(folder / _NUMBERS.format(f"judgements.{split}"), rows)
    return bool(numbers)


def _write_examples(source: Source, folder: Path) -> None:
    """Writes the examples as two arrays, see `Examples`, part by part.

    The number of columns is known only at the end, so parts are written first.
    """
    parts: list[tuple[Path, int, int]] = []  # file, rows, most negatives
    sources = array("b")
    examples = source.examples()
    with Progress(f"Reading {source.name}, examples", None, unit="rows") as bar:
        while part := list(islice(examples, _AT_ONCE)):
            most = max(len(example.negatives) for example in part)
            rows = np.full((len(part), 2 + most), SAMPLE_NEGATIVE, np.int32)
            scores = np.full((len(part), 1 + most), np.nan, np.float32)
            sources.extend(example.source for example in part)
            for own, given, example in zip(rows, scores, part, strict=True):
                own[:2], given[0] = example[:2], example.positive_score
                own[2 : 2 + len(example.negatives)] = example.negatives
                given[1 : 1 + len(example.negative_scores)] = example.negative_scores
            path = folder / f"examples.{len(parts)}.npz"
            np.savez(path, rows=rows, scores=scores)
            parts.append((path, len(part), most))
            bar.update(len(part))
    total, most = sum(rows for _, rows, _ in parts), max((most for *_, most in parts), default=0)
    for name, columns, fill, kind in (
        ("examples", 2 + most, SAMPLE_NEGATIVE, np.int32),
        ("scores", 1 + most, np.nan, np.float32),
    ):
        path = folder / _NUMBERS.format(name)
        if not total:  # an empty file cannot be memory-mapped
            np.save(path, np.zeros((0, columns), kind))
            continue
        whole = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(total, columns))
        at = 0
        for part_path, count, _ in parts:
            with np.load(part_path) as part:
                found = part["rows" if name == "examples" else "scores"]
            whole[at : at + count] = fill
            whole[at : at + count, : found.shape[1]] = found
            at += count
        whole.flush()
    for path, *_ in parts:
        path.unlink()
    several = np.frombuffer(sources, np.int8)
    np.save(folder / _NUMBERS.format("sources"), several if several.any() else several[:0])
