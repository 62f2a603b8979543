"""Evaluation within a run: one split's queries against the collection, with the run's encoder."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from selfdistill_jax.data.tables import Collection
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.encode import Params
from selfdistill_jax.encoding import encode_tokens
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


def encode_over_processes(
    encode: Callable, params: Params, tokens: TokenTable, **options: Any
) -> np.ndarray:
    """Every process encodes its share of the rows, and all get all vectors.

    Args:
      encode, params: as of `encode_tokens`.
      tokens: the same on every process.
      **options: of `encode_tokens`.

    Returns:
      ``[rows, D]`` float32 unit vectors in the table's order.
    """
    processes, total = jax.process_count(), len(tokens)
    if processes == 1:
        return encode_tokens(encode, params, tokens, **options)
    mine = tokens.take(np.arange(jax.process_index(), total, processes))
    vectors = encode_tokens(encode, params, mine, **options)
    fill = -(-total // processes) - len(vectors)
    every = multihost_utils.process_allgather(np.pad(vectors, ((0, fill), (0, 0))))
    return np.asarray(every).transpose(1, 0, 2).reshape(-1, vectors.shape[1])[:total]


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
