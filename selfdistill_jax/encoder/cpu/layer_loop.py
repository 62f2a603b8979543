"""Runs a stack of equal layers over blocks of tokens: layer by layer, and each block by block.

A block's intermediates stay in the processor's cache instead of passing through memory, blocks not
in use are skipped at run time (so batches of different sizes share one compiled program), and the
compile time depends neither on the depth nor on the number of blocks. The derivative is written by
hand, because autodiff of nested scans stores bfloat16 residuals on a CPU by rewriting all of them
at each step of a scan (10.6 s per training step instead of 8.2). Values for the backward pass are
therefore stored by `to_bits`.

Shape legend: N blocks of T tokens, D hidden size.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from selfdistill_jax.encoder.cpu.attention import TokenInfo
from selfdistill_jax.encoder.cpu.bf16_storage import from_bits, to_bits

Layer = Callable[[Any, Any, jax.Array, TokenInfo, "Residuals"], jax.Array]


class Residuals:
    """Lets a layer mark the values that the backward pass shall not compute again.

    This base class stores nothing: it serves a forward pass without a backward pass.
    """

    def __call__(self, value: jax.Array) -> jax.Array:
        """Marks a value and returns it; in the backward pass, returns the stored value instead."""
        return value

    def call(self, forward: Callable, backward: Callable, x: Any) -> jax.Array:
        """Returns ``forward(x)[0]``; stores all outputs for ``backward(x, *outputs, g)``.

        ``x`` is an array or a tree of arrays, and ``backward`` returns its gradient.
        """
        return forward(x)[0]


class _Saving(Residuals):
    def __init__(self, remat: str):
        self.kept: list[Any] = []
        self._products = remat == "products"

    def __call__(self, value):
        if self._products:
            self.kept.append(value)
        return value

    def call(self, forward, backward, x):
        outputs = forward(x)
        self(outputs)
        return outputs[0]


class _Loading(Residuals):
    """Returns the stored values; of the code that computed them, only the derivative is used."""

    def __init__(self, kept):
        self._kept = list(kept)

    def __call__(self, value):
        return _kept_instead(value, self._kept.pop(0))

    def call(self, forward, backward, x):
        @jax.custom_vjp
        def result(x, outputs):
            return outputs[0]

        def pull(residuals, g):
            x, outputs = residuals
            return backward(x, *outputs, g), None

        result.defvjp(lambda x, outputs: (outputs[0], (x, outputs)), pull)
        return result(x, self._kept.pop(0))


class _Recomputing(Residuals):
    """Computes all values again, as none is stored; ``backward`` still gives the derivatives."""

    def call(self, forward, backward, x):
        @jax.custom_vjp
        def result(x):
            return forward(x)[0]

        def recorded(x):
            outputs = forward(x)
            return outputs[0], (x, outputs)

        result.defvjp(recorded, lambda residuals, g: (backward(residuals[0], *residuals[1], g),))
        return result(x)


@jax.custom_vjp
def _kept_instead(value, kept):
    return kept


_kept_instead.defvjp(lambda value, kept: (kept, None), lambda _, g: (g, None))


def run_layers(
    layer: Layer,
    params: Any,
    x_NxTxD: jax.Array,
    blocks: TokenInfo,
    count: jax.Array,
    *,
    constants: Any = None,
    remat: str = "products",
) -> jax.Array:
    """Applies the layers in order.

    Args:
      layer: ``(params, constants, x, block, keep) -> x`` for one layer and one block, ``[T, D]``; a
        static argument: another function object means another compilation.
      params: the layers' parameters, with a leading axis of layers.
      x_NxTxD: hidden states.
      blocks: data about the blocks' tokens, with a leading axis of N.
      count: int32, number of blocks in use.
      constants: other data of the layers, with a leading axis of layers; it gets no gradient.
      remat: a key of `model.REMATS`.

    Returns:
      ``[N, T, D]``; zeros in blocks that are not in use. A single block is always computed.
    """
    return _run(layer, remat, params, constants, x_NxTxD, blocks, count)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(layer, remat, params, constants, x, blocks, count):
    def one_layer(number, x):
        own, fixed = _at((params, constants), number)

        def one_block(b, out):
            y = layer(own, fixed, _load(x, x_dtype, b), _at(blocks, b), Residuals())
            return _put(out, to_bits(y), b)

        return _over_blocks(len(x), count, one_block, _room(x, like=x))

    x_dtype = x.dtype
    return from_bits(lax.fori_loop(0, _depth(params), one_layer, to_bits(x)), x_dtype)


def _run_forward(layer, remat, params, constants, x, blocks, count):
    depth, kept = _depth(params), _kept_shapes(layer, remat, params, constants, x, blocks)
    inputs = _put(_room(x, depth + 1, like=x), to_bits(x), 0)
    buffers = jax.tree.map(lambda k: _room(k, depth, len(x), like=x), kept)

    def one_layer(number, carry):
        own, fixed = _at((params, constants), number)

        def one_block(b, carry):
            inputs, buffers = carry
            keep = _Saving(remat)
            y = layer(own, fixed, _load(inputs, x.dtype, number, b), _at(blocks, b), keep)
            inputs = _put(inputs, to_bits(y), number + 1, b)
            return inputs, jax.tree.map(
                lambda buffer, k: _put(buffer, to_bits(k), number, b), buffers, keep.kept
            )

        return _over_blocks(len(x), count, one_block, carry)

    inputs, buffers = lax.fori_loop(0, depth, one_layer, (inputs, buffers))
    used = jnp.arange(len(x)) < count
    out = jnp.where(used[:, None, None], _load(inputs, x.dtype, depth), jnp.zeros((), x.dtype))
    return out, (params, constants, inputs, buffers, blocks, count, _Kinds.of(kept))


def _run_backward(layer, remat, residuals, g):
    params, constants, inputs, buffers, blocks, count, kinds = residuals
    depth, dtype = _depth(params), g.dtype  # the dtype of x; `inputs` may hold its bits
    kept = kinds.tree()
    replay = _Loading if remat == "products" else lambda _: _Recomputing()

    def one_layer(i, carry):
        number = depth - 1 - i
        g, gradients = carry
        own, fixed = _at((params, constants), number)

        def one_block(b, carry):
            back, sums = carry
            values = jax.tree.map(lambda k, x: _load(x, k.dtype, number, b), kept, buffers)
            block = _at(blocks, b)
            _, pull = jax.vjp(
                lambda own, x: layer(own, fixed, x, block, replay(values)),
                own,
                _load(inputs, dtype, number, b),
            )
            of_params, of_x = pull(_load(g, dtype, b))
            return _put(back, to_bits(of_x), b), jax.tree.map(jnp.add, sums, of_params)

        # Writes to another array than it reads: else XLA copies the whole array for each block.
        start = (_room(g, like=g), jax.tree.map(lambda p: _room(p, like=g), own))
        g, sums = _over_blocks(len(g), count, one_block, start)
        return g, jax.tree.map(lambda all_, one: _put(all_, one, number), gradients, sums)

    gradients = jax.tree.map(lambda p: _room(p, like=g), params)
    g, gradients = lax.fori_loop(0, depth, one_layer, (to_bits(g), gradients))
    return gradients, None, from_bits(g, dtype), None, None


_run.defvjp(_run_forward, _run_backward)


def _over_blocks(blocks: int, count: jax.Array, one_block: Callable, start: Any) -> Any:
    """Applies ``one_block`` to the blocks in use, in order.

    A single block needs no loop: before each iteration of a loop, an accelerator asks the host
    whether there is another.
    """
    if blocks == 1:
        return one_block(0, start)
    return lax.fori_loop(0, count, one_block, start)


def _depth(params: Any) -> int:
    return jax.tree.leaves(params)[0].shape[0]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Kinds:
    """Holds shapes and types of a tree's arrays, as a residual without arrays.

    Tracing the layer once more to find them would take a tenth of a step's tracing.
    """

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    structure: Any

    @classmethod
    def of(cls, tree: Any) -> "_Kinds":
        leaves, structure = jax.tree.flatten(tree)
        return cls(tuple(leaves), structure)

    def tree(self) -> Any:
        return jax.tree.unflatten(self.structure, self.leaves)


def _kept_shapes(
    layer: Layer, remat: str, params: Any, constants: Any, x: Any, blocks: TokenInfo
) -> list[Any]:
    """Returns the shapes of the values that a layer stores for one block."""

    def kept(params, constants, x, blocks):
        keep = _Saving(remat)
        layer(_at(params, 0), _at(constants, 0), x[0], _at(blocks, 0), keep)
        return keep.kept

    return jax.eval_shape(kept, params, constants, x, blocks)


def _load(x: jax.Array, dtype: jnp.dtype, *at: jax.Array | int) -> jax.Array:
    return from_bits(_at(x, *at), dtype)


def _at(tree: Any, *at: jax.Array | int) -> Any:
    def one(x):
        for i in at:
            x = lax.dynamic_index_in_dim(x, i, keepdims=False)
        return x

    return jax.tree.map(one, tree)


def _put(x: jax.Array, value: jax.Array, *at: jax.Array | int) -> jax.Array:
    start = [jnp.int32(i) for i in (*at, *(0 for _ in value.shape))]
    return lax.dynamic_update_slice(x, value.reshape((1,) * len(at) + value.shape), start)


def _room(kind: Any, *leading: int, like: jax.Array) -> jax.Array:
    """Returns zeros of a kind's shape and storage type.

    Under `jax.shard_map` they vary over devices if ``like`` does: a loop's carry must keep its
    type.
    """
    dtype = jnp.uint16 if kind.dtype == jnp.bfloat16 else kind.dtype
    return lax.full_like(like, 0, dtype, (*leading, *kind.shape))
