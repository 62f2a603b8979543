"""Tests BM25 against the formula of its docstring, computed for one document at a time."""

import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from selfdistill_jax.retrieval import bm25
from selfdistill_jax.retrieval.bm25 import BM25

TEXTS = [
    "Sort an array in place.",
    "",
    "Return a sorted copy of an array; the array is not changed.",
    "Open the file for reading.",
    "of the",
    "Array array ARRAY, file!",
]
STOP_WORDS = {"a", "an", "of", "the", "is", "not", "in", "for"}


def words(text):
    return [w for w in re.findall(r"\b\w\w+\b", text.lower()) if w not in STOP_WORDS]


def lucene(texts, query, k1, b):
    documents = [Counter(words(text)) for text in texts]
    mean = sum(d.total() for d in documents) / len(documents)
    scores = np.zeros(len(texts))
    for word in words(query):
        n = sum(word in d for d in documents)
        idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
        for row, d in enumerate(documents):
            scores[row] += idf * d[word] / (d[word] + k1 * (1 - b + b * d.total() / mean))
    return scores


@pytest.fixture(params=[1, 4, 100_000])
def shards(request, monkeypatch):
    monkeypatch.setattr(bm25, "_SHARD", request.param)


@pytest.mark.usefixtures("shards")
@pytest.mark.parametrize("options", [{}, {"k1": 0.9, "b": 0.4}, {"k1": 1.2, "b": 0.0}])
def test_equals_the_formula(options):
    queries = ["array", "sort the array in a file", "file file array", "unknown copy"]
    scores, rows = BM25(TEXTS, **options).search(queries, 4)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)
    for query, found_scores, found_rows in zip(queries, scores, rows, strict=True):
        expected = lucene(TEXTS, query, **{"k1": 1.5, "b": 0.75} | options)
        order = [row for row in np.argsort(-expected, kind="stable")[:4] if expected[row] > 0]
        assert found_rows.tolist() == order + [-1] * (4 - len(order))
        np.testing.assert_allclose(found_scores[: len(order)], expected[order], rtol=1e-5)
        assert not found_scores[len(order) :].any()


@pytest.mark.parametrize("query", ["", "zebra", "of the", "?!"])
def test_query_without_a_known_word_has_no_result(query):
    scores, rows = BM25(TEXTS).search(["file", query, "array"], 2)
    assert rows[1].tolist() == [-1, -1]
    assert scores[1].tolist() == [0.0, 0.0]
    assert (rows[[0, 2], 0] >= 0).all()


def test_equals_the_library():
    import bm25s

    draw = np.random.default_rng(0)
    vocabulary = np.array([f"word{i}" for i in range(60)])
    texts = [" ".join(draw.choice(vocabulary, size=n)) for n in draw.integers(0, 30, size=200)]
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    queries = [" ".join(draw.choice(vocabulary, size=4)) for _ in range(20)]
    scores, rows = BM25(texts).search(queries, 10)
    for query, found, at in zip(queries, scores, rows, strict=True):
        expected = index.get_scores(query.split())
        np.testing.assert_allclose(found, np.sort(expected)[::-1][:10], rtol=1e-5)
        np.testing.assert_allclose(found, expected[at], rtol=1e-5)


@pytest.mark.usefixtures("shards")
@pytest.mark.parametrize("texts", [[], ["", ""], ["of the", "a"]])
def test_collection_without_words(texts):
    scores, rows = BM25(texts).search(["file", ""], 5)
    assert scores.shape == rows.shape == (2, len(texts))
    assert (rows == -1).all()
    assert not scores.any()


def test_k_is_clipped_to_the_collection():
    scores, rows = BM25(TEXTS).search(["array"], 100)
    assert scores.shape == rows.shape == (1, 6)
    assert BM25(TEXTS).search([], 3)[1].shape == (0, 3)


@pytest.mark.parametrize("size", [7, 100, 100_000])
def test_equal_scores_are_ordered_by_row(size, monkeypatch):
    monkeypatch.setattr(bm25, "_SHARD", size)
    texts = ["file array", "file", "array"] * 300  # the short ones score higher
    _, rows = BM25(texts).search(["file"], 500)
    assert rows[0].tolist() == [*range(1, 900, 3), *range(0, 600, 3)]
    _, rows = BM25(texts).search(["file"], 600)
    assert rows[0].tolist() == [*range(1, 900, 3), *range(0, 900, 3)]


def test_quiet_and_leaves_the_devices_alone():
    # bm25s runs a jax function when it is imported, and logs at level DEBUG.
    code = (
        "import logging; logging.basicConfig(level=0)\n"
        "import sys, selfdistill_jax.retrieval.bm25 as m\n"
        "assert 'bm25s' not in sys.modules and 'jax' not in sys.modules\n"
        "m.BM25(['a file', 'an array']).search(['file', ''], 2)"
    )
    root = Path(bm25.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert "bm25s" not in done.stdout + done.stderr
    assert "%|" not in done.stderr  # no progress bar
