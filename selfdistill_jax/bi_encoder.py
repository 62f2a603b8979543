"""The trained thing in one object: texts in, unit vectors out."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from selfdistill_jax.data.batches import bucket
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.bert import TokenRows
from selfdistill_jax.encoder.encode import Encode, Params, make_encode
from selfdistill_jax.encoder.folder import Encoder, read_folder, write_folder

WIDTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512)


def encode_tokens(
    encode: Encode, params: Params, tokens: TokenTable, *, limit: int, batch_size: int = 128
) -> np.ndarray:
    """Encodes every row of a token table.

    Rows go longest first in batches of one shape a width, so that few shapes are compiled and the
    largest fails at the start, not at the end.

    Args:
      encode: a jitted `make_encode` function.
      params: its parameters.
      tokens: the texts.
      limit: tokens each is cut at.
      batch_size: rows of a batch; a last, smaller one is filled up to a power of two.

    Returns:
      ``[rows, D]`` float32 unit vectors in the table's order.
    """
    lengths = tokens.lengths(limit)
    order = np.argsort(-lengths, kind="stable")
    parts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = bucket(int(lengths[rows[0]]), WIDTHS, limit)
        ids, row_lengths = tokens.padded(rows, limit=limit, width=width)
        fill = min(batch_size, 1 << (len(rows) - 1).bit_length()) - len(rows)
        batch = TokenRows(np.pad(ids, ((0, fill), (0, 0))), np.pad(row_lengths, (0, fill)))
        parts.append((rows, encode(params, batch)))  # dispatched; fetched below
    out = np.zeros((len(tokens), parts[0][1].shape[1] if parts else 0), np.float32)
    for rows, vectors in parts:
        out[rows] = np.asarray(vectors)[: len(rows)]
    return out


class BiEncoder:
    """One encoder for queries and documents.

    Example (needs the weights):
        model = BiEncoder.load("sentence-transformers/all-MiniLM-L6-v2")
        vectors = model.encode(["how do I list open ports"])  # float32 [1, 384], unit length
        model.save("my-model")  # a sentence-transformers folder
    """

    def __init__(self, encoder: Encoder, *, dtype: jnp.dtype = jnp.float32):
        self.encoder = encoder
        self.tokenizer = Tokenizer(encoder.folder)
        function = make_encode(encoder.config, pooling=encoder.pooling, dtype=dtype)
        self._encode = jax.jit(function)
        self._params = jax.device_put(encoder.params)

    @classmethod
    def load(cls, name: str, *, pooling: str = "source") -> "BiEncoder":
        """Opens a folder or hub id.

        Raises:
          InputError: it is nowhere, damaged, or of another architecture.
        """
        return cls(read_folder(name, pooling=pooling))

    def encode(self, texts: Sequence[str], *, batch_size: int = 128) -> np.ndarray:
        """Unit vectors ``[n, D]`` float32 of texts, each cut at the model's own maximum length."""
        limit = self.encoder.max_length
        tokens = TokenTable.from_texts(self.tokenizer, texts, limit=limit)
        return encode_tokens(self._encode, self._params, tokens, limit=limit, batch_size=batch_size)

    def save(self, path: str | Path, *, card: str = "") -> None:
        """Writes a folder that sentence-transformers and ``AutoModel`` open."""
        write_folder(Path(path), self.encoder, card=card or "# A bi-encoder of selfdistill_jax\n")
