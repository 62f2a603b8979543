"""Tests exact search against a float64 reference that sorts by falling score, then by row."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill_jax.retrieval import search as module
from selfdistill_jax.retrieval.search import search


def reference(queries, documents, k):
    scores = np.asarray(queries, np.float64) @ np.asarray(documents, np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("block", [1, 7, 64, 1000, 65536])
def test_equals_the_reference(block):
    queries, documents = random(0, 13, 24), random(1, 300, 24)
    scores, rows = search(queries, documents, k=20, block=block)
    expected_scores, expected_rows = reference(queries, documents, 20)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ties_go_to_the_lower_row_whatever_the_block(data):
    # Small whole numbers give many exact ties, zeros of both signs, and sums without rounding.
    # Sizes are fixed, because every new one would be compiled.
    numbers = st.lists(st.integers(-1, 1), min_size=24, max_size=24)
    queries = np.array(data.draw(numbers), np.float32).reshape(12, 2)[:3]
    documents = np.array(data.draw(numbers), np.float32).reshape(12, 2)
    block = data.draw(st.sampled_from([1, 5, 12]))
    scores, rows = search(queries, documents, k=8, block=block)
    expected_scores, expected_rows = reference(queries, documents, 8)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_zeros_of_both_signs_are_a_tie():
    # One dimension: 1 * -0.0 stays -0.0, which a total order of floats puts below 0.0.
    documents = np.array([[-0.0], [0.0], [-0.0], [0.0]], np.float32)
    _, rows = search(np.ones((1, 1), np.float32), documents, k=4)
    assert rows.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_equal_documents_tie_in_any_block(block):
    documents = np.tile(random(2, 5, 48), (40, 1))  # rows 0, 5, 10, ... are one document
    _, rows = search(random(3, 6, 48), documents, k=40, block=block)
    assert np.all(np.diff(rows, axis=1) == 5)


def test_k_is_clipped_to_the_collection():
    scores, rows = search(random(0, 3, 4), random(1, 5, 4), k=100)
    assert scores.shape == rows.shape == (3, 5)
    assert np.sort(rows, axis=1).tolist() == [[0, 1, 2, 3, 4]] * 3
    scores, rows = search(np.array([[2.0, 0.0]]), np.array([[3.0, 1.0]]), k=9)
    assert (scores.tolist(), rows.tolist()) == ([[6.0]], [[0]])


def test_padding_never_beats_negative_scores():
    scores, rows = search(np.ones((1, 2)), -np.ones((5, 2)), k=5, block=3)
    assert (scores.tolist(), rows.tolist()) == ([[-2.0] * 5], [[0, 1, 2, 3, 4]])


def test_queries_go_through_in_blocks(monkeypatch):
    queries, documents = random(4, 23, 8), random(5, 50, 8)
    expected = search(queries, documents, k=6)
    monkeypatch.setattr(module, "_SCORES", 100)  # 2 queries x 50 documents
    shapes = set()
    merge = module._merge
    monkeypatch.setattr(
        module, "_merge", lambda *a: shapes.add((a[2].shape, a[3].shape)) or merge(*a)
    )
    scores, rows = search(queries, documents, k=6)
    assert shapes == {((2, 8), (50, 8))}
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_allclose(scores, expected[0], rtol=0, atol=1e-5)


def test_compiles_once_whatever_the_last_block():
    before = module._merge._cache_size()
    search(random(6, 10, 9), random(7, 47, 9), k=3, block=10)
    assert module._merge._cache_size() == before + 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_accumulates_in_float32(dtype, tmp_path):
    queries, documents = random(8, 4, 512).astype(dtype), random(9, 100, 512).astype(dtype)
    np.save(tmp_path / "documents.npy", documents.view(f"V{documents.dtype.itemsize}"))
    stored = np.load(tmp_path / "documents.npy", mmap_mode="r").view(dtype)
    assert isinstance(stored, np.memmap)
    scores, rows = search(queries, stored, k=10, block=32)
    expected_scores, expected_rows = reference(queries, documents, 10)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-4)


def test_nothing_to_search():
    assert search(np.zeros((0, 4)), random(0, 5, 4), k=3)[1].shape == (0, 3)
    assert search(random(0, 5, 4), np.zeros((0, 4)), k=3)[1].shape == (5, 0)


@pytest.mark.parametrize(
    ("queries", "documents", "options", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), {"k": 1}, r"\(2, 3\) and \(2, 4\)"),
        (np.ones(3), np.ones((2, 3)), {"k": 1}, "same dimensions"),
        (np.ones((2, 3)), np.ones((2, 3)), {"k": 0}, "k=0"),
        (np.ones((2, 3)), np.ones((2, 3)), {"k": 1, "block": 0}, "block=0"),
        (np.ones((1, 1)), np.array([[1.0]] * 50 + [[np.nan]]), {"k": 1}, "not finite"),
    ],
)
def test_refuses(queries, documents, options, message):
    with pytest.raises(ValueError, match=message):
        search(queries, documents, **options)
