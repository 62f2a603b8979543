"""The contrastive baseline: see selfdistill_jax.losses.softmax."""

from configs import base


def get_config():
    return base.get_config("softmax")
