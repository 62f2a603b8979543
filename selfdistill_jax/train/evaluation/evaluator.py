"""Evaluates parameters during a run, on the devices of all its processes."""

import numpy as np

from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.retrieval.eval_set import EvalSet, evaluate_vectors
from selfdistill_jax.retrieval.evaluation import ScoredRun
from selfdistill_jax.train.data.document_vectors import (
    DocumentTexts,
    DocumentVectors,
    encode_documents,
)
from selfdistill_jax.train.data.start_vectors import StartVectors
from selfdistill_jax.train.data.tokenized_collection import TokenizedCollection, Tokens
from selfdistill_jax.train.model import Model
from selfdistill_jax.train.monitoring.alarm import HINT_LOWER_LR, NotFiniteError
from selfdistill_jax.train.monitoring.throughput import RunStats
from selfdistill_jax.train.processes import all_true

_CHECKED = 64  # queries that show whether an encoder's vectors are finite


class Evaluator:
    """Encodes eval sets of a collection with given parameters, searches, and scores.

    Args:
      model: the run's encoder.
      tokens: the collection.
      depth: documents retrieved for each query.
      start_vectors: the start encoder's vectors of the documents.
      stats: records the seconds spent.
      frozen_documents: whether documents keep the start encoder's vectors.
    """

    def __init__(
        self,
        model: Model,
        tokens: Tokens | TokenizedCollection,
        *,
        depth: int,
        start_vectors: StartVectors,
        stats: RunStats,
        frozen_documents: bool = False,
    ):
        self._model, self._tokens, self._start_vectors = model, tokens, start_vectors
        self._depth, self._stats, self._frozen = depth, stats, frozen_documents

    def __call__(self, eval_set: EvalSet, params: Params, label: str) -> ScoredRun:
        """Evaluates one encoder.

        Args:
          eval_set: queries and documents of the collection.
          params: the encoder's parameters.
          label: label of the progress bars.

        Raises:
          NotFiniteError: the encoder's vectors are not finite.
        """
        return self.score(eval_set, params, self.documents(eval_set, params, label), label)

    def check(self, params: Params, label: str) -> None:
        """Encodes a few queries.

        Raises:
          NotFiniteError: their vectors are not finite.
        """
        rows = np.arange(min(_CHECKED, len(self._tokens.queries)))
        self._encode(self._tokens.queries, rows, params, label)

    def start(
        self, eval_set: EvalSet, label: str, documents: DocumentVectors | None = None
    ) -> ScoredRun:
        """Evaluates the start encoder.

        Args:
          eval_set: queries and documents of the collection.
          label: label of the progress bars.
          documents: vectors from `start_documents`, if the caller has them.
        """
        if documents is None:
            documents = self.start_documents(eval_set, label)
        return self.score(eval_set, self._model.pretrained.params, documents, label)

    def start_documents(self, eval_set: EvalSet, label: str) -> DocumentVectors:
        """Returns the start encoder's vectors of an eval set's documents."""
        with self._stats.timed("evaluation"):
            return self._start_vectors(eval_set.document_rows, f"{label}: documents")

    def documents(self, eval_set: EvalSet, params: Params, label: str) -> DocumentVectors:
        """Returns vectors of an eval set's documents."""
        if self._frozen:
            return self.start_documents(eval_set, label)
        encode = self._model.encode_table
        with self._stats.timed("evaluation"):
            texts = DocumentTexts(
                encode,
                encode.on_devices(params),
                self._tokens.documents,
                eval_set.document_rows,
                limit=self._model.pretrained.max_length,
                label=f"{label}: documents",
            )
            vectors = encode_documents(texts, folder=self._start_vectors.folder)
        self._check(vectors.is_finite(), label)
        return vectors

    def score(
        self, eval_set: EvalSet, params: Params, documents: DocumentVectors, label: str
    ) -> ScoredRun:
        """Evaluates one encoder, given its vectors of the documents."""
        with self._stats.timed("evaluation"):
            queries = self._encode(
                self._tokens.queries, eval_set.query_rows, params, f"{label}: queries"
            )
            return evaluate_vectors(eval_set, queries, documents.search, k=self._depth)

    def _encode(
        self, table: TokenTable, rows: np.ndarray, params: Params, label: str
    ) -> np.ndarray:
        limit, encode = self._model.pretrained.max_length, self._model.encode_table
        vectors = encode(encode.on_devices(params), table.take(rows), limit=limit, progress=label)
        self._check(all_true(bool(np.isfinite(vectors).all())), label)
        return vectors

    def _check(self, finite: bool, label: str) -> None:
        if not finite:
            raise NotFiniteError(f"{label}: vectors are not finite; {HINT_LOWER_LR}")
