"""Stores a collection's tables by tensorflow-datasets, as array_record and without TensorFlow.

There are four builder configs, ``documents``, ``queries``, ``judgements`` and ``examples``, since
all rows of a tfds config have the same features. Rows stay in the source's order, so that a row
number is an index.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from selfdistill_jax.data.collection import SPLITS, Document, Judgement, Query, Source
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import full_disk
from selfdistill_jax.progress import LOG, Progress

_CHUNK = 4096  # rows read at once: 29,000 rows/s against 15,000 one by one
_VERSION = "1.2.0"  # version of the features
ABSENT = "absent"  # key of the ids of judged documents without a row

_FEATURES = {
    "documents": {name: tfds.features.Text() for name in Document._fields},
    "queries": {name: tfds.features.Text() for name in Query._fields},
    "judgements": dict.fromkeys(Judgement._fields, np.int32),
    "examples": {
        "query": np.int32,
        "positive": np.int32,
        "negatives": tfds.features.Sequence(np.int32),
        "positive_score": np.float32,
        "negative_scores": tfds.features.Sequence(np.float32),
    },
}


class RetrievalTables(tfds.core.GeneratorBasedBuilder):
    """Builds one table of a `Source` with tfds."""

    VERSION = tfds.core.Version(_VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in _FEATURES]  # noqa: RUF012

    def __init__(self, *, source: Source, config: str, data_dir: str):
        self._source = source
        self._absent: dict[str, int] = {}
        self.flat: dict[str, list] = {}  # split -> ids or rows, once the table is built
        super().__init__(config=config, data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(_FEATURES[self.builder_config.name]),
            disable_shuffling=True,  # with integer keys, rows stay in the source's order
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
        label, empty = f"Reading {self._source.name}, {self.builder_config.name}", 0
        with Progress(label, None, unit="rows") as bar:
            for key, row in enumerate(rows):
                if isinstance(row, Judgement):
                    row = self._numbered(row)
                empty += isinstance(row, Document) and not row.content
                flat.append(row.id if isinstance(row, (Document, Query)) else row)
                yield key, row._asdict()
                bar.update(1)
        if empty:
            LOG.warning(
                "%s: %s of %s documents have neither title nor text; they are encoded as an empty "
                "text",
                self._source.name, f"{empty:,}", f"{len(flat):,}",
            )  # fmt: skip

    def _numbered(self, judgement: Judgement) -> Judgement:
        """Returns a judgement whose i-th absent document has the row -1 - i instead of its id."""
        id_ = judgement.document
        if not isinstance(id_, str):
            return judgement
        absent = self._absent.setdefault(id_, len(self._absent))
        return judgement._replace(document=-1 - absent)


def write_records(source: Source, table: str, folder: Path) -> dict[str, list]:
    """Writes one table of a source.

    Args:
      source: source of the rows.
      table: name of one of the four tables, which must have rows.
      folder: folder to write into.

    Returns:
      A dict: split -> ids of its rows, or the rows themselves if they have no ids; `ABSENT` -> ids
      of the documents whose judgements have the rows -1, -2, ..., if there are any.

    Raises:
      InputError: the source's content is invalid.
      OSError: the folder cannot be written.
    """
    tfds.disable_progress_bar()
    builder = RetrievalTables(source=source, config=table, data_dir=str(folder))
    try:
        # tfds announces a download on stdout, although there is none.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except Exception as error:
        raise _cause(error) from None
    return builder.flat | ({ABSENT: list(builder._absent)} if builder._absent else {})


def read_records(folder: Path, table: str, split: str = "rows") -> Iterator[dict[str, Any]]:
    """Yields the rows of a table written by `write_records`.

    Args:
      folder, table: as for `write_records`.
      split: split of the judgements; the other tables have only "rows".

    Raises:
      Exception: of several types, if files are missing or damaged.
    """
    path = str(folder / "retrieval_tables" / table / _VERSION)
    builder = tfds.builder_from_directory(path)
    data: Any = builder.as_data_source(split=split)  # ty: ignore[missing-argument]
    for start in range(0, len(data), _CHUNK):
        rows = data.__getitems__(list(range(start, min(start + _CHUNK, len(data)))))
        if any(value is None for row in rows for value in row.values()):
            raise ValueError(f"rows of {table} are missing")  # a truncated file
        yield from rows


def _cause(error: BaseException) -> BaseException:
    """Returns the cause of tfds's error: the source's `InputError`, or a full disk's `OSError`."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, InputError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return full_disk(error) or error
