"""Encodes token tables with the devices of all processes."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.encoder.apply import Encode, Params
from selfdistill_jax.progress import Progress
from selfdistill_jax.retrieval.encode_corpus import encode_tokens, local_mesh, on_mesh


class TableEncoder:
    """Encodes every row of a token table; each process encodes a share and gets all vectors.

    Args:
      encode: the encoder without dropout.
      dimensions: D, the size of its vectors.

    Attributes:
      dimensions: as given.
    """

    def __init__(self, encode: Encode, dimensions: int):
        self._mesh = local_mesh()
        self._encode = on_mesh(encode, self._mesh)
        self.dimensions = dimensions

    def on_devices(self, params: Params) -> Params:
        """Copies parameters to every device of this process."""
        return jax.device_put(params, jax.NamedSharding(self._mesh, jax.P()))

    def __call__(
        self, params: Params, tokens: TokenTable, *, limit: int, progress: str = ""
    ) -> np.ndarray:
        """Encodes a table.

        Args:
          params: parameters from `on_devices`, the same on every process.
          tokens: the texts, the same on every process.
          limit: tokens that each text is truncated to.
          progress: label of a progress bar; empty shows none.

        Returns:
          ``[rows, D]`` float32 unit vectors in the table's order.
        """

        processes, total = jax.process_count(), len(tokens)
        if processes == 1:
            return self.share(params, tokens, limit=limit, progress=progress)
        own = tokens.take(np.arange(jax.process_index(), total, processes))
        shown = progress if jax.process_index() == 0 else ""
        vectors = self.share(params, own, limit=limit, progress=shown)
        fill = -(-total // processes) - len(vectors)
        every = multihost_utils.process_allgather(np.pad(vectors, ((0, fill), (0, 0))))
        return np.asarray(every).transpose(1, 0, 2).reshape(-1, vectors.shape[1])[:total]

    def share(
        self, params: Params, tokens: TokenTable, *, limit: int, progress: str | Progress = ""
    ) -> np.ndarray:
        """Encodes a table of this process alone, ``[rows, D]``; see `__call__`."""
        return encode_tokens(
            self._encode,
            params,
            tokens,
            limit=limit,
            dimensions=self.dimensions,
            mesh=self._mesh,
            progress=progress,
        )
