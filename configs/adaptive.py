"""Self-distillation: see selfdistill_jax.losses.adaptive_margin."""

from configs import base


def get_config():
    return base.get_config("adaptive")
