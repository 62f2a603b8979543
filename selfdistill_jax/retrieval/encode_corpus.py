"""Encodes many texts in packed batches of one shape, spread over this process's devices."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax import P

from selfdistill_jax.checkpoints.model_folder import Pretrained
from selfdistill_jax.checkpoints.sentence_transformers import lowers
from selfdistill_jax.data.encoding_batches import (
    Capacity,
    choose_capacity,
    pack,
    split_by_length,
)
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import Encode, Params
from selfdistill_jax.encoder.config import counts_positions_from_padding
from selfdistill_jax.errors import InputError
from selfdistill_jax.packed import PackedTexts
from selfdistill_jax.progress import Progress

AXIS = "data"
# Batches prepared ahead, besides those being computed, so that no device waits for numpy.
_AHEAD = 2
_MOST_STREAMS = 4  # each stream holds a batch in memory


def on_accelerator() -> bool:
    """Returns whether the default device is an accelerator.

    Batches for accelerators have rows of one length, in one block if that is not too large, see
    `data.encoding_batches.choose_capacity` and, for training, `data.batch_shape.choose_shape`.
    """
    return jax.default_backend() != "cpu"


def cores() -> int:
    """Returns the number of processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _streams(mesh: jax.sharding.Mesh) -> int:
    """Returns how many batches should be computed at once.

    A CPU that is one device computes several: within a batch, its cores share one matrix product
    after the other and stay partly idle where products are small, as in attention (two Zen 3 cores
    encode 1.2 times as fast with two batches). Several CPU devices already run at once. An
    accelerator computes one batch while the vectors of another are fetched.
    """
    if on_accelerator():
        return 2
    return min(cores(), _MOST_STREAMS) if mesh.devices.size == 1 else 1


def open_tokenizer(encoder: Pretrained) -> Tokenizer:
    """Opens the tokenizer of a loaded encoder.

    Raises:
      InputError: the tokenizer cannot be read, or it pads on the left for an architecture whose
        vectors in torch would then depend on the other texts of the batch.
    """
    tokenizer = Tokenizer(
        encoder.folder, table_rows=encoder.config.vocab_size, lower=lowers(encoder.folder)
    )
    if tokenizer.pads_left and counts_positions_from_padding(encoder.config):
        raise InputError(
            f"{encoder.folder / 'tokenizer_config.json'}: padding_side is 'left', but this "
            "architecture counts positions from the padding, so in sentence-transformers a text's "
            "vector would depend on the other texts of its batch; set padding_side to 'right'"
        )
    return tokenizer


def local_mesh() -> jax.sharding.Mesh:
    """Returns a mesh of this process's devices on one axis."""
    devices = jax.local_devices()
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=kinds, devices=devices)


def on_mesh(encode: Encode, mesh: jax.sharding.Mesh) -> Callable[[Params, PackedTexts], jax.Array]:
    """Compiles the encoder to process one part of the texts on each device.

    Args:
      encode: function from `make_encode`.
      mesh: mesh from `local_mesh`.

    Returns:
      ``f(params, texts) -> [devices, M, D]``, where texts have a leading axis of devices.
    """

    def one(params: Params, texts: PackedTexts) -> jax.Array:
        return encode(params, jax.tree.map(lambda x: x[0], texts))[None]

    specs = (P(), P(AXIS))
    # The check is not needed: without collectives, no value can wrongly vary over devices, and
    # there is no gradient to get wrong (docs/losses.md, "Several devices", has the reason).
    return jax.jit(
        jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)
    )


def encode_tokens(
    encode: Callable[[Params, PackedTexts], jax.Array],
    params: Params,
    tokens: TokenTable,
    *,
    limit: int,
    dimensions: int,
    mesh: jax.sharding.Mesh,
    progress: str | Progress = "",
) -> np.ndarray:
    """Encodes every row of a token table.

    Every batch gets texts of all lengths. So short texts fill the rows of long ones, all batches
    have one shape, and a batch that does not fit in memory fails at the start. On accelerators,
    many short texts have batches of their own, see `split_by_length`.

    Args:
      encode: function from `on_mesh`.
      params: the encoder's parameters, on every device of the mesh.
      tokens: the texts.
      limit: number of tokens that each text is truncated to.
      dimensions: D, the size of a vector.
      mesh: mesh from `local_mesh`.
      progress: progress bar to advance, or the label of a new one; empty shows no bar.

    Returns:
      ``[rows, D]`` float32 unit vectors in the table's order.
    """
    out = np.zeros((len(tokens), dimensions), np.float32)
    sharding = jax.NamedSharding(mesh, P(AXIS))
    devices, streams = mesh.devices.size, _streams(mesh)
    lengths = tokens.lengths(limit)
    if not lengths.any():  # no text has a token, so there are no rows to lay out
        return out
    waiting: deque[tuple[list[np.ndarray], Future]] = deque()
    one_at_a_time = threading.Lock()

    def vectors_of(batch: PackedTexts) -> np.ndarray:
        with one_at_a_time:  # otherwise each thread would compile
            vectors = encode(params, jax.device_put(batch, sharding))
        return np.asarray(vectors)

    def fetch(bar: Progress) -> None:
        groups, vectors = waiting.popleft()
        for rows, found in zip(groups, vectors.result(), strict=True):
            out[rows] = found[: len(rows)]
        bar.update(sum(map(len, groups)))

    with Progress.going_on(progress, len(tokens), unit="texts") as bar:
        pool = ThreadPoolExecutor(streams)
        try:
            for groups, capacity in _batches(lengths, limit, devices, streams):
                batch = pack(tokens, lengths, groups, capacity=capacity, limit=limit)
                waiting.append((groups, pool.submit(vectors_of, batch)))
                if len(waiting) > streams + _AHEAD:
                    fetch(bar)
            while waiting:
                fetch(bar)
        finally:
            pool.shutdown(cancel_futures=True)
    return out


def _batches(
    lengths: np.ndarray, limit: int, devices: int, streams: int
) -> Iterator[tuple[list[np.ndarray], Capacity]]:
    """Yields the rows of each device's texts, batch by batch, and the batch's shape."""
    accelerator = on_accelerator()
    for rows in split_by_length(lengths) if accelerator else [np.arange(len(lengths))]:
        capacity, parts = choose_capacity(
            lengths[rows], limit=limit, parts=devices * streams, accelerator=accelerator
        )
        order = rows[np.argsort(-lengths[rows], kind="stable")]
        for start in range(0, min(parts, len(order)), devices):
            yield [order[i::parts] for i in range(start, start + devices)], capacity
