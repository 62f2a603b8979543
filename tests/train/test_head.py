"""Tests the training of one dense layer on a frozen encoder."""

import json

import numpy as np
import pytest

from selfdistill_jax import BiEncoder
from selfdistill_jax.checkpoints.safetensors import read_tensors
from selfdistill_jax.train import run
from tests.tiny import ASKED, PLACES, SAID, load_model, metrics, train
from tests.train.runs import Killed, assert_goes_on, assert_same_run, checkpointed, killed

pytestmark = pytest.mark.usefixtures("undrawn")
HEAD = {"encoder__adapter": "head", "train__learning_rate": 0.03}
WORDS = [f"{a} {b} {p}" for a, b, p in zip(ASKED, SAID, 2 * PLACES, strict=True)]


@pytest.fixture(scope="module")
def head_run(tiny, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("head") / "run"
    assert train(tiny.config("softmax", **HEAD), workdir) is not None
    return workdir


def test_it_begins_as_the_start_encoder(tiny):
    model = load_model(tiny.config(**HEAD))
    assert model.pretrained.dense[-1].size == 16
    (leaf,) = model.trained.start.values()
    assert leaf.shape == (16, 16)
    merged = model.trained.merged(model.trained.start)
    np.testing.assert_array_equal(merged["dense"]["0"]["kernel"], np.eye(16))


def test_a_run_learns_and_changes_the_layer_alone(tiny, head_run):
    records = metrics(head_run, "train")
    assert records[-1]["loss"] < 0.9 * records[0]["loss"]
    on_dev = [record["nDCG@10"] for record in metrics(head_run, "dev")]
    assert max(on_dev) > on_dev[0]
    before, after = (read_tensors(folder) for folder in (tiny.encoder, head_run / "model"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    kernel = read_tensors(head_run / "model" / "2_Dense")["linear.weight"]
    assert np.abs(kernel - np.eye(16)).max() > 0.01
    plain = BiEncoder.load(str(tiny.encoder)).encode(WORDS) @ kernel.T
    ours = BiEncoder.load(str(head_run / "model")).encode(WORDS)
    np.testing.assert_allclose(ours, plain / np.linalg.norm(plain, axis=1)[:, None], atol=1e-6)


def test_checkpoints_hold_the_layer_alone(tiny, head_run):
    saved = checkpointed(tiny.config("softmax", **HEAD), head_run, 12)
    assert [leaf.shape for leaf in saved.values()] == [(16, 16)]


def test_sentence_transformers_has_the_same_vectors(head_run):
    peer = pytest.importorskip("sentence_transformers", reason="a peer: make peers")
    theirs = peer.SentenceTransformer(str(head_run / "model"), device="cpu").encode(WORDS)
    ours = BiEncoder.load(str(head_run / "model")).encode(WORDS)
    np.testing.assert_allclose(theirs / np.linalg.norm(theirs, axis=1)[:, None], ours, atol=5e-6)


def test_interrupted_equals_uninterrupted(tiny, head_run, tmp_path):
    assert_goes_on(tiny.config("softmax", **HEAD), tmp_path / "parts", head_run)


def test_the_layer_is_blended_with_the_identity_once(tiny, tmp_path, monkeypatch):
    config = tiny.config("softmax", **HEAD, evaluation__interpolation=(0.5,))
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_test", killed)
        with pytest.raises(Killed):
            train(config, folder)
    kernel = read_tensors(folder / "model" / "2_Dense")["linear.weight"]
    choice = json.loads((folder / "eval" / "choice.json").read_text())
    assert choice["alpha"] == 0.5
    train(config, folder)
    np.testing.assert_array_equal(
        read_tensors(folder / "model" / "2_Dense")["linear.weight"], kernel
    )
    train(config, tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")


def test_a_layer_for_queries_alone(tiny, tmp_path):
    config = tiny.config("softmax", **HEAD, train__side="query")
    train(config, tmp_path)
    start, model = (BiEncoder.load(str(f)) for f in (tiny.encoder, tmp_path / "model"))
    np.testing.assert_allclose(
        model.encode_document(WORDS), start.encode_document(WORDS), atol=1e-6
    )
    assert np.abs(model.encode_query(WORDS) - start.encode_query(WORDS)).max() > 1e-3
