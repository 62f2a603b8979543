"""Trains the baseline with a constant margin and the loss selfdistill_jax.losses.static_margin."""

from configs import base


def get_config():
    return base.get_config("static")
