"""Texts laid end to end into rows of fixed length: what the data side makes and the encoder reads.

The computation runs over blocks of ``T`` tokens. Within a block all rows have one length, so that
attention, the only place where tokens meet, is taken within rows; everything else sees a flat block
of tokens. A text lies within one row, and several texts share a row without seeing each other.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

Array = Any  # numpy on the host, jax.Array within a compiled function


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedTexts:
    """M texts in N blocks of T tokens.

    Attributes:
      ids: ``[N, T]`` int32 token ids.
      texts: ``[N, T]`` int32, the number of the text that a token belongs to; M on padding.
      positions: ``[N, T]`` int32, a token's place within its text.
      rows: ``[N]`` int32, which of `row_lengths` a block is cut into.
      blocks: int32, how many of the N are in use; the others cost no time.
      starts: ``[M]`` int32, where a text begins among all ``N * T`` tokens.
      lengths: ``[M]`` int32, its tokens; 0 for a text that is not there.
      seeds: ``[M]`` uint32 of what dropout drops of a text; None: nothing is dropped.
      row_lengths: lengths that rows can have; each divides T.
    """

    ids: Array
    texts: Array
    positions: Array
    rows: Array
    blocks: Array
    starts: Array
    lengths: Array
    row_lengths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    seeds: Array | None = None


def one_text_a_row(ids_MxL: Array, lengths_M: Array) -> PackedTexts:
    """Padded texts, one a row, as one block.

    Args:
      ids_MxL: ``[M, L]`` int; what lies right of a text's end is ignored.
      lengths_M: ``[M]`` int, tokens of each text.

    Example:
      >>> one_text_a_row(jnp.ones((3, 8), jnp.int32), jnp.array([8, 5, 2])).texts[0, 8:16]
      Array([1, 1, 1, 1, 1, 3, 3, 3], dtype=int32)
    """
    places = jnp.arange(ids_MxL.shape[1])[None]
    return from_mask(ids_MxL, places < jnp.asarray(lengths_M)[:, None])


def from_mask(ids_MxL: Array, mask_MxL: Array) -> PackedTexts:
    """What a tokenizer of `transformers` gives: texts padded on either side, one a row.

    Args:
      ids_MxL: ``[M, L]`` int, ``input_ids``.
      mask_MxL: ``[M, L]`` int or bool, ``attention_mask``: not 0 where a text is, in one piece.

    Example:
      >>> texts = from_mask(jnp.ones((2, 4), jnp.int32), jnp.array([[0, 0, 1, 1], [1, 1, 1, 1]]))
      >>> texts.starts, texts.lengths
      (Array([2, 4], dtype=int32), Array([2, 4], dtype=int32))
    """
    count, width = ids_MxL.shape
    mask = jnp.asarray(mask_MxL) != 0
    first_M = jnp.argmax(mask, axis=1).astype(jnp.int32)
    number = jnp.arange(count, dtype=jnp.int32)
    places = jnp.arange(width, dtype=jnp.int32)[None] - first_M[:, None]
    return PackedTexts(
        ids=jnp.asarray(ids_MxL, jnp.int32).reshape(1, -1),
        texts=jnp.where(mask, number[:, None], count).reshape(1, -1),
        positions=jnp.where(mask, places, 0).reshape(1, -1),
        rows=jnp.zeros(1, jnp.int32),
        blocks=jnp.int32(1),
        starts=number * width + first_M,
        lengths=mask.sum(1, dtype=jnp.int32),
        row_lengths=(width,),
    )
