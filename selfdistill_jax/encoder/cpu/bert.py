"""Defines BERT and related encoders in Flax Linen: embeddings, then equal layers over token blocks.

Shape legend: N blocks of T tokens, D hidden size.
"""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp

from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.cpu.attention import TokenInfo
from selfdistill_jax.encoder.cpu.layer_loop import run_layers
from selfdistill_jax.encoder.cpu.layers import (
    AddNorm,
    Dense,
    Layer,
    transpose_kernels,
)
from selfdistill_jax.encoder.dropout import NO_DROPOUT, Dropout, at, drop, of_tokens
from selfdistill_jax.encoder.model import INIT, per_layer
from selfdistill_jax.encoder.positions import buckets
from selfdistill_jax.packed import PackedTexts

CPU_ARCHITECTURES = (
    "bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "modernbert",
)  # fmt: skip


class Embeddings(nn.Module):
    config: EncoderConfig
    dtype: jnp.dtype
    dropout: Dropout

    @nn.compact
    def __call__(self, ids: jax.Array, positions: jax.Array, seeds: jax.Array | None) -> jax.Array:
        c = self.config
        size = c.embedding_size or c.hidden_size

        def table(name: str, rows: int) -> jax.Array:
            return self.param(name, INIT, (rows, size), jnp.float32)

        ids, positions = ids.reshape(-1), positions.reshape(-1) + c.position_offset
        word, place_TxE = table("word", c.vocab_size)[ids], None
        if not c.rotary:
            place = table("position", c.max_positions + c.position_offset)
            if c.type_vocab_size:
                place = place + table("token_type", c.type_vocab_size)[:1]
            place_TxE = place[positions]
        x_TxE = AddNorm(c.layer_norm_eps, c.biases, name="norm")(word, place_TxE)
        if seeds is not None:
            x_TxE = drop(x_TxE, at(seeds.reshape(-1), "embeddings"), self.dropout.embeddings)
        x_TxE = x_TxE.astype(self.dtype)
        return Dense(c.hidden_size, name="project")(x_TxE) if c.embedding_size else x_TxE


@cache
def _layer(
    config: EncoderConfig,
    row_lengths: tuple[int, ...],
    dropout: Dropout = NO_DROPOUT,
):
    """Returns one function per configuration: `run_layers` compiles anew for another function."""
    layer = Layer(config, row_lengths, dropout)

    def apply(params, constants, x_TxD, block, keep):
        given = (x_TxD, block, keep, constants, params["bias"])
        return layer.apply({"params": params["own"]}, *given)

    return apply


class Bert(nn.Module):
    """Maps packed texts to the hidden states of the last layer, ``[N, T, D]`` of ``dtype``."""

    config: EncoderConfig
    dtype: jnp.dtype = jnp.float32
    dropout: Dropout = NO_DROPOUT
    remat: str = "products"

    @nn.compact
    def __call__(self, texts: PackedTexts) -> jax.Array:
        c = self.config
        seeds_NxT = None
        if texts.seeds is not None:
            flat = of_tokens(
                texts.seeds, texts.segment_ids.reshape(-1), texts.positions.reshape(-1)
            )
            seeds_NxT = flat.reshape(texts.ids.shape)
        embeddings = Embeddings(c, self.dtype, self.dropout, name="embeddings")
        x = embeddings(texts.ids, texts.positions, seeds_NxT)
        x_NxTxD = x.reshape(*texts.ids.shape, -1)
        own = self.get_variable("params", "layers")  # `encoder.model` initialises parameters
        bias = None
        if c.relative_buckets:
            bias = self._bias(texts.row_lengths[-1])
        x_NxTxD = run_layers(
            _layer(c, texts.row_lengths, self.dropout),
            {"own": transpose_kernels(own), "bias": bias},
            x_NxTxD,
            TokenInfo(texts.segment_ids, texts.positions, texts.row_kind, seeds_NxT),
            texts.num_blocks,
            constants=per_layer(c),
            remat=self.remat,
        )
        if c.pre_norm:
            flat = x_NxTxD.reshape(-1, c.hidden_size)
            normed = AddNorm(c.layer_norm_eps, c.biases, name="last_norm")(flat)
            x_NxTxD = normed.reshape(x_NxTxD.shape)
        return x_NxTxD

    def _bias(self, longest: int) -> jax.Array:
        """Returns ``[layers, 2 longest - 1, H]`` biases, the same for all layers."""
        c = self.config
        shape = (c.relative_buckets, c.num_heads)
        table_BxH = self.param("relative", INIT, shape, jnp.float32)
        bias_OxH = table_BxH[buckets(longest, c.relative_buckets)]
        return jnp.broadcast_to(bias_OxH, (c.num_layers, *bias_OxH.shape))
