"""Tests measures against their definitions, written in plain Python."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.metrics import evaluate, mean

MEASURES = ["nDCG@3", "nDCG@10", "nDCG@5", "MRR@1", "MRR@3", "Recall@2", "P@4", "MAP@3", "MAP@100"]


def reference(judged, scored, measure):
    name, k = measure.split("@")
    k = int(k)
    order = sorted(scored, key=lambda d: (scored[d], d), reverse=True)[:k]
    gains = [max(judged.get(d, 0), 0) for d in order]
    ideal = sorted((g for g in judged.values() if g > 0), reverse=True)
    hits = [gain > 0 for gain in gains]

    def dcg(values):
        return sum(g / math.log2(rank + 1) for rank, g in enumerate(values, 1))

    match name:
        case "nDCG":
            return dcg(gains) / dcg(ideal[:k])
        case "MRR":
            return 1 / (hits.index(True) + 1) if any(hits) else 0.0
        case "Recall":
            return sum(hits) / len(ideal)
        case "P":
            return sum(hits) / k
        case "MAP":
            precisions = [sum(hits[:r]) / r for r, hit in enumerate(hits, 1) if hit]
            return sum(precisions) / len(ideal)


documents = st.sampled_from("abcdefgh")
judgements = st.dictionaries(documents, st.integers(-1, 3), min_size=1)
scores = st.dictionaries(documents, st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0]))  # many ties


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("123"), judgements, min_size=1),
    st.dictionaries(st.sampled_from("1234"), scores),
)
def test_equals_the_definitions(qrels, run):
    countable = {q: judged for q, judged in qrels.items() if max(judged.values()) > 0}
    if not countable:
        with pytest.raises(InputError, match="no query has a document"):
            evaluate(qrels, run, MEASURES)
        return
    found = evaluate(qrels, run, MEASURES)
    assert list(found) == MEASURES
    for measure, values in found.items():
        expected = {q: reference(j, run.get(q, {}), measure) for q, j in countable.items()}
        assert values == pytest.approx(expected, abs=1e-9), measure


def test_graded_relevance_by_hand():
    qrels = {"q": {"a": 3, "b": 1, "c": 0}}
    run = {"q": {"c": 3.0, "b": 2.0, "a": 1.0}}
    found = evaluate(qrels, run, ["nDCG@10", "MRR@10", "MRR@1"])
    ndcg = (1 / math.log2(3) + 3 / math.log2(4)) / (3 + 1 / math.log2(3))
    assert found["nDCG@10"]["q"] == pytest.approx(ndcg, abs=1e-9)
    assert found["MRR@10"] == {"q": 0.5}
    assert found["MRR@1"] == {"q": 0.0}  # trec_eval's own recip_rank ignores the cut-off


def test_missing_queries_count_zero_and_hopeless_ones_do_not_count():
    qrels = {"found": {"a": 1}, "missing": {"a": 1}, "empty": {"a": 1}, "hopeless": {"a": 0}}
    run = {"found": {"a": 1.0}, "empty": {}, "hopeless": {"a": 1.0}, "unjudged": {"a": 1.0}}
    for values in evaluate(qrels, run).values():
        assert values == {"found": 1.0, "missing": 0.0, "empty": 0.0}
    assert evaluate(qrels, {}, ["P@1"]) == {"P@1": {"found": 0.0, "missing": 0.0, "empty": 0.0}}


def test_mrr_beyond_rank_one_hundred_thousand():
    run = {"q": {f"{i:07}": 1.0 for i in range(200_000)}}  # ties: the highest id comes first
    qrels = {"q": {"0099999": 1}}  # rank 100,001
    found = evaluate(qrels, run, ["MRR@100000", "MRR@100001"])
    assert found["MRR@100000"]["q"] == 0.0
    assert found["MRR@100001"]["q"] == pytest.approx(1 / 100_001)


@pytest.mark.parametrize(
    "measure", ["nDCG", "ndcg@10", "nDCG@0", "nDCG@-1", "nDCG@ten", "Foo@10", "nDCG@1234567", ""]
)
def test_unknown_measure_names_the_known(measure):
    with pytest.raises(InputError, match="expected nDCG@k, Recall@k, P@k, MAP@k, MRR@k") as error:
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}, [measure])
    assert repr(measure) in str(error.value)


def test_mean():
    assert mean([0.25, 0.75]) == mean({"a": 0.25, "b": 0.75}) == 0.5
    with pytest.raises(ValueError, match="no queries"):
        mean({})
