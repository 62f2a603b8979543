"""Negatives are never known positives; who may be drawn is counted out in plain sets."""

import numpy as np
import pytest
from scipy.stats import chisquare

from selfdistill_jax.data.bm25 import BM25
from selfdistill_jax.data.negatives import KnownPositives, bm25_candidates, draw
from selfdistill_jax.errors import InputError

POOL = range(5, 25)  # the documents before it belong to evaluation alone


def some_pairs(queries=30, seed=0):
    """Pairs of some queries and documents, in and before the pool, some of them twice."""
    rng = np.random.default_rng(seed)
    pairs = [(q, d) for q in range(0, queries, 2) for d in rng.integers(0, 25, rng.integers(1, 18))]
    return [pairs[i] for i in rng.permutation(len(pairs))] + pairs[:9]


def make(pairs, pool=POOL):
    return KnownPositives(*np.array(pairs, np.int32).T, pool)


def test_contains_is_membership():
    pairs = some_pairs()
    queries, documents = np.meshgrid(np.arange(31), np.arange(25), indexing="ij")
    found = make(pairs).contains(queries, documents)
    assert found.shape == (31, 25)
    assert set(zip(*map(np.ndarray.tolist, np.nonzero(found)), strict=True)) == set(pairs)


def test_large_row_numbers_stay_apart():
    # 3 billion pairs: query times documents does not fit 32 bits.
    known = make([(60_000, 49_999), (0, 1)], range(50_000))
    rows = np.array([60_000, 0, 60_000, 17_100], np.int32)
    documents = np.array([49_999, 1, 1, 49_999], np.int32)
    assert known.contains(rows, documents).tolist() == [True, True, False, False]
    assert [known.count(row) for row in rows] == [1, 1, 1, 0]


def test_query_without_any_negative_left_is_refused():
    everything = [(1, d) for d in POOL]
    with pytest.raises(InputError, match=r"^1 training queries have every document as a positive"):
        make(everything)
    with pytest.raises(InputError, match=r"^2 training"):
        make([*everything, *[(4, d) for d in range(25)], (2, 7)])
    # Neither documents outside of the pool nor a pair that stands twice leave less to draw.
    make([*everything[1:], *[(1, d) for d in range(5)], *everything[1:]])


def test_only_one_document_left():
    known = make([(q, d) for q in range(20) for d in POOL if d != POOL[q]])
    drawn = draw(np.arange(20), known=known, pool=POOL, candidates=None, seed=(0, 0))
    assert drawn.tolist() == list(POOL)


def test_random_draws_are_uniform_over_what_is_no_positive():
    pairs = some_pairs()
    queries = np.repeat(np.arange(31), 2000)
    drawn = draw(queries, known=make(pairs), pool=POOL, candidates=None, seed=(1, 2))
    assert (drawn.dtype, drawn.shape) == (np.int32, queries.shape)
    for query in range(31):
        allowed = sorted(set(POOL) - {d for q, d in pairs if q == query})
        documents, counts = np.unique(drawn[queries == query], return_counts=True)
        assert documents.tolist() == allowed
        assert chisquare(counts).pvalue > 1e-4


def test_candidates_are_drawn_evenly():
    own = [[9, 6, 24, 11], [20, 5, 8], [7], []]
    candidates = np.array([c + [-1] * (4 - len(c)) for c in own], np.int32).repeat(3000, axis=0)
    rows = np.arange(4).repeat(3000)
    known = make([(3, d) for d in range(5, 15)])
    drawn = draw(rows, known=known, pool=POOL, candidates=candidates, seed=(5,))
    assert drawn.dtype == np.int32
    for row, allowed in enumerate([*own[:3], range(15, 25)]):
        documents, counts = np.unique(drawn[rows == row], return_counts=True)
        assert documents.tolist() == sorted(allowed)
        assert len(counts) == 1 or chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("candidates", [None, np.arange(5, 17, dtype=np.int32)[None].repeat(60, 0)])
def test_a_draw_is_a_function_of_its_seed(candidates):
    known = make(some_pairs())

    def drawn(*seed):
        rows = np.arange(60)
        return draw(rows, known=known, pool=POOL, candidates=candidates, seed=seed).tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({tuple(drawn(seed, step)) for seed in range(4) for step in range(4)}) == 16


WORDS = ["file", "array", "sort", "socket", "thread"]


def collection(seed=0):
    """25 documents of a few words, and 30 queries of which all but one find many of them."""
    rng = np.random.default_rng(seed)
    documents = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(25)]
    return documents, [" ".join(rng.choice(WORDS, 2)) for _ in range(29)] + ["unknown"]


@pytest.mark.parametrize("k", [1, 3, 8, 40])
def test_bm25_candidates_are_the_best_without_the_positives(k):
    documents, queries = collection()
    pairs = some_pairs()
    index = BM25(documents[POOL.start :])
    # In another order than the queries', one of them twice, as triplets have them.
    rows = np.array([*reversed(range(30)), 4], np.int32)
    texts = [queries[row] for row in rows]
    found = bm25_candidates(index, texts, rows, known=make(pairs), pool=POOL, k=k)
    assert found.dtype == np.int32
    assert found.shape == (31, k)
    for row, text, candidates in zip(rows, texts, found.tolist(), strict=True):
        ranked = index.search([text], len(POOL))[1][0]
        usable = [d for r in ranked.tolist() if r >= 0 and (row, d := r + POOL.start) not in pairs]
        assert candidates == (usable + [-1] * k)[:k]


def test_many_positives_in_front_of_the_candidates():
    documents = ["file file"] * 9 + ["file array"] * 3 + ["array"]
    known = make([(0, d) for d in range(9)], range(13))
    rows = np.zeros(1, np.int32)
    found = bm25_candidates(BM25(documents), ["file"], rows, known=known, pool=range(13), k=2)
    assert found.tolist() == [[9, 10]]
