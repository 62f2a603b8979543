"""Trains by self-distillation with the loss selfdistill_jax.losses.adaptive_margin."""

from configs import base


def get_config():
    return base.get_config("adaptive")
