"""The package mteb evaluates a model, and finds what we find."""

import json
import warnings

import numpy as np
import pytest

from selfdistill_jax import BiEncoder
from selfdistill_jax.checkpoints.sentence_transformers import Prompts
from selfdistill_jax.retrieval.mteb_encoder import MTEBEncoder
from tests.test_docs import blocks

# mteb and datasets warn of their own dependencies as they please.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def mteb():
    with warnings.catch_warnings(action="ignore"):
        return pytest.importorskip("mteb", reason="mteb is a peer: make peers")


@pytest.fixture
def task(mteb, tiny):
    """The tiny collection's test split as a task of mteb's, without the hub."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    class TinyTask(AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            name="Tiny",
            description="tiny",
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            dataset={"path": "none/none", "revision": "1"},
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, **_):
            corpus, queries = (
                [
                    {"id": row.pop("_id"), **row}
                    for row in map(json.loads, (tiny.collection / name).read_text().splitlines())
                ]
                for name in ("corpus.jsonl", "queries.jsonl")
            )
            relevant = {}
            for line in (tiny.collection / "qrels" / "test.tsv").read_text().splitlines()[1:]:
                query, document, grade = line.split("\t")
                relevant.setdefault(query, {})[document] = int(grade)
            queries = [row for row in queries if row["id"] in relevant]
            split = {
                "corpus": Dataset.from_list(corpus),
                "queries": Dataset.from_list(queries),
                "relevant_docs": relevant,
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return TinyTask()


def scores(mteb, model, task):
    found = mteb.evaluate(
        model, task, cache=None, co2_tracker=False, encode_kwargs={"show_progress_bar": False}
    )
    return found.task_results[0].scores["test"][0]


def ours(finished):
    return json.loads((finished / "eval" / "results.test.json").read_text())["means"]["trained"]


def test_mteb_finds_what_evaluate_finds(mteb, task, finished, model):
    theirs = scores(mteb, MTEBEncoder(BiEncoder.load(str(model)), name="me/tiny"), task)
    assert theirs["ndcg_at_10"] == pytest.approx(ours(finished)["nDCG@10"], abs=1e-5)
    assert theirs["mrr_at_10"] == pytest.approx(ours(finished)["MRR@10"], abs=1e-5)


def test_queries_and_documents_get_their_prompts(mteb, task, model):
    asked = {}

    class Prompted(BiEncoder):
        def encode_query(self, texts, **options):
            asked["query"] = list(texts)
            return self.encode(texts, **options)

        def encode_document(self, texts, **options):
            asked["document"] = list(texts)
            return self.encode(texts, **options)

    scores(mteb, MTEBEncoder(Prompted.load(str(model)), name="me/tiny", dimensions=5), task)
    assert (len(asked["query"]), len(asked["document"])) == (8, 40)
    assert asked["document"][0].split()[0].istitle()  # the title comes first


def test_the_pages_script(mteb, task, finished, tmp_path, monkeypatch):
    _, code = blocks("docs/vectors.md")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [task])
    found = {}
    exec(code, found)
    theirs = found["results"].task_results[0].scores["test"][0]["ndcg_at_10"]
    assert theirs == pytest.approx(ours(finished)["nDCG@10"], abs=1e-5)
    assert list((tmp_path / "results").rglob("Tiny.json"))


def test_of_mtebs_protocol(mteb, model):
    from mteb.models import EncoderProtocol

    plain = BiEncoder.load(str(model))
    encoder = MTEBEncoder(plain, name="me/tiny")
    assert isinstance(encoder, EncoderProtocol)
    words = ["mabo", "tiri kelu"]
    vectors = encoder.encode([{"text": words[:1]}, {"text": words[1:]}], show_progress_bar=False)
    np.testing.assert_array_equal(vectors, plain.encode(words))
    np.testing.assert_allclose(encoder.similarity(vectors, vectors), vectors @ vectors.T, atol=1e-6)
    other = vectors[::-1].copy()
    pairs = encoder.similarity_pairwise(vectors, other)
    np.testing.assert_allclose(pairs, np.sum(vectors * other, axis=1), atol=1e-6)
    # Kept results are of these weights, prompts and this size.
    meta = encoder.mteb_model_meta
    assert meta.name == "me/tiny"
    assert meta.revision == MTEBEncoder(plain, name="other").mteb_model_meta.revision
    prompted = BiEncoder(plain.encoder._replace(prompts=Prompts({"query": "the "})))
    assert MTEBEncoder(prompted, name="me/tiny").mteb_model_meta.revision != meta.revision
    assert (
        MTEBEncoder(plain, name="me/tiny", dimensions=5).mteb_model_meta.revision != meta.revision
    )
