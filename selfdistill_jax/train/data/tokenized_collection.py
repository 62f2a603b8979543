"""Opens and tokenizes the collection of a run, and refuses faulty data."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.data.collection import Source
from selfdistill_jax.data.negatives import KnownPositives
from selfdistill_jax.data.store import Collection, Examples, open_collection
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.data.tokens import TokenTable, cached_tokens
from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.encode_corpus import open_tokenizer
from selfdistill_jax.train.processes import is_first


class DataSettings(NamedTuple):
    """What a run is trained on.

    Attributes:
      source: the collection.
      cache: the folder of tables, tokens and negatives.
      negatives, candidates, mined_ceiling: see ``config.data``.
      query_length, document_length: tokens that texts are cut at in training.
      negatives_per_query: K; those that an example does not bring are drawn.
      batch_size: examples of an update, over all devices.
      micro_batches: parts of a device's rows.
      seed: of the order of triplets and of drawn negatives.
      dropout: whether texts get seeds of what is dropped of them.
      needs_teacher: whether every triplet must bring a teacher's scores.
      dtype: name of the type of matrix products, which mined negatives depend on.
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
    needs_teacher: bool
    dtype: str


class TokenizedCollection(NamedTuple):
    """A collection, opened, and its tokens.

    Attributes:
      collection: texts and judgements.
      tokenizer: of the run's encoder.
      queries, documents: tokens of all of the collection's.
      examples: what is trained on.
      known: documents that must not become negatives: positives of triplets and of train's
        judgements, and each query's document of the same id, if the corpus holds the queries.
    """

    collection: Collection
    tokenizer: Tokenizer
    queries: TokenTable
    documents: TokenTable
    examples: Examples
    known: KnownPositives


def open_tokenized(settings: DataSettings, encoder: Pretrained) -> TokenizedCollection:
    """Builds or opens tables and tokens in the cache.

    Args:
      settings: what to open.
      encoder: its tokenizer and prompts make the tokens.

    Raises:
      InputError: something is wrong with the data, or there is nothing to train on.
    """
    collection = open_collection(settings.source, settings.cache)
    tokenizer = open_tokenizer(encoder)
    for kind, limit in (("query", settings.query_length), ("document", settings.document_length)):
        prompt = encoder.prompts.of(kind)
        (tokens,) = tokenizer.encode([""], limit=encoder.config.max_positions, prompt=prompt)
        if len(tokens) >= limit:
            raise InputError(
                f"config.data.{kind}_length is {limit}, and the prompt {prompt!r} takes "
                f"{len(tokens)} of it; nothing of a {kind} would be left"
            )
    queries, documents = (
        cached_tokens(
            settings.cache / "tokens" / f"{collection.folder.name}-{table}",
            tokenizer,
            texts,
            limit=encoder.config.max_positions,
            prompt=encoder.prompts.of(kind),
            total=total,
            progress=f"Tokens, {table}" if is_first() else "",
        )
        for kind, table, texts, total in (
            ("query", "queries", collection.query_texts, len(collection.query_ids)),
            (
                "document",
                "documents",
                collection.document_contents,
                collection.num_documents,
            ),
        )
    )
    examples = collection.examples()
    count = len(examples)
    if not count:
        raise InputError(
            f"{collection.name}: nothing to train on; add qrels/train.tsv to the folder, or give "
            "--config.data.triplets"
        )
    if settings.needs_teacher:
        _check_teacher(collection.name, examples, settings.negatives_per_query)
    if count < settings.batch_size:
        raise InputError(
            f"{collection.name}: {count} training triplets, fewer than one batch of "
            f"{settings.batch_size} (config.train.batch_size)"
        )
    return TokenizedCollection(
        collection,
        tokenizer,
        queries,
        documents,
        examples,
        _known(collection, examples, settings.negatives_per_query),
    )


def _known(collection: Collection, examples: Examples, count: int) -> KnownPositives:
    judged = [
        j[:2]
        for j in collection.judgements("train")
        if j.relevance > 0 and not isinstance(j.document, str)
    ]
    given = np.stack([examples.query, examples.positive], axis=1)
    pairs = np.concatenate([given, np.array(judged, np.int32).reshape(-1, 2)])
    known = KnownPositives(*pairs.T, collection.training_pool, count)
    own = collection.own_documents
    # As `count_own_relevant` says: one positive of its query's id, and equal ids mean nothing.
    if len(own) and not known.contains(*own.T).any():
        known = KnownPositives(*np.concatenate([pairs, own]).T, collection.training_pool, count)
    return known


def _check_teacher(collection: str, examples: Examples, count: int) -> None:
    given = (examples.negatives >= 0) & np.isfinite(examples.scores[:, 1:])
    # Unscored ones may not stand among those that a step chooses from.
    scored = np.isfinite(examples.scores[:, 0]) & (given.sum(axis=1) >= count)
    scored &= (given == (examples.negatives >= 0)).all(axis=1)
    if not scored.all():
        raise InputError(
            f"{collection}: {np.sum(~scored):,} of {len(scored):,} training triplets have no "
            "teacher's scores, which config.loss.name learns from; give --config.data.triplets a "
            "JSONL file with negative, positive_score and negative_score in every row (or, with "
            "several negatives for a query, negatives and negative_scores)"
        )
