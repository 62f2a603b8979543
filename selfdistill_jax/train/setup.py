"""From a config to everything a run works with; wrong values are found here, before any work."""

import inspect
from collections.abc import Sequence
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from selfdistill_jax.data.batches import SCORES, TrainingBatches
from selfdistill_jax.data.bm25 import BM25
from selfdistill_jax.data.cache import cache_folder
from selfdistill_jax.data.negatives import NEGATIVES, KnownPositives, bm25_candidates
from selfdistill_jax.data.source import DRAWN, Source
from selfdistill_jax.data.sources import open_source
from selfdistill_jax.data.tables import Collection, open_collection
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.data.tokens import TokenTable, cached_tokens
from selfdistill_jax.encoder.attention import ATTENTIONS
from selfdistill_jax.encoder.config import read_dropout
from selfdistill_jax.encoder.dropout import NO_DROPOUT, Dropout
from selfdistill_jax.encoder.encode import Encode, make_encode
from selfdistill_jax.encoder.folder import Encoder, read_folder
from selfdistill_jax.encoder.prefix import check_prefix
from selfdistill_jax.encoder.stack import REMATS
from selfdistill_jax.encoding import block_tokens, merges
from selfdistill_jax.errors import InputError, nearest
from selfdistill_jax.losses import LOSSES, matryoshka
from selfdistill_jax.train.adapter import ADAPTERS, check_adapter
from selfdistill_jax.train.processes import first_then_others
from selfdistill_jax.train.step import FROM_TEACHER, Loss, wants

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Whose document vectors make a loss's targets: the encoder's own, these as constants, those of an
# exponential moving average of it, those of the encoder it started from.
TARGETS = ("model", "detached", "ema", "start")
TARGET_ENCODERS = TARGETS[2:]  # another than the one that is trained
DROPOUTS = ("none", "source")

_LEAST = {
    0: (
        "seed", "train.learning_rate", "train.warmup_steps", "train.weight_decay",
        "train.clip_norm", "train.patience", "evaluation.dev_documents", "encoder.max_length",
        "train.block_tokens",
    ),
    1: (
        "encoder.adapter_rank", "encoder.adapter_alpha", "encoder.adapter_tokens",
        "train.steps", "train.micro_batches", "train.checkpoint_every", "train.evaluate_every",
        "data.bm25_candidates", "evaluation.depth",
    ),
}  # fmt: skip


class Data(NamedTuple):
    collection: Collection
    tokenizer: Tokenizer
    queries: TokenTable
    documents: TokenTable
    batches: TrainingBatches


def check_train(config: ml_collections.ConfigDict, devices: int) -> None:
    """Checks numbers that would fail late or mean nothing.

    Raises:
      InputError: names the key, its value and what was expected.
    """
    for least, keys in _LEAST.items():
        for key in keys:
            group, _, name = key.rpartition(".")
            value = config[group][name] if group else config[name]
            if not value >= least:
                raise InputError(f"config.{key} is {value}; expected {least} or more")
    size, parts = config.train.batch_size, config.train.micro_batches
    if size < 1 or size % (devices * parts):
        near = max(size // (devices * parts), 1) * devices * parts
        shared = f" in {parts} micro-batches each (config.train.micro_batches)" if parts > 1 else ""
        raise InputError(
            f"config.train.batch_size is {size}, which {devices} devices{shared} cannot share "
            f"equally; take a multiple of {devices * parts}, such as {near}"
        )
    if not 0 <= config.train.target_decay <= 1:
        raise InputError(
            f"config.train.target_decay is {config.train.target_decay}; expected 0 to 1"
        )
    for key in ("query_length", "document_length"):
        if config.data[key] < 3:  # [CLS], one token, [SEP]
            raise InputError(f"config.data.{key} is {config.data[key]}; expected 3 tokens or more")
    for key, known in (
        ("train.dtype", DTYPES),
        ("train.remat", REMATS),
        ("train.attention", ATTENTIONS),
        ("encoder.dropout", DROPOUTS),
        ("encoder.adapter", ADAPTERS),
        ("data.negatives", NEGATIVES),
    ):
        group, _, name = key.partition(".")
        value = config[group][name]
        if value not in known:
            raise InputError(
                f"config.{key} is {value!r}; expected {' or '.join(known)}{nearest(value, known)}"
            )
    check_adapter(config)


def make_loss_function(
    name: str,
    options: dict[str, Any],
    *,
    target: str = "model",
    dimensions: Sequence[int] = (),
) -> Loss:
    """A loss of the registry with its options bound.

    Args:
      name: in `LOSSES`.
      options: its keyword arguments.
      target: one of `TARGETS`.
      dimensions: sizes that are trained beside the whole vectors, see `check_dimensions`.

    Raises:
      InputError: no such loss, an option it does not take, a value it refuses, or a target for a
        loss that has none.
    """
    if name not in LOSSES:
        raise InputError(
            f"config.loss.name is {name!r}; expected one of {', '.join(LOSSES)}"
            f"{nearest(name, LOSSES)}"
        )
    for argument in ("where", "axis_name"):
        if not wants(LOSSES[name], argument):
            raise InputError(
                f"config.loss.name: the loss {name!r} takes no {argument!r}, which the training "
                "step gives it; see 'A loss of your own' in docs/losses.md"
            )
    arrays = ("q", "p", "n", "where", "axis_name", "target_from", *FROM_TEACHER)
    taken = [o for o in inspect.signature(LOSSES[name]).parameters if o not in arrays]
    for option in options:
        if option not in taken:
            raise InputError(
                f"config.loss.{option}: the loss {name!r} has no such option (it has "
                f"{', '.join(taken)}); start from the config of that loss"
            )
    if target not in TARGETS:
        raise InputError(
            f"config.train.target is {target!r}; expected {', '.join(TARGETS)}"
            f"{nearest(target, TARGETS)}"
        )
    needed = {"model": None, "detached": "stop_gradient"}.get(target, "target_from")
    if needed and not wants(LOSSES[name], needed):
        raise InputError(
            f"config.train.target is {target!r}; the loss {name!r} has no target of its own making"
        )
    loss = partial(LOSSES[name], **options)
    if target == "detached":
        loss = partial(loss, stop_gradient=True)
    example = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    scores = jnp.zeros((2, 2))
    given = {key: make(scores) for key, make in FROM_TEACHER.items() if wants(loss, key)}
    try:
        result = jax.eval_shape(partial(loss, **given), example, example, example)
    except (TypeError, ValueError) as error:
        raise InputError(f"config.loss: {error}") from None
    if result.shape != ():
        raise InputError(
            f"config.loss.name: the loss {name!r} gives an array of shape {result.shape}; expected "
            "a scalar, for instance by losses.global_mean(terms, where, axis_name)"
        )
    return _at_dimensions(loss, dimensions) if dimensions else loss


def _at_dimensions(loss: Loss, dimensions: Sequence[int]) -> Loss:
    """The loss of the whole vectors and, added to it, of their first dimensions."""

    @wraps(loss)  # the step asks for its parameters
    def at_dimensions(q, p, n, **options):
        return matryoshka(loss, q, p, n, dimensions=(q.shape[-1], *dimensions), **options)

    return at_dimensions


def check_dimensions(dimensions: Sequence[int], whole: int) -> None:
    """Checks ``config.train.dimensions`` against the size of the encoder's vectors.

    Raises:
      InputError: what is wrong with the first that cannot be trained.
    """
    before = whole
    for size in dimensions:
        if not isinstance(size, int) or not 1 <= size < before:
            raise InputError(
                f"config.train.dimensions has {size!r}; expected whole numbers from large to "
                f"small, each once and below the {whole} of the encoder, which are always trained"
            )
        before = size


def load_encoder(config: ml_collections.ConfigDict) -> Encoder:
    """The start encoder, with the run's pooling, prompts and maximum length.

    A prefix takes of the positions that a text can have.

    Raises:
      InputError: it cannot be found or read, the lengths asked for are longer than it reads, or it
        takes no prefix.
    """
    encoder = read_folder(config.encoder.init, pooling=config.encoder.pooling)
    positions, longest = encoder.config.max_positions, config.encoder.max_length
    left = ""
    if config.encoder.adapter == "prefix":
        count = config.encoder.adapter_tokens
        check_prefix(encoder.config, count, where=f"config.encoder.init is {config.encoder.init}")
        positions, left = positions - count, f" left by a prefix of {count}"
    if longest > positions:
        raise InputError(
            f"config.encoder.max_length is {longest}; {config.encoder.init} has {positions} "
            f"positions{left}"
        )
    given = {"query": config.encoder.query_prompt, "document": config.encoder.document_prompt}
    encoder = encoder._replace(
        max_length=longest or min(encoder.max_length, positions),
        prompts=encoder.prompts.replaced(**{k: v for k, v in given.items() if v != "source"}),
    )
    for key in ("query_length", "document_length"):
        if config.data[key] > encoder.max_length:
            raise InputError(
                f"config.data.{key} is {config.data[key]}; {config.encoder.init} reads "
                f"{encoder.max_length} tokens (config.encoder.max_length, at most {positions})"
            )
    return encoder


def make_encoders(config: ml_collections.ConfigDict, encoder: Encoder) -> tuple[Encode, Encode]:
    """The function that is trained, and that which evaluates.

    Raises:
      InputError: what the source says of dropout is no share, or attention cannot be computed as
        the config has it.
    """
    options = {
        "pooling": encoder.pooling,
        "dense": encoder.dense,
        "dtype": DTYPES[config.train.dtype],
    }
    dropout = NO_DROPOUT
    if config.encoder.dropout == "source":
        where = str(encoder.folder / "config.json")
        dropout = read_dropout(encoder.raw_config, where=where)
    attention = config.train.attention
    if attention != "own":
        _check_attention(config, encoder, dropout)
    training = make_encode(
        encoder.config, dropout=dropout, remat=config.train.remat, attention=attention, **options
    )
    return training, make_encode(encoder.config, **options)


def _check_attention(config, encoder: Encoder, dropout: Dropout) -> None:
    key = f"config.train.attention is {config.train.attention!r}"
    if dropout.attention:
        raise InputError(
            f"{key}, which drops no weights; take 'own', or config.encoder.dropout='none'"
        )
    if config.train.attention != "cudnn":
        return
    size = encoder.config.head_size
    for wrong, found in (
        (jax.default_backend() != "gpu", f"devices are {jax.default_backend()}"),
        (config.train.dtype != "bfloat16", f"config.train.dtype is {config.train.dtype!r}"),
        (size % 8 or size > 128, f"heads have {size} numbers"),
    ):
        if wrong:
            raise InputError(
                f"{key}, and {found}; cuDNN needs an NVIDIA GPU, 'bfloat16', and heads of a "
                "multiple of 8 up to 128"
            )


def open_data(config: ml_collections.ConfigDict) -> Source:
    """The collection that the config names, not yet read."""
    return open_source(dataset=config.data.dataset, triplets=config.data.triplets)


def load_data(config: ml_collections.ConfigDict, encoder: Encoder) -> Data:
    """Builds or opens the tables and tokens, and the batches of this process.

    Raises:
      InputError: something is wrong with the data, or there is nothing to train on.
    """
    return first_then_others(partial(_load_data, config, encoder))


def _load_data(config: ml_collections.ConfigDict, encoder: Encoder) -> Data:
    cache = cache_folder(config.data.cache)
    collection = open_collection(open_data(config), cache)
    tokenizer = Tokenizer(encoder.folder)
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
        )
        for kind, table, texts in (
            ("query", "queries", collection.query_texts),
            ("document", "documents", collection.document_contents),
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
    pool = collection.training_pool
    known = KnownPositives(triplets["query"], triplets["positive"], pool)
    parts = jax.device_count() * config.train.micro_batches
    share = parts // jax.process_count()
    batches = TrainingBatches(
        queries,
        documents,
        triplets,
        known=known,
        pool=pool,
        candidates=_candidates(config, collection, triplets, known, pool),
        seed=config.seed,
        batch_size=size,
        query_length=config.data.query_length,
        document_length=config.data.document_length,
        parts=parts,
        own=slice(jax.process_index() * share, (jax.process_index() + 1) * share),
        block=config.train.block_tokens or block_tokens(),
        share=config.data.packing,
        merge=merges(),
        dropout=config.encoder.dropout != "none",
    )
    return Data(collection, tokenizer, queries, documents, batches)


def _check_teacher(collection: str, loss: str, triplets: dict[str, np.ndarray]) -> None:
    scored = np.isfinite([triplets[name] for name in SCORES]).all(0)
    scored &= triplets["negative"] != DRAWN
    if not scored.all():
        raise InputError(
            f"{collection}: {np.sum(~scored):,} of {len(scored):,} training triplets have no "
            f"teacher's scores, which the loss {loss!r} learns from; give --config.data.triplets a "
            "JSONL file with negative, positive_score and negative_score in every row"
        )


def _candidates(config, collection, triplets, known, pool) -> np.ndarray | None:
    if config.data.negatives != "bm25":
        return None
    texts = list(collection.query_texts())
    return bm25_candidates(
        BM25(list(collection.document_contents())[pool.start :]),
        [texts[row] for row in triplets["query"]],
        triplets["query"],
        known=known,
        pool=pool,
        k=config.data.bm25_candidates,
    )
