"""Has every setting's default value and no changes; selfdistill_jax/config.py lists them all.

    --config=configs/base.py:distributed

chooses another loss than the contrastive one, with the default values of its options.
"""

from selfdistill_jax.config import LOSSES, get_config

__all__ = ["LOSSES", "get_config"]
