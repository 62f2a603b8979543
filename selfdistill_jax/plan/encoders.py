"""Lists the sizes of well-known encoders, so that planning needs no download."""

from pathlib import Path
from typing import Any

import jax

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.encoder.apply import init_params
from selfdistill_jax.encoder.config import EncoderConfig, read_config
from selfdistill_jax.errors import InputError, nearest


def _bert(hidden: int, layers: int, heads: int, **changed: Any) -> dict[str, Any]:
    return {
        "model_type": "bert", "vocab_size": 30522, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * hidden,
        "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    } | changed  # fmt: skip


# Contents of config.json, reduced to the keys that are read.
ENCODERS = {
    "minilm": _bert(384, 6, 12),
    "bert-base": _bert(768, 12, 12),
    "bert-large": _bert(1024, 24, 16),
    "distilbert": {
        "model_type": "distilbert", "vocab_size": 30522, "dim": 768, "n_layers": 6, "n_heads": 12,
        "hidden_dim": 3072, "max_position_embeddings": 512, "activation": "gelu",
    },
    "mpnet": _bert(
        768, 12, 12, model_type="mpnet", vocab_size=30527, max_position_embeddings=514,
        layer_norm_eps=1e-5, relative_attention_num_buckets=32,
    ),
    "modernbert": {
        "model_type": "modernbert", "vocab_size": 50368, "hidden_size": 768,
        "num_hidden_layers": 22, "num_attention_heads": 12, "intermediate_size": 1152,
        "max_position_embeddings": 8192, "norm_eps": 1e-5, "hidden_activation": "gelu",
        "local_attention": 128, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
    },
}  # fmt: skip


def shapes_of(name: str) -> Pretrained:
    """Returns an encoder that has shapes instead of parameters.

    Args:
      name: a key of `ENCODERS`.

    Raises:
      InputError: the name is unknown.
    """
    if name not in ENCODERS:
        raise InputError(
            f"--encoder={name}: unknown; expected one of {', '.join(ENCODERS)}"
            f"{nearest(name, ENCODERS)}"
        )
    return without_weights(ENCODERS[name], name)


def without_weights(raw: dict[str, Any], name: str) -> Pretrained:
    """Returns an encoder that has shapes instead of parameters.

    Args:
      raw: the content of its ``config.json``.
      name: its name, for messages.
    """
    config = read_config(raw, where=name)
    return Pretrained(
        Path(name), config, raw, _shapes(config), {}, "mean", min(config.max_positions, 512)
    )


def _shapes(config: EncoderConfig) -> dict[str, Any]:
    return jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
