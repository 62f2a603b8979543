"""Tests that vectors of documents are the same wherever they are, and that shares search as one."""

from functools import partial

import numpy as np
import pytest

from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.search import search
from selfdistill_jax.train.data import document_vectors
from selfdistill_jax.train.data.document_vectors import (
    DocumentTexts,
    DocumentVectors,
    documents_in_file,
    encode_documents,
)
from selfdistill_jax.train.data.tokenized_collection import open_tokenized
from selfdistill_jax.train.job import make_job


@pytest.fixture
def encoded(tiny, tmp_path):
    """Returns the arguments that encode all documents but the first, and their vectors."""
    job = make_job(tiny.config())
    model = job.load_model()
    tables = open_tokenized(job.data, model.pretrained)
    params = model.encode_table.on_devices(model.pretrained.params)
    rows = np.arange(1, len(tables.documents))
    given = DocumentTexts(model.encode_table, params, tables.documents, rows, 12, "")
    options = {"folder": tmp_path / "vectors"}
    expected = model.encode_table(params, tables.documents.take(rows), limit=12)
    return (
        partial(encode_documents, given, **options),
        partial(documents_in_file, given, **options, name="a name"),
        expected,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_in_memory_on_disk_and_in_a_file(encoded, monkeypatch, tmp_path):
    encode, in_file, expected = encoded
    folder = tmp_path / "vectors"
    monkeypatch.setattr(document_vectors, "_AT_ONCE", 16)
    in_memory = encode()
    assert not folder.exists()
    monkeypatch.setattr(document_vectors, "_IN_MEMORY", 0)
    on_disk = encode()
    assert isinstance(on_disk.vectors, np.memmap)
    assert names(folder) == []  # the file has no name
    with in_file() as found:
        assert "a name.0-of-1.npy" in names(folder)
        for one in (in_memory, on_disk, found):
            np.testing.assert_allclose(one.vectors, expected, atol=1e-6)
            assert one.share == range(len(expected))
            assert one.is_finite()
        with in_file() as other:  # another run at the same time does not touch the file
            np.testing.assert_allclose(other.vectors, expected, atol=1e-6)
            assert other.file is None
        np.testing.assert_allclose(np.load(found.file), expected, atol=1e-6)
    assert names(folder) == []


def test_a_file_is_continued(encoded, monkeypatch, tmp_path):
    _, in_file, expected = encoded
    monkeypatch.setattr(document_vectors, "_AT_ONCE", 16)
    add, added = document_vectors.VectorFile.add, []

    def killed(self, vectors):
        if len(added) == 1:
            raise KeyboardInterrupt
        added.append(len(vectors))
        add(self, vectors)

    def counted(self, vectors):
        added.append(len(vectors))
        add(self, vectors)

    monkeypatch.setattr(document_vectors.VectorFile, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        in_file().__enter__()
    monkeypatch.setattr(document_vectors.VectorFile, "add", counted)
    with pytest.raises(InputError), in_file():
        raise InputError("the search fails")
    assert added == [16, 16, len(expected) - 32]
    with in_file() as found:  # whole, so it is only opened
        np.testing.assert_allclose(found.vectors, expected, atol=1e-6)
    assert len(added) == 3
    assert names(tmp_path / "vectors") == []


class Gathering:
    """Replaces `process_allgather`: first records the value of each process, then returns all."""

    def __init__(self):
        self.recorded = []

    def record(self, own):
        self.recorded.append(own)
        raise StopIteration

    def gather(self, own):
        del own
        if isinstance(self.recorded[0], tuple):
            return tuple(np.stack(parts) for parts in zip(*self.recorded, strict=True))
        return np.stack(self.recorded)


def together(shares, call, monkeypatch):
    """Returns the result of a method of each share, as if all processes called it."""
    gathering = Gathering()
    monkeypatch.setattr(document_vectors.jax, "process_count", lambda: len(shares))
    monkeypatch.setattr(document_vectors.multihost_utils, "process_allgather", gathering.record)
    for share in shares:
        with pytest.raises(StopIteration):
            call(share)
    monkeypatch.setattr(document_vectors.multihost_utils, "process_allgather", gathering.gather)
    return [call(share) for share in shares]


@pytest.mark.parametrize("ends", [(20,), (7, 20), (1, 2, 20)])
@pytest.mark.parametrize("k", [3, 8, 20, 30])
def test_shares_together_find_what_one_search_finds(ends, k, monkeypatch):
    draw = np.random.default_rng(0)
    # Small whole numbers give many equal scores, which are ordered by row.
    queries, documents = (draw.integers(-1, 2, (n, 4)).astype(np.float32) for n in (6, 20))
    ranges = [range(a, b) for a, b in zip((0, *ends), ends, strict=False)]
    shares = [DocumentVectors(documents[r.start : r.stop], r) for r in ranges]
    expected = search(queries, documents, k=k)
    if len(shares) == 1:
        found = [shares[0].search(queries, k)]
    else:
        found = together(shares, lambda share: share.search(queries, k), monkeypatch)
    for scores, rows in found:
        np.testing.assert_array_equal(scores, expected[0])
        np.testing.assert_array_equal(rows, expected[1])


def test_products_and_the_mean_cosine_of_shares(monkeypatch):
    draw = np.random.default_rng(0)
    documents = draw.standard_normal((20, 4)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    queries, query_of = documents[:3] * 2, np.array([0, 2, 1, 2])
    positions = np.array([19, 0, 8, -1])  # the last is outside
    shares = [DocumentVectors(documents[r.start : r.stop], r) for r in (range(8), range(8, 20))]
    expected = np.einsum("nd,nd->n", queries[query_of], documents[positions]) * (positions >= 0)
    found = together(shares, lambda s: s.products(queries, query_of, positions), monkeypatch)
    cosines = together(shares, lambda s: s.mean_cosine(), monkeypatch)
    for products, cosine in zip(found, cosines, strict=True):
        np.testing.assert_allclose(products, expected, atol=1e-6)
        others = documents @ documents.T - np.eye(20)
        np.testing.assert_allclose(cosine, others.sum() / (20 * 19), atol=1e-6)
