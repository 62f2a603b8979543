"""Caches the start encoder's vectors of all documents, so that no later run encodes them again."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from selfdistill_jax.checkpoints.model_folder import fingerprint
from selfdistill_jax.data.cache import load_array, save_array
from selfdistill_jax.errors import InputError
from selfdistill_jax.train.data.tokenized_collection import TokenizedCollection, Tokens
from selfdistill_jax.train.model import Model
from selfdistill_jax.train.processes import all_succeed, all_true, on_first

_VERSION = 1
_MOST_BYTES = 2**30  # 700,000 documents of 384 dimensions


class StartVectors:
    """Returns vectors of a collection's documents by the start encoder.

    Vectors are cached when all documents are encoded at once. For a subset, they are read from that
    cache, or encoded if there is none.

    Args:
      model: the start encoder.
      tokens: the collection.
      cache: the cache folder.
      dtype: name of the type of matrix products.
      most_bytes: larger tables are not cached; None caches any.
    """

    def __init__(
        self,
        model: Model,
        tokens: Tokens | TokenizedCollection,
        *,
        cache: Path,
        dtype: str,
        most_bytes: int | None = _MOST_BYTES,
    ):
        start = model.pretrained
        facts = (
            _VERSION,
            fingerprint(start, start.prompts, tokens.tokenizer.fingerprint),
            start.max_length,
            dtype,
            jax.default_backend(),
        )
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        self._folder = cache / "vectors" / f"{tokens.collection.folder.name}-{digest}"
        self._count = tokens.collection.num_documents
        size = 4 * self._count * start.dimensions
        self._cached = most_bytes is None or size <= most_bytes

    def __call__(self, rows: np.ndarray, encode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Returns vectors of documents.

        Args:
          rows: ``[n]`` row numbers of the documents, in ascending order.
          encode: returns the vectors of given rows, the same on all processes.

        Returns:
          ``[n, D]`` float32.

        Raises:
          InputError: the cached vectors are damaged.
        """
        if self._cached and all_true(self._folder.is_dir()):
            every = all_succeed(lambda: load_array(self._folder))
            if len(every) != self._count:
                raise InputError(
                    f"{self._folder}: holds {len(every):,} vectors for {self._count:,} documents; "
                    "delete the folder; the next run builds it again"
                )
            # All of them stay in the file, from which pages are read as needed.
            return every if len(rows) == self._count else np.asarray(every[rows])
        vectors = encode(rows)
        if self._cached and len(rows) == self._count:
            on_first(lambda: save_array(self._folder, vectors))
        return vectors
