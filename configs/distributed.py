"""Trains by self-distillation with the loss selfdistill_jax.losses.distributed_margin."""

from configs import base


def get_config(setup: str = ""):
    """Returns the default settings, or the paper's for ``configs/distributed.py:msmarco``."""
    config = base.get_config("distributed")
    if setup == "msmarco":
        _as_the_paper(config)
    elif setup:
        raise ValueError(f"no set-up {setup!r}; there is 'msmarco'")
    return config


def _as_the_paper(config) -> None:
    """Applies the released code's settings for MS MARCO passages and DistilBERT (docs/data.md)."""
    config.data.dataset = "msmarco"  # path of BEIR's folder of that name
    config.data.query_length, config.data.document_length = 20, 200
    config.encoder.init = "distilbert-base-uncased"
    config.encoder.pooling = "cls"
    config.encoder.max_length = 200
    config.encoder.dropout = "source"
    config.loss.over = "positives"
    config.train.steps = 20_000
    config.train.batch_size = 128
    config.train.learning_rate = 5e-7
    config.train.warmup_steps = 0
    config.train.decay = "exponential"
    config.train.weight_decay = 1e-6
    config.train.clip_norm = 0.0
    config.train.dtype = "bfloat16"
    config.train.checkpoint_every = config.train.evaluate_every = 500
    config.train.patience = 16
    config.evaluation.dev_documents = 100_000  # the 7,400 that dev judges are too easy alone
    config.evaluation.interpolation = ()  # the paper keeps the best step
