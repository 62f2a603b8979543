"""Tests training of the query encoder alone: the vectors of documents do not change."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from selfdistill_jax import BiEncoder, encode, evaluate, search
from selfdistill_jax.checkpoints.layout import DOCUMENT_ENCODER
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.checkpoints.safetensors import WEIGHTS
from selfdistill_jax.encoder.apply import init_params, make_encode
from selfdistill_jax.errors import InputError
from selfdistill_jax.losses import softmax
from selfdistill_jax.train.data import start_vectors
from selfdistill_jax.train.evaluation.encode_table import TableEncoder
from selfdistill_jax.train.job import make_job
from selfdistill_jax.train.mesh import make_mesh, put_batch, put_state
from selfdistill_jax.train.step import make_global_loss
from tests.tiny import ROWS, load_batches, metrics, texts, train, write_collection
from tests.train import every_loss
from tests.train.runs import assert_goes_on, vectors_of

pytestmark = pytest.mark.usefixtures("undrawn")
QUERY_TEXTS = ["mabo tiri pavo", "kelu sona brno"]
DOCUMENT_TEXTS = ["Hasit vokel pavo", "Jurad gimon brno of"]


@pytest.fixture(scope="module")
def config(tiny):
    return tiny.config("softmax", train__side="query", train__steps=12, train__learning_rate=0.02)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("query-side") / "run"
    train(config, folder)
    return folder


def test_a_batch_has_fixed_vectors_of_its_documents(tiny, config):
    ours, both = load_batches(config), load_batches(tiny.config("softmax"))
    for step in (0, 5):
        batch, whole = ours[step], both[step]
        assert batch.inputs.lengths.size == len(batch.scores) == len(batch.documents)
        assert batch.useful_tokens < whole.useful_tokens / 2
        # The rows are balanced over the devices by their tokens, so their order differs.
        own, theirs = (np.argsort(b.positive_ids[:, 0]) for b in (batch, whole))
        np.testing.assert_array_equal(batch.negative_ids[own], whole.negative_ids[theirs])
        _, p, n = vectors_of(read_folder(str(tiny.encoder)), whole)
        want = np.stack([p, n], axis=1)[theirs]
        np.testing.assert_allclose(batch.documents[own], want, atol=1e-5)


@pytest.mark.parametrize(("devices", "fsdp", "parts"), [(1, 1, 1), (4, 1, 8), (8, 4, 8)])
def test_value_and_gradient_are_those_of_constant_documents(devices, fsdp, parts):
    """The step encodes queries alone; the reference encodes all and stops the gradient."""
    function = make_encode(every_loss.CONFIG, pooling="mean")
    params = init_params(every_loss.CONFIG, jax.random.key(0))

    def loss(q, p, n, **options):
        return softmax(q, *jax.lax.stop_gradient((p, n)), **options)

    def graded(batch, devices, fsdp, loss):
        mesh = make_mesh(jax.devices()[:devices], fsdp=fsdp)
        value = make_global_loss(function, loss, mesh)
        graded = jax.jit(jax.value_and_grad(value, has_aux=True))
        found = graded(put_state(params, mesh), None, put_batch(batch, mesh))
        (value, (vectors, _)), gradient = jax.device_get(found)
        return value, vectors, gradient

    whole = every_loss.batch()
    want, vectors, gradient = graded(whole, 1, 1, loss)
    documents = np.stack([vectors.positive, vectors.negative], axis=1)
    queries = every_loss.batch(parts=parts, kinds=1)._replace(documents=documents)
    got, _, ours = graded(queries, devices, fsdp, softmax)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(gradient))
    assert scale > 1e-4
    for x, y in zip(*map(jax.tree.leaves, (ours, gradient)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * scale)


def test_documents_are_encoded_at_their_full_length(tiny):
    whole, cut = (
        load_batches(tiny.config("softmax", train__side="query", data__document_length=length))[0]
        for length in (12, 4)
    )
    np.testing.assert_array_equal(whole.documents, cut.documents)


@pytest.mark.parametrize("negatives", [0, 3])
def test_any_number_of_negatives(tiny, tmp_path, negatives):
    """Dropout and shorter vectors work as in other runs."""
    config = tiny.config(
        "softmax" if not negatives else "distributed", train__side="query", train__steps=2,
        data__negatives_per_query=negatives, train__dimensions=(8,), encoder__dropout="source",
        train__micro_batches=1,
    )  # fmt: skip
    batch = load_batches(config)[0]
    assert batch.documents.shape == (8, 1 + negatives, 16)
    assert batch.inputs.seeds.shape == batch.inputs.lengths.shape
    train(config, tmp_path)
    assert [np.isfinite(record["loss"]) for record in metrics(tmp_path, "train")] == [True, True]


def test_the_final_choice_and_retention_use_the_fixed_documents(tiny, tmp_path):
    other = write_collection(tmp_path / "other", splits={"test": range(40)})
    settings = {"evaluation__interpolation": (0.5,), "evaluation__retention": str(other)}
    config = tiny.config("softmax", train__side="query", train__steps=12, **settings)
    folder = tmp_path / "run"
    train(config, folder)
    choice = json.loads((folder / "eval" / "choice.json").read_text())
    start, model = (BiEncoder.load(str(f)) for f in (tiny.encoder, folder / "model"))
    np.testing.assert_array_equal(*(m.encode_document(DOCUMENT_TEXTS) for m in (start, model)))
    changed = np.abs(model.encode_query(QUERY_TEXTS) - start.encode_query(QUERY_TEXTS)).max()
    assert (changed > 0) == (choice["alpha"] == 0.5)
    retention = json.loads((folder / "eval" / "retention.json").read_text())
    assert [facts["collection"] for facts in retention] == ["other"]


def test_vectors_that_are_not_finite_are_refused_and_not_cached(tiny, tmp_path, monkeypatch):
    config = tiny.config("softmax", train__side="query", data__cache=str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(
            TableEncoder,
            "__call__",
            lambda self, params, tokens, **_: np.full((len(tokens), 16), np.nan, np.float32),
        )
        with pytest.raises(InputError, match="are not finite; try"):
            load_batches(config)
    assert np.isfinite(load_batches(config)[0].documents).all()


def test_a_collection_of_any_size_is_encoded_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(start_vectors, "_MOST_BYTES", 0)
    counts = []
    encode = TableEncoder.share

    def recorded(self, params, tokens, **options):
        counts.append(len(tokens))
        return encode(self, params, tokens, **options)

    monkeypatch.setattr(TableEncoder, "share", recorded)
    settings = {"data__cache": str(tmp_path / "cache"), "train__steps": 4}
    train(tiny.config("softmax", train__side="query", **settings), tmp_path / "run")
    assert [count for count in counts if count == 40] == [40]  # the number of documents


def test_documents_that_are_all_alike_are_no_alarm(tiny):
    config = tiny.config(train__side="query", train__collapse_cosine=0.5)
    assert make_job(config).loop.collapse_cosine == math.inf


def test_old_vectors_of_documents_stay_valid(tiny, run):
    start, model = BiEncoder.load(str(tiny.encoder)), BiEncoder.load(str(run / "model"))
    np.testing.assert_array_equal(
        model.encode_document(DOCUMENT_TEXTS), start.encode_document(DOCUMENT_TEXTS)
    )
    assert np.abs(model.encode_query(QUERY_TEXTS) - start.encode_query(QUERY_TEXTS)).max() > 0.01
    tensors = (load_file(f / WEIGHTS) for f in (tiny.encoder, run / "model" / DOCUMENT_ENCODER))
    for a, b in zip(*(dict(sorted(x.items())).values() for x in tensors), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "It encodes only queries" in (run / "model" / "README.md").read_text()
    first, *_, last = metrics(run, "train")
    assert last["loss"] < 0.9 * first["loss"]
    means = json.loads((run / "eval" / "results.test.json").read_text())["means"]
    assert means["trained"]["nDCG@10"] > means["start"]["nDCG@10"]


def test_evaluate_and_encode_use_the_encoder_of_documents(tiny, run, start, tmp_path):
    values = json.loads((run / "eval" / "results.test.json").read_text())["means"]["trained"]
    model, out = run / "model", tmp_path / "out"
    flags = f"--model={model}", f"--dataset={tiny.collection}", f"--output={out}"
    assert start(evaluate, *flags)[0] == 0
    (results,) = out.glob("*/results.test.json")
    found = json.loads(results.read_text())["means"]["model"]
    assert found == pytest.approx(values, abs=1e-6)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    vectors = []
    for name, kind in ((model, "document"), (tiny.encoder, "document"), (model, "query")):
        out = tmp_path / f"{len(vectors)}.npy"
        flags = f"--model={name}", f"--input={texts}", f"--output={out}", f"--kind={kind}"
        assert start(encode, *flags)[0] == 0
        vectors.append(np.load(out))
    document, old, query = vectors
    np.testing.assert_array_equal(document, old)
    assert np.abs(query - old).max() > 0.01


def test_sentence_transformers_opens_both_encoders(run):
    library = pytest.importorskip("sentence_transformers", reason="needs `make peers`")
    model = BiEncoder.load(str(run / "model"))
    queries = library.SentenceTransformer(str(run / "model"), device="cpu")
    documents = library.SentenceTransformer(str(run / "model" / DOCUMENT_ENCODER), device="cpu")
    theirs = queries.encode(QUERY_TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(model.encode_query(QUERY_TEXTS), theirs, atol=1e-5)
    theirs = documents.encode(DOCUMENT_TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(model.encode_document(DOCUMENT_TEXTS), theirs, atol=1e-5)


def test_a_copy_without_the_document_encoder_is_refused(run, tmp_path):
    copy = shutil.copytree(run / "model", tmp_path / "model")
    shutil.rmtree(copy / DOCUMENT_ENCODER)
    with pytest.raises(
        InputError, match="encodes only queries, and its subfolder document_encoder"
    ):
        BiEncoder.load(str(copy))
    with pytest.raises(InputError, match="give the adapter's own base model"):
        BiEncoder.load(str(run / "model"), adapter=tmp_path)


def test_search_encodes_documents_by_their_encoder(tiny, run, start, tmp_path):
    out = tmp_path / "run.trec"
    flags = [f"--{name}={tiny.collection}/{name}.jsonl" for name in ("corpus", "queries")]
    assert start(search, f"--model={run / 'model'}", *flags, f"--run={out}", "--k=40")[0] == 0
    found = {(q, d): float(s) for q, _, d, _, s, _ in map(str.split, out.read_text().splitlines())}
    model = BiEncoder.load(str(run / "model"))
    query, *document = (t for t in texts(32, 32 % 5))
    want = model.encode_query(query) @ model.encode_document(" ".join(document))
    assert found["q32", "c32"] == pytest.approx(float(want), abs=1e-5)


def test_saving_keeps_the_encoder_of_documents(run, tmp_path):
    model = BiEncoder.load(str(run / "model"))
    model.save(tmp_path / "copy")
    again = BiEncoder.load(str(tmp_path / "copy"))
    for name in ("encode_query", "encode_document"):
        ours, theirs = (getattr(m, name)(DOCUMENT_TEXTS) for m in (model, again))
        np.testing.assert_array_equal(ours, theirs)
    assert again.fingerprint == model.fingerprint


def test_a_killed_run_resumes(config, run, tmp_path):
    assert_goes_on(config, tmp_path / "run", run)


def test_an_adapter_for_queries_leaves_documents_alone(tiny, tmp_path):
    config = tiny.config(
        "softmax", train__side="query", train__steps=4, encoder__adapter="lora",
        train__learning_rate=0.05,
    )  # fmt: skip
    train(config, tmp_path / "run")
    start = BiEncoder.load(str(tiny.encoder))
    merged = BiEncoder.load(str(tmp_path / "run" / "model"))
    model = BiEncoder.load(str(tiny.encoder), adapter=tmp_path / "run" / "adapter")
    want = start.encode_document(DOCUMENT_TEXTS)
    np.testing.assert_array_equal(model.encode_document(DOCUMENT_TEXTS), want)
    assert "It is for queries only" in (tmp_path / "run" / "adapter" / "README.md").read_text()
    ours, theirs = (m.encode_query(QUERY_TEXTS) for m in (model, merged))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_wrong_settings_are_refused(tiny, run, tmp_path):
    for target in ("ema", "start"):
        with pytest.raises(InputError, match="from which targets are computed, never change"):
            train(tiny.config(train__side="query", train__target=target), tmp_path / "run")
    with pytest.raises(InputError, match=r"train.side is 'documents'; expected both or query"):
        train(tiny.config(train__side="documents"), tmp_path / "run")
    with pytest.raises(
        InputError, match=r"encodes only queries; start from a model that encodes queries and"
    ):
        train(tiny.config(encoder__init=str(run / "model")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
