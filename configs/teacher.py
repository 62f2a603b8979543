"""Trains the baseline that learns a teacher's scores, by selfdistill_jax.losses.margin_mse."""

from configs import paper


def get_config(setup: str = ""):
    """Returns the default settings, or the paper's for ``configs/teacher.py:msmarco``."""
    return paper.get_config("margin_mse", setup)
