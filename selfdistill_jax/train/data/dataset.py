"""Builds the batches of a run."""

from functools import partial
from typing import Any

import jax

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.data.batches import TrainingBatches
from selfdistill_jax.data.packing import block_limit
from selfdistill_jax.data.store import Collection, open_collection
from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.encode_corpus import on_accelerator, open_tokenizer
from selfdistill_jax.train.data.hard_negatives import find_candidates
from selfdistill_jax.train.data.start_vectors import StartVectors
from selfdistill_jax.train.data.tokenized_collection import (
    DataSettings,
    TokenizedCollection,
    open_tokenized,
    token_caches,
)
from selfdistill_jax.train.model import Model
from selfdistill_jax.train.processes import all_equal, all_succeed, first_then_rest


def load_data(
    settings: DataSettings, model: Model
) -> tuple[TokenizedCollection, TrainingBatches, StartVectors]:
    """Returns a run's collection, the batches of this process, and the start encoder's vectors.

    Args:
      settings: the run's data settings.
      model: the start encoder.

    Raises:
      InputError: the data are faulty, there is nothing to train on, or the processes read
        different data.
    """
    if jax.process_count() > 1:
        collection = first_then_rest(partial(open_collection, settings.source, settings.cache))
        all_succeed(partial(_make_tokens, settings, model.pretrained, collection))
    tables = first_then_rest(partial(open_tokenized, settings, model.pretrained))
    read = tables.collection.fingerprint, tables.tokenizer.fingerprint
    if not all_equal(repr(read).encode()):
        raise InputError(
            f"{tables.collection.name}: the processes read different texts, or have different "
            "tokenizers; give all machines the same files and the same package versions"
        )
    start_vectors = StartVectors(model, tables, cache=settings.cache, dtype=settings.dtype)
    options = batch_options(settings, devices=jax.device_count(), accelerator=on_accelerator())
    share = options["parts"] // jax.process_count()
    batches = TrainingBatches(
        tables.queries,
        tables.documents,
        tables.examples,
        known=tables.known,
        pool=tables.collection.training_pool,
        candidates=find_candidates(settings, tables, model, start_vectors),
        local_parts=slice(jax.process_index() * share, (jax.process_index() + 1) * share),
        vectors=start_vectors.all("Documents") if settings.frozen_documents else None,
        **options,
    )
    return tables, batches, start_vectors


def _make_tokens(settings: DataSettings, encoder: Pretrained, collection: Collection) -> None:
    """Makes this process's share of the tokens, for all processes if they share a cache."""
    tokenizer = open_tokenizer(encoder)
    for cache in token_caches(collection, settings.cache, encoder, tokenizer):
        cache.make_share(jax.process_index(), jax.process_count())


def batch_options(settings: DataSettings, *, devices: int, accelerator: bool) -> dict[str, Any]:
    """Returns the arguments of `TrainingBatches` that depend only on the settings and devices.

    Args:
      settings: the run's data settings.
      devices: number of devices of all processes.
      accelerator: whether the devices are accelerators, see `on_accelerator`.
    """
    return {
        "negatives": settings.negatives_per_query,
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "query_length": settings.query_length,
        "document_length": settings.document_length,
        "parts": devices * settings.micro_batches,
        "block": block_limit(accelerator=accelerator),
        "single_block": accelerator,
        "dropout": settings.dropout,
        "weights": settings.weights,
        "mix": settings.mix,
    }
