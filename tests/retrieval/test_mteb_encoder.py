"""Tests that mteb's evaluation of a model agrees with ours."""

import json

import numpy as np
import pytest

from selfdistill_jax import BiEncoder
from selfdistill_jax.checkpoints.sentence_transformers import Prompts
from selfdistill_jax.retrieval.mteb_encoder import MTEBEncoder
from tests.test_docs import blocks
from tests.tiny import PLACES, SPLITS, texts

# mteb and datasets emit warnings about their own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_pages_script_finds_what_evaluate_finds(finished, tmp_path, monkeypatch):
    mteb = pytest.importorskip("mteb", reason="mteb is a peer: make peers")
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    rows = [(i, *texts(i, i % len(PLACES))) for i in range(40)]
    asked = [{"id": f"q{i}", "text": query} for i, query, *_ in rows if i in SPLITS["test"]]
    said = [{"id": f"c{i}", "title": title, "text": text} for i, _, title, text in rows]
    right = {f"q{i}": {f"c{i}": 1} for i in SPLITS["test"]}
    split = {"queries": Dataset.from_list(asked), "corpus": Dataset.from_list(said),
             "relevant_docs": right, "top_ranked": None}  # fmt: skip

    class TinyTask(AbsTaskRetrieval):
        """Tiny's test split, without the hub."""

        metadata = mteb.TaskMetadata(
            name="Tiny", description="tiny", type="Retrieval", category="t2t", modalities=["text"],
            dataset={"path": "none/none", "revision": "1"}, eval_splits=["test"],
            eval_langs=["eng-Latn"], main_score="ndcg_at_10",
        )  # fmt: skip

        def load_data(self, **_):
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    _, code = blocks("docs/vectors.md")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [TinyTask()])
    encode, got = BiEncoder.encode, {}
    for kind in ("query", "document"):  # each gets its own prompt
        monkeypatch.setattr(
            BiEncoder, f"encode_{kind}",
            lambda self, t, kind=kind, **o: got.update({kind: len(t)}) or encode(self, t, **o),
        )  # fmt: skip
    exec(code, found := {})
    assert got == {"query": 8, "document": 40}
    theirs = found["results"].task_results[0].scores["test"][0]
    ours = json.loads((finished / "eval" / "results.test.json").read_text())["means"]["trained"]
    for name, key in (("nDCG@10", "ndcg_at_10"), ("MRR@10", "mrr_at_10")):
        assert theirs[key] == pytest.approx(ours[name], abs=1e-5)


def test_a_name_of_kept_results_is_of_weights_prompts_and_size(model):
    mteb = pytest.importorskip("mteb", reason="mteb is a peer: make peers")
    plain = BiEncoder.load(str(model))
    encoder = MTEBEncoder(plain, name="me/tiny")
    assert isinstance(encoder, mteb.models.EncoderProtocol)
    vectors = plain.encode(["mabo", "tiri kelu"])
    other, every = vectors[::-1].copy(), vectors @ vectors.T
    np.testing.assert_allclose(encoder.similarity(vectors, vectors), every, atol=1e-6)
    pairs = encoder.similarity_pairwise(vectors, other)
    np.testing.assert_allclose(pairs, every[[0, 1], [1, 0]], atol=1e-6)
    prompted = BiEncoder(plain.encoder._replace(prompts=Prompts({"query": "the "})))
    others = [MTEBEncoder(prompted, name="x/y"), MTEBEncoder(plain, name="x/y", dimensions=5)]
    made = [one.mteb_model_meta.revision for one in (encoder, *others)]
    assert len(set(made)) == 3
    assert MTEBEncoder(plain, name="x/y").mteb_model_meta.revision == made[0]
