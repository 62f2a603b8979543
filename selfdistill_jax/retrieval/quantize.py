"""Vectors in less space: fewer dimensions, 8 bits or 1 bit a number.

Names and bytes are those of sentence-transformers' ``quantize_embeddings``, so that an index built
with either can be asked with the other.
"""

from pathlib import Path

import numpy as np

from selfdistill_jax.errors import InputError

# The type of what is written; binary and ubinary hold eight dimensions in each of their numbers.
PRECISIONS = {
    "float32": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}
RANGED = ("int8", "uint8")  # those that need the range of each dimension


def truncate(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first dimensions, scaled to unit length again.

    Args:
      vectors: ``[n, D]`` float32.
      dimensions: d, 1 to D; None leaves the vectors as they are.

    Returns:
      ``[n, d]`` float32; what is zero in its first dimensions stays zero.

    Raises:
      InputError: the vectors have fewer.

    Example:
      >>> truncate(np.array([[0.6, 0.0, 0.8]], np.float32), 2).tolist()
      [[1.0, 0.0]]
    """
    if dimensions is None:
        return vectors
    check_dimensions(dimensions, vectors.shape[1])
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return cut / np.where(lengths > 0, lengths, 1)


def check_dimensions(dimensions: int | None, whole: int) -> None:
    """Raises InputError where vectors cannot be cut to so many dimensions."""
    if dimensions is not None and not 1 <= dimensions <= whole:
        raise InputError(f"dimensions is {dimensions}; the encoder's vectors have 1 to {whole}")


def ranges_of(vectors: np.ndarray) -> np.ndarray:
    """The least and the largest value of each dimension, ``[2, D]``."""
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def read_ranges(path: Path, dimensions: int) -> np.ndarray:
    """Ranges ``[2, dimensions]`` as ``encode`` writes them.

    Raises:
      InputError: the file holds none, or those of other vectors.
    """
    expected = (
        f"expected (2, {dimensions}), the least and the largest value of each dimension, as "
        "encode --precision=int8 writes them"
    )
    try:
        ranges = np.array(np.lib.format.open_memmap(path, mode="r"), np.float32)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no array of ranges ({error}); {expected}") from None
    if ranges.shape != (2, dimensions):
        raise InputError(f"{path}: an array {ranges.shape}; {expected}")
    if not (ranges[0] <= ranges[1]).all():
        raise InputError(f"{path}: a least value above the largest, or no number; {expected}")
    return ranges


def width(dimensions: int, precision: str) -> int:
    """Numbers in a row of so many dimensions.

    >>> width(12, "int8"), width(12, "ubinary")
    (12, 2)
    """
    return -(-dimensions // 8) if precision.endswith("binary") else dimensions


def quantize(
    vectors: np.ndarray, precision: str, *, ranges: np.ndarray | None = None
) -> np.ndarray:
    """Vectors in another precision.

    Definition:
      ``uint8``: ``floor((x − low) / ((high − low) / 255))``, between 0 and 255; ``int8``: that
      less 128. ``ubinary``: one bit a dimension, set where x is above 0, the first dimension the
      highest bit of a byte; ``binary``: that byte less 128.

    Args:
      vectors: ``[n, D]`` float32.
      precision: a key of `PRECISIONS`.
      ranges: ``[2, D]``, low and high of each dimension, for int8 and uint8.

    Returns:
      ``[n, width(D, precision)]``.

    Example:
      >>> x = np.array([[-0.5, 0.5, 0.1]], np.float32)
      >>> quantize(x, "ubinary").tolist()  # 0b01100000
      [[96]]
      >>> quantize(x, "uint8", ranges=np.float32([[-1] * 3, [1] * 3])).tolist()
      [[63, 191, 140]]
    """
    if precision == "float32":
        return np.asarray(vectors, np.float32)
    if precision in RANGED:
        low, high = np.asarray(ranges, np.float32)
        steps = (high - low) / 255
        levels = np.floor((vectors - low) / np.where(steps == 0, 1, steps)).clip(0, 255)
        return (levels - 128 * (precision == "int8")).astype(PRECISIONS[precision])
    packed = np.packbits(vectors > 0, axis=-1)
    # Flipping the highest bit and reading it as a sign is subtracting 128.
    return packed if precision == "ubinary" else (packed ^ 0x80).view(np.int8)
