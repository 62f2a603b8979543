"""Makes training batches of names and pictures, each a pure function of (seed, step)."""

from collections.abc import Iterator

import numpy as np

from examples.emoji.emoji_data import Pairs
from examples.emoji.model import Inputs
from selfdistill_jax.data.batches import TripletBatch

_SHIFT = 4  # largest random shift of a picture, in pixels, along each axis


class EmojiBatches:
    """Makes the batch of any step: names, an emoji of each, and another one as its negative.

    Args:
      pairs: the pairs of the training split.
      pictures: ``[emoji, H, W, 3]`` uint8.
      names: ``[names, W]`` float32 vectors of the names.
      batch_size: pairs per batch.
      parts: number of parts, one for each device.
      seed: seed of order, negatives and shifts.
    """

    def __init__(
        self,
        pairs: Pairs,
        pictures: np.ndarray,
        names: np.ndarray,
        *,
        batch_size: int,
        parts: int,
        seed: int,
    ):
        self._examples, self._pictures, self._names = pairs.examples(), pictures, names
        self._size, self._parts, self._seed = batch_size, parts, seed
        width = max(map(len, pairs.relevant))
        self._known = np.full((len(pairs.names), width), -1, np.int32)
        for name, rows in enumerate(pairs.relevant):
            self._known[name, : len(rows)] = rows

    def __getitem__(self, step: int) -> TripletBatch:
        draws = np.random.default_rng((self._seed, step))
        names, own = self._examples[draws.choice(len(self._examples), self._size, False)].T
        known = self._known[names]
        others = draws.integers(len(self._pictures), size=self._size)
        while (wrong := (known == others[:, None]).any(axis=1)).any():
            others[wrong] = draws.integers(len(self._pictures), size=wrong.sum())
        # A name's own emoji comes first, and again among all with that name: none is a negative.
        ids = np.concatenate([own[:, None], known], axis=1)
        moved = self._moved(np.stack([own, others]), draws)
        split = [np.split(x, self._parts, axis=axis) for x, axis in ((names, 0), (moved, 1))]
        inputs = Inputs(
            np.stack([self._names[part] for part in split[0]]),
            np.stack([part.reshape(-1, *moved.shape[2:]) for part in split[1]]),
            np.ones((self._parts, 3 * self._size // self._parts), np.int32),
        )
        scores = np.full((self._size, 2), np.nan, np.float32)
        return TripletBatch(inputs, scores, ids.astype(np.int32), others[:, None].astype(np.int32))

    def iterate(self, start: int) -> Iterator[TripletBatch]:
        """Yields the batches from step ``start``."""
        while True:
            yield self[start]
            start += 1

    def _moved(self, rows: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        """Returns the pictures of some rows, each shifted at random."""
        edges = ((0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0))
        padded = np.pad(self._pictures[rows.reshape(-1)], edges, mode="edge")
        size = self._pictures.shape[1]
        corners = draws.integers(2 * _SHIFT + 1, size=(len(padded), 2))
        cut = [x[a : a + size, b : b + size] for x, (a, b) in zip(padded, corners, strict=True)]
        return np.stack(cut).reshape(*rows.shape, *self._pictures.shape[1:])
