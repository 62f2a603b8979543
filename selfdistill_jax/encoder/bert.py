"""BERT in Flax Linen: embeddings, then one transformer layer scanned over stacked parameters.

Scanning keeps compile time constant in depth (12 layers: 0.9 s against 62 s unrolled on a CPU) and
makes rematerialisation save memory at all there.

Shape legend: N texts, L tokens, D hidden size, H heads, K head size, F feed-forward size.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from selfdistill_jax.encoder.attention import attend, key_bias
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.dense import dense

_GELU = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
_INIT = nn.initializers.normal(0.02)


class TokenRows(NamedTuple):
    """Texts as token ids, one text a row.

    Attributes:
      ids: ``[N, L]`` int32; what lies right of a text's end is ignored.
      lengths: ``[N]`` int32, tokens of each text; 0 marks a row that stands for no text.
    """

    ids: jax.Array
    lengths: jax.Array


class Dense(nn.Module):
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _INIT, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return dense(x, kernel, bias, self.dtype)


class LayerNorm(nn.Module):
    """Normalises the last axis in float32; takes and gives ``dtype``."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        # Two passes: E[x²] − E[x]² loses the parity with torch where a feature's mean is large.
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        shape = (1,) * (x.ndim - 1) + (-1,)
        y = centred * jax.lax.rsqrt(variance + self.epsilon) * scale.reshape(shape)
        return (y + bias.reshape(shape)).astype(self.dtype)


class Embeddings(nn.Module):
    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids_NxL: jax.Array) -> jax.Array:
        c = self.config
        word = self.param("word", _INIT, (c.vocab_size, c.hidden_size), jnp.float32)
        position = self.param("position", _INIT, (c.max_positions, c.hidden_size), jnp.float32)
        token_type = self.param(
            "token_type", _INIT, (c.type_vocab_size, c.hidden_size), jnp.float32
        )
        x_NxLxD = word[ids_NxL] + (position[: ids_NxL.shape[1]] + token_type[:1])[None]
        return LayerNorm(c.layer_norm_eps, self.dtype, name="norm")(x_NxLxD)


class Attention(nn.Module):
    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_NxLxD: jax.Array, bias_Nx1x1xL: jax.Array) -> jax.Array:
        c = self.config
        n, length, _ = x_NxLxD.shape
        qkv = Dense(3 * c.hidden_size, self.dtype, name="qkv")(x_NxLxD)
        q, k, v = qkv.reshape(n, length, 3, c.num_heads, c.head_size).transpose(2, 0, 3, 1, 4)
        mixed_NxHxLxK = attend(q, k, v, bias_Nx1x1xL)
        mixed_NxLxD = mixed_NxHxLxK.transpose(0, 2, 1, 3).reshape(x_NxLxD.shape)
        return Dense(c.hidden_size, self.dtype, name="output")(mixed_NxLxD)


class Layer(nn.Module):
    """One post-norm transformer layer; ``(x, bias) -> (x, None)`` as `nn.scan` wants it."""

    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_NxLxD: jax.Array, bias_Nx1x1xL: jax.Array) -> tuple[jax.Array, None]:
        c = self.config
        attended = Attention(c, self.dtype, name="attention")(x_NxLxD, bias_Nx1x1xL)
        x = LayerNorm(c.layer_norm_eps, self.dtype, name="attention_norm")(x_NxLxD + attended)
        inner_NxLxF = Dense(c.intermediate_size, self.dtype, name="inner")(x)
        outer = Dense(c.hidden_size, self.dtype, name="outer")(_GELU[c.activation](inner_NxLxF))
        return LayerNorm(c.layer_norm_eps, self.dtype, name="output_norm")(x + outer), None


class Bert(nn.Module):
    """Token rows to the hidden states of the last layer, ``[N, L, D]`` of ``dtype``."""

    config: EncoderConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, rows: TokenRows) -> jax.Array:
        x_NxLxD = Embeddings(self.config, self.dtype, name="embeddings")(rows.ids)
        # The backward pass recomputes what is cheap (norms, GELU, attention weights: 3 % of the
        # products at 128 tokens) and keeps the products' results, a third of all activations.
        layer = nn.remat(
            Layer,
            prevent_cse=False,
            policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        )
        layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.config.num_layers,
        )
        bias_Nx1x1xL = key_bias(rows.lengths, rows.ids.shape[1])
        x_NxLxD, _ = layers(self.config, self.dtype, name="layers")(x_NxLxD, bias_Nx1x1xL)
        return x_NxLxD
