"""Evaluation within a run: one split's queries against the collection, with the run's encoder."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from selfdistill_jax.data.store import Collection
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.evaluation import ScoredRun, bm25_run, dense_run, score
from selfdistill_jax.retrieval.trec import Qrels, count_own_relevant

EncodeTable = Callable[[TokenTable, str], np.ndarray]


class EvalSet(NamedTuple):
    """The queries and documents of an evaluation, as row numbers of the collection and as ids.

    Attributes:
      query_rows, document_rows: their rows.
      query_ids, document_ids: their ids.
      qrels: all judgements, also of documents that are not searched.
      drop_own: whether a query's document of the same id is no result.
    """

    query_rows: np.ndarray
    document_rows: np.ndarray
    query_ids: list[str]
    document_ids: list[str]
    qrels: Qrels
    drop_own: bool


def make_eval_set(
    collection: Collection, split: str, *, max_documents: int = 0, seed: int = 0
) -> EvalSet:
    """Chooses the judged queries of a split and the documents that are searched for them.

    Args:
      collection: the collection.
      split: one of its splits.
      max_documents: all judged documents and others drawn by ``seed``, up to this number; 0
        means all.
      seed: of that draw, the same through a run and its resumptions.
    """
    judgements = collection.judgements(split)
    queries = np.unique([j.query for j in judgements])
    documents = np.arange(len(collection.document_ids))
    if 0 < max_documents < len(documents):
        judged = [j.document for j in judgements if not isinstance(j.document, str)]
        judged = np.unique(np.array(judged, int))
        others = np.setdiff1d(documents, judged)
        count = max(max_documents - len(judged), 0)
        drawn = np.random.default_rng(seed).choice(others, min(count, len(others)), replace=False)
        documents = np.sort(np.concatenate([judged, drawn]))
    qrels = collection.qrels(split)
    return EvalSet(
        queries,
        documents,
        [collection.query_ids[r] for r in queries],
        [collection.document_ids[r] for r in documents],
        qrels,
        _drops_own(f"{collection.name}, {split}", collection, queries, qrels),
    )


def _drops_own(label: str, collection: Collection, queries: np.ndarray, qrels: Qrels) -> bool:
    """Decides whether queries may find the document of their own id, and logs the decision."""
    own = int(np.isin(collection.own_documents[:, 0], queries).sum())
    if not own:
        return False
    relevant = count_own_relevant(qrels)
    found = f"{label}: {own:,} of {len(queries):,} queries have a document of the same id"
    if not relevant:
        LOG.info("%s; it is left out of their results, as in BEIR", found)
        return True
    if relevant < own:  # where every one is relevant, as in pydocs, there is nothing to doubt
        LOG.info(
            "%s, which is judged relevant for %s; it is kept in the results of all",
            found, f"{relevant:,}",
        )  # fmt: skip
    return False


def evaluate_encoder(
    eval_set: EvalSet,
    encode_table: EncodeTable,
    *,
    queries: TokenTable,
    documents: TokenTable,
    k: int,
    label: str,
) -> ScoredRun:
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
        encode_table(queries.take(eval_set.query_rows), f"{label}: queries"),
        encode_table(documents.take(eval_set.document_rows), f"{label}: documents"),
        query_ids=eval_set.query_ids,
        document_ids=eval_set.document_ids,
        k=k,
        drop_own=eval_set.drop_own,
    )
    return score(eval_set.qrels, run)


def evaluate_bm25(eval_set: EvalSet, collection: Collection, *, k: int) -> ScoredRun:
    """The lexical baseline on the same queries and documents."""
    queries, documents = list(collection.query_texts()), list(collection.document_contents())
    run = bm25_run(
        [queries[r] for r in eval_set.query_rows],
        [documents[r] for r in eval_set.document_rows],
        query_ids=eval_set.query_ids,
        document_ids=eval_set.document_ids,
        k=k,
        drop_own=eval_set.drop_own,
    )
    return score(eval_set.qrels, run)
