"""Trains with the contrastive loss, selfdistill_jax.losses.softmax, and all default settings.

This recipe did best in our studies (docs/choosing.md).
"""

from configs import base


def get_config():
    return base.get_config()
