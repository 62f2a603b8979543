"""Writes training examples with all their candidate negatives, scored by an encoder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from selfdistill_jax.data.collection import SAMPLE_NEGATIVE
from selfdistill_jax.data.negatives import draw
from selfdistill_jax.io import new_file
from selfdistill_jax.retrieval.bi_encoder import BiEncoder
from selfdistill_jax.train.data.tokenized_collection import TokenizedCollection

# Scores are cosines times this factor: the default scale of the losses that learn scores.
SCALE = 20.0
_AT_ONCE = 4_096  # examples


def write_mined(
    path: Path,
    data: TokenizedCollection,
    candidates: np.ndarray | None,
    scorer: BiEncoder,
    *,
    count: int,
    seed: int,
    ids: bool,
) -> int:
    """Writes the training examples as JSONL, and returns their number of negatives.

    Each row has the example's own negatives, then its candidates; if these are too few, random
    documents follow. The scores of all documents are the scorer's cosines times `SCALE`. Texts are
    followed by the held-out pairs, without scores, so that a run with the file holds them out
    again. ``config.data.triplets`` reads the file.

    Args:
      path: the file.
      data: the training examples.
      candidates: ``[n, c]`` from `find_candidates`; None for none.
      scorer: the encoder that scores; texts are cut at its own maximum length.
      count: smallest number of negatives of an example.
      seed: seed of the random ones.
      ids: write ids of queries and documents instead of texts.

    Raises:
      InputError: a vector of the scorer is not finite.
    """
    examples = data.examples
    columns = [examples.negatives] + ([] if candidates is None else [candidates])
    columns.append(np.full((len(examples), count), SAMPLE_NEGATIVE, np.int32))
    negatives = _distinct(np.concatenate(columns, axis=1))
    negatives[:, :count] = draw(
        examples.query,
        negatives[:, :count],
        known=data.known,
        pool=data.collection.training_pool,
        candidates=None,
        seed=(seed, 0),
    )
    rows = np.column_stack([examples.positive, negatives])  # documents, -1 for none
    asked, of_query = np.unique(examples.query, return_inverse=True)
    used = np.unique(rows[rows >= 0])
    queries, documents = data.collection.queries, data.collection.documents
    query_vectors = scorer.encode_query([queries[i] for i in asked], progress="Scores, queries")
    document_vectors = scorer.encode_document(
        [documents[i] for i in used], progress="Scores, documents"
    )
    if ids:
        queries, documents = data.collection.query_ids, data.collection.document_ids
    suffix = "_id" if ids else ""

    def lines() -> Iterator[dict[str, Any]]:
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            at = np.searchsorted(used, np.maximum(rows[part], used[0]))
            q = query_vectors[of_query[part]]
            scores = SCALE * np.einsum("nd,nkd->nk", q, document_vectors[at])
            for query, row, values in zip(examples.query[part], rows[part], scores, strict=True):
                found = row >= 0
                positive, *others = (documents[i] for i in row[found])
                score, *other_scores = (round(float(value), 4) for value in values[found])
                yield {
                    f"query{suffix}": queries[query],
                    f"positive{suffix}": positive,
                    f"negative{suffix}s": others,
                    "positive_score": score,
                    "negative_scores": other_scores,
                }

        # Otherwise dev and test are those of config.data.dataset.
        if not ids and len(data.collection.document_ids) == len(documents):
            for split in ("dev", "test"):
                for query, row, _ in data.collection.judgements(split):
                    assert isinstance(row, int)  # such files have no documents outside the corpus
                    yield {"query": queries[query], "positive": documents[row]}

    with new_file(path) as file:
        for line in lines():
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    return int((negatives >= 0).sum())


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Returns the distinct values of each row in order of their first place, then -1."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    repeats = np.zeros(rows.shape, bool)
    np.put_along_axis(repeats, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    rows = np.where(repeats, -1, rows)
    return np.take_along_axis(rows, np.argsort(rows < 0, axis=1, kind="stable"), axis=1)
