"""Builds the batches of a run."""

from functools import partial
from typing import Any

import jax
import numpy as np

from selfdistill_jax.data.batches import TrainingBatches
from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.encode_corpus import block_tokens, on_accelerator
from selfdistill_jax.train.data.hard_negatives import find_candidates
from selfdistill_jax.train.data.tokenized_collection import (
    DataSettings,
    TokenizedCollection,
    open_tokenized,
)
from selfdistill_jax.train.evaluation.start_vectors import StartVectors
from selfdistill_jax.train.model import Model
from selfdistill_jax.train.processes import all_equal, first_then_rest


def load_data(settings: DataSettings, model: Model) -> tuple[TokenizedCollection, TrainingBatches]:
    """Returns a run's tokenized collection, and the batches of this process.

    Args:
      settings: the run's data settings.
      model: the start encoder.

    Raises:
      InputError: the data are faulty, there is nothing to train on, or the processes read
        different data.
    """
    tables = first_then_rest(partial(open_tokenized, settings, model.pretrained))
    read = tables.collection.fingerprint, tables.tokenizer.fingerprint
    if not all_equal(repr(read).encode()):
        raise InputError(
            f"{tables.collection.name}: the processes read different texts, or have different "
            "tokenizers; give all machines the same files and the same package versions"
        )
    parts = jax.device_count() * settings.micro_batches
    share = parts // jax.process_count()
    batches = TrainingBatches(
        tables.queries,
        tables.documents,
        tables.examples,
        known=tables.known,
        pool=tables.collection.training_pool,
        candidates=find_candidates(settings, tables, model),
        negatives=settings.negatives_per_query,
        seed=settings.seed,
        batch_size=settings.batch_size,
        query_length=settings.query_length,
        document_length=settings.document_length,
        parts=parts,
        local_parts=slice(jax.process_index() * share, (jax.process_index() + 1) * share),
        block=block_tokens(),
        single_block=on_accelerator(),
        dropout=settings.dropout,
        vectors=_start_vectors(settings, tables, model) if settings.frozen_documents else None,
    )
    return tables, batches


def _start_vectors(settings: DataSettings, tables: TokenizedCollection, model: Model) -> np.ndarray:
    """Returns the start encoder's vectors of all documents, ``[N, D]``, cached."""

    def encode(rows: np.ndarray) -> np.ndarray:
        params = model.encode_table.on_devices(model.pretrained.params)
        options: dict[str, Any] = {"limit": model.pretrained.max_length, "progress": "Documents"}
        return model.encode_table(params, tables.documents.take(rows), **options)

    vectors = StartVectors(
        model, tables, cache=settings.cache, dtype=settings.dtype, most_bytes=None
    )
    return vectors(np.arange(tables.collection.num_documents), encode)
