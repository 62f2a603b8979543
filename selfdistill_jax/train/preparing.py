"""What a run needs of its data, made ahead of it, and what it would be trained on."""

import jax
import ml_collections
import numpy as np

from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.data.source import DRAWN
from selfdistill_jax.retrieval.table import format_table
from selfdistill_jax.train.loading import Data, load_data
from selfdistill_jax.train.setup import (
    check_dimensions,
    check_train,
    load_encoder,
    loss_of,
    make_encoders,
    schedule_of,
)

_LOOKED_AT = 10  # batches


def prepare(config: ml_collections.ConfigDict) -> str:
    """Builds or opens what a run of this config reads.

    Args:
      config: as of ``configs/base.py``.

    Returns:
      What it would be trained on, as text.

    Raises:
      InputError: a setting or the data is wrong.
    """
    check_train(config, jax.device_count())
    loss_of(config)
    schedule_of(config)
    encoder = load_encoder(config)
    check_dimensions(config.train.dimensions, encoder.dimensions)
    make_encoders(config, encoder)
    data = load_data(config, encoder)
    return "\n\n".join((_summary(config, data), _texts(config, data), _batches(config, data)))


def _summary(config: ml_collections.ConfigDict, data: Data) -> str:
    collection, negatives = data.collection, data.triplets["negative"]
    drawn = int((negatives == DRAWN).sum())
    judged = {
        split: len({judgement.query for judgement in collection.judgements(split)})
        for split in collection.splits
    }
    lines = (
        f"{collection.name}: {len(negatives):,} training triplets, {len(negatives) - drawn:,} with "
        f"a negative of their own, {drawn:,} for which one is drawn ({config.data.negatives})",
        f"judged queries: {', '.join(f'{s} {n:,}' for s, n in judged.items()) or 'none'}",
        f"kept in {cache_folder(config.data.cache)}",
    )
    return "\n".join(lines)


def _texts(config: ml_collections.ConfigDict, data: Data) -> str:
    rows = []
    for name, table, used, limit in (
        ("queries", data.queries, np.unique(data.triplets["query"]), config.data.query_length),
        (
            "documents",
            data.documents,
            np.array(data.collection.training_pool),
            config.data.document_length,
        ),
    ):
        tokens = table.lengths(np.iinfo(np.int32).max)[used]
        spread = f"{tokens.mean():.0f}", f"{np.quantile(tokens, 0.95):.0f}", int(tokens.max())
        rows.append([name, f"{len(used):,}", *spread, limit, f"{(tokens > limit).mean():.1%}"])
    columns = ("in training", "texts", "mean tokens", "95 %", "longest", "cut at", "of them cut")
    return format_table(rows, columns)


def _batches(config: ml_collections.ConfigDict, data: Data) -> str:
    batches = [data.batches[step] for step in range(min(_LOOKED_AT, config.train.steps))]
    useful = sum(batch.useful_tokens for batch in batches)
    padding = 1 - useful / sum(batch.computed_tokens for batch in batches)
    size, devices = config.train.batch_size, jax.device_count()
    epochs = config.train.steps * size / len(data.triplets["query"])
    return (
        f"{config.train.steps:,} steps of {size:,} triplets, {epochs:.2f} epochs; a batch has "
        f"{useful / len(batches):,.0f} tokens and {padding:.1%} padding, on {devices} "
        f"{jax.default_backend()} device{'s' * (devices > 1)}"
    )
