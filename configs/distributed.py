"""Trains by self-distillation with the loss selfdistill_jax.losses.distributed_margin."""

from configs import paper


def get_config(setup: str = ""):
    """Returns the default settings, or the paper's for ``configs/distributed.py:msmarco``."""
    return paper.get_config("distributed", setup)
