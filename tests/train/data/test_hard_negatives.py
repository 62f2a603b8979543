"""Tests the hard negatives of a run against a search by hand."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from selfdistill_jax import BiEncoder, io
from selfdistill_jax.errors import InputError
from selfdistill_jax.progress import LOG
from selfdistill_jax.train.data import hard_negatives
from selfdistill_jax.train.data.start_vectors import StartVectors
from selfdistill_jax.train.data.tokenized_collection import open_tokenized
from selfdistill_jax.train.job import make_job
from tests import tiny as helpers
from tests.tiny import load_batches, metrics, train
from tests.train.runs import stop_at

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def own_cache(tmp_path):
    """Returns settings of an empty cache."""
    return {"data__cache": str(tmp_path / "cache")}


def found(config):
    return hard_negatives.find_candidates(*opened(config))


def opened(config):
    job = make_job(config)
    model = job.load_model()
    tables = open_tokenized(job.data, model.pretrained)
    vectors = StartVectors(model, tables, cache=job.data.cache, dtype=job.data.dtype)
    return job.data, tables, model, vectors


def ranked(tiny, config):
    """Returns each training query's documents, best first, all similarities, and the examples."""
    model = BiEncoder.load(str(tiny.encoder))
    _, tables, *_ = opened(config)
    q, d = (
        model.encode(list(texts))
        for texts in (tables.collection.queries, tables.collection.documents)
    )
    similarity = (q @ d.T)[tables.examples.query]
    return np.argsort(-similarity, axis=1, kind="stable"), similarity, tables.examples


@pytest.mark.parametrize(
    ("ceiling", "side", "length"), [(0.0, "both", 14), (0.95, "both", 14), (0.95, "query", 4)]
)
def test_mined_candidates_are_what_the_start_encoder_finds(tiny, own_cache, ceiling, side, length):
    # No text is cut, as in BiEncoder, and fixed documents never are. With 8 candidates, a ceiling
    # looks at all 40 documents.
    whole = {"data__query_length": 14, "data__document_length": length, **own_cache}
    whole |= {"encoder__max_length": 16, "train__side": side}
    config = tiny.config(
        data__negatives="mined", data__candidates=8, data__mined_ceiling=ceiling, **whole
    )
    order, similarity, examples = ranked(tiny, config)
    left = []
    for own, line, scores, positive in zip(
        found(config).tolist(), order, similarity, examples.positive, strict=True
    ):
        highest = ceiling * scores[positive] if ceiling else np.inf
        want = [d for d in line.tolist() if d != positive and scores[d] <= highest][:8]
        assert own == want + [-1] * (8 - len(want))
        left += want
    assert len(left) > 24  # most have some, though texts are alike to a random encoder


def test_texts_are_mined_as_they_are_trained_on(tiny, own_cache):
    settings = {"data__negatives": "mined", "data__mined_ceiling": 0.0, **own_cache}
    whole = found(tiny.config(**settings, data__document_length=14))
    assert (whole != found(tiny.config(**settings, data__document_length=4))).any()


def test_training_draws_from_mined_candidates(tiny, finished, own_cache, tmp_path):
    config = tiny.config(data__negatives="mined", data__candidates=2, train__steps=2, **own_cache)
    train(config, tmp_path / "run", stop=stop_at(1))
    assert metrics(tmp_path / "run", "train")[0]["loss"] != metrics(finished, "train")[0]["loss"]
    batches = load_batches(config)
    (queries, positives, negatives), _ = batches.rows(0, np.arange(24))
    own = found(config)
    some = own[:, 0] >= 0
    assert (negatives[:, None] == own).any(1)[some].all()
    assert (negatives != positives).all()
    assert (queries == positives).all()


def test_bm25_negatives(tiny, own_cache):
    config = tiny.config(data__negatives="bm25", **own_cache)
    batches = load_batches(config)
    (queries, positives, negatives), _ = batches.rows(0, np.arange(24))
    assert (queries == positives).all()
    # BM25 matches only the places, which follow from row numbers.
    assert (negatives % 5 == positives % 5).all()
    assert (negatives != positives).all()


@pytest.mark.parametrize("kind", ["bm25", "mined"])
def test_a_search_is_done_once(tiny, own_cache, tmp_path, monkeypatch, kind):
    settings = {"data__negatives": kind, **own_cache}
    first = found(tiny.config(**settings))
    calls = []
    for name in ("_by_bm25", "_by_encoder"):
        make = getattr(hard_negatives, name)
        monkeypatch.setattr(
            hard_negatives, name, lambda *a, make=make, name=name: calls.append(name) or make(*a)
        )
    assert np.array_equal(found(tiny.config(**settings, train__steps=5, seed=3)), first)
    assert calls == []
    found(tiny.config(**settings, data__candidates=7))
    searched = {"bm25": ["_by_bm25"], "mined": ["_by_encoder"]}[kind]
    assert calls == searched
    other_weights = tmp_path / "encoder"
    shutil.copytree(tiny.encoder, other_weights)
    weights = load_file(other_weights / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 0.1
    save_file(weights, other_weights / "model.safetensors")
    for other in (
        {"data__mined_ceiling": 0.5},
        {"data__query_length": 5},
        {"data__document_length": 5},
        {"encoder__query_prompt": "the "},
        {"encoder__pooling": "cls"},
        {"encoder__init": str(other_weights)},
        {"train__dtype": "bfloat16"},
    ):
        calls.clear()
        found(tiny.config(**settings, **other))
        assert calls == (searched if kind == "mined" else []), other


def half_with_negatives():
    """Returns 12 rows, of which every second one has a negative."""
    rows = []
    for i in range(12):
        query, *positive = helpers.texts(i, i % 5)
        row = {"query": query, "positive": " ".join(positive)}
        if i % 2:
            row["negative"] = " ".join(helpers.texts(i + 7, i % 5)[1:])
        rows.append(row)
    return rows


def test_triplets_that_bring_a_negative_keep_it(tiny, own_cache, tmp_path):
    rows = half_with_negatives()
    settings = {"data__negatives": "mined", "data__mined_ceiling": 0.0, **own_cache}
    for name, lines in (("some", rows), ("all", rows[1::2] * 2)):
        file = helpers.write_rows(tmp_path / f"{name}.jsonl", lines)
        config = tiny.config(data__triplets=str(file), **settings)
        own = found(config)
        if name == "all":
            assert own is None
        else:
            assert ((own >= 0).any(1) == [not i % 2 for i in range(12)]).all()


def test_another_number_of_negatives_is_another_search(tiny, own_cache, tmp_path):
    """Rows with a given negative need candidates only if they need more negatives."""
    file = helpers.write_rows(tmp_path / "mixed.jsonl", half_with_negatives())
    settings = {"data__triplets": str(file), "data__negatives": "bm25", **own_cache}
    one, two, again = (
        found(tiny.config(data__negatives_per_query=count, **settings)) for count in (1, 2, 1)
    )
    assert ((one >= 0).any(1) == [not i % 2 for i in range(12)]).all()
    assert (two >= 0).any(1).all()
    assert np.array_equal(one, again)


def test_what_the_collection_judges_right_is_no_negative(tiny, own_cache, tmp_path):
    """A file of ids may leave out positives that the collection knows; they are not negatives."""
    path = tmp_path / "ids.tsv"
    ids = "".join(f"q{i}\tc{i + 1}\n" for i in range(20))
    path.write_text(f"query_id\tpositive_id\n{ids}")
    for kind in ("mined", "bm25"):
        settings = {"data__negatives": kind, "data__candidates": 40, "data__mined_ceiling": 0.0}
        own = found(tiny.config(data__triplets=str(path), **settings, **own_cache))
        for i, row in enumerate(own):
            assert not {i, i + 1} & {*row.tolist()}
        if kind == "mined":
            assert ((own >= 0).sum(1) == 38).all()


def test_vectors_that_are_not_finite(tiny, own_cache):
    config = tiny.config(data__negatives="mined", **own_cache)
    settings, tables, model, vectors = opened(config)
    broken = {**model.pretrained.params}
    key = next(k for k in broken if "embed" in k.lower())
    broken[key] = {k: np.full_like(v, np.nan) if hasattr(v, "shape") else v
                   for k, v in broken[key].items()}  # fmt: skip
    model = model._replace(pretrained=model.pretrained._replace(params=broken))
    with pytest.raises(InputError, match=r"^config\.data\.negatives is 'mined', but .* not finite"):
        hard_negatives.find_candidates(settings, tables, model, vectors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__negatives": "mind"}, r"'mind'; expected random or bm25 or mined; did you mean"),
        ({"data__mined_ceiling": 1.5}, r"^config\.data\.mined_ceiling is 1\.5; expected 0 to 1"),
        ({"data__candidates": 0}, r"^config\.data\.candidates is 0; expected 1 or more"),
    ],
)
def test_wrong_settings(tiny, settings, message):
    with pytest.raises(InputError, match=message):
        make_job(tiny.config(**settings))


def test_a_cache_that_cannot_be_written_ends_no_run(tiny, own_cache, monkeypatch, caplog):
    config = tiny.config(data__negatives="mined", **own_cache)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LOG, "propagate", True)
    parts = opened(config)
    with monkeypatch.context() as patch:
        patch.setattr(io, "new_folder", full)
        own = hard_negatives.find_candidates(*parts)
    assert "the next run computes it again" in caplog.text
    assert np.array_equal(own, found(config))


def test_a_damaged_file_is_named(tiny, own_cache, tmp_path):
    config = tiny.config(data__negatives="mined", **own_cache)
    found(config)
    (file,) = (tmp_path / "cache" / "negatives").rglob("*.npy")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match="damaged"):
        found(config)
