"""Trains the baseline that learns a teacher's scores, by selfdistill_jax.losses.margin_mse."""

from configs import base


def get_config():
    return base.get_config("margin_mse")
