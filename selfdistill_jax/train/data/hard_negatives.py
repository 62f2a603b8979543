"""Finds hard negatives: documents that a search ranks high for a query, wrongly."""

import hashlib
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from selfdistill_jax.checkpoints.model_folder import fingerprint
from selfdistill_jax.data.cache import load_array, save_array
from selfdistill_jax.data.collection import SAMPLE_NEGATIVE
from selfdistill_jax.data.negatives import top_candidates
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.bm25 import BM25
from selfdistill_jax.train.data.document_vectors import (
    DocumentTexts,
    DocumentVectors,
    documents_in_file,
    share_of,
)
from selfdistill_jax.train.data.start_vectors import StartVectors
from selfdistill_jax.train.data.tokenized_collection import DataSettings, TokenizedCollection
from selfdistill_jax.train.model import Model
from selfdistill_jax.train.processes import (
    all_equal,
    all_succeed,
    all_true,
    broadcast_from_first,
    is_first,
    on_first,
)

_VERSION = 4
_LABEL = "Negatives"


def find_candidates(
    settings: DataSettings,
    tables: TokenizedCollection,
    model: Model,
    start_vectors: StartVectors,
) -> np.ndarray | None:
    """Returns the documents that negatives are drawn from, searched once, then cached.

    Args:
      settings: the kind of search and the number of candidates, among others.
      tables: the collection; its training pool is searched.
      model: the start encoder, which finds mined candidates, from texts truncated as in training.
      start_vectors: its vectors of the documents, which are used if training does not change them.

    Returns:
      ``[n, k]`` as from `top_candidates`, for all triplets; triplets that have enough negatives
      have no candidates. None if negatives are drawn at random, or all triplets have enough.

    Raises:
      InputError: the encoder's vectors are not finite, or the cached candidates are damaged or
        differ between processes.
    """
    kind, k = settings.negatives, settings.candidates
    given = (tables.examples.negatives >= 0).sum(axis=1)
    drawn = np.flatnonzero(given < settings.negatives_per_query)
    if kind == "random" or not len(drawn):
        return None
    facts: list[Any] = [_VERSION, kind, k]
    find = partial(_by_bm25, tables, drawn, k)
    if kind == "mined":
        facts += ["frozen documents"] * settings.frozen_documents
        facts += [settings.mined_ceiling, settings.query_length, settings.document_length]
        start = model.pretrained
        facts += [settings.dtype, fingerprint(start, start.prompts, tables.tokenizer.fingerprint)]
    if len(drawn) < len(given):  # the cached rows depend on the number of negatives
        facts.append(hashlib.sha256(drawn.tobytes()).hexdigest())
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    name = f"{tables.collection.folder.name}-{kind}-{digest}"
    if kind == "mined":
        find = partial(_by_encoder, settings, tables, drawn, model, start_vectors, name)
    folder = settings.cache / "negatives" / name
    if all_true(folder.is_dir()):
        found = all_succeed(lambda: np.array(load_array(folder)))
    else:
        made = find() if kind == "mined" else on_first(find)  # all processes encode together
        # Rounding on another process may order documents of equal scores differently.
        found = broadcast_from_first(made, (len(drawn), k))
        save_array(folder, found)
    if not all_equal(found.tobytes()):
        raise InputError(
            f"{folder}: the processes have different candidates; share one config.data.cache "
            "between them, or delete the folder on each machine"
        )
    if without := int((found < 0).all(1).sum()):
        LOG.info(
            "%s: no candidates found for %s of %s triplets, whose negatives are drawn at random",
            _LABEL, f"{without:,}", f"{len(drawn):,}",
        )  # fmt: skip
    if len(drawn) == len(given):
        return found
    every = np.full((len(given), found.shape[1]), SAMPLE_NEGATIVE, np.int32)
    every[drawn] = found
    return every


def _by_bm25(tables: TokenizedCollection, drawn: np.ndarray, k: int) -> np.ndarray:
    collection = tables.collection
    first = collection.training_pool.start
    pool = np.array(collection.training_pool)
    index = BM25(collection.documents.take(pool))

    def of_queries(rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        scores, found = index.search(list(collection.queries.take(rows)), depth)
        return scores, np.where(found >= 0, found + first, found)

    return top_candidates(
        of_queries,
        tables.examples.query[drawn],
        known=tables.known,
        k=k,
        progress=_LABEL if is_first() else "",
    )


def _by_encoder(
    settings: DataSettings,
    tables: TokenizedCollection,
    drawn: np.ndarray,
    model: Model,
    start_vectors: StartVectors,
    name: str,
) -> np.ndarray:
    pool = tables.collection.training_pool
    queries, positives = tables.examples.query[drawn], tables.examples.positive[drawn]
    params = model.encode_table.on_devices(model.pretrained.params)

    def check(finite: bool) -> None:
        if not finite:
            raise InputError(
                f"config.data.negatives is 'mined', but vectors of {model.name} are not finite; "
                "try config.train.dtype=float32"
            )

    asked = np.unique(queries)
    of_asked = model.encode_table(
        params,
        tables.queries.take(asked),
        limit=settings.query_length,
        progress=f"{_LABEL}, query texts",
    )
    check(all_true(bool(np.isfinite(of_asked).all())))
    with ExitStack() as opened:
        if settings.frozen_documents:
            every, share = start_vectors.all("Documents"), share_of(len(pool))
            own = slice(pool.start + share.start, pool.start + share.stop)
            of_pool = DocumentVectors(every[own], share)
        else:
            texts = DocumentTexts(
                model.encode_table,
                params,
                tables.documents,
                np.array(pool),
                limit=settings.document_length,
                label=f"{_LABEL}, document texts",
            )
            in_file = documents_in_file(texts, folder=settings.cache / "vectors", name=name)
            of_pool = opened.enter_context(in_file)
        finite = of_pool.is_finite()
        if not finite:
            of_pool.remove()  # so that the next run does not read them
        check(finite)

        def of_queries(rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
            scores, found = of_pool.search(of_asked[np.searchsorted(asked, rows)], depth)
            return scores, np.where(found < 0, found, found + pool.start)

        most = None
        if settings.mined_ceiling:
            query_of = np.searchsorted(asked, queries)
            most = of_pool.products(of_asked, query_of, positives - pool.start)
            # Positives may be evaluation's documents, outside the pool.
            outside = np.flatnonzero(positives < pool.start)
            if len(outside):
                front, place = np.unique(positives[outside], return_inverse=True)
                if settings.frozen_documents:
                    of_front = start_vectors.all("Documents")[front]
                else:
                    of_front = model.encode_table(
                        params, tables.documents.take(front), limit=settings.document_length
                    )
                of_query = of_asked[query_of[outside]]
                most[outside] = np.einsum("nd,nd->n", of_query, of_front[place])
            most = np.minimum(most, settings.mined_ceiling * most)  # cosines may be below 0
        return top_candidates(
            of_queries,
            queries,
            known=tables.known,
            k=settings.candidates,
            most=most,
            progress=_LABEL if is_first() else "",
        )
