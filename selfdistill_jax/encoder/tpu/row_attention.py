"""Computes attention within packed rows by one Pallas TPU kernel in each direction.

XLA writes the scores of all heads, and a mask for each, to memory: [R, H, L, L] twice. Here a grid
step takes one row with all heads, and scores, softmax and mask stay on the chip. The inputs and
results keep the layout of the matrix products around them, ``[T, 3D]`` and ``[T, D]``, so nothing
is transposed. The forward pass saves only its inputs; the backward pass computes the weights again.

A TPU multiplies tiles of 128 lanes, and heads are often smaller. Heads are not moved: two heads of
64 share a tile, and in one operand of each product the lanes of the other head are zero.

Shape legend: T tokens, R rows of L tokens, H heads, K head size, D = H K, W lanes of a tile.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from selfdistill_jax.encoder.precision import precision

LANES = 128
# Tokens of the longest row: the scores and a few arrays of their size take 5 MB of on-chip memory.
LONGEST = 512
_MASKED = -1e9
_VMEM = 64 * 2**20  # bytes; the compiler's own limit, 16 MB, is too small for rows of 512


def supports(*, length: int, heads: int, head_size: int) -> bool:
    """Returns whether the kernel can compute rows of this length and heads of this size.

    >>> supports(length=256, heads=12, head_size=64), supports(length=216, heads=12, head_size=64)
    (True, False)
    """
    fills = head_size % LANES == 0 or (LANES % head_size == 0 and heads * head_size % LANES == 0)
    return fills and head_size <= 2 * LANES and length % LANES == 0 and length <= LONGEST


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def row_attention(
    qkv_Tx3D: jax.Array,
    segments_RxL: jax.Array,
    bias_HxLxL: jax.Array | None,
    window: jax.Array | None,
    heads: int,
    elsewhere: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Computes softmax attention of each token over the tokens of its text, ``[T, D]``.

    Args:
      qkv_Tx3D: queries, keys and values side by side, float32 or bfloat16; softmax is float32.
      segments_RxL: int32 number of each token's text; the tokens of a text are contiguous.
      bias_HxLxL: float32, added to the scores of all rows; or None.
      window: int32, distance to which a token attends on either side; or None.
      heads: H, see `supports`.
      elsewhere: function of all arguments above that computes the same on devices other than TPUs;
        None to interpret the kernel there, which is slow.
    """
    return _forward(qkv_Tx3D, segments_RxL, bias_HxLxL, window, heads, elsewhere)[0]


def _forward(qkv, segments, bias, window, heads: int, elsewhere):
    arguments = qkv, segments, bias, window
    mixed = lax.platform_dependent(
        *arguments,
        tpu=partial(_mix, heads=heads),
        default=partial(elsewhere or partial(_mix, interpret=True), heads=heads),
    )
    return mixed, arguments


def _backward(heads: int, elsewhere, saved, g):
    def differentiate(qkv, segments, bias, window, g):
        def function(qkv, bias):
            return elsewhere(qkv, segments, bias, window, heads=heads)

        return jax.vjp(function, qkv, bias)[1](g)

    back_qkv, back_bias = lax.platform_dependent(
        *saved,
        g.astype(saved[0].dtype),
        tpu=partial(_mix_back, heads=heads),
        default=differentiate if elsewhere else partial(_mix_back, heads=heads, interpret=True),
    )
    return back_qkv, None, back_bias, None


row_attention.defvjp(_forward, _backward)


def _mix(qkv, segments, bias, window, *, heads: int, interpret: bool = False) -> jax.Array:
    (mixed,) = _call(
        partial(_forward_kernel, heads=heads),
        segments,
        [qkv],
        bias,
        window,
        out=[qkv.shape[1] // 3],
        name="row_attention",
        interpret=interpret,
    )
    return mixed


def _mix_back(qkv, segments, bias, window, g, *, heads: int, interpret: bool = False):
    """Returns the gradients of ``qkv`` and of the bias, which is None if there is none."""
    turned = None if bias is None else bias.swapaxes(1, 2)  # this kernel has keys along rows
    back_qkv, *back_bias = _call(
        partial(_backward_kernel, heads=heads),
        segments,
        [qkv, g],
        turned,
        window,
        out=[qkv.shape[1]],
        sums=[] if bias is None else [bias.shape],
        name="row_attention_backward",
        interpret=interpret,
    )
    return back_qkv, back_bias[0].swapaxes(1, 2) if back_bias else None


def _call(kernel, segments, arrays, bias, window, *, out, sums=(), name: str, interpret: bool):
    """Calls a kernel for each row.

    Args:
      kernel: function of the references of all arrays, and of a scratch array ``[L, L]``.
      segments, bias, window: see `row_attention`.
      arrays: ``[T, n]`` inputs, of which the kernel gets a row's part.
      out: numbers of columns of the outputs, of which the kernel writes a row's part.
      sums: shapes of float32 outputs that are whole in every call, to add to.
    """
    rows, length = segments.shape

    def part(columns: int) -> pl.BlockSpec:
        return pl.BlockSpec((length, columns), lambda row: (row, 0))

    def whole(shape: tuple[int, ...]) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda row: (0,) * len(shape))

    inputs: list[Any] = [segments.reshape(rows, 1, length)]
    specs = [pl.BlockSpec((1, 1, length), lambda row: (row, 0, 0))]
    if window is not None:
        inputs.append(window.reshape(1))
        specs.append(pl.BlockSpec(memory_space=pltpu.SMEM))
    if bias is not None:
        inputs.append(bias)
        specs.append(whole(bias.shape))
    # Within `jax.shard_map`, a result varies over the devices that any input varies over.
    firsts = [x.reshape(-1)[0].astype(jnp.float32) for x in (*inputs, *arrays)]
    varying = jax.typeof(sum(firsts)).manual_axis_type
    results = [((rows * length, n), arrays[0].dtype, part(n)) for n in out]
    results += [(shape, jnp.float32, whole(shape)) for shape in sums]
    return pl.pallas_call(
        partial(kernel, has_window=window is not None, has_bias=bias is not None),
        grid=(rows,),
        in_specs=[*specs, *(part(x.shape[1]) for x in arrays)],
        out_specs=[spec for _, _, spec in results],
        out_shape=[
            jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying)
            for shape, dtype, _ in results
        ],
        scratch_shapes=[pltpu.VMEM((length, length), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary" if sums else "parallel",), vmem_limit_bytes=_VMEM
        ),
        interpret=interpret,
        name=name,
    )(*inputs, *arrays)


def _forward_kernel(segments, *refs, heads: int, has_window: bool, has_bias: bool):
    refs = list(refs)
    window = refs.pop(0) if has_window else None
    bias = refs.pop(0) if has_bias else None
    qkv, mixed, mask = refs
    mask[...] = _mask(segments[0], window)
    tiles = _Tiles(qkv, heads)
    for tile in range(tiles.count):
        q, k, v = (tiles.read(qkv, tile, part) for part in range(3))
        total = jnp.zeros(q.shape, jnp.float32)
        for head, own in tiles.heads(tile):
            scores = _product(q, _only(own, k), (1, 1)) * tiles.scale + mask[...]
            if bias is not None:
                scores += bias[head]
            weights = jnp.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            total += _product(weights.astype(v.dtype), _only(own, v), (1, 0))
        tiles.write(mixed, tile, 0, total)


def _backward_kernel(segments, *refs, heads: int, has_window: bool, has_bias: bool):
    """Computes the gradients of a row; weights and scores have keys along rows."""
    refs = list(refs)
    window = refs.pop(0) if has_window else None
    bias = refs.pop(0) if has_bias else None
    qkv, g_mixed, back_qkv, *back_bias, mask = refs
    mask[...] = _mask(segments[0], window)
    if back_bias:

        @pl.when(pl.program_id(0) == 0)
        def _():
            back_bias[0][...] = jnp.zeros_like(back_bias[0])

    tiles = _Tiles(qkv, heads)
    for tile in range(tiles.count):
        q, k, v = (tiles.read(qkv, tile, part) for part in range(3))
        g = tiles.read(g_mixed, tile, 0)
        back_q, back_k, back_v = (jnp.zeros(q.shape, jnp.float32) for _ in range(3))
        for head, own in tiles.heads(tile):
            own_q, own_g = _only(own, q), _only(own, g)
            scores = _product(k, own_q, (1, 1)) * tiles.scale + mask[...]
            if bias is not None:
                scores += bias[head]
            weights = jnp.exp(scores - scores.max(0, keepdims=True))
            weights /= weights.sum(0, keepdims=True)
            back_weights = _product(v, own_g, (1, 1))
            inner = (weights * back_weights).sum(0, keepdims=True)
            back_scores = weights * (back_weights - inner)
            if back_bias:
                back_bias[0][head] += back_scores
            back_scores = (back_scores * tiles.scale).astype(q.dtype)
            back_v += _product(weights.astype(q.dtype), own_g, (1, 0))
            back_k += _product(back_scores, own_q, (1, 0))
            back_q += _product(back_scores, _only(own, k), (0, 0))
        for part, value in enumerate((back_q, back_k, back_v)):
            tiles.write(back_qkv, tile, part, value)


class _Tiles:
    """Splits the columns of a row's queries, keys and values into tiles of whole heads."""

    def __init__(self, qkv, heads: int):
        self.size = qkv.shape[1] // 3
        self._head_size = self.size // heads
        self._width = max(self._head_size, LANES)
        self.count = self.size // self._width
        self.scale = self._head_size**-0.5

    def read(self, ref, tile: int, part: int) -> jax.Array:
        return ref[:, self._columns(tile, part)]

    def write(self, ref, tile: int, part: int, value: jax.Array) -> None:
        ref[:, self._columns(tile, part)] = value.astype(ref.dtype)

    def heads(self, tile: int):
        """Yields each head of a tile, and ``[1, W]`` bool: its lanes; None if it has all."""
        each = self._width // self._head_size
        lane_head = lax.broadcasted_iota(jnp.int32, (1, self._width), 1) // self._head_size
        for i in range(each):
            yield tile * each + i, lane_head == i if each > 1 else None

    def _columns(self, tile: int, part: int) -> slice:
        first = part * self.size + tile * self._width
        return slice(first, first + self._width)


def _mask(segments_1xL: jax.Array, window) -> jax.Array:
    """Returns ``[L, L]`` float32: 0 where two tokens attend to each other, otherwise `_MASKED`."""
    length = segments_1xL.shape[1]
    # A row of numbers becomes a column by a transpose of whole tiles.
    segments_LxLanes = jnp.broadcast_to(segments_1xL, (LANES, length)).T
    sees = jnp.concatenate(
        [segments_LxLanes == segments_1xL[:, i : i + LANES] for i in range(0, length, LANES)], 1
    )
    if window is not None:  # within a text, the distance in the row is that in the text
        places = [lax.broadcasted_iota(jnp.int32, (length, length), axis) for axis in (0, 1)]
        sees &= jnp.abs(places[0] - places[1]) <= window[0]
    return jnp.where(sees, 0.0, _MASKED)


def _only(own: jax.Array | None, x: jax.Array) -> jax.Array:
    """Returns x with zeros outside a head's lanes."""
    return x if own is None else jnp.where(own, x, jnp.zeros_like(x))


def _product(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Returns the float32 product of two matrices, summed over an axis of each."""
    return lax.dot_general(
        a,
        b,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=precision(a.dtype),
        preferred_element_type=jnp.float32,
    )
