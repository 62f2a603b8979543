"""Encodes many texts: longest first, few shapes, spread over this process's devices."""

from collections import deque

import jax
import numpy as np

from selfdistill_jax.data.batches import bucket
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.bert import TokenRows
from selfdistill_jax.encoder.encode import Encode, Params
from selfdistill_jax.progress import Progress

WIDTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
_IN_FLIGHT = 3  # batches dispatched before the first is fetched: the device never waits for numpy


def local_mesh() -> jax.sharding.Mesh:
    """This process's devices on one axis, ``data``."""
    devices = jax.local_devices()
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("data",), axis_types=kinds, devices=devices)


def encode_tokens(
    encode: Encode,
    params: Params,
    tokens: TokenTable,
    *,
    limit: int,
    dimensions: int,
    mesh: jax.sharding.Mesh,
    batch_size: int = 128,
    progress: str = "",
) -> np.ndarray:
    """Encodes every row of a token table.

    Rows go longest first, so that a batch has rows of about one length, few shapes are compiled,
    and a batch that does not fit memory fails at the start, not at the end.

    Args:
      encode: a jitted `make_encode` function.
      params: its parameters, on every device of the mesh.
      tokens: the texts.
      limit: tokens each is cut at.
      dimensions: D.
      mesh: as `local_mesh`.
      batch_size: rows of a batch; the last, smaller one is filled up to a power of two.
      progress: label of a progress bar; none is shown without.

    Returns:
      ``[rows, D]`` float32 unit vectors in the table's order.
    """
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    devices = mesh.devices.size
    batch_size = -(-batch_size // devices) * devices
    lengths = tokens.lengths(limit)
    order = np.argsort(-lengths, kind="stable")
    out = np.zeros((len(tokens), dimensions), np.float32)
    waiting: deque[tuple[np.ndarray, jax.Array]] = deque()
    bar = Progress(progress, len(order), unit="texts") if progress else None

    def fetch() -> None:
        rows, vectors = waiting.popleft()
        out[rows] = np.asarray(vectors)[: len(rows)]
        if bar is not None:
            bar.update(len(rows))

    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = bucket(int(lengths[rows[0]]), WIDTHS, limit)
        ids, row_lengths = tokens.padded(rows, limit=limit, width=width)
        filled = -(-(1 << (len(rows) - 1).bit_length()) // devices) * devices
        fill = min(batch_size, filled) - len(rows)
        batch = TokenRows(np.pad(ids, ((0, fill), (0, 0))), np.pad(row_lengths, (0, fill)))
        waiting.append((rows, encode(params, jax.device_put(batch, sharding))))
        if len(waiting) > _IN_FLIGHT:
            fetch()
    while waiting:
        fetch()
    if bar is not None:
        bar.__exit__()
    return out
