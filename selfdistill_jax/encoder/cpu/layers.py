"""Defines the parts of encoders in Flax Linen: products, norms, attention, a layer.

Shape legend: T tokens of a block, D hidden size, F feed-forward size.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from selfdistill_jax.encoder.config import EncoderConfig
from selfdistill_jax.encoder.cpu.attention import (
    LayerMask,
    TokenInfo,
    attend,
    attend_backward,
)
from selfdistill_jax.encoder.cpu.layer_loop import Residuals
from selfdistill_jax.encoder.cpu.matmul import affine
from selfdistill_jax.encoder.cpu.norm_gelu import ACTIVATIONS, add_norm
from selfdistill_jax.encoder.dropout import NO_DROPOUT, Dropout, at, drop
from selfdistill_jax.encoder.model import INIT, PerLayer
from selfdistill_jax.encoder.positions import turn

# The name of a kernel that is stored transposed.
_TURNED = "turned_kernel"


def transpose_kernels(params: Any) -> Any:
    """Transposes kernels with more inputs than outputs: `affine` is faster with the transposes.

    This is for use within a step only; stored parameters have all kernels as ``[inputs, outputs]``.

    Args:
      params: parameters of layers, with or without a leading axis of layers.
    """
    if not isinstance(params, Mapping):
        return params
    turned = {name: transpose_kernels(value) for name, value in params.items()}
    kernel = turned.get("kernel")
    if kernel is not None and kernel.shape[-2] > kernel.shape[-1]:
        turned[_TURNED] = jnp.swapaxes(turned.pop("kernel"), -1, -2)
    return turned


class Dense(nn.Module):
    """Computes a product and a bias; the kernel may be transposed, see `transpose_kernels`."""

    features: int
    bias: bool = True

    @nn.compact
    def __call__(self, x_TxD: jax.Array) -> jax.Array:
        turned = self.has_variable("params", _TURNED)
        if turned:
            kernel = self.get_variable("params", _TURNED)
        else:
            kernel = self.param("kernel", INIT, (x_TxD.shape[-1], self.features), jnp.float32)
        bias = None
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return affine(x_TxD, kernel, bias, turned)


class AddNorm(nn.Module):
    """Computes the layer norm of a sum, or of one array alone."""

    epsilon: float
    bias: bool = True

    @nn.compact
    def __call__(self, x_TxD: jax.Array, y_TxD: jax.Array | None = None) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x_TxD.shape[-1],), jnp.float32)
        bias = None
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (x_TxD.shape[-1],), jnp.float32)
        return add_norm(x_TxD, y_TxD, scale, bias, self.epsilon)


class Attention(nn.Module):
    config: EncoderConfig
    row_lengths: tuple[int, ...]
    dropout: Dropout

    @nn.compact
    def __call__(
        self,
        x_TxD: jax.Array,
        block: TokenInfo,
        keep: Residuals,
        constants: PerLayer,
        bias_OxH: jax.Array | None,
    ) -> jax.Array:
        c = self.config
        qkv = keep(Dense(3 * c.hidden_size, c.biases, name="qkv")(x_TxD))
        if constants.frequencies is not None:
            qkv = turn(qkv, block.positions, constants.frequencies, heads=c.num_heads)
        output = Dense(c.hidden_size, c.biases, name="output")
        seeds = block.seeds
        if seeds is not None:
            seeds = at(seeds, "attention", constants.number)
        options: dict[str, Any] = {
            "row_lengths": self.row_lengths,
            "sight": LayerMask(constants.window, seeds),
        }
        options["drop"] = self.dropout.attention

        def forward(x):
            qkv, bias = x
            return attend(qkv, block, heads=c.num_heads, bias_OxH=bias, **options)

        def backward(x, out, log_sum, g):
            qkv, bias = x
            return attend_backward(qkv, block, out, log_sum, g, bias_OxH=bias, **options)

        mixed = keep.call(forward, backward, (qkv, bias_OxH))
        return keep(output(mixed))


class Layer(nn.Module):
    """Computes a transformer layer for a block, with norms after the sums or before the parts."""

    config: EncoderConfig
    row_lengths: tuple[int, ...]
    dropout: Dropout = NO_DROPOUT

    @nn.compact
    def __call__(
        self,
        x_TxD: jax.Array,
        block: TokenInfo,
        keep: Residuals,
        constants: PerLayer,
        bias_OxH: jax.Array | None = None,
    ) -> jax.Array:
        c, rates = self.config, self.dropout
        norms = [
            AddNorm(c.layer_norm_eps, c.biases, name=name)
            for name in ("attention_norm", "output_norm")
        ]
        attention = Attention(c, self.row_lengths, rates, name="attention")

        def dropped(x: jax.Array, place: str) -> jax.Array:
            if block.seeds is None:
                return x
            return drop(x, at(block.seeds, place, constants.number), getattr(rates, place))

        def attended(x: jax.Array) -> jax.Array:
            return dropped(attention(x, block, keep, constants, bias_OxH), "attended")

        def fed_forward(x: jax.Array) -> jax.Array:
            width = c.intermediate_size * (2 if c.gated else 1)
            # The product's result, a third of all stored values, is stored; the activation is
            # computed again.
            inner = keep(Dense(width, c.biases, name="inner")(x))
            gate = None
            if c.gated:
                inner, gate = jnp.split(inner, 2, axis=-1)
            inner = ACTIVATIONS[c.activation](inner)
            inner = dropped(inner if gate is None else inner * gate, "inner")
            return dropped(keep(Dense(c.hidden_size, c.biases, name="outer")(inner)), "outer")

        if c.pre_norm:
            # The first layer's input, the embeddings, is normed already.
            normed = jnp.where(constants.number == 0, x_TxD, norms[0](x_TxD))
            x_TxD = x_TxD + attended(normed)
            return x_TxD + fed_forward(norms[1](x_TxD))
        x_TxD = norms[0](x_TxD, attended(x_TxD))
        return norms[1](x_TxD, fed_forward(x_TxD))
