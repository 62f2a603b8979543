"""Trains with the recipe that did best in our studies, the defaults of configs/base.py.

That is contrastive training with the loss selfdistill_jax.losses.softmax (docs/choosing.md).
"""

from configs import base


def get_config():
    return base.get_config()
