"""Encodes documents by the start encoder, and caches the vectors of whole collections."""

import hashlib
from pathlib import Path

import jax
import numpy as np

from selfdistill_jax.checkpoints.model_folder import fingerprint
from selfdistill_jax.data.cache import load_array, move_array, save_array
from selfdistill_jax.errors import InputError
from selfdistill_jax.train.data.document_vectors import (
    DocumentTexts,
    DocumentVectors,
    documents_in_file,
    encode_documents,
    share_of,
)
from selfdistill_jax.train.data.tokenized_collection import TokenizedCollection, Tokens
from selfdistill_jax.train.model import Model
from selfdistill_jax.train.processes import all_equal, all_succeed, all_true, on_first

_VERSION = 1
_MOST_BYTES = 2**30  # larger tables are not cached: 700,000 documents of 384 dimensions


class StartVectors:
    """Returns vectors of a collection's documents by the start encoder.

    Vectors are cached when all documents are encoded at once. For a subset, they are read from that
    cache, or encoded if there is none.

    Args:
      model: the start encoder.
      tokens: the collection.
      cache: the cache folder.
      dtype: name of the type of matrix products.

    Attributes:
      folder: folder of the cache for vectors.
    """

    def __init__(
        self, model: Model, tokens: Tokens | TokenizedCollection, *, cache: Path, dtype: str
    ):
        self._model, self._documents = model, tokens.documents
        start = model.pretrained
        facts = (
            _VERSION,
            fingerprint(start, start.prompts, tokens.tokenizer.fingerprint),
            start.max_length,
            dtype,
            jax.default_backend(),
        )
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        self.folder = cache / "vectors"
        self._folder = self.folder / f"{tokens.collection.folder.name}-{digest}"
        self._count = len(tokens.collection.documents)
        self._small = 4 * self._count * start.dimensions <= _MOST_BYTES
        self._every: np.ndarray | None = None

    def __call__(self, rows: np.ndarray, label: str) -> DocumentVectors:
        """Returns vectors of documents, cut at the start encoder's maximum length.

        Args:
          rows: ``[n]`` row numbers of the documents, in ascending order.
          label: label of the progress bar.

        Raises:
          InputError: the cached vectors are damaged, or a vector is not finite.
        """
        share = share_of(len(rows))
        if self._every is None and self._small and all_true(self._folder.is_dir()):
            self._every = all_succeed(self._read)
        if self._every is not None:
            return DocumentVectors(self._every[rows[share.start : share.stop]], share)
        if self._small and len(rows) == self._count:
            vectors = self._encode(rows, label)
            on_first(lambda: save_array(self._folder, vectors))
            return DocumentVectors(vectors[share.start : share.stop], share)
        found = encode_documents(self._texts(rows, label), folder=self.folder)
        self._check(found.is_finite())
        return found

    def all(self, label: str) -> np.ndarray:
        """Returns the vectors of all documents, ``[N, D]``, and caches them whatever their size.

        Raises:
          InputError: see `__call__`; or the processes have different vectors.
        """
        if self._every is not None:
            return self._every
        if all_true(self._folder.is_dir()):
            every = all_succeed(self._read)
        elif jax.process_count() == 1 and not self._small:
            every = self._encode_to_disk(label)
        else:
            every = self._encode(np.arange(self._count), label)
            on_first(lambda: save_array(self._folder, every))
        # A single process has nothing to compare, and hashing reads the whole file.
        if jax.process_count() > 1 and not all_equal(hashlib.sha256(every.data).digest()):
            raise InputError(
                f"{self._folder}: the processes have different vectors; share one "
                "config.data.cache between them, or delete the folder on each machine"
            )
        self._every = every
        return every

    def _read(self) -> np.ndarray:
        every = load_array(self._folder)
        if len(every) != self._count:
            raise InputError(
                f"{self._folder}: holds {len(every):,} vectors for {self._count:,} documents; "
                "delete the folder; the next run builds it again"
            )
        return every

    def _texts(self, rows: np.ndarray, label: str) -> DocumentTexts:
        encode, start = self._model.encode_table, self._model.pretrained
        params = encode.on_devices(start.params)
        return DocumentTexts(encode, params, self._documents, rows, start.max_length, label)

    def _encode_to_disk(self, label: str) -> np.ndarray:
        texts = self._texts(np.arange(self._count), label)
        with documents_in_file(texts, folder=self.folder, name=self._folder.name) as found:
            finite = found.is_finite()
            if not finite:
                found.remove()  # so that the next run does not read them
            self._check(finite)
            if found.file is None:  # another run writes the same file
                save_array(self._folder, found.vectors)
                return found.vectors
            move_array(self._folder, found.file)
        return self._read()

    def _encode(self, rows: np.ndarray, label: str) -> np.ndarray:
        encode, start = self._model.encode_table, self._model.pretrained
        params, texts = encode.on_devices(start.params), self._documents.take(rows)
        vectors = encode(params, texts, limit=start.max_length, progress=label)
        self._check(bool(np.isfinite(vectors).all()))
        return vectors

    def _check(self, finite: bool) -> None:
        if not finite:
            raise InputError(
                f"vectors of {self._model.name} are not finite; try config.train.dtype=float32"
            )
