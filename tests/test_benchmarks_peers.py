"""Tests that the peers in benchmarks do the work that the benchmarks claim."""

import json

import numpy as np
import pytest

from benchmarks import jobs
from selfdistill_jax.losses import distributed_margin
from tests import versus

torch = pytest.importorskip("torch", reason="the peers' side needs torch: make peers")
pytest.importorskip("sentence_transformers", reason="a peer: make peers")
torch_sides = pytest.importorskip("benchmarks.torch_sides")


def test_all_sides_have_the_same_loss():
    q, p, n = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
    theirs = torch_sides.margin_loss(*map(torch.from_numpy, (q, p, n)))
    assert theirs.item() == pytest.approx(float(distributed_margin(q, p, n, over="positives")))


def test_a_run_of_each_peer(tiny, tmp_path):
    flags = ("--query_length=4", "--document_length=6", "--peers_precision=float32")
    text = versus.run(tiny, tmp_path, "--sides=released,sentence_transformers", *flags)
    found = json.loads(text)
    threads = torch.get_num_threads()
    alike = {"attention": "sdpa", "unpadded": False, "threads": threads, "loaders": 0}
    assert found["released"]["facts"] == alike
    theirs = found["sentence_transformers"]["facts"]
    query, *documents = theirs.pop("longest_texts")
    assert theirs == alike
    # Queries are cut at their own limit, although they would fit the documents' limit.
    rows = jobs.make_triplets(str(tiny.collection), 16, 0)
    assert max(len(row["query"].split()) for row in rows) + 2 > 4
    assert (query, max(documents)) == (4, 6)
    # With the same encoder and no dropout, first losses differ only by their first triplets.
    one, other = (found[s]["first_loss"]["median"] for s in ("released", "sentence_transformers"))
    assert one == pytest.approx(other, abs=0.1)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("bert", {"hidden_dropout_prob", "attention_probs_dropout_prob"}),
        ("distilbert", {"dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"}),
    ],
)
def test_nothing_is_dropped_whatever_an_architecture_calls_it(tmp_path, kind, names):
    from transformers import AutoConfig

    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    settings = {"model": str(tmp_path), "dropout": False}
    assert torch_sides.without_dropout(settings) == dict.fromkeys(names, 0.0)
    assert torch_sides.without_dropout(settings | {"dropout": True}) == {}
