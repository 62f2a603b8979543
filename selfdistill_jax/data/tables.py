"""A collection as tensorflow-datasets tables (no TensorFlow): built once, read by row.

Four builder configs, ``documents``, ``queries``, ``judgements`` and ``triplets``, since the rows of
one tfds config have one shape. Rows keep the source's order, so a row number is an index. Ids and
numbers stand beside them once more, as flat files: reading rows for them would cost each start of a
run 35 us a document, query, judgement and triplet.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from selfdistill_jax.data.cache import new_folder, reading
from selfdistill_jax.data.source import SPLITS, Document, Judgement, Query, Source, Triplet
from selfdistill_jax.errors import InputError

_VERSION = "1.2.0"  # of the layout on disk
_INFO = "collection.json"
_IDS = "{}.ids"  # a line each; white space is in none of them
_NUMBERS = "{}.npy"  # [rows, columns]
_SCORES = ("positive_score", "negative_score")
_CHUNK = 4096  # rows read at once: 29,000 rows/s against 15,000 one by one

_FEATURES = {
    "documents": {name: tfds.features.Text() for name in Document._fields},
    "queries": {name: tfds.features.Text() for name in Query._fields},
    "judgements": dict.fromkeys(Judgement._fields, np.int32),
    "triplets": {
        "query": np.int32,
        "positive": np.int32,
        "negative": np.int32,
        "positive_score": np.float32,
        "negative_score": np.float32,
    },
}


class RetrievalTables(tfds.core.GeneratorBasedBuilder):
    """tfds builder of one table of a `Source`, as array_record, which needs no TensorFlow."""

    VERSION = tfds.core.Version(_VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in _FEATURES]  # noqa: RUF012

    def __init__(self, *, source: Source, config: str, data_dir: str):
        self._source = source
        self.flat: dict[str, list] = {}  # split -> what stands beside the tables, once built
        super().__init__(config=config, data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(_FEATURES[self.builder_config.name]),
            disable_shuffling=True,  # with integer keys: rows stay in the source's order
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager
        table = self.builder_config.name
        if table != "judgements":
            return {"rows": self._generate_examples("rows", getattr(self._source, table)())}
        splits = {split: list(self._source.judgements(split)) for split in SPLITS}
        # tfds cannot write an empty split.
        return {s: self._generate_examples(s, rows) for s, rows in splits.items() if rows}

    def _generate_examples(self, split: str, rows) -> Iterator[tuple[int, dict[str, Any]]]:
        flat = self.flat[split] = []
        for key, row in enumerate(rows):
            flat.append(row.id if isinstance(row, (Document, Query)) else row)
            yield key, row._asdict()


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
        with reading(folder):
            info = json.loads((folder / _INFO).read_text())
            self._tables = {
                table: tfds.builder_from_directory(
                    str(folder / "retrieval_tables" / table / _VERSION)
                )
                for table in _FEATURES
                if table not in info["empty"]
            }
            ids, self.query_ids = (_read_ids(folder, name) for name in ("documents", "queries"))
        self.name: str = info["name"]
        self.fingerprint: str = info["fingerprint"]
        self.description: dict[str, Any] = info["description"]
        judgements = self._tables.get("judgements")
        self.splits = tuple(s for s in SPLITS if judgements and s in judgements.info.splits)
        self.num_documents = len(ids)
        self.corpus_size = info["corpus_size"] or len(ids)
        self.training_pool = range(info["pool_start"], len(ids))
        self.document_ids = ids[: self.corpus_size]

    def _rows(self, table: str, split: str = "rows") -> Iterator[dict[str, Any]]:
        if table not in self._tables:
            return
        with reading(self.folder):
            data = self._tables[table].as_data_source(split=split)
            for start in range(0, len(data), _CHUNK):
                rows = data.__getitems__(list(range(start, min(start + _CHUNK, len(data)))))
                if any(value is None for row in rows for value in row.values()):
                    raise ValueError(f"rows of {table} are missing")  # a file cut at its half
                yield from rows

    def document_contents(self) -> Iterator[str]:
        """Title and text of every document, in row order."""
        for row in self._rows("documents"):
            yield Document(**{k: v.decode() for k, v in row.items()}).content

    def query_texts(self) -> Iterator[str]:
        return (row["text"].decode() for row in self._rows("queries"))

    def judgements(self, split: str) -> list[Judgement]:
        if split not in self.splits:
            return []
        return [Judgement(*row) for row in self._numbers(f"judgements.{split}").tolist()]

    def triplets(self) -> dict[str, np.ndarray]:
        """Column name -> array, one entry a triplet (int32 rows, float32 scores)."""
        rows, scores = self._numbers("triplets"), self._numbers("scores")
        names = [name for name in Triplet._fields if name not in _SCORES]
        return dict(zip((*names, *_SCORES), (*rows.T, *scores.T), strict=True))

    def _numbers(self, name: str) -> np.ndarray:
        with reading(self.folder):
            return np.load(self.folder / _NUMBERS.format(name))

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Query id -> document id -> relevance, as TREC's tools want it."""
        qrels: dict[str, dict[str, int]] = {}
        for query, document, relevance in self.judgements(split):
            judged = qrels.setdefault(self.query_ids[query], {})
            judged[self.document_ids[document]] = relevance
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
    folder = cache / "collections" / f"{source.name}-{fingerprint[:16]}-v{_VERSION}"
    if not folder.is_dir():
        build_tables(source, folder, fingerprint)
    return Collection(folder)


def build_tables(source: Source, folder: Path, fingerprint: str) -> None:
    """Writes all tables of a source into a new folder."""
    tfds.disable_progress_bar()
    with new_folder(folder) as new:
        empty = []
        for table in _FEATURES:
            if not _has_rows(source, table):
                empty.append(table)
                if table != "judgements":
                    _write_flat(new, table, "rows", [])
                continue
            builder = RetrievalTables(source=source, config=table, data_dir=str(new))
            try:
                # tfds announces a download on stdout, which there is none of.
                with contextlib.redirect_stdout(io.StringIO()):
                    builder.download_and_prepare()
            except Exception as error:
                # tfds wraps what a reader raises; the reader's own line is what a person needs.
                raise _cause(error) from None
            for split, rows in builder.flat.items():
                _write_flat(new, table, split, rows)
        info = {
            "name": source.name,
            "fingerprint": fingerprint,
            "description": source.describe(),
            "corpus_size": source.corpus_size,
            "pool_start": source.pool_start,
            "empty": empty,
        }
        (new / _INFO).write_text(json.dumps(info, indent=2))


def _write_flat(folder: Path, table: str, split: str, rows: list) -> None:
    if table in ("documents", "queries"):
        text = "".join(f"{line}\n" for line in [len(rows), *rows])
        (folder / _IDS.format(table)).write_text(text, encoding="utf-8")
    elif table == "judgements":
        np.save(folder / _NUMBERS.format(f"{table}.{split}"), np.array(rows, np.int32))
    else:
        numbers = np.array(rows, float).reshape(-1, len(Triplet._fields))
        own = len(Triplet._fields) - len(_SCORES)
        np.save(folder / _NUMBERS.format("triplets"), numbers[:, :own].astype(np.int32))
        np.save(folder / _NUMBERS.format("scores"), numbers[:, own:].astype(np.float32))


def _read_ids(folder: Path, table: str) -> list[str]:
    count, *ids = (folder / _IDS.format(table)).read_text(encoding="utf-8").split("\n")
    if not ids or ids.pop() or len(ids) != int(count):
        raise ValueError(f"ids of {table} are missing")
    return ids


def _has_rows(source: Source, table: str) -> bool:
    if table == "judgements":
        return any(next(source.judgements(split), None) for split in SPLITS)
    return next(getattr(source, table)(), None) is not None


def _cause(error: BaseException) -> BaseException:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, InputError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error
