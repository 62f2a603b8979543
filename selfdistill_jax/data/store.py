"""A collection as tables: built once, then opened by every run.

All of it is kept as tensorflow-datasets tables (`records`), its ids and numbers once more as flat
files: reading rows for them would cost each start of a run 35 us a document, query, judgement and
triplet. So a start needs no row, nor the library, which takes 0.2 s to import.
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

_VERSION = "1.5.0"  # of the layout of the folder
_INFO = "collection.json"
_IDS = "{}.ids"  # a line each; white space is in none of them
_NUMBERS = "{}.npy"  # [rows, columns]
_TABLES = ("documents", "queries", "judgements", "examples")


@dataclasses.dataclass(frozen=True)
class Examples:
    """What is trained on, as arrays; K is the most negatives that an example brings.

    Attributes:
      query, positive: ``[n]`` int32 rows.
      negatives: ``[n, K]`` int32 rows, `SAMPLE_NEGATIVE` behind the last.
      scores: ``[n, 1 + K]`` float32, a teacher's of the positive and of the negatives, or NaN.
    """

    query: np.ndarray
    positive: np.ndarray
    negatives: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.query)


class Collection:
    """A built collection, opened; see `open_collection`.

    Attributes:
      name: for people.
      fingerprint: hex digest of the content.
      description: where it comes from.
      num_documents: all of them.
      corpus_size: so many in front are what evaluation searches.
      training_pool: rows of the documents that negatives come from.
      document_ids: ids of those, in row order.
      query_ids: ids of all queries.
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
        """Title and text of every document, in row order."""
        for row in self._rows("documents"):
            yield Document(**{k: v.decode() for k, v in row.items()}).content

    def query_texts(self) -> Iterator[str]:
        return (row["text"].decode() for row in self._rows("queries"))

    def judgements(self, split: str) -> list[Judgement]:
        """All judgements of a split; a document that the corpus lacks is given by its id."""
        if split not in self.splits:
            return []
        return [
            Judgement(query, self._absent[-1 - document] if document < 0 else document, relevance)
            for query, document, relevance in self._numbers(f"judgements.{split}").tolist()
        ]

    @cached_property
    def own_documents(self) -> np.ndarray:
        """``[n, 2]`` int32: rows of each query and document (in evaluation's corpus) of one id."""
        rows = {id_: row for row, id_ in enumerate(self.query_ids)}
        pairs = [(rows[id_], row) for row, id_ in enumerate(self.document_ids) if id_ in rows]
        return np.array(pairs, np.int32).reshape(-1, 2)

    def examples(self) -> Examples:
        """Returns what is trained on."""
        rows, scores = self._numbers("examples"), self._numbers("scores")
        return Examples(rows[:, 0], rows[:, 1], rows[:, 2:], scores)

    def _numbers(self, name: str) -> np.ndarray:
        with reports_damaged_cache(self.folder):
            return np.load(self.folder / _NUMBERS.format(name))

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Query id -> document id -> relevance, with the documents that the corpus lacks."""
        qrels: dict[str, dict[str, int]] = {}
        for query, document, relevance in self.judgements(split):
            judged = qrels.setdefault(self.query_ids[query], {})
            id_ = document if isinstance(document, str) else self.document_ids[document]
            judged[id_] = relevance
        return qrels


def open_collection(source: Source, cache: Path) -> Collection:
    """Opens a source's tables, building them in the cache first if they are not there.

    Args:
      source: what to read; its whole content is checked while building.
      cache: the cache folder; tables go to ``collections/<name>-<fingerprint>-<version>``.

    Raises:
      InputError: whatever the source finds wrong, nothing is left in the cache then; or the tables
        there are damaged.
    """
    fingerprint = source.fingerprint()
    folder = cache / "collections" / f"{short_name(source.name)}-{fingerprint[:16]}-v{_VERSION}"
    if not folder.is_dir():
        build_tables(source, folder, fingerprint)
    return Collection(folder)


def build_tables(source: Source, folder: Path, fingerprint: str) -> None:
    """Writes all tables of a source into a new folder.

    Args:
      source: what to read.
      folder: appears whole or not at all.
      fingerprint: of the source.

    Raises:
      InputError: what the source finds wrong.
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
