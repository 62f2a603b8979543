"""Encodes many documents and searches them; each process has a share of the vectors."""

import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from selfdistill_jax import io
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.errors import InputError
from selfdistill_jax.locks import lock
from selfdistill_jax.progress import Progress
from selfdistill_jax.retrieval.search import search
from selfdistill_jax.retrieval.vectors import VectorFile
from selfdistill_jax.train.evaluation.encode_table import TableEncoder
from selfdistill_jax.train.processes import all_succeed, all_true

_IN_MEMORY = 2**28  # bytes of a process's share; a larger one is written to disk
_AT_ONCE = 2**16  # texts that are encoded together


class DocumentVectors:
    """Holds this process's share of the vectors of some documents, in memory or on disk.

    The share is a range of consecutive documents. All processes must call the methods together,
    except `remove`. No process receives the vectors of another.

    Args:
      vectors: ``[n, D]`` float32 vectors of the share; may be memory-mapped.
      share: range of the share's positions among all documents.
      file: file that the vectors are in, which `remove` deletes; None for none.

    Attributes:
      vectors, share, file: as given.
    """

    def __init__(self, vectors: np.ndarray, share: range, file: Path | None = None):
        self.vectors, self.share, self.file = vectors, share, file

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k highest scores and their positions among all documents, ``[Q, k]``.

        Args:
          queries: ``[Q, D]`` vectors, the same on every process.
          k: results per query, clipped to the number of documents.

        Raises:
          ValueError: a vector is not finite.
        """
        scores, rows = search(queries, self.vectors, k=k)
        if jax.process_count() == 1:
            return scores, rows
        missing = ((0, 0), (0, k - scores.shape[1]))  # a share may have fewer than k documents
        scores = np.pad(scores, missing, constant_values=-np.inf)
        rows = np.pad(rows + self.share.start, missing, constant_values=-1)
        both: Any = multihost_utils.process_allgather((scores, rows))
        # Shares come in the order of the documents, so a stable sort orders equal scores by row.
        scores, rows = (np.concatenate(list(parts), axis=1) for parts in both)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = (np.take_along_axis(x, order, axis=1) for x in (scores, rows))
        found = int((rows >= 0).sum(axis=1).max(initial=0))
        return scores[:, :found], rows[:, :found]

    def products(
        self, queries: np.ndarray, query_of: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Returns the inner products of pairs of a query and a document.

        Args:
          queries: ``[Q, D]`` vectors.
          query_of: ``[n]`` index into ``queries`` of each pair.
          positions: ``[n]`` position of the document among all documents; outside, it gives 0.
        """
        products = np.zeros(len(positions), np.float32)
        own = np.flatnonzero((positions >= self.share.start) & (positions < self.share.stop))
        for start in range(0, len(own), _AT_ONCE):
            part = own[start : start + _AT_ONCE]
            vectors = self.vectors[positions[part] - self.share.start]
            products[part] = np.einsum("nd,nd->n", queries[query_of[part]], vectors)
        if jax.process_count() > 1:  # shares give 0 for documents that they do not hold
            products = np.asarray(multihost_utils.process_allgather(products)).sum(0)
        return products

    def mean_cosine(self) -> float:
        """Returns the mean cosine of two different documents; NaN for a single one.

        Example:
          >>> vectors = np.array([[1, 0], [0, 1], [-1, 0]])
          >>> round(DocumentVectors(vectors, range(3)).mean_cosine(), 2)
          -0.33
        """
        total = self.vectors.sum(0, dtype=np.float64)
        n = len(self.vectors)
        if jax.process_count() > 1:
            every: Any = multihost_utils.process_allgather((np.float32(total), np.int32(n)))
            total, n = every[0].sum(0, dtype=np.float64), int(every[1].sum())
        return float((total @ total - n) / (n * (n - 1))) if n > 1 else float("nan")

    def is_finite(self) -> bool:
        """Returns whether all numbers of all shares are finite."""
        parts = range(0, len(self.vectors), _AT_ONCE)
        return all_true(all(np.isfinite(self.vectors[at : at + _AT_ONCE]).all() for at in parts))

    def remove(self) -> None:
        """Deletes the file of the vectors, if they have one."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def share_of(count: int) -> range:
    """Returns this process's range of ``count`` documents."""
    index, processes = jax.process_index(), jax.process_count()
    return range(count * index // processes, count * (index + 1) // processes)


class DocumentTexts(NamedTuple):
    """Describes documents to encode.

    Attributes:
      encode: the encoder.
      params: its parameters, from `TableEncoder.on_devices`.
      tokens: tokens of the collection's documents.
      rows: ``[N]`` rows of the documents to encode.
      limit: tokens that each text is truncated to.
      label: label of the progress bar.
    """

    encode: TableEncoder
    params: Params
    tokens: TokenTable
    rows: np.ndarray
    limit: int
    label: str

    @property
    def share(self) -> range:
        """Returns the range of positions in ``rows`` that this process encodes."""
        return share_of(len(self.rows))

    def parts(self, done: int = 0) -> Iterator[np.ndarray]:
        """Yields the vectors of this process's share after the first ``done``, part by part."""
        own = self.rows[self.share.start : self.share.stop]
        shown = self.label if jax.process_index() == 0 else ""
        with Progress(shown, len(own), unit="texts", start=done) as bar:
            for start in range(done, len(own), _AT_ONCE):
                texts = self.tokens.take(own[start : start + _AT_ONCE])
                yield self.encode.share(self.params, texts, limit=self.limit, progress=bar)


def encode_documents(texts: DocumentTexts, *, folder: Path) -> DocumentVectors:
    """Encodes documents, a share on each process.

    Args:
      texts: the documents.
      folder: folder of the cache, for vectors that do not fit in memory.

    Raises:
      InputError: the folder cannot be written, or has too little space.
    """

    def make() -> DocumentVectors:
        shape = len(texts.share), texts.encode.dimensions
        bytes_ = 4 * shape[0] * shape[1]
        if bytes_ <= _IN_MEMORY:
            vectors = np.empty(shape, np.float32)
        else:
            _make_folder(folder)
            io.check_room(folder, bytes_, "vectors of documents")
            with tempfile.TemporaryFile(dir=folder) as file:  # has no name, so nothing is left over
                vectors = np.memmap(file, np.float32, "w+", shape=shape)
        done = 0
        for part in texts.parts():
            vectors[done : done + len(part)] = part
            done += len(part)
        return DocumentVectors(vectors, texts.share)

    return all_succeed(make)


@contextmanager
def documents_in_file(
    texts: DocumentTexts, *, folder: Path, name: str
) -> Generator[DocumentVectors]:
    """Encodes documents to a file, and deletes it at the end of the block.

    An interrupted encoding is continued. If another run is writing the same file, this one encodes
    the documents without a file.

    Args:
      texts: the documents.
      folder: folder of the cache.
      name: name that identifies the vectors.

    Raises:
      InputError: as for `encode_documents`.
    """
    path = folder / f"{name}.{jax.process_index()}-of-{jax.process_count()}.npy"
    rows, dimensions = len(texts.share), texts.encode.dimensions

    def make() -> DocumentVectors:
        if not path.is_file():
            file = VectorFile(path, rows=rows, dimensions=dimensions, of=name)
            for part in texts.parts(file.done):
                file.add(part)
            file.finish()
        return DocumentVectors(np.load(path, mmap_mode="r"), texts.share, path)

    with ExitStack() as held:

        def claim() -> bool:
            _make_folder(folder)
            try:
                held.enter_context(lock(path.with_name(f".{path.name}.lock"), str(path)))
            except InputError:  # another run writes the file
                return False
            return bool(rows)  # a file of no rows cannot be memory-mapped

        if all_true(all_succeed(claim)):
            found = all_succeed(make)
        else:
            found = encode_documents(texts, folder=folder)
        yield found
        found.remove()


def _make_folder(folder: Path) -> None:
    with io.explained(folder, "vectors of documents", "free some space"):
        folder.mkdir(parents=True, exist_ok=True)
