"""Evaluation of one split: its queries, searched in the collection by an encoder or BM25."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from selfdistill_jax.data.store import Collection
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.evaluation import ScoredRun, Search, bm25_run, dense_run, score
from selfdistill_jax.retrieval.trec import Qrels, count_own_relevant


class EvalSet(NamedTuple):
    """Queries and documents of an evaluation, as row numbers of the collection and as ids.

    Attributes:
      query_rows, document_rows: row numbers of the queries and documents.
      query_ids, document_ids: their ids, in the same order.
      qrels: all judgements, including those of documents that are not searched.
      drop_own: whether a document with the query's own id is left out of its results.
    """

    query_rows: np.ndarray
    document_rows: np.ndarray
    query_ids: list[str]
    document_ids: Sequence[str]
    qrels: Qrels
    drop_own: bool


def make_eval_set(
    collection: Collection, split: str, *, max_documents: int = 0, seed: int = 0
) -> EvalSet:
    """Chooses the judged queries of a split and the documents that are searched for them.

    Args:
      collection: the collection.
      split: one of the collection's splits.
      max_documents: number of documents to search: all judged ones, then randomly drawn others up
        to this number; 0 means all documents.
      seed: seed of that draw, which must not change when a run is resumed.
    """
    judgements = collection.judgements(split)
    queries = np.unique([j.query for j in judgements])
    documents, ids = np.arange(len(collection.document_ids)), collection.document_ids
    if 0 < max_documents < len(documents):
        judged = [j.document for j in judgements if not isinstance(j.document, str)]
        judged = np.unique(np.array(judged, int))
        others = np.setdiff1d(documents, judged)
        count = max(max_documents - len(judged), 0)
        drawn = np.random.default_rng(seed).choice(others, min(count, len(others)), replace=False)
        documents = np.sort(np.concatenate([judged, drawn]))
        ids = list(collection.document_ids.take(documents))
    qrels = collection.qrels(split)
    return EvalSet(
        queries,
        documents,
        list(collection.query_ids.take(queries)),
        ids,
        qrels,
        _drops_own(f"{collection.name}, {split}", collection, queries, qrels),
    )


def _drops_own(label: str, collection: Collection, queries: np.ndarray, qrels: Qrels) -> bool:
    """Decides whether queries may find the document with their own id, and logs the decision."""
    own = int(np.isin(collection.own_documents[:, 0], queries).sum())
    if not own:
        return False
    relevant = count_own_relevant(qrels)
    found = f"{label}: {own:,} of {len(queries):,} queries have a document with the same id"
    if not relevant:
        LOG.info("%s; that document is left out of their results, as in BEIR", found)
        return True
    if relevant < own:  # where all of them are relevant, as in pydocs, the decision is obvious
        LOG.info(
            "%s; it is judged relevant for %s of them, so no query's results leave it out",
            found, f"{relevant:,}",
        )  # fmt: skip
    return False


def evaluate_vectors(
    eval_set: EvalSet, queries: np.ndarray, search: Search, *, k: int
) -> ScoredRun:
    """Searches document vectors, and scores the results.

    Args:
      eval_set: queries, documents and judgements.
      queries: ``[Q, D]`` unit vectors of ``eval_set.query_rows``.
      search: finds vectors of ``eval_set.document_rows``, see `dense_run`.
      k: documents retrieved per query.
    """
    run = dense_run(
        queries,
        search,
        query_ids=eval_set.query_ids,
        document_ids=eval_set.document_ids,
        k=k,
        drop_own=eval_set.drop_own,
    )
    return score(eval_set.qrels, run)


def evaluate_bm25(eval_set: EvalSet, collection: Collection, *, k: int) -> ScoredRun:
    """Scores the lexical baseline, BM25, on the same queries and documents."""
    run = bm25_run(
        list(collection.queries.take(eval_set.query_rows)),
        collection.documents.take(eval_set.document_rows),
        query_ids=eval_set.query_ids,
        document_ids=eval_set.document_ids,
        k=k,
        drop_own=eval_set.drop_own,
    )
    return score(eval_set.qrels, run)
