"""Evaluation within a run: one split's queries against the collection, with the run's encoder."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from selfdistill_jax.data.tables import Collection
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.retrieval.evaluation import System, bm25_run, dense_run, judge
from selfdistill_jax.retrieval.trec import Qrels

EncodeTable = Callable[[TokenTable, str], np.ndarray]


class EvaluationSet(NamedTuple):
    """What is searched for and in, as row numbers of the collection."""

    query_rows: np.ndarray
    document_rows: np.ndarray
    query_ids: list[str]
    document_ids: list[str]
    qrels: Qrels


def evaluation_set(
    collection: Collection, split: str, *, max_documents: int = 0, seed: int = 0
) -> EvaluationSet:
    """The judged queries of a split, and the documents they are searched in.

    Args:
      collection: the collection.
      split: one of its splits.
      max_documents: all judged documents and others drawn by ``seed`` up to so many; 0 means all.
      seed: of that draw, the same through a run and its resumptions.
    """
    judgements = collection.judgements(split)
    queries = np.unique([j.query for j in judgements])
    documents = np.arange(len(collection.document_ids))
    if 0 < max_documents < len(documents):
        judged = np.unique([j.document for j in judgements])
        others = np.setdiff1d(documents, judged)
        count = max(max_documents - len(judged), 0)
        drawn = np.random.default_rng(seed).choice(others, min(count, len(others)), replace=False)
        documents = np.sort(np.concatenate([judged, drawn]))
    return EvaluationSet(
        queries,
        documents,
        [collection.query_ids[r] for r in queries],
        [collection.document_ids[r] for r in documents],
        collection.qrels(split),
    )


def evaluate_encoder(
    examined: EvaluationSet,
    encode_table: EncodeTable,
    *,
    queries: TokenTable,
    documents: TokenTable,
    k: int,
    label: str,
) -> System:
    """Encodes, searches exactly, scores.

    Args:
      examined: what is searched.
      encode_table: ``(tokens, label) -> [rows, D]`` unit vectors.
      queries: tokens of all queries of the collection.
      documents: tokens of all its documents.
      k: documents retrieved for a query.
      label: for the progress bar.
    """
    run = dense_run(
        encode_table(queries.take(examined.query_rows), f"{label}: queries"),
        encode_table(documents.take(examined.document_rows), f"{label}: documents"),
        query_ids=examined.query_ids,
        document_ids=examined.document_ids,
        k=k,
    )
    return judge(examined.qrels, run)


def evaluate_bm25(examined: EvaluationSet, collection: Collection, *, k: int) -> System:
    """The lexical baseline on the same queries and documents."""
    queries, documents = list(collection.query_texts()), list(collection.document_contents())
    run = bm25_run(
        [queries[r] for r in examined.query_rows],
        [documents[r] for r in examined.document_rows],
        query_ids=examined.query_ids,
        document_ids=examined.document_ids,
        k=k,
    )
    return judge(examined.qrels, run)
