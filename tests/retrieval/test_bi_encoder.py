"""Tests BiEncoder against sentence-transformers, with all-MiniLM-L6-v2 and a tiny model."""

import itertools

import jax
import numpy as np
import pytest

from selfdistill_jax import BiEncoder
from selfdistill_jax.checkpoints.hub import locate
from selfdistill_jax.checkpoints.model_folder import read_folder, write_folder
from selfdistill_jax.data import encoding_batches
from selfdistill_jax.data.sources.pydocs import PyDocs
from selfdistill_jax.encoder.pooling import POOLINGS
from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval import encode_corpus
from selfdistill_jax.retrieval.quantize import quantize, ranges_of
from tests.tiny import ASKED, SAID

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def model():
    try:
        locate(MINILM)
    except InputError:
        pytest.skip("the weights are not installed: make weights")
    return BiEncoder.load(MINILM)


@pytest.fixture(scope="module")
def texts():
    """Returns 100 real texts of all lengths, some longer than the model's limit.

    Twice as many took 75 s of processor time, since tests compile without optimization.
    """
    contents = [document.content for document in PyDocs().documents()][::80][:46]
    return [
        *(" ".join(t.split()[: 6 * i]) or "word" for i, t in enumerate(contents)),
        *contents,
        *(" ".join(contents[i : i + 3]) for i in range(8)),
    ]


def test_vectors_are_those_of_sentence_transformers(model, texts, tmp_path):
    peer = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is a peer: make peers"
    )
    assert len(texts) == 100
    ours = model.encode(texts)
    model.save(tmp_path / "model")
    for folder in (locate(MINILM), tmp_path / "model"):
        theirs = peer.SentenceTransformer(str(folder), device="cpu").encode(texts)
        assert np.abs(ours - theirs).max() <= 1e-4


def test_batching_and_order_do_not_matter(model, texts):
    some = texts[:20]
    alone = np.concatenate([model.encode([t]) for t in some[:3]])
    together = model.encode(some)
    np.testing.assert_allclose(together[:3], alone, atol=1e-6)
    np.testing.assert_allclose(model.encode(some[::-1])[::-1], together, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])


@pytest.mark.parametrize("cores", [1, 3])
def test_batches_at_once_give_the_same_vectors(tiny, one_device, monkeypatch, cores):
    """Computing several batches at a time on one CPU device does not change the vectors."""
    monkeypatch.setattr(encode_corpus, "cores", lambda: cores)
    monkeypatch.setattr(encoding_batches, "_CAPACITIES", (64, 128))
    model = BiEncoder.load(tiny.encoder)
    words = " ".join(SAID).split()
    texts = [" ".join(words[i : i + 1 + i % 9]) for i in range(len(words) - 9)] * 8
    alone = np.stack([model.encode(text) for text in texts[:9]])
    for count in (9, len(texts)):
        np.testing.assert_allclose(model.encode(texts[:count])[:9], alone, atol=1e-6)


def test_a_batch_that_fails_ends_the_rest(tiny, one_device, monkeypatch):
    monkeypatch.setattr(encoding_batches, "_CAPACITIES", (64, 128))
    model = BiEncoder.load(tiny.encoder)
    calls = []

    def fail(params, texts):
        calls.append(texts)
        raise MemoryError("too large")

    model._encode = fail
    with pytest.raises(MemoryError, match="too large"):
        model.encode(list(SAID) * 200)
    assert len(calls) < 9


def test_no_texts_give_no_vectors(model):
    assert model.encode([]).shape[0] == 0


@pytest.mark.parametrize("precision", ["float32", "uint8", "binary"])
def test_cut_and_quantised_as_sentence_transformers_does(tiny, precision):
    peer = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is a peer: make peers"
    )
    words = [" ".join(some) for some in itertools.product(ASKED, SAID)]
    theirs = peer.SentenceTransformer(str(tiny.encoder), device="cpu", truncate_dim=11).encode(
        words, normalize_embeddings=True, precision=precision
    )
    cut = BiEncoder.load(str(tiny.encoder)).encode(words, dimensions=11)
    ours = quantize(cut, precision, ranges=ranges_of(cut))
    if precision == "float32":
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    else:  # rounding may put a value on the other side of a step
        assert np.mean(ours == theirs) > 0.999
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("pooling", POOLINGS)
def test_sentence_transformers_pools_the_same_from_our_folder(tiny, tmp_path, pooling):
    peer = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is a peer: make peers"
    )
    write_folder(tmp_path / "model", read_folder(str(tiny.encoder), pooling=pooling), card="")
    assert read_folder(str(tmp_path / "model")).pooling == pooling
    words = ["mabo", "hasit vokel jurad", "mabo tiri lenz the the the of"]
    theirs = peer.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    ours = BiEncoder.load(str(tmp_path / "model")).encode(words)
    np.testing.assert_allclose(ours, theirs.encode(words), atol=2e-6)
    theirs.save(str(tmp_path / "theirs"))  # in the format of its version
    assert read_folder(str(tmp_path / "theirs")).pooling == pooling
