"""BERT and its kin in Flax Linen: embeddings, then equal layers over blocks of tokens.

Shape legend: N blocks of T tokens, D hidden size, F feed-forward size.
"""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from selfdistill_jax.encoder.attention import Block, attend, attend_backward
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.pointwise import ACTIVATIONS, add_norm
from selfdistill_jax.encoder.products import affine
from selfdistill_jax.encoder.relative import buckets
from selfdistill_jax.encoder.stack import Keep, run_layers
from selfdistill_jax.packed import PackedTexts

_INIT = nn.initializers.normal(0.02)


class Dense(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x_TxD: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _INIT, (x_TxD.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return affine(x_TxD, kernel, bias)


class AddNorm(nn.Module):
    """Layer norm of a sum."""

    epsilon: float

    @nn.compact
    def __call__(self, x_TxD: jax.Array, y_TxD: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x_TxD.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x_TxD.shape[-1],), jnp.float32)
        return add_norm(x_TxD, y_TxD, scale, bias, self.epsilon)


class Embeddings(nn.Module):
    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids: jax.Array, positions: jax.Array) -> jax.Array:
        c = self.config
        size = c.embedding_size or c.hidden_size

        def table(name: str, rows: int) -> jax.Array:
            return self.param(name, _INIT, (rows, size), jnp.float32)

        ids, positions = ids.reshape(-1), positions.reshape(-1) + c.position_offset
        word = table("word", c.vocab_size)
        place = table("position", c.max_positions + c.position_offset)
        if c.type_vocab_size:
            place = place + table("token_type", c.type_vocab_size)[:1]
        x_TxE = AddNorm(c.layer_norm_eps, name="norm")(word[ids], place[positions])
        x_TxE = x_TxE.astype(self.dtype)
        return Dense(c.hidden_size, name="project")(x_TxE) if c.embedding_size else x_TxE


class Attention(nn.Module):
    config: EncoderConfig
    row_lengths: tuple[int, ...]

    @nn.compact
    def __call__(
        self, x_TxD: jax.Array, block: Block, keep: Keep, bias_OxH: jax.Array | None
    ) -> jax.Array:
        c = self.config
        qkv = keep(Dense(3 * c.hidden_size, name="qkv")(x_TxD))

        def forward(x):
            qkv, bias = x
            options = {"heads": c.num_heads, "row_lengths": self.row_lengths}
            return attend(qkv, block, bias_OxH=bias, **options)

        def backward(x, out, log_sum, g):
            qkv, bias = x
            rows = self.row_lengths
            return attend_backward(qkv, block, out, log_sum, g, bias_OxH=bias, row_lengths=rows)

        mixed = keep.call(forward, backward, (qkv, bias_OxH))
        return keep(Dense(c.hidden_size, name="output")(mixed))


class Layer(nn.Module):
    """One post-norm transformer layer of a block of tokens."""

    config: EncoderConfig
    row_lengths: tuple[int, ...]

    @nn.compact
    def __call__(
        self, x_TxD: jax.Array, block: Block, keep: Keep, bias_OxH: jax.Array | None = None
    ) -> jax.Array:
        c = self.config
        attended = Attention(c, self.row_lengths, name="attention")(x_TxD, block, keep, bias_OxH)
        x_TxD = AddNorm(c.layer_norm_eps, name="attention_norm")(x_TxD, attended)
        # The product's result is kept, a third of all that is; the activation is computed again.
        inner_TxF = keep(Dense(c.intermediate_size, name="inner")(x_TxD))
        outer = keep(Dense(c.hidden_size, name="outer")(ACTIVATIONS[c.activation](inner_TxF)))
        return AddNorm(c.layer_norm_eps, name="output_norm")(x_TxD, outer)


@cache
def _layer(config: EncoderConfig, row_lengths: tuple[int, ...]):
    """One function for one configuration: `run_layers` takes another for another program."""
    layer = Layer(config, row_lengths)

    def apply(params, x_TxD, block, keep):
        return layer.apply({"params": params["own"]}, x_TxD, block, keep, params["bias"])

    return apply


def _init_layers(key: jax.Array, config: EncoderConfig):
    """Parameters of all layers, stacked on a leading axis."""
    x = jnp.zeros((2, config.hidden_size))
    block = Block(jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.int32), jnp.int32(0))
    init = partial(Layer(config, (2,)).init, x_TxD=x, block=block, keep=Keep())
    return jax.vmap(init)(jax.random.split(key, config.num_layers))["params"]


class Bert(nn.Module):
    """Packed texts to the hidden states of the last layer, ``[N, T, D]`` of ``dtype``."""

    config: EncoderConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, texts: PackedTexts) -> jax.Array:
        x = Embeddings(self.config, self.dtype, name="embeddings")(texts.ids, texts.positions)
        x_NxTxD = x.reshape(*texts.ids.shape, -1)
        own, bias = self.param("layers", _init_layers, self.config), None
        if self.config.relative_buckets:
            bias = self._bias(texts.row_lengths[-1])
        params = {"own": own, "bias": bias}
        return run_layers(_layer(self.config, texts.row_lengths), params, x_NxTxD, texts)

    def _bias(self, longest: int) -> jax.Array:
        """``[layers, 2 longest - 1, H]``, the same for all layers."""
        c = self.config
        shape = (c.relative_buckets, c.num_heads)
        table_BxH = self.param("relative", _INIT, shape, jnp.float32)
        bias_OxH = table_BxH[buckets(longest, c.relative_buckets)]
        return jnp.broadcast_to(bias_OxH, (c.num_layers, *bias_OxH.shape))
