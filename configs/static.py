"""Trains the baseline with a constant margin and the loss selfdistill_jax.losses.static_margin."""

from configs import paper


def get_config(setup: str = ""):
    """Returns the default settings, or the paper's for ``configs/static.py:msmarco``."""
    return paper.get_config("static", setup)
