"""Stores a collection as tables, which are built once and opened by every run.

The whole content is in tensorflow-datasets tables (`tfds_records`), and ids and numbers are also in
flat files: reading them from the tables would take 35 us for each document, query, judgement and
triplet at every start of a run. With the flat files, a start reads no table and does not import the
library, which takes 0.2 s.
"""

import dataclasses
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.data.cache import new_folder, reports_damaged_cache
from selfdistill_jax.data.collection import SAMPLE_NEGATIVE, SPLITS, Document, Judgement, Source
from selfdistill_jax.io import short_name

_VERSION = "1.5.0"  # version of the folder's layout
_INFO = "collection.json"
_IDS = "{}.ids"  # one id per line; ids have no white space
_NUMBERS = "{}.npy"  # [rows, columns]
_TABLES = ("documents", "queries", "judgements", "examples")


@dataclasses.dataclass(frozen=True)
class Examples:
    """Holds the training examples as arrays; K is the largest number of an example's negatives.

    Attributes:
      query, positive: ``[n]`` int32 rows.
      negatives: ``[n, K]`` int32 rows, `SAMPLE_NEGATIVE` after the last.
      scores: ``[n, 1 + K]`` float32, a teacher's scores of the positive and the negatives, or NaN.
    """

    query: np.ndarray
    positive: np.ndarray
    negatives: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.query)


class Collection:
    """Reads a built collection; see `open_collection`.

    Attributes:
      name: name for messages.
      fingerprint: hex digest of the content.
      description: origin of the data, see `Source.describe`.
      num_documents: number of all documents.
      corpus_size: number of leading documents that evaluation searches.
      training_pool: range of document rows that negatives are drawn from.
      document_ids: ids of the first ``corpus_size`` documents, in row order.
      query_ids: ids of all queries, in row order.
      splits: the splits that have judgements.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        with reports_damaged_cache(folder):
            info = json.loads((folder / _INFO).read_text())
            ids, self.query_ids = (_read_ids(folder, name) for name in ("documents", "queries"))
        self.name: str = info["name"]
        self.fingerprint: str = info["fingerprint"]
        self.description: dict[str, Any] = info["description"]
        self.splits = tuple(info["splits"])
        self._empty = info["empty"]
        self._absent: list[str] = info["absent"]
        self.num_documents = len(ids)
        self.corpus_size = info["corpus_size"] or len(ids)
        self.training_pool = range(info["pool_start"], len(ids))
        self.document_ids = ids[: self.corpus_size]

    def _rows(self, table: str, split: str = "rows") -> Iterator[dict[str, Any]]:
        from selfdistill_jax.data.tfds_records import read_records

        if table not in self._empty:
            with reports_damaged_cache(self.folder):
                yield from read_records(self.folder, table, split)

    def document_contents(self) -> Iterator[str]:
        """Yields title and text of every document, joined, in row order."""
        for row in self._rows("documents"):
            yield Document(**{k: v.decode() for k, v in row.items()}).content

    def query_texts(self) -> Iterator[str]:
        return (row["text"].decode() for row in self._rows("queries"))

    def judgements(self, split: str) -> list[Judgement]:
        """Returns the judgements of a split, with ids of the documents outside the corpus."""
        if split not in self.splits:
            return []
        return [
            Judgement(query, self._absent[-1 - document] if document < 0 else document, relevance)
            for query, document, relevance in self._numbers(f"judgements.{split}").tolist()
        ]

    @cached_property
    def own_documents(self) -> np.ndarray:
        """Returns the rows of each query and document with the same id, ``[n, 2]`` int32.

        Only the documents that evaluation searches are considered.
        """
        rows = {id_: row for row, id_ in enumerate(self.query_ids)}
        pairs = [(rows[id_], row) for row, id_ in enumerate(self.document_ids) if id_ in rows]
        return np.array(pairs, np.int32).reshape(-1, 2)

    def examples(self) -> Examples:
        """Returns the training examples."""
        rows, scores = self._numbers("examples"), self._numbers("scores")
        return Examples(rows[:, 0], rows[:, 1], rows[:, 2:], scores)

    def _numbers(self, name: str) -> np.ndarray:
        with reports_damaged_cache(self.folder):
            return np.load(self.folder / _NUMBERS.format(name))

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Returns query id -> document id -> relevance, with documents outside the corpus."""
        qrels: dict[str, dict[str, int]] = {}
        for query, document, relevance in self.judgements(split):
            judged = qrels.setdefault(self.query_ids[query], {})
            id_ = document if isinstance(document, str) else self.document_ids[document]
            judged[id_] = relevance
        return qrels


def open_collection(source: Source, cache: Path) -> Collection:
    """Opens a source's tables; builds them in the cache first if they are missing.

    Args:
      source: collection to read; building checks its whole content.
      cache: cache folder; tables go to ``collections/<name>-<fingerprint>-<version>``.

    Raises:
      InputError: the source's content is invalid, and nothing is left in the cache; or the tables
        in the cache are damaged.
    """
    fingerprint = source.fingerprint()
    folder = cache / "collections" / f"{short_name(source.name)}-{fingerprint[:16]}-v{_VERSION}"
    if not folder.is_dir():
        build_tables(source, folder, fingerprint)
    return Collection(folder)


def build_tables(source: Source, folder: Path, fingerprint: str) -> None:
    """Writes all tables of a source into a new folder.

    Args:
      source: collection to read.
      folder: folder to make; it is written whole or not at all.
      fingerprint: the source's fingerprint.

    Raises:
      InputError: the source's content is invalid, or the folder cannot be written.
    """
    from selfdistill_jax.data.tfds_records import ABSENT, write_records

    with new_folder(folder) as new:
        written = {
            table: write_records(source, table, new) if _has_rows(source, table) else {}
            for table in _TABLES
        }
        splits = [split for split in SPLITS if split in written["judgements"]]
        for table in _TABLES:
            for split in splits if table == "judgements" else ("rows",):
                _write_flat(new, table, split, written[table].get(split, []))
        info = {
            "name": source.name,
            "fingerprint": fingerprint,
            "description": source.describe(),
            "corpus_size": source.corpus_size,
            "pool_start": source.pool_start,
            "splits": splits,
            "empty": [table for table, rows in written.items() if not rows],
            "absent": written["judgements"].get(ABSENT, []),
        }
        (new / _INFO).write_text(json.dumps(info, indent=2))


def _write_flat(folder: Path, table: str, split: str, rows: list) -> None:
    if table in ("documents", "queries"):
        text = "".join(f"{line}\n" for line in [len(rows), *rows])
        (folder / _IDS.format(table)).write_text(text, encoding="utf-8")
    elif table == "judgements":
        np.save(folder / _NUMBERS.format(f"{table}.{split}"), np.array(rows, np.int32))
    else:
        most = max((len(example.negatives) for example in rows), default=0)
        numbers = np.full((len(rows), 2 + most), SAMPLE_NEGATIVE, np.int32)
        scores = np.full((len(rows), 1 + most), np.nan, np.float32)
        for own, given, example in zip(numbers, scores, rows, strict=True):
            own[:2], given[0] = example[:2], example.positive_score
            own[2 : 2 + len(example.negatives)] = example.negatives
            given[1 : 1 + len(example.negative_scores)] = example.negative_scores
        np.save(folder / _NUMBERS.format("examples"), numbers)
        np.save(folder / _NUMBERS.format("scores"), scores)


def _read_ids(folder: Path, table: str) -> list[str]:
    count, *ids = (folder / _IDS.format(table)).read_text(encoding="utf-8").split("\n")
    if not ids or ids.pop() or len(ids) != int(count):
        raise ValueError(f"ids of {table} are missing")
    return ids


def _has_rows(source: Source, table: str) -> bool:
    if table == "judgements":
        return any(next(source.judgements(split), None) for split in SPLITS)
    return next(getattr(source, table)(), None) is not None
