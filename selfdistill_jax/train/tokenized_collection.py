"""Opens and tokenizes the collection that a config names, and refuses faulty data."""

from typing import NamedTuple

import ml_collections
import numpy as np

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.data.batches import SCORES
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.data.collection import SAMPLE_NEGATIVE, Source
from selfdistill_jax.data.negatives import KnownPositives
from selfdistill_jax.data.sources import open_source
from selfdistill_jax.data.store import Collection, open_collection
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.data.tokens import TokenTable, cached_tokens
from selfdistill_jax.errors import InputError
from selfdistill_jax.losses import LOSSES
from selfdistill_jax.retrieval.encode_corpus import open_tokenizer
from selfdistill_jax.train.processes import is_first
from selfdistill_jax.train.step import FROM_TEACHER, wants


class TokenizedCollection(NamedTuple):
    """A collection, opened, and its tokens.

    Attributes:
      collection: texts and judgements.
      tokenizer: of the run's encoder.
      queries, documents: tokens of all of the collection's.
      triplets: of the collection.
      known: documents that must not become negatives: positives of triplets and of train's
        judgements, and each query's document of the same id, if the corpus holds the queries.
    """

    collection: Collection
    tokenizer: Tokenizer
    queries: TokenTable
    documents: TokenTable
    triplets: dict[str, np.ndarray]
    known: KnownPositives


def open_data(config: ml_collections.ConfigDict) -> Source:
    """The collection that the config names, not yet read.

    Raises:
      InputError: there is none.
    """
    return open_source(dataset=config.data.dataset, triplets=config.data.triplets)


def open_tokenized(config: ml_collections.ConfigDict, encoder: Pretrained) -> TokenizedCollection:
    """Builds or opens tables and tokens in the cache.

    Args:
      config: of the run.
      encoder: whose tokenizer and prompts make the tokens.

    Raises:
      InputError: something is wrong with the data, or there is nothing to train on.
    """
    cache = cache_folder(config.data.cache)
    collection = open_collection(open_data(config), cache)
    tokenizer = open_tokenizer(encoder)
    for kind in ("query", "document"):
        limit = config.data[f"{kind}_length"]
        prompt = encoder.prompts.of(kind)
        (tokens,) = tokenizer.encode([""], limit=encoder.config.max_positions, prompt=prompt)
        if len(tokens) >= limit:
            raise InputError(
                f"config.data.{kind}_length is {limit}, and the prompt {prompt!r} takes "
                f"{len(tokens)} of it; nothing of a {kind} would be left"
            )
    queries, documents = (
        cached_tokens(
            cache / "tokens" / f"{collection.folder.name}-{table}",
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
    triplets = collection.triplets()
    count, size = len(triplets["query"]), config.train.batch_size
    if not count:
        raise InputError(
            f"{collection.name}: nothing to train on; add qrels/train.tsv to the folder, or give "
            "--config.data.triplets"
        )
    if any(wants(LOSSES[config.loss.name], key) for key in FROM_TEACHER):
        _check_teacher(collection.name, config.loss.name, triplets)
    if count < size:
        raise InputError(
            f"{collection.name}: {count} training triplets, fewer than one batch of {size} "
            "(config.train.batch_size)"
        )
    return TokenizedCollection(
        collection, tokenizer, queries, documents, triplets, _known(collection, triplets)
    )


def _known(collection: Collection, triplets: dict[str, np.ndarray]) -> KnownPositives:
    judged = [
        j[:2]
        for j in collection.judgements("train")
        if j.relevance > 0 and not isinstance(j.document, str)
    ]
    given = np.stack([triplets["query"], triplets["positive"]], axis=1)
    pairs = np.concatenate([given, np.array(judged, np.int32).reshape(-1, 2)])
    known = KnownPositives(*pairs.T, collection.training_pool)
    own = collection.own_documents
    # As `count_own_relevant` says: one positive of its query's id, and equal ids mean nothing.
    if len(own) and not known.contains(*own.T).any():
        known = KnownPositives(*np.concatenate([pairs, own]).T, collection.training_pool)
    return known


def _check_teacher(collection: str, loss: str, triplets: dict[str, np.ndarray]) -> None:
    scored = np.isfinite([triplets[name] for name in SCORES]).all(0)
    scored &= triplets["negative"] != SAMPLE_NEGATIVE
    if not scored.all():
        raise InputError(
            f"{collection}: {np.sum(~scored):,} of {len(scored):,} training triplets have no "
            f"teacher's scores, which the loss {loss!r} learns from; give --config.data.triplets a "
            "JSONL file with negative, positive_score and negative_score in every row"
        )
