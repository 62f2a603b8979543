"""Distillation from a teacher's scores, to compare with: see selfdistill_jax.losses.margin_mse."""

from configs import base


def get_config():
    return base.get_config("margin_mse")
