"""Prepares the data of a run in advance, and summarizes it.

    python -m selfdistill_jax.prepare --config=configs/distributed.py [--config.data.dataset=DIR]

Takes the settings of selfdistill_jax.main, checks them, and writes tables, tokens, hard negatives
and, with config.train.side=query, vectors of documents to the cache, where the run finds them. It
neither trains nor touches a run's folder.
"""

import jax
import numpy as np
from absl import flags

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.cli import config_flag, options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.data.batches import TrainingBatches
from selfdistill_jax.progress import show_log
from selfdistill_jax.retrieval.text_table import format_table
from selfdistill_jax.train.data.dataset import load_data
from selfdistill_jax.train.data.tokenized_collection import TokenizedCollection
from selfdistill_jax.train.job import Job, make_job, split_devices

_LOOKED_AT = 10  # batches, from which tokens and padding are estimated


def main(argv: list[str]) -> None:
    options.refuse_rest(argv)
    show_log()
    config = flags.FLAGS.config
    split_devices(config)
    print(prepare(make_job(config)))


def prepare(job: Job) -> str:
    """Builds or opens the tables, tokens, negatives and fixed vectors that a run reads.

    Args:
      job: job from `make_job`.

    Returns:
      A text summary of the run's training data.

    Raises:
      InputError: a setting or the data is wrong.
    """
    model = job.load_model()
    data, batches, _ = load_data(job.data, model)
    texts = _texts(job, data, model.pretrained)
    parts = _summary(job, data), texts, _batches(job, batches, len(data.examples))
    return "\n\n".join(parts)


def _summary(job: Job, data: TokenizedCollection) -> str:
    collection, count = data.collection, job.data.negatives_per_query
    own = np.minimum((data.examples.negatives >= 0).sum(axis=1), count)
    judged = {
        split: len({judgement.query for judgement in collection.judgements(split)})
        for split in collection.splits
    }
    lines = (
        f"{collection.name}: {len(own):,} training examples with {count} "
        f"negative{'s' * (count != 1)} each: {own.sum():,} given with the data, "
        f"{count * len(own) - own.sum():,} drawn ({job.data.negatives})",
        f"judged queries: {', '.join(f'{s} {n:,}' for s, n in judged.items()) or 'none'}",
        f"cache folder: {job.data.cache}",
    )
    return "\n".join(lines)


def _texts(job: Job, data: TokenizedCollection, encoder: Pretrained) -> str:
    rows = []
    for name, table, used, limit in (
        ("queries", data.queries, np.unique(data.examples.query), job.data.query_length),
        (
            "documents",
            data.documents,
            np.array(data.collection.training_pool),
            encoder.max_length if job.data.frozen_documents else job.data.document_length,
        ),
    ):
        tokens = table.lengths(np.iinfo(np.int32).max)[used]
        spread = f"{tokens.mean():.0f}", f"{np.quantile(tokens, 0.95):.0f}", int(tokens.max())
        rows.append([name, f"{len(used):,}", *spread, limit, f"{(tokens > limit).mean():.1%}"])
    columns = ("in training", "texts", "mean tokens", "95 %", "longest", "limit", "truncated")
    return format_table(rows, columns)


def _batches(job: Job, made: TrainingBatches, examples: int) -> str:
    batches = [made[step] for step in range(min(_LOOKED_AT, job.loop.steps))]
    useful = sum(batch.useful_tokens for batch in batches)
    padding = 1 - useful / sum(batch.computed_tokens for batch in batches)
    size, devices = job.data.batch_size, jax.device_count()
    epochs = job.loop.steps * size / examples
    return (
        f"{job.loop.steps:,} steps of {size:,} triplets, {epochs:.2f} epochs; a batch has "
        f"{useful / len(batches):,.0f} tokens and {padding:.1%} padding, on {devices} "
        f"{jax.default_backend()} device{'s' * (devices > 1)}"
    )


if __name__ == "__main__":
    config_flag.define()
    run_command(main, parse=config_flag.parse)
