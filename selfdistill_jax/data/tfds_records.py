"""Tables of a collection as tensorflow-datasets stores them: array_record, without TensorFlow.

Four builder configs, ``documents``, ``queries``, ``judgements`` and ``examples``, since the rows of
one tfds config have one shape. Rows keep the source's order, so a row number is an index.
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
_VERSION = "1.2.0"  # of the features
ABSENT = "absent"  # beside the splits of judgements: ids of judged documents without a row

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
    """tfds builder of one table of a `Source`."""

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
        """Gives -1 - i for the i-th id of a document without a row."""
        id_ = judgement.document
        if not isinstance(id_, str):
            return judgement
        absent = self._absent.setdefault(id_, len(self._absent))
        return judgement._replace(document=-1 - absent)


def write_records(source: Source, table: str, folder: Path) -> dict[str, list]:
    """Writes a table that has rows.

    Args:
      source: of the rows.
      table: one of the four.
      folder: that the table is written into.

    Returns:
      Split -> ids of its rows, or the rows themselves where they have none; `ABSENT` -> ids of the
      documents whose judgements have -1, -2, ... for a row, if there are any.

    Raises:
      InputError: what the source finds wrong.
      OSError: the folder cannot be written.
    """
    tfds.disable_progress_bar()
    builder = RetrievalTables(source=source, config=table, data_dir=str(folder))
    try:
        # tfds announces a download on stdout, which there is none of.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except Exception as error:
        raise _cause(error) from None
    return builder.flat | ({ABSENT: list(builder._absent)} if builder._absent else {})


def read_records(folder: Path, table: str, split: str = "rows") -> Iterator[dict[str, Any]]:
    """Rows of a table that `write_records` wrote.

    Args:
      folder, table: as it was given them.
      split: of the judgements; other tables have one.

    Raises:
      Exception: of several kinds, where files are missing or damaged.
    """
    path = str(folder / "retrieval_tables" / table / _VERSION)
    builder = tfds.builder_from_directory(path)
    data: Any = builder.as_data_source(split=split)  # ty: ignore[missing-argument]
    for start in range(0, len(data), _CHUNK):
        rows = data.__getitems__(list(range(start, min(start + _CHUNK, len(data)))))
        if any(value is None for row in rows for value in row.values()):
            raise ValueError(f"rows of {table} are missing")  # a file cut at its half
        yield from rows


def _cause(error: BaseException) -> BaseException:
    """Returns the error behind tfds's: the source's own line, or what the file system said."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, InputError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return full_disk(error) or error
