"""Tests that negatives are never known positives, against plain sets of allowed documents."""

import numpy as np
import pytest
from scipy.stats import chisquare

from selfdistill_jax.data.negatives import KnownPositives, draw, top_candidates
from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.bm25 import BM25

POOL = range(5, 25)  # the documents before it are for evaluation only


def some_pairs(queries=30, seed=0):
    """Returns pairs of queries and documents, in and before the pool, some of them twice."""
    rng = np.random.default_rng(seed)
    pairs = [(q, d) for q in range(0, queries, 2) for d in rng.integers(0, 25, rng.integers(1, 18))]
    return [pairs[i] for i in rng.permutation(len(pairs))] + pairs[:9]


def make(pairs, pool=POOL, **options):
    return KnownPositives(*np.array(pairs, np.int32).T, pool, **options)


def test_contains_is_membership():
    pairs = some_pairs()
    queries, documents = np.meshgrid(np.arange(31), np.arange(25), indexing="ij")
    found = make(pairs).contains(queries, documents)
    assert found.shape == (31, 25)
    assert set(zip(*map(np.ndarray.tolist, np.nonzero(found)), strict=True)) == set(pairs)


def test_large_row_numbers_stay_apart():
    # There are 3 billion pairs, so their numbers do not fit 32 bits.
    known = make([(60_000, 49_999), (0, 1)], range(50_000))
    rows = np.array([60_000, 0, 60_000, 17_100], np.int32)
    documents = np.array([49_999, 1, 1, 49_999], np.int32)
    assert known.contains(rows, documents).tolist() == [True, True, False, False]
    assert known.count(rows).tolist() == [1, 1, 1, 0]


def test_query_without_any_negative_left_is_refused():
    everything = [(1, d) for d in POOL]
    with pytest.raises(InputError, match=r"^1 training queries have every document as a positive"):
        make(everything)
    with pytest.raises(InputError, match=r"^2 training"):
        make([*everything, *[(4, d) for d in range(25)], (2, 7)])
    # Positives outside of the pool and repeated pairs do not reduce what can be drawn.
    make([*everything[1:], *[(1, d) for d in range(5)], *everything[1:]])


ONE = np.full((62_000, 1), -1)  # one missing negative for each query


def test_only_one_document_left():
    known = make([(q, d) for q in range(20) for d in POOL if d != POOL[q]])
    drawn = draw(np.arange(20), ONE[:20], known=known, pool=POOL, candidates=None, seed=(0, 0))
    assert drawn[:, 0].tolist() == list(POOL)


def test_copies_of_a_positive_are_not_drawn():
    """Copies of a positive are no candidates, and a query with nothing but copies is refused."""
    copies = np.arange(POOL.stop)
    copies[[9, 11]] = 6
    known = make([(0, 9)], copies=copies)
    assert known.contains(np.zeros(3, int), np.array([6, 9, 11])).all()
    assert known.count(0) == 3
    missing = np.full((500, 3), -1)
    drawn = draw(np.zeros(500, int), missing, known=known, pool=POOL, candidates=None, seed=(1,))
    assert set(np.unique(drawn)) == set(POOL) - {6, 9, 11}
    ranked = np.array(POOL)[None]
    found = top_candidates(
        lambda rows, depth: (-ranked.astype(float), ranked), np.zeros(1, int), known=known, k=4
    )
    assert found.tolist() == [[d for d in POOL if d not in (6, 9, 11)][:4]]
    with pytest.raises(InputError, match="1 training queries have every document as a positive"):
        make([(0, 9)], copies=np.full(POOL.stop, 5))


def test_random_draws_are_uniform_over_what_is_no_positive():
    pairs = some_pairs()
    queries = np.repeat(np.arange(31), 2000)
    missing = np.repeat(ONE, 2, axis=1)[: len(queries)]
    both = draw(queries, missing, known=make(pairs), pool=POOL, candidates=None, seed=(1, 2))
    assert (both.dtype, both.shape) == (np.int32, (len(queries), 2))
    assert (both[:, 0] != both[:, 1]).all()
    queries, drawn = np.repeat(queries, 2), both.reshape(-1)
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
    drawn = draw(rows, ONE[:12000], known=known, pool=POOL, candidates=candidates, seed=(5,))[:, 0]
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
        return draw(rows, ONE[:60], known=known, pool=POOL, candidates=candidates, seed=seed)[
            :, 0
        ].tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({tuple(drawn(seed, step)) for seed in range(4) for step in range(4)}) == 16


WORDS = ["file", "array", "sort", "socket", "thread"]


def collection(seed=0):
    """Returns 25 short documents, and 30 queries of which all but one find many of them."""
    rng = np.random.default_rng(seed)
    documents = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(25)]
    return documents, [" ".join(rng.choice(WORDS, 2)) for _ in range(29)] + ["unknown"]


@pytest.fixture
def searched():
    """Returns BM25's ``search(query rows, k)`` in the pool; its ``asked`` lists the calls."""
    documents, queries = collection()
    index = BM25(documents[POOL.start :])

    def search(rows, k):
        search.asked.append((rows.tolist(), k))
        scores, found = index.search([queries[row] for row in rows], k)
        return scores, np.where(found >= 0, found + POOL.start, -1)

    search.asked = []
    return search


# Query rows out of order and partly repeated, as in triplets.
ASKED = np.array([*reversed(range(30)), 4, 4, 7], np.int32)


def ranked(search, row):
    """Returns (score, document) for everything that a query finds, best first."""
    scores, found = (x[0].tolist() for x in search(np.array([row]), len(POOL)))
    return [(score, d) for score, d in zip(scores, found, strict=True) if d >= 0]


@pytest.mark.parametrize("at_once", [4, 65536])
@pytest.mark.parametrize("k", [1, 3, 8, 40])
def test_candidates_are_the_best_without_the_positives(searched, k, at_once):
    pairs = some_pairs()
    found = top_candidates(searched, ASKED, known=make(pairs), k=k, at_once=at_once)
    assert (found.dtype, found.shape) == (np.int32, (33, k))
    calls = searched.asked.copy()
    # Each query is searched once, however many triplets it has, in calls of limited size.
    assert sorted(row for rows, _ in calls for row in rows) == list(range(30))
    assert max(len(rows) for rows, _ in calls) <= at_once
    for row, candidates in zip(ASKED, found.tolist(), strict=True):
        usable = [d for _, d in ranked(searched, row) if (row, d) not in pairs]
        assert candidates == (usable + [-1] * k)[:k]


def test_candidates_stay_below_what_is_the_most_of_their_triplet(searched):
    pairs = some_pairs()
    most = np.random.default_rng(1).choice([0.1, 0.5, 1.0, 9.0], len(ASKED))
    found = top_candidates(searched, ASKED, known=make(pairs), k=5, most=most)
    of_query_4 = []
    for row, limit, candidates in zip(ASKED, most, found.tolist(), strict=True):
        # The search depth (4 * 5 plus the positives, rounded up) covers the whole pool.
        usable = [d for s, d in ranked(searched, row) if (row, d) not in pairs and s <= limit]
        assert candidates == (usable + [-1] * 5)[:5]
        of_query_4 += [candidates] if row == 4 else []
    assert of_query_4[0] != of_query_4[1]  # one query, two positives


def test_many_positives_in_front_of_the_candidates():
    documents = ["file file"] * 9 + ["file array"] * 3 + ["array"]
    known = make([(0, d) for d in range(9)], range(13))
    index = BM25(documents)

    def search(rows, k):
        return index.search(["file"] * len(rows), k)

    assert top_candidates(search, np.zeros(1, np.int32), known=known, k=2).tolist() == [[9, 10]]


def test_no_triplets_no_candidates(searched):
    found = top_candidates(searched, np.zeros(0, np.int32), known=make(some_pairs()), k=3)
    assert (found.shape, searched.asked) == ((0, 3), [])
