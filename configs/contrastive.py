"""Trains the contrastive baseline with the loss selfdistill_jax.losses.softmax."""

from configs import paper


def get_config(setup: str = ""):
    """Returns the default settings, or the paper's for ``configs/contrastive.py:msmarco``."""
    return paper.get_config("softmax", setup)
