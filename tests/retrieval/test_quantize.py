"""Tests cut and quantised vectors: their properties, and equality with sentence-transformers."""

import numpy as np
import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.quantize import (
    PRECISIONS,
    quantize,
    ranges_of,
    read_ranges,
    truncate,
    width,
)


def vectors(rows=200, dimensions=21, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    x[3] = 0
    x[:, 5] = 0  # a dimension without a range
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_are_those_of_sentence_transformers(precision):
    peer = pytest.importorskip(
        "sentence_transformers.util.quantization",
        reason="sentence-transformers is a peer: make peers",
    )
    x, others = vectors(), 2 * vectors(seed=1)  # some beyond the ranges
    ranges = ranges_of(x)
    for some in (x, others, others[:1]):
        want = peer.quantize_embeddings(some, precision, ranges=ranges)
        got = quantize(some, precision, ranges=ranges)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    if precision.endswith("int8"):  # by default it takes the ranges of x
        np.testing.assert_array_equal(
            quantize(x, precision, ranges=ranges), peer.quantize_embeddings(x, precision)
        )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_written_as_it_says(precision):
    x = vectors()
    got = quantize(x, precision, ranges=ranges_of(x))
    assert got.dtype == PRECISIONS[precision]
    assert got.shape == (len(x), width(x.shape[1], precision))


def test_eight_bits_say_where_in_its_range_a_number_lies():
    x = vectors()
    low, high = ranges_of(x)
    step = (high - low) / 255
    levels = quantize(x, "uint8", ranges=np.stack([low, high])).astype(np.float32)
    assert ((x - (low + levels * step) >= -1e-6) & (x - low - levels * step <= step + 1e-6)).all()
    signed = quantize(x, "int8", ranges=np.stack([low, high]))
    np.testing.assert_array_equal(signed.astype(int) + 128, levels)


def test_one_bit_is_the_sign():
    x = vectors()
    bits = quantize(x, "ubinary")
    np.testing.assert_array_equal(np.unpackbits(bits, axis=1)[:, : x.shape[1]], x > 0)
    np.testing.assert_array_equal(quantize(x, "binary").astype(int) + 128, bits)


def test_cut_vectors_are_unit_vectors_of_the_first_numbers():
    x = vectors()
    for size in (1, 8, 21):
        got = truncate(x, size)
        assert got.shape == (len(x), size)
        assert got.dtype == np.float32
        lengths = np.linalg.norm(got, axis=1)
        np.testing.assert_allclose(lengths, np.arange(len(x)) != 3, atol=1e-6)
        length = np.linalg.norm(x[:, :size], axis=1, keepdims=True)
        np.testing.assert_allclose(got * length, x[:, :size], atol=1e-6)
    assert truncate(x, None) is x
    for size in (0, 22):
        with pytest.raises(InputError, match=f"dimensions is {size}; expected 1 to 21, the size"):
            truncate(x, size)


def test_files_that_are_no_ranges(tmp_path):
    path = tmp_path / "ranges.npy"
    np.save(path, ranges_of(vectors()))
    np.testing.assert_array_equal(read_ranges(path, 21), ranges_of(vectors()))
    with pytest.raises(InputError, match=r"is \(2, 21\); expected an array of shape \(2, 8\)"):
        read_ranges(path, 8)
    for wrong in (ranges_of(vectors())[::-1], np.full((2, 21), np.nan)):
        np.save(path, wrong)
        with pytest.raises(InputError, match="a minimum is above its maximum, or a value is NaN"):
            read_ranges(path, 21)
    path.write_text("0 1")
    with pytest.raises(InputError, match=r"ranges.npy: not readable as ranges \("):
        read_ranges(path, 21)
    with pytest.raises(InputError, match=r"none.npy: not readable as ranges \("):
        read_ranges(tmp_path / "none.npy", 21)
