"""Provides the defaults of selfdistill_jax/config.py unchanged.

``--config=configs/base.py:distributed`` selects another loss with its default options.
"""

from selfdistill_jax.config import LOSSES, get_config

__all__ = ["LOSSES", "get_config"]
