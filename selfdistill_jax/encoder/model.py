"""Defines the encoder in plain Flax: all architectures, differentiated by JAX, on any mesh.

This is the reference. `encoder.cpu` computes the same function of the same parameters faster on a
CPU, and is tested against it.

Texts are packed: several texts share a row, and segment ids distinguish their tokens. Only
attention combines tokens; everything else treats each token alone.

Shape legend: T tokens, R rows of L tokens, H heads, K head size, D = H K.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

from selfdistill_jax.encoder.activations import ACTIVATIONS
from selfdistill_jax.encoder.attention import attend
from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.dropout import (
    NO_DROPOUT,
    Dropout,
    at,
    drop,
    drop_weights,
    of_tokens,
)
from selfdistill_jax.encoder.positions import buckets, frequencies, square, turn
from selfdistill_jax.encoder.precision import precision
from selfdistill_jax.packed import PackedTexts

INIT = nn.initializers.normal(0.02)
_PRODUCT = "product"
# The values stored for the backward pass: the results of matrix products (with their biases) and of
# attention, or only the inputs of layers. Everything else is computed again.
REMATS = {
    "products": jax.checkpoint_policies.save_only_these_names(_PRODUCT),
    "inputs": jax.checkpoint_policies.nothing_saveable,
}


class Tokens(NamedTuple):
    """Holds the data about tokens that layers need besides hidden states.

    Attributes:
      segments: ``[R, L]`` int32, number of the text that a token belongs to.
      positions: ``[R, L]`` int32, positions within texts.
      seeds: ``[T]`` uint32 seeds of dropout; None drops nothing.
      bias: ``[H, L, L]`` bias of attention scores by relative position; or None.
    """

    segments: jax.Array
    positions: jax.Array
    seeds: jax.Array | None
    bias: jax.Array | None


class PerLayer(NamedTuple):
    """Holds the constants of a layer; stacked for all layers, they have a leading axis.

    Attributes:
      number: int32, number of the layer.
      frequencies: ``[K / 2]`` float32 frequencies of rotary positions; or None.
      window: int32, distance to which a token attends on either side; or None.
    """

    number: Any
    frequencies: Any = None
    window: Any = None


class Embeddings(nn.Module):
    """Maps token ids to hidden states ``[T, D]``."""

    config: EncoderConfig
    dtype: jnp.dtype
    dropout: Dropout

    @nn.compact
    def __call__(self, ids_T: jax.Array, positions_T: jax.Array, seeds_T: jax.Array | None):
        c = self.config
        size = c.embedding_size or c.hidden_size
        x = self.param("word", INIT, (c.vocab_size, size), jnp.float32)[ids_T]
        if not c.rotary:
            rows = c.max_positions + c.position_offset
            x += self.param("position", INIT, (rows, size), jnp.float32)[
                positions_T + c.position_offset
            ]
            if c.type_vocab_size:  # all tokens are of the first type
                x += self.param("token_type", INIT, (c.type_vocab_size, size), jnp.float32)[:1]
        x = _norm(c, "norm")(x)
        if seeds_T is not None:
            x = drop(x, at(seeds_T, "embeddings"), self.dropout.embeddings)
        x = x.astype(self.dtype)
        return _dense(x, c.hidden_size, True, "project") if c.embedding_size else x


class Attention(nn.Module):
    """Computes queries, keys and values, attends, and projects the result; see `attend`."""

    config: EncoderConfig
    dtype: jnp.dtype
    dropout: Dropout
    implementation: str

    @nn.compact
    def __call__(self, x_TxD: jax.Array, tokens: Tokens, layer: PerLayer) -> jax.Array:
        c, positions_T = self.config, tokens.positions.reshape(-1)
        qkv = _dense(x_TxD, 3 * c.hidden_size, c.biases, "qkv")
        if layer.frequencies is not None:
            qkv = turn(qkv, positions_T, layer.frequencies, heads=c.num_heads)

        drop = None
        if tokens.seeds is not None and self.dropout.attention:
            seeds = at(tokens.seeds, "attention", layer.number)

            def drop(weights_RxHxLxL: jax.Array) -> jax.Array:
                flat = weights_RxHxLxL.reshape(-1, *weights_RxHxLxL.shape[2:])
                dropped = drop_weights(flat, seeds, positions_T, self.dropout.attention)
                return dropped.reshape(weights_RxHxLxL.shape)

        mixed = attend(
            qkv,
            tokens.segments,
            tokens.bias,
            layer.window,
            heads=c.num_heads,
            implementation=self.implementation,
            drop=drop,
        )
        mixed = checkpoint_name(mixed, _PRODUCT)
        return _dense(mixed, c.hidden_size, c.biases, "output")


class Layer(nn.Module):
    """Computes attention and feed-forward, with norms after the sums (BERT) or before the parts."""

    config: EncoderConfig
    dtype: jnp.dtype
    dropout: Dropout
    attention: str

    @nn.compact
    def __call__(self, x_TxD: jax.Array, tokens: Tokens, layer: PerLayer):
        c, x_TxD = self.config, _row_major(x_TxD)
        attention = Attention(c, self.dtype, self.dropout, self.attention, name="attention")
        norms = _norm(c, "attention_norm"), _norm(c, "output_norm")

        def dropped(x: jax.Array, place: str) -> jax.Array:
            if tokens.seeds is None:
                return x
            return drop(x, at(tokens.seeds, place, layer.number), getattr(self.dropout, place))

        def attended(x: jax.Array) -> jax.Array:
            return dropped(attention(x, tokens, layer), "attended")

        def fed_forward(x: jax.Array) -> jax.Array:
            width = c.intermediate_size * (2 if c.gated else 1)
            inner = _dense(x, width, c.biases, "inner")
            if c.gated:
                inner, gate = jnp.split(inner, 2, axis=-1)
                inner = ACTIVATIONS[c.activation](inner) * gate
            else:
                inner = ACTIVATIONS[c.activation](inner)
            outer = _dense(dropped(inner, "inner"), c.hidden_size, c.biases, "outer")
            return dropped(outer, "outer")

        if c.pre_norm:
            normed = norms[0](x_TxD).astype(self.dtype)
            # The first layer's input, the embeddings, is normed already.
            x_TxD = x_TxD + attended(jnp.where(layer.number == 0, x_TxD, normed))
            return x_TxD + fed_forward(norms[1](x_TxD).astype(self.dtype)), None
        # Sums and norms are float32, also where products are not.
        x_TxD = norms[0](_sum(x_TxD, attended(x_TxD))).astype(self.dtype)
        return norms[1](_sum(x_TxD, fed_forward(x_TxD))).astype(self.dtype), None


class Encoder(nn.Module):
    """Maps packed texts to the hidden states of the last layer, ``[N, T, D]`` of ``dtype``.

    Parameters of layers are stacked: ``params["layers"]`` has a leading axis of layers.
    """

    config: EncoderConfig
    dtype: jnp.dtype = jnp.float32
    dropout: Dropout = NO_DROPOUT
    remat: str = "products"
    attention: str = "auto"

    @nn.compact
    def __call__(self, texts: PackedTexts) -> jax.Array:
        c = self.config
        # The shortest row length that is a multiple of every row length.
        length = math.lcm(*texts.row_lengths)
        segments, positions = (
            texts.segment_ids.reshape(-1, length),
            texts.positions.reshape(-1, length),
        )
        seeds = None
        if texts.seeds is not None:
            seeds = of_tokens(texts.seeds, segments.reshape(-1), positions.reshape(-1))
        embeddings = Embeddings(c, self.dtype, self.dropout, name="embeddings")
        x_TxD = embeddings(texts.ids.reshape(-1), positions.reshape(-1), seeds)
        bias = None
        if c.relative_buckets:
            table = self.param("relative", INIT, (c.relative_buckets, c.num_heads), jnp.float32)
            bias = square(table[buckets(length, c.relative_buckets)], length)
        layers = nn.scan(
            nn.remat(Layer, policy=REMATS[self.remat], prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=c.num_layers,
        )(c, self.dtype, self.dropout, self.attention, name="layers")
        x_TxD, _ = layers(x_TxD, Tokens(segments, positions, seeds, bias), per_layer(c))
        if c.pre_norm:
            x_TxD = _norm(c, "last_norm")(x_TxD).astype(self.dtype)
        return x_TxD.reshape(*texts.ids.shape, -1)


def per_layer(c: EncoderConfig) -> PerLayer:
    """Returns the constants of all layers, stacked."""
    everything = c.max_positions  # no two tokens are farther apart
    return PerLayer(
        number=np.arange(c.num_layers, dtype=np.int32),
        frequencies=frequencies(c.head_size, c.rotary) if c.rotary else None,
        window=np.array([w or everything for w in c.windows], np.int32) if c.windows else None,
    )


def _row_major(x_TxD: jax.Array) -> jax.Array:
    """Makes TPUs store each token's values side by side.

    Without this, XLA stores the layers' inputs transposed, and products write and read them slower:
    a step of BERT-base on v5e takes 96 ms by the compiler's schedule instead of 88.
    """

    def constrain(x: jax.Array) -> jax.Array:
        return with_layout_constraint(x, Layout((0, 1)))

    return lax.platform_dependent(x_TxD, tpu=constrain, default=lambda x: x)


def _dense(x_TxN: jax.Array, features: int, bias: bool, name: str) -> jax.Array:
    dense = nn.Dense(
        features,
        use_bias=bias,
        dtype=x_TxN.dtype,
        precision=precision(x_TxN.dtype),
        kernel_init=INIT,
        name=name,
    )
    return checkpoint_name(dense(x_TxN), _PRODUCT)


def _norm(c: EncoderConfig, name: str) -> nn.LayerNorm:
    # Two passes: E[x²] − E[x]² would lose parity with torch where a feature's mean is large.
    return nn.LayerNorm(
        c.layer_norm_eps, use_bias=c.biases, use_fast_variance=False, dtype=jnp.float32, name=name
    )


def _sum(x: jax.Array, y: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) + y.astype(jnp.float32)
