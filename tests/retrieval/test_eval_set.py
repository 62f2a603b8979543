"""Tests evaluation sets, and that a query's own document is neither a result nor a negative."""

import json
import logging
import shutil

import numpy as np
import pytest
import pytrec_eval

from selfdistill_jax import BiEncoder, compare, evaluate, search
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.data.sources.beir import BeirFolder
from selfdistill_jax.data.store import open_collection
from selfdistill_jax.progress import LOG
from selfdistill_jax.retrieval.eval_set import evaluate_bm25, make_eval_set
from selfdistill_jax.retrieval.trec import read_run
from selfdistill_jax.train.data.tokenized_collection import open_tokenized
from selfdistill_jax.train.job import make_job
from tests.tiny import write_rows


@pytest.fixture(scope="module")
def collection(tiny):
    return open_collection(BeirFolder(tiny.collection), tiny.root / "cache")


def test_all_documents_and_the_split_s_queries(collection):
    eval_set = make_eval_set(collection, "test")
    np.testing.assert_array_equal(eval_set.query_rows, np.arange(32, 40))
    np.testing.assert_array_equal(eval_set.document_rows, np.arange(40))
    assert eval_set.query_ids == [f"q{i}" for i in range(32, 40)]
    assert list(eval_set.document_ids) == [f"c{i}" for i in range(40)]
    assert eval_set.qrels == {f"q{i}": {f"c{i}": 1} for i in range(32, 40)}


def test_a_part_of_the_documents(collection):
    def rows(limit, seed=0):
        eval_set = make_eval_set(collection, "dev", max_documents=limit, seed=seed)
        assert list(eval_set.document_ids) == [f"c{r}" for r in eval_set.document_rows]
        return eval_set.document_rows.tolist()

    judged = list(range(24, 32))
    part = rows(20)
    assert len(part) == 20
    assert part == sorted(set(part))
    assert set(judged) < set(part)
    assert rows(20) == part
    assert rows(20, seed=1) != part
    # Judged documents are never left out, and a larger number gives all documents.
    assert rows(3) == judged
    assert rows(41) == rows(0) == list(range(40))


# BEIR's ArguAna, Quora and FiQA have documents that are queries, documents without text, and
# judgements of missing documents.
OWN = [0, 1, 5, 24, 33, 34, 36, 39]
ABSENT = {"train": [("q0", 1)], "dev": [("q24", 1)], "test": [("q33", 2), ("q35", 0), ("q38", 1)]}


def write_beir(tiny, folder):
    """Writes tiny's collection with all of these, and queries without a relevant document."""
    shutil.copytree(tiny.collection, folder)
    queries, corpus = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("queries", "corpus")
    )
    own = [{"_id": f"q{i}", "title": "", "text": queries[i]["text"]} for i in OWN]
    empty = [{"_id": "e1", "title": "", "text": ""}, {"_id": "e2", "text": None}]
    write_rows(folder / "corpus.jsonl", [*own[:4], *corpus[:20], *empty, *own[4:], *corpus[20:]])
    for split, absent in ABSENT.items():
        path = folder / "qrels" / f"{split}.tsv"
        rows = path.read_text() + "".join(f"{query}\tgone-{query}\t{r}\n" for query, r in absent)
        # q38 keeps only a missing document, and q37 has no relevant one.
        path.write_text(rows.replace("q38\tc38\t1\n", "").replace("q37\tc37\t1", "q37\tc37\t0"))
    return folder


def judge_own(folder, split, query):
    path = folder / "qrels" / f"{split}.tsv"
    path.write_text(f"{path.read_text()}{query}\t{query}\t1\n")


@pytest.fixture
def beir(tiny, tmp_path):
    return write_beir(tiny, tmp_path / "beir")


def beir_counting(folder, model, k):
    """Returns measure -> query -> value as BEIR counts, without our search and measures."""
    queries, corpus = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("queries", "corpus")
    )
    qrels = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, relevance = line.split("\t")
        qrels.setdefault(query, {})[document] = int(relevance)
    texts = [f"{row.get('title', '')} {row['text'] or ''}".strip() for row in corpus]
    documents = model.encode(texts).astype(float)
    run = {}
    for row in queries:
        if row["_id"] in qrels:
            scores = documents @ model.encode([row["text"]])[0].astype(float)
            ranked = [(corpus[i]["_id"], scores[i]) for i in np.argsort(-scores, kind="stable")]
            run[row["_id"]] = dict([pair for pair in ranked if pair[0] != row["_id"]][:k])
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recip_rank", "recall.100"})
    values = evaluator.evaluate(run)
    return {
        ours: {query: values[query][name] for query in qrels if max(qrels[query].values()) > 0}
        for ours, name in (
            ("nDCG@10", "ndcg_cut_10"), ("MRR@10", "recip_rank"), ("Recall@100", "recall_100"),
        )
    }  # fmt: skip


def test_evaluate_counts_as_beir_does(start, tiny, beir, tmp_path):
    given = f"--model={tiny.encoder}", f"--dataset={beir}", f"--output={tmp_path}/out", "--k=9"
    status, out, err = start(evaluate, *given)
    assert status == 0, err
    assert "beir, test: 7 queries, 50 documents" in out
    lines = err.splitlines()
    for said in (
        "beir: 2 of 50 documents have neither title nor text",
        "beir, test: 4 of 8 queries have a document with the same id; that document is left out",
        f"{beir}/qrels/train.tsv: 1 of 25 judgements name documents that are not in corpus.jsonl",
        f"{beir}/qrels/test.tsv: 3 of 10 judgements name documents that are not in corpus.jsonl",
    ):
        assert len([line for line in lines if line.startswith(said)]) == 1, said
    want = beir_counting(beir, BiEncoder.load(str(tiny.encoder)), 9)
    assert want["nDCG@10"].keys() == {f"q{i}" for i in range(32, 40)} - {"q37"}
    _, *rows = (tmp_path / "out" / "beir" / "per_query.test.tsv").read_text().splitlines()
    found = {(s, query): values for s, query, *values in (row.split("\t") for row in rows)}
    for at, (measure, values) in enumerate(want.items()):
        assert 0 < sum(values.values()) < len(values), measure
        for query, value in values.items():
            assert float(found["model", query][at]) == pytest.approx(value, abs=1e-6)
    assert len(found) == 2 * len(values)
    means = json.loads((tmp_path / "out" / "beir" / "results.test.json").read_text())["means"]
    for measure, values in want.items():
        assert means["model"][measure] == pytest.approx(np.mean(list(values.values())), abs=1e-6)
    for system in ("bm25", "model"):
        run = read_run(tmp_path / "out" / "beir" / f"{system}.test.trec")
        assert all(query not in documents for query, documents in run.items())
    assert all(len(documents) == 9 for documents in run.values())


def test_compare_agrees_on_a_run_with_own_documents(start, tiny, beir, tmp_path):
    given = [f"--model={tiny.encoder}", f"--corpus={beir}/corpus.jsonl"]
    given += [f"--queries={beir}/queries.jsonl", f"--run={tmp_path}/a.trec", "--k=10"]
    assert start(search, *given)[0] == 0
    found = sum(query in documents for query, documents in read_run(tmp_path / "a.trec").items())
    assert found == len(OWN)  # each finds its own document first
    status, out, _ = start(compare, f"--qrels={beir}/qrels/test.tsv", f"{tmp_path}/a.trec")
    assert status == 0
    assert f"a: {found} of 40 queries found the document with their own id" in out
    want = beir_counting(beir, BiEncoder.load(str(tiny.encoder)), 9)
    means = [f"{np.mean(list(values.values())):.4f}" for values in want.values()]
    assert ["a", *means] in [line.split() for line in out.splitlines()]


def test_own_documents_that_answer_are_kept(tiny, beir, monkeypatch, caplog):
    monkeypatch.setattr(LOG, "propagate", True)
    caplog.set_level(logging.INFO, LOG.name)
    judge_own(beir, "test", "q33")
    collection = open_collection(BeirFolder(beir), beir.parent / "cache")
    caplog.clear()
    eval_set = make_eval_set(collection, "test")
    assert not eval_set.drop_own
    (message,) = caplog.messages
    assert message.startswith("beir, test: 4 of 8 queries have a document with the same id; ")
    assert "relevant for 1 of them" in message
    run = evaluate_bm25(eval_set, collection, k=5).run
    assert {f"q{i}" for i in OWN[4:]} == {query for query in run if query in run[query]}
    assert make_eval_set(collection, "dev").drop_own  # each split's own judgements decide


def test_nothing_is_said_where_every_own_document_answers(tiny, beir, monkeypatch, caplog):
    monkeypatch.setattr(LOG, "propagate", True)
    caplog.set_level(logging.INFO, LOG.name)
    for i in OWN[4:]:
        judge_own(beir, "test", f"q{i}")
    collection = open_collection(BeirFolder(beir), beir.parent / "cache")
    caplog.clear()
    assert not make_eval_set(collection, "test").drop_own
    assert caplog.messages == []


def test_absent_documents_are_not_searched(tiny, beir):
    collection = open_collection(BeirFolder(beir), beir.parent / "cache")
    eval_set = make_eval_set(collection, "test", max_documents=12)
    assert len(eval_set.document_ids) == 12
    assert eval_set.qrels["q38"] == {"gone-q38": 1}
    assert "q38" in eval_set.query_ids


@pytest.mark.parametrize("numbered", [False, True])
def test_own_documents_are_no_negatives(tiny, beir, numbered):
    if numbered:
        judge_own(beir, "train", "q5")
    config = tiny.config(data__dataset=str(beir), data__cache=str(beir.parent / "cache"))
    tables = open_tokenized(make_job(config).data, read_folder(str(tiny.encoder)))
    # q0's missing document gives no triplet.
    assert len(tables.examples) == 24 + numbered
    assert (tables.examples.positive >= 0).all()
    queries, documents = tables.collection.own_documents.T
    assert queries.tolist() == OWN
    known = tables.known.contains(queries, documents)
    assert known.tolist() == [not numbered or i == 5 for i in OWN]
