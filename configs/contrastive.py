"""Trains the contrastive baseline with the loss selfdistill_jax.losses.softmax."""

from configs import base


def get_config():
    return base.get_config("softmax")
