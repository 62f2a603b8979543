"""Opens and tokenizes a run's collection, and rejects faulty data."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.data.collection import Source
from selfdistill_jax.data.negatives import KnownPositives
from selfdistill_jax.data.store import Collection, Examples, open_collection
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.data.tokens import TokenCache, TokenTable, first_copies
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.encode_corpus import open_tokenizer
from selfdistill_jax.train.processes import is_first


class DataSettings(NamedTuple):
    """Holds the data settings of a run.

    Attributes:
      source: the collection.
      cache: the folder of tables, tokens, negatives and vectors.
      negatives, candidates, mined_ceiling: see ``config.data``.
      query_length, document_length: tokens that texts are truncated to in training.
      negatives_per_query: K; missing ones are drawn.
      batch_size: examples per update, over all devices.
      micro_batches: number of parts of a device's rows.
      seed: seed of the order of triplets and of drawn negatives.
      dropout: whether texts get seeds for dropout.
      frozen_documents: whether documents keep the start encoder's vectors.
      needs_teacher: whether every triplet needs teacher scores.
      dtype: name of the type of matrix products, which mined negatives and vectors depend on.
      weights, mix: see `order_of_examples`.
    """

    source: Source
    cache: Path
    negatives: str
    candidates: int
    negatives_per_query: int
    mined_ceiling: float
    query_length: int
    document_length: int
    batch_size: int
    micro_batches: int
    seed: int
    dropout: bool
    frozen_documents: bool
    needs_teacher: bool
    dtype: str
    weights: tuple[float, ...] = ()
    mix: str = "examples"


class Tokens(NamedTuple):
    """Holds an opened collection and its tokens.

    Attributes:
      collection: texts and judgements.
      tokenizer: the tokenizer of the run's encoder.
      queries, documents: tokens of all queries and documents of the collection.
    """

    collection: Collection
    tokenizer: Tokenizer
    queries: TokenTable
    documents: TokenTable


class TokenizedCollection(NamedTuple):
    """Holds a run's collection, its tokens and its training examples.

    Attributes:
      collection, tokenizer, queries, documents: see `Tokens`.
      examples: the training examples.
      known: documents that must not become negatives: positives of triplets and of train's
        judgements, and each query's document of the same id, if the corpus holds the queries.
      contradictions: number of given negatives that were left out because they are known.
    """

    collection: Collection
    tokenizer: Tokenizer
    queries: TokenTable
    documents: TokenTable
    examples: Examples
    known: KnownPositives
    contradictions: int


def open_tokenized(settings: DataSettings, encoder: Pretrained) -> TokenizedCollection:
    """Returns a run's collection and tokens, built in the cache unless they are there.

    Args:
      settings: the run's data settings.
      encoder: the encoder whose tokenizer and prompts produce the tokens.

    Raises:
      InputError: the data are faulty, or there is nothing to train on.
    """
    tokenizer = open_tokenizer(encoder)
    for kind, limit in (("query", settings.query_length), ("document", settings.document_length)):
        prompt = encoder.prompts.of(kind)
        (edges,) = tokenizer.encode([""], limit=encoder.config.max_positions, prompt=prompt)
        if len(edges) >= limit:
            raise InputError(
                f"config.data.{kind}_length is {limit}, but the prompt {prompt!r} alone takes "
                f"{len(edges)} tokens; raise the length, so that it has room for the {kind}"
            )
    tokens = tokenize(settings.source, settings.cache, encoder, tokenizer)
    collection, examples = tokens.collection, tokens.collection.examples()
    count = len(examples)
    if not count:
        raise InputError(
            f"{collection.name}: nothing to train on; add qrels/train.tsv to the folder, or give "
            "--config.data.triplets"
        )
    if count < settings.batch_size:
        raise InputError(
            f"{collection.name}: {count} training triplets are fewer than one batch of "
            f"{settings.batch_size}; lower config.train.batch_size, or give more triplets"
        )
    known = _known(collection, examples, tokens.documents, settings)
    examples, contradictions = _without_known(collection, examples, known)
    if settings.needs_teacher:
        _check_teacher(collection.name, examples, settings.negatives_per_query)
    return TokenizedCollection(*tokens, examples, known, contradictions)


def tokenize(source: Source, cache: Path, encoder: Pretrained, tokenizer: Tokenizer) -> Tokens:
    """Returns a collection and its tokens, built in the cache unless they are there.

    Args:
      source: the collection.
      cache: the cache folder.
      encoder: the encoder, whose prompts are put before the texts.
      tokenizer: its tokenizer.
    """
    collection = open_collection(source, cache)
    queries, documents = token_caches(collection, cache, encoder, tokenizer)
    return Tokens(collection, tokenizer, queries.open(), documents.open())


def token_caches(
    collection: Collection, cache: Path, encoder: Pretrained, tokenizer: Tokenizer
) -> tuple[TokenCache, TokenCache]:
    """Returns the caches of the tokens of a collection's queries and documents."""
    queries, documents = (
        TokenCache(
            cache / "tokens" / f"{collection.folder.name}-{table}",
            tokenizer,
            texts,
            limit=encoder.config.max_positions,
            prompt=encoder.prompts.of(kind),
            progress=f"Tokens, {table}" if is_first() else "",
        )
        for kind, table, texts in (
            ("query", "queries", collection.queries),
            ("document", "documents", collection.documents),
        )
    )
    return queries, documents


def _known(
    collection: Collection, examples: Examples, documents: TokenTable, settings: DataSettings
) -> KnownPositives:
    judged = [
        j[:2]
        for j in collection.judgements("train")
        if j.relevance > 0 and not isinstance(j.document, str)
    ]
    given = np.stack([examples.query, examples.positive], axis=1)
    pairs = np.concatenate([given, np.array(judged, np.int32).reshape(-1, 2)])
    copies = first_copies(documents, limit=settings.document_length)
    options = collection.training_pool, settings.negatives_per_query, copies
    known = KnownPositives(*pairs.T, *options)
    own = collection.own_documents
    # If any positive has its query's id, equal ids mean nothing: see `count_own_relevant`.
    if len(own) and not known.contains(*own.T).any():
        known = KnownPositives(*np.concatenate([pairs, own]).T, *options)
    return known


def _without_known(
    collection: Collection, examples: Examples, known: KnownPositives
) -> tuple[Examples, int]:
    """Removes given negatives that are known positives of their query, and counts them."""
    given = examples.negatives >= 0
    rows = np.where(given, examples.negatives, 0)
    wrong = given & known.contains(np.broadcast_to(examples.query[:, None], rows.shape), rows)
    count = int(wrong.sum())
    if not count:
        return examples, 0
    row, column = np.argwhere(wrong)[0]
    LOG.warning(
        "%s: %s of %s given negatives are known positives of their query, or copies of one, and "
        "are left out (first: query %r, document %r)",
        collection.name, f"{count:,}", f"{int(given.sum()):,}",
        collection.query_ids[examples.query[row]], collection.all_document_ids[rows[row, column]],
    )  # fmt: skip
    negatives = np.where(wrong, -1, examples.negatives)
    order = np.argsort(negatives < 0, axis=1, kind="stable")  # -1 follows the last
    scores = np.where(wrong, np.nan, examples.scores[:, 1:])
    scores = np.concatenate(
        [examples.scores[:, :1], np.take_along_axis(scores, order, axis=1)], axis=1
    ).astype(examples.scores.dtype)
    negatives = np.take_along_axis(negatives, order, axis=1)
    return dataclasses.replace(examples, negatives=negatives, scores=scores), count


def _check_teacher(collection: str, examples: Examples, count: int) -> None:
    few = (examples.negatives >= 0).sum(axis=1) < count
    if few.any() and count > 1:
        raise InputError(
            f"{collection}: {few.sum():,} of {len(few):,} training triplets have fewer than "
            f"{count} negatives, and a drawn negative has no teacher score, which config.loss.name "
            "needs; lower config.data.negatives_per_query, or remove these rows"
        )
    given = (examples.negatives >= 0) & np.isfinite(examples.scores[:, 1:])
    # A step may draw any of the given negatives, so each of them needs a score.
    scored = np.isfinite(examples.scores[:, 0]) & (given.sum(axis=1) >= count)
    scored &= (given == (examples.negatives >= 0)).all(axis=1)
    if not scored.all():
        raise InputError(
            f"{collection}: {np.sum(~scored):,} of {len(scored):,} training triplets have no "
            "teacher scores, which config.loss.name needs; give --config.data.triplets a "
            "JSONL file with negative, positive_score and negative_score in every row (or, with "
            "several negatives for a query, negatives and negative_scores)"
        )
