"""Defines `PackedTexts`, the encoder's input: texts packed end to end into rows of fixed length.

The encoder computes over blocks of ``T`` tokens. All rows of a block have the same length, and
attention, the only operation that mixes tokens, is computed within rows; every other operation
treats a block as a flat array of tokens. A text lies within one row; texts that share a row do not
attend to each other.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

Array = Any  # numpy on the host, jax.Array within a compiled function


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedTexts:
    """Holds M texts in N blocks of T tokens.

    Attributes:
      ids: ``[N, T]`` int32 token ids.
      segment_ids: ``[N, T]`` int32, the index of each token's text; M on padding.
      positions: ``[N, T]`` int32, each token's position within its text.
      row_kind: ``[N]`` int32, the index in `row_lengths` of each block's row length.
      num_blocks: int32, the number of blocks in use; the CPU backend skips the others.
      starts: ``[M]`` int32, the index of each text's first token among all ``N * T`` tokens.
      lengths: ``[M]`` int32, the number of each text's tokens; 0 for an unused entry.
      seeds: ``[M]`` uint32, the dropout seed of each text; None turns dropout off.
      row_lengths: the possible row lengths; each divides T.
    """

    ids: Array
    segment_ids: Array
    positions: Array
    row_kind: Array
    num_blocks: Array
    starts: Array
    lengths: Array
    row_lengths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    seeds: Array | None = None

    @property
    def computed_tokens(self) -> int:
        """Returns the number of tokens of the blocks in use, with padding."""
        return int(self.num_blocks.sum()) * self.ids.shape[-1]


def one_text_a_row(ids_MxL: Array, lengths_M: Array) -> PackedTexts:
    """Returns one block that holds padded texts, one a row.

    Args:
      ids_MxL: ``[M, L]`` int, token ids; those right of a text's end are ignored.
      lengths_M: ``[M]`` int, number of tokens of each text.

    Example:
      >>> one_text_a_row(jnp.ones((3, 8), jnp.int32), jnp.array([8, 5, 2])).segment_ids[0, 8:16]
      Array([1, 1, 1, 1, 1, 3, 3, 3], dtype=int32)
    """
    places = jnp.arange(ids_MxL.shape[1])[None]
    return from_mask(ids_MxL, places < jnp.asarray(lengths_M)[:, None])


def from_mask(ids_MxL: Array, mask_MxL: Array) -> PackedTexts:
    """Returns one block made from the output of a `transformers` tokenizer, padded on either side.

    Args:
      ids_MxL: ``[M, L]`` int, ``input_ids``.
      mask_MxL: ``[M, L]`` int or bool, ``attention_mask``: not 0 on the tokens of a text, which
        must be contiguous.

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
        segment_ids=jnp.where(mask, number[:, None], count).reshape(1, -1),
        positions=jnp.where(mask, places, 0).reshape(1, -1),
        row_kind=jnp.zeros(1, jnp.int32),
        num_blocks=jnp.int32(1),
        starts=number * width + first_M,
        lengths=mask.sum(1, dtype=jnp.int32),
        row_lengths=(width,),
    )
