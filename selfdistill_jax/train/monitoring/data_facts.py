"""Measures how much of the training texts a run does not see."""

import numpy as np

from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.train.data.tokenized_collection import DataSettings, TokenizedCollection


def data_facts(data: TokenizedCollection, settings: DataSettings) -> dict[str, float | int]:
    """Returns the shares of tokens beyond the training lengths, and counts.

    Args:
      data: the run's collection and examples.
      settings: the run's data settings.

    Returns:
      ``examples``, their number; ``contradictions``, see `TokenizedCollection`; and the shares of
      tokens that are cut off, ``query_tokens_cut`` of training queries and ``document_tokens_cut``
      of documents in the training pool (0 if documents are not trained). Tokens beyond the
      encoder's last position are not known and not counted.
    """
    queries = np.unique(data.examples.query)
    pool = np.array(data.collection.training_pool)
    return {
        "examples": len(data.examples),
        "contradictions": data.contradictions,
        "query_tokens_cut": _cut(data.queries, queries, settings.query_length),
        "document_tokens_cut": 0.0
        if settings.frozen_documents
        else _cut(data.documents, pool, settings.document_length),
    }


def _cut(table: TokenTable, rows: np.ndarray, limit: int) -> float:
    whole, seen = (table.lengths(most)[rows].sum() for most in (np.iinfo(np.int32).max, limit))
    return float(1 - seen / max(whole, 1))
