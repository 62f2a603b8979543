"""Losses as pure functions of embeddings ``[B, D]`` (queries, positives, negatives) to a scalar.

They use no config, parameters or state, and work under `jax.jit`, `jax.grad` and `jax.vmap`; with
``axis_name`` the batch is spread over that mapped axis (`jax.shard_map`, `jax.pmap`).

>>> import jax, jax.numpy as jnp
>>> from selfdistill_jax import losses
>>> q, p, n = jax.random.normal(jax.random.key(0), (3, 4, 8))
>>> gradient = jax.grad(losses.distributed_margin)(q, p, n)
>>> gradient.shape
(4, 8)

`LOSSES` maps the names that ``config.loss.name`` accepts to losses. To add your own, set
``losses.LOSSES["mine"] = my_loss``, a function of the same three arrays, ``where`` and
``axis_name``; see docs/losses.md.
"""

from selfdistill_jax.losses.common import global_mean, sigma, unit
from selfdistill_jax.losses.contrastive import softmax
from selfdistill_jax.losses.diagnostics import QUANTILES, summaries
from selfdistill_jax.losses.distillation import kl, margin_mse
from selfdistill_jax.losses.margin import adaptive_margin, distributed_margin, static_margin
from selfdistill_jax.losses.matryoshka import matryoshka
from selfdistill_jax.losses.ranking import pairwise_logistic, triplet

LOSSES = {
    "static": static_margin,
    "adaptive": adaptive_margin,
    "distributed": distributed_margin,
    "softmax": softmax,
    "triplet": triplet,
    "pairwise_logistic": pairwise_logistic,
    "margin_mse": margin_mse,
    "kl": kl,
}

__all__ = [
    "LOSSES",
    "QUANTILES",
    "adaptive_margin",
    "distributed_margin",
    "global_mean",
    "kl",
    "margin_mse",
    "matryoshka",
    "pairwise_logistic",
    "sigma",
    "softmax",
    "static_margin",
    "summaries",
    "triplet",
    "unit",
]
