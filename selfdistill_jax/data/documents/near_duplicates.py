"""Finds texts that are nearly equal, by MinHash over their words."""

import zlib
from collections.abc import Sequence

import numpy as np

_WORDS = 4  # of a shingle
_BANDS, _ROWS = 16, 4  # texts that agree in all values of a band are compared
_PRIME = (1 << 61) - 1


def first_of_each(texts: Sequence[str], *, similarity: float = 0.8) -> list[bool]:
    """Returns for each text whether it is the first of those that nearly equal it.

    Two texts are nearly equal if the estimated Jaccard similarity of their sets of four consecutive
    words reaches a limit. The estimate has 64 values, so its standard error at 0.8 is 0.05.

    Args:
      texts: the texts.
      similarity: the limit.

    Example:
      >>> first_of_each(["How to sort a list", "how to  sort a list!", "Open a file"])
      [True, False, True]
    """
    rng = np.random.default_rng(0)
    factors = rng.integers(1, _PRIME, size=(_BANDS * _ROWS, 1), dtype=np.int64).astype(np.uint64)
    shifts = rng.integers(0, _PRIME, size=(_BANDS * _ROWS, 1), dtype=np.int64).astype(np.uint64)
    seen: dict[tuple[int, bytes], list[int]] = {}
    signatures: list[np.ndarray] = []
    first = []
    for text in texts:
        hashes = np.array(sorted(_shingles(text)), np.uint64)
        # Products wrap at 2^64; the upper half of the bits is well mixed.
        signature = ((factors * hashes + shifts) >> np.uint64(32)).min(axis=1)
        keys = [
            (band, signature[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(_BANDS)
        ]
        others = {row for key in keys for row in seen.get(key, ())}
        new = not any((signatures[row] == signature).mean() >= similarity for row in others)
        first.append(new)
        if new:
            for key in keys:
                seen.setdefault(key, []).append(len(signatures))
            signatures.append(signature)
    return first


def _shingles(text: str) -> set[int]:
    words = ["".join(filter(str.isalnum, word)) for word in text.lower().split()]
    words = [word for word in words if word]
    last = max(len(words) - _WORDS, 0)
    return {zlib.crc32(" ".join(words[i : i + _WORDS]).encode()) for i in range(last + 1)}
