"""Prefixes: keys and values that every token sees before those of its own text.

An adapter is a tree of its own, ``{"key": [n, P, D], "value": [n, P, D]}``; with it the frozen
parameters make the effective ones, which the encoder computes with as with any others. No weights
give the same vectors, so that there is nothing to merge: base and adapter are kept side by side.

PEFT passes a prefix to transformers as the keys and values of P tokens that came before, and BERT
and its kin number a text's positions from behind those. So it is here: the position table of the
effective parameters begins with row P of the frozen one, and the longest text has P tokens fewer.

Shape legend: n layers, P places of the prefix, D hidden size, E embedding size.
"""

import jax
import jax.numpy as jnp
import numpy as np

from selfdistill_jax.encoder.apply import Params
from selfdistill_jax.encoder.architectures import ARCHITECTURES
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.errors import InputError

# Where transformers takes keys and values that came before. DistilBERT says that it does not; MPNet
# and ModernBERT break on the mask, which is longer, and ignore the prefix where there is no mask.
PREFIXED = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
_SHORTEST = 3  # [CLS], one token, [SEP]
# As small as weights begin. Behind 16 of them all-MiniLM-L6-v2's vectors of 100 documents have a
# cosine of 0.945 to those without, behind 16 of PEFT's standard deviation, 1, one of 0.885. (The
# moved positions alone: 0.931.)
_STANDARD_DEVIATION = 0.02


def check_prefix(config: EncoderConfig, count: int, *, where: str) -> None:
    """Checks that an encoder can have a prefix.

    Args:
      config: of the encoder.
      count: P.
      where: what asks for it, for the error message.

    Raises:
      InputError: not of this architecture, or it leaves no positions to a text.
    """
    if config.architecture not in PREFIXED:
        raise InputError(
            f"{where}: a {ARCHITECTURES[config.architecture].name} takes no prefix in "
            "transformers, so that PEFT would open none of ours; expected an encoder that is one "
            f"of {', '.join(PREFIXED)}, or a LoRA adapter"
        )
    if config.max_positions - count < _SHORTEST:
        raise InputError(
            f"{where}: a prefix of {count} leaves {config.max_positions - count} of the encoder's "
            f"{config.max_positions} positions to a text; take a shorter one, a text needs "
            f"{_SHORTEST}"
        )


def init_prefix(params: Params, *, count: int, key: jax.Array) -> Params:
    """A random prefix, of normal distribution.

    It changes vectors before it is trained: any prefix, of zeros too, takes its share of attention
    and moves the positions.

    Args:
      params: the encoder's, of which only shapes count.
      count: P.
      key: of the random numbers.

    Source:
      Li and Liang, Prefix-Tuning (arXiv 2101.00190), without their network that makes the prefix.

    Example:
      >>> params = {"layers": {"attention": {"output": {"kernel": jnp.ones((2, 8, 8))}}}}
      >>> {name: x.shape for name, x in init_prefix(params, count=3, key=jax.random.key(0)).items()}
      {'key': (2, 3, 8), 'value': (2, 3, 8)}
    """
    layers, _, size = params["layers"]["attention"]["output"]["kernel"].shape
    both = jax.random.normal(key, (2, layers, count, size)) * _STANDARD_DEVIATION
    return dict(zip(("key", "value"), both, strict=True))


def apply_prefix(params: Params, adapter: Params) -> Params:
    """The effective parameters: the frozen ones with the prefix, positions counted from behind it.

    The last P rows of the position table are not a number: a text that reaches them is too long.
    Of numpy arrays alone the result is numpy's.

    Args:
      params: the frozen ones; ``params["embeddings"]["position"]`` is ``[rows, E]``.
      adapter: of `init_prefix`, trained.

    Example:
      >>> table = np.arange(4.0)[:, None]
      >>> params = {"embeddings": {"position": table}, "layers": {"attention": {}}}
      >>> adapter = {"key": np.zeros((2, 1, 8)), "value": np.ones((2, 1, 8))}
      >>> effective = apply_prefix(params, adapter)
      >>> effective["embeddings"]["position"].tolist()
      [[1.0], [2.0], [3.0], [nan]]
      >>> sorted(effective["layers"]["attention"]["prefix"])
      ['key', 'value']
    """
    embeddings, layers = params["embeddings"], params["layers"]
    table, count = embeddings["position"], adapter["key"].shape[1]
    xp = np if isinstance(table, np.ndarray) else jnp
    none = xp.full((count, table.shape[1]), np.nan, table.dtype)
    return {
        **params,
        "embeddings": {**embeddings, "position": xp.concatenate([table[count:], none])},
        "layers": {**layers, "attention": {**layers["attention"], "prefix": dict(adapter)}},
    }
