"""Tests a batch's negatives, one or several for each query, and the ids of its documents."""

import dataclasses

import numpy as np
import pytest

from selfdistill_jax.data.negatives import KnownPositives
from selfdistill_jax.errors import InputError
from tests.data.test_batches import (
    ALLOWED,
    COUNT,
    DOCUMENT,
    DOCUMENTS,
    EXAMPLES,
    PAIRS,
    POOL,
    QUERIES,
    SEP,
    epochs,
    make,
    unpack,
)


def with_negatives(given):
    """Returns the examples with the given negatives, ``[n]`` or ``[n, K]``, and their scores."""
    given = np.asarray(given, np.int32).reshape(COUNT, -1)
    scores = np.where(given < 0, np.nan, given / 2)
    scores = np.concatenate([EXAMPLES.scores, scores], axis=1).astype(np.float32)
    return dataclasses.replace(EXAMPLES, negatives=given, scores=scores)


def negatives_of(batches, count):
    """Returns each triplet's negatives in ``count`` epochs."""
    found = [[] for _ in range(COUNT)]
    for rows in epochs(batches, 5, count):
        for t, _, n in rows:
            found[t].append(n)
    return found


def test_only_missing_negatives_are_drawn_anew_each_epoch():
    given = [ALLOWED[t][t % 5] if t % 2 else -1 for t in range(COUNT)]
    found = negatives_of(make(examples=with_negatives(given)), 6)
    for t, n in enumerate(found):
        if given[t] >= 0:
            assert n == [given[t]] * 6
        else:
            assert set(n) <= set(ALLOWED[t])
            assert len(set(n)) > 1
    other = negatives_of(make(examples=with_negatives(given), seed=8), 6)
    assert [a == b for a, b in zip(found, other, strict=True)] == [g >= 0 for g in given]


def test_candidates_are_each_triplets_own():
    given = [ALLOWED[t][0] if t in (4, 9) else -1 for t in range(COUNT)]
    rng = np.random.default_rng(3)
    own = [rng.choice(ALLOWED[t], t % 4, replace=False).tolist() for t in range(COUNT)]
    candidates = np.array([c + [-1] * (3 - len(c)) for c in own], np.int32)
    found = negatives_of(make(examples=with_negatives(given), candidates=candidates), 40)
    for t, n in enumerate(map(set, found)):
        if given[t] >= 0:
            assert n == {given[t]}
        elif own[t]:
            assert n == set(own[t])
        else:  # nothing to choose from: random ones
            assert n <= set(ALLOWED[t])
            assert len(n) > 10


def groups(batches, steps):
    """Yields (example, negatives, scores) for all rows of the batches before ``steps``."""
    example_of = {p: i for i, p in enumerate(EXAMPLES.positive.tolist())}
    for k in range(steps):
        _, positives, *negatives = unpack(batches[k], kinds=2 + batches.negatives)
        rows = zip(positives, zip(*negatives, strict=True), batches[k].scores, strict=True)
        for positive, own, scores in rows:
            yield example_of[positive[1] % 100], [row[1] % 100 for row in own], scores


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("with_candidates", [False, True])
def test_several_negatives(count, with_candidates):
    """An example's given negatives come first; if there are too many, they are drawn at random."""
    given = [[*ALLOWED[t][: t % 5], *[-1] * (4 - t % 5)] for t in range(COUNT)]
    candidates = None
    if with_candidates:
        candidates = np.array([[*ALLOWED[t][5:7], -1] for t in range(COUNT)], np.int32)
    made = make(examples=with_negatives(given), negatives=count, candidates=candidates)
    seen = [set() for _ in range(COUNT)]
    for example, negatives, scores in groups(made, 20):
        own = [row for row in given[example] if row >= 0]
        assert len(set(negatives)) == count
        assert set(negatives) <= set(ALLOWED[example])
        kept = [row for row in negatives if row in own]
        assert len(kept) >= min(len(own), count)
        if with_candidates and count - len(own) >= 1:
            assert len(set(negatives) & set(ALLOWED[example][5:7])) >= min(count - len(own), 2)
        seen[example] |= set(kept)
        assert scores[0] == example
        of_own = negatives[: min(len(own), count)]
        assert scores[1 : 1 + len(of_own)].tolist() == [row / 2 for row in of_own]
        assert np.isnan(scores[1 + len(of_own) :]).all()
    assert all(own >= {*row} - {-1} for own, row in zip(seen, given, strict=True))


def test_no_negatives():
    batch = make(negatives=0)[0]
    assert batch.scores.shape == (5, 1)
    assert batch.negative_ids.shape == (5, 0)
    assert batch.inputs.lengths.shape == (1, 10)


def test_a_group_needs_as_many_documents():
    with pytest.raises(InputError, match=r"^\d+ training queries have fewer than 25 documents"):
        KnownPositives(EXAMPLES.query, EXAMPLES.positive, POOL, 25)


def test_ids_name_what_answers_a_query():
    """A query's positive ids cover all its positives in the batch, including their copies."""
    copied = [*DOCUMENTS[:-1], DOCUMENTS[0]]  # document 29 has the text of document 0
    given = np.full((COUNT, 2), -1)
    for t in range(COUNT):
        given[t] = [d for d in range(29, 0, -1) if (EXAMPLES.query[t], d) not in PAIRS][:2]
    copies = 0
    made = make(
        examples=with_negatives(given), documents=copied, negatives=2, batch_size=11, parts=1
    )
    for k in range(10):
        batch = made[k]
        _, positives, *negatives = unpack(batch, kinds=4)
        text_of = {}
        for ids, rows in zip(
            (batch.positive_ids[:, 0], *batch.negative_ids.T), (positives, *negatives), strict=True
        ):
            for id_, row in zip(ids.tolist(), rows, strict=True):
                assert text_of.setdefault(id_, row) == row  # one text for each id
        assert len({str(row) for row in text_of.values()}) == len(text_of)
        for query, ids in zip(unpack(batch, kinds=4)[0], batch.positive_ids.tolist(), strict=True):
            known = {d for q, d in PAIRS if q == query[1] % 100}
            cut = [[*copied[d][:13], SEP] if len(copied[d]) > 14 else copied[d] for d in known]
            want = {id_ for id_, row in text_of.items() if row in cut}
            assert {*ids} - {-1} == want
            copies += any(row[1] == DOCUMENT and d == 29 for d in known for row in cut)
    assert copies  # a query with a copied positive occurred


def test_a_batches_size_is_judged_by_what_negatives_it_has():
    """Given negatives count for little when most triplets get drawn ones."""
    longest = int(np.argmax([len(row) for row in DOCUMENTS]))
    one_given = np.where(np.arange(COUNT) == 0, longest, -1).astype(np.int32)
    mean, deviation = make()._tokens_of_examples()
    found = make(examples=with_negatives(one_given))._tokens_of_examples()
    assert found == (pytest.approx(mean, rel=0.05), pytest.approx(deviation, rel=0.1))
    batches = make(examples=with_negatives(np.full(COUNT, longest)))
    lengths = [sum(map(len, rows)) for rows in zip(*unpack(batches[0]), strict=True)]
    mean, deviation = batches._tokens_of_examples()
    assert abs(np.mean(lengths) - mean) < 2 * deviation
    exact = [
        min(len(QUERIES[q]), 9) + min(len(DOCUMENTS[p]), 14) + min(len(DOCUMENTS[longest]), 14)
        for q, p in zip(EXAMPLES.query, EXAMPLES.positive, strict=True)
    ]
    assert (mean, deviation) == (pytest.approx(np.mean(exact)), pytest.approx(np.std(exact)))
