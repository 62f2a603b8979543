"""Losses as pure functions of embeddings ``[B, D]`` (queries, positives, negatives) to a scalar.

They know no config, parameters or state, and work under `jax.jit`, `jax.grad` and `jax.vmap`; with
``axis_name`` the batch is the one spread over that mapped axis, gathered where the loss needs it.

>>> import jax, jax.numpy as jnp
>>> from selfdistill_jax import losses
>>> q, p, n = jax.random.normal(jax.random.key(0), (3, 4, 8))
>>> gradient = jax.grad(losses.distributed_margin)(q, p, n)
>>> gradient.shape
(4, 8)

`LOSSES` finds a loss by the name that ``config.loss.name`` gives it. Your own goes beside them:
``losses.LOSSES["mine"] = my_loss`` taking the same three arrays and ``where``, ``axis_name``.
"""

from selfdistill_jax.losses.common import sigma
from selfdistill_jax.losses.contrastive import softmax
from selfdistill_jax.losses.margin import adaptive_margin, distributed_margin, static_margin

LOSSES = {
    "static": static_margin,
    "adaptive": adaptive_margin,
    "distributed": distributed_margin,
    "softmax": softmax,
}

__all__ = [
    "LOSSES",
    "adaptive_margin",
    "distributed_margin",
    "sigma",
    "softmax",
    "static_margin",
]
