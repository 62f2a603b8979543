"""Shrinks vectors: to fewer dimensions, or to 8 bits or 1 bit per number.

Names and bytes are those of sentence-transformers' ``quantize_embeddings``, so an index built with
one can be queried with the other.
"""

from pathlib import Path

import numpy as np

from selfdistill_jax.errors import InputError

# Precision -> type of the written numbers; binary and ubinary pack eight dimensions into each.
PRECISIONS = {
    "float32": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}
RANGED = ("int8", "uint8")  # precisions that need the range of each dimension


def truncate(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """Returns the leading dimensions of each vector, rescaled to unit length.

    Args:
      vectors: ``[n, D]`` float32.
      dimensions: d, 1 to D; None leaves the vectors as they are.

    Returns:
      ``[n, d]`` float32; a vector whose leading dimensions are all zero stays zero.

    Raises:
      InputError: the vectors have fewer than d dimensions.

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
    """Raises InputError if vectors of size `whole` cannot be cut to that many dimensions."""
    if dimensions is not None and not 1 <= dimensions <= whole:
        raise InputError(
            f"dimensions is {dimensions}; expected 1 to {whole}, the size of the encoder's vectors"
        )


def ranges_of(vectors: np.ndarray) -> np.ndarray:
    """Returns the minimum and the maximum of each dimension, ``[2, D]``."""
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def read_ranges(path: Path, dimensions: int) -> np.ndarray:
    """Reads a file of ranges, ``[2, dimensions]``, as written by the ``encode`` command.

    Raises:
      InputError: the file is missing, holds no ranges, or those of vectors of another size.
    """
    expected = (
        f"expected an array of shape (2, {dimensions}), the minimum and the maximum of each "
        "dimension, as encode --precision=int8 writes it"
    )
    try:
        ranges = np.array(np.lib.format.open_memmap(path, mode="r"), np.float32)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as ranges ({error}); {expected}") from None
    if ranges.shape != (2, dimensions):
        raise InputError(f"{path}: the shape is {ranges.shape}; {expected}")
    if not (ranges[0] <= ranges[1]).all():
        raise InputError(f"{path}: a minimum is above its maximum, or a value is NaN; {expected}")
    return ranges


def width(dimensions: int, precision: str) -> int:
    """Returns how many numbers a row of that many dimensions has in a precision.

    >>> width(12, "int8"), width(12, "ubinary")
    (12, 2)
    """
    return -(-dimensions // 8) if precision.endswith("binary") else dimensions


def quantize(
    vectors: np.ndarray, precision: str, *, ranges: np.ndarray | None = None
) -> np.ndarray:
    """Converts vectors to another precision.

    Definition:
      ``uint8``: ``floor((x − low) / ((high − low) / 255))``, clipped to 0 to 255; ``int8``: the
      same minus 128. ``ubinary``: one bit per dimension, set where x is above 0, with the first
      dimension in the highest bit of a byte; ``binary``: that byte minus 128.

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
    # Flipping the highest bit and reading it as the sign subtracts 128.
    return packed if precision == "ubinary" else (packed ^ 0x80).view(np.int8)
