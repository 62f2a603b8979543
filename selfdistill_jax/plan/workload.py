"""Assembles the parts of a run for a machine: settings, encoder, lengths of texts."""

from typing import Any, NamedTuple

import numpy as np

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.data.negatives import KnownPositives
from selfdistill_jax.data.store import Examples
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.plan.machines import Machine
from selfdistill_jax.train.data.tokenized_collection import DataSettings, open_tokenized
from selfdistill_jax.train.job import Job, make_job
from selfdistill_jax.train.model import Model

_SPREAD = 0.5  # standard deviation of the logarithm of random lengths
_LEAST = 10_000  # minimum number of queries of random lengths
_TOKEN = 5  # compiled programs do not depend on the token ids, so all texts repeat this one


class Texts(NamedTuple):
    """Holds the texts and training examples for a run's batches.

    Attributes:
      queries, documents: tokens of all texts, not truncated.
      examples: the training examples.
      known: see `TrainingBatches`.
      pool: document rows that random negatives are drawn from.
    """

    queries: TokenTable
    documents: TokenTable
    examples: Examples
    known: KnownPositives
    pool: range


def collection_texts(settings: DataSettings, encoder: Pretrained) -> Texts:
    """Returns the texts of a run's collection.

    Raises:
      InputError: the data are faulty, or there is nothing to train on.
    """
    found = open_tokenized(settings, encoder)
    pool = found.collection.training_pool
    return Texts(found.queries, found.documents, found.examples, found.known, pool)


def drawn_texts(settings: DataSettings, *, query: float, document: float) -> Texts:
    """Returns texts of random lengths with the given means.

    Args:
      settings: the run's data settings.
      query, document: mean number of tokens of queries and documents, prompts included.
    """
    rng = np.random.default_rng(0)
    count = max(2 * settings.batch_size, _LEAST)

    def table(rows: int, mean: float) -> TokenTable:
        drawn = rng.lognormal(np.log(mean) - _SPREAD**2 / 2, _SPREAD, rows)
        offsets = np.concatenate([[0], np.cumsum(np.maximum(np.rint(drawn), 3))]).astype(np.int64)
        return TokenTable(np.full(offsets[-1], _TOKEN, np.int32), offsets)

    queries, documents = table(count, query), table(2 * count, document)
    rows, pool = np.arange(count, dtype=np.int32), range(2 * count)
    size = settings.negatives_per_query
    examples = Examples(
        rows, rows, np.full((count, size), -1, np.int32), np.zeros((count, 1 + size), np.float32)
    )
    return Texts(queries, documents, examples, KnownPositives(rows, rows, pool, size), pool)


class Plan(NamedTuple):
    """Holds a run's parts for a machine.

    Attributes:
      job: the run's parts, with the machine's devices.
      model: its encoder.
      texts: its texts.
    """

    job: Job
    model: Model
    texts: Texts


def make_plan(
    config: Any,
    machine: Machine,
    *,
    encoder: Pretrained | None = None,
    lengths: tuple[float, float] | None = None,
    texts: Texts | None = None,
) -> Plan:
    """Checks a config for a machine and returns the run's parts.

    Args:
      config: a config like that of `selfdistill_jax.config`.
      machine: the machine.
      encoder: an encoder to use instead of ``config.encoder.init``.
      lengths: mean tokens of queries and documents, to use instead of the config's collection.
      texts: texts of an earlier plan with the same data settings, to use again.

    Raises:
      InputError: a setting is wrong for this machine, or the data cannot be used.
    """
    job = make_job(config, dtype="bfloat16", devices=machine.devices)
    model = job.load_model(encoder)
    if texts is not None:
        return Plan(job, model, texts)
    if lengths is not None:
        query, document = lengths
        return Plan(job, model, drawn_texts(job.data, query=query, document=document))
    return Plan(job, model, collection_texts(job.data, model.pretrained))
