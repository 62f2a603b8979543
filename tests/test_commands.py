"""Tests search, evaluate and features common to commands, from flags to written files."""

import json
import shutil

import jax
import numpy as np
import pytest

from selfdistill_jax import BiEncoder, encode, evaluate, search
from selfdistill_jax.checkpoints.model_folder import read_folder, write_folder
from selfdistill_jax.checkpoints.peft import write_lora
from selfdistill_jax.checkpoints.sentence_transformers import Prompts
from selfdistill_jax.encoder.lora import init_lora
from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.trec import read_run
from tests.tiny import CONTENTS, ROWS, content, fails, texts, write_rows


def test_an_adapter_of_the_model(start, tiny, tmp_path):
    """encode, search and evaluate use the vectors of base and adapter together."""
    encoder = read_folder(str(tiny.encoder))
    adapter = init_lora(encoder.params, rank=2, targets=("value",), key=jax.random.key(0))
    adapter["value"]["b"] += 10
    folder = tmp_path / "adapter"
    options = {"alpha": 2, "base": "", "card": "", "settings": {"pooling": "max"}}
    write_lora(folder, adapter, encoder.config, **options)
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    given = [f"--model={tiny.encoder}", f"--adapter={folder}"]
    assert start(encode, *given, f"--input={path}", f"--output={tmp_path}/v.npy")[0] == 0
    found = np.load(tmp_path / "v.npy")
    model = BiEncoder.load(str(tiny.encoder), adapter=folder)
    np.testing.assert_array_equal(found, model.encode(CONTENTS))
    plain = BiEncoder.load(str(tiny.encoder), pooling="max").encode(CONTENTS)
    assert np.abs(found - plain).max() > 0.05
    assert model.encoder.pooling == "max"
    assert BiEncoder.load(str(tiny.encoder), pooling="cls", adapter=folder).encoder.pooling == "cls"
    given += [f"--corpus={path}", f"--queries={path}", f"--run={tmp_path}/out.trec"]
    assert start(search, *given)[0] == 0
    scores = read_run(tmp_path / "out.trec")
    for x, row in zip(("one", "2", "three"), found @ found.T, strict=True):
        for y, score in zip(("one", "2", "three"), row, strict=True):
            assert abs(scores[x][y] - score) < 1e-5
    assert (tmp_path / "out.trec").read_text().split()[5] == "encoder+adapter"
    both, on = given[:2], [f"--dataset={tiny.collection}", "--k=100"]
    assert start(evaluate, *both, *on, f"--output={tmp_path}/both")[0] == 0
    assert start(evaluate, *both[:1], *on, f"--output={tmp_path}/base")[0] == 0
    means = [
        json.loads((tmp_path / which / "tiny" / "results.test.json").read_text())["means"]["model"]
        for which in ("both", "base")
    ]
    assert means[0] != means[1]
    missing = start(encode, *given[:1], "--adapter=/none", f"--input={path}", "--output=/v.npy")
    assert fails(missing, "/none/adapter_config.json: no such file; expected an adapter's folder")


def test_texts_get_the_prompt_of_their_kind(start, model, tmp_path):
    prompts = Prompts({"query": "kelu ", "passage": "the "})
    encoder = read_folder(str(model))._replace(prompts=prompts)
    write_folder(tmp_path / "prompted", encoder, card="")
    path = write_rows(tmp_path / "texts.jsonl", ROWS)
    for kind, prompt in (
        ("", "the "), ("--kind=document", "the "), ("--kind=query", "kelu "), ("--kind=text", ""),
    ):  # fmt: skip
        output = tmp_path / f"vectors{kind}.npy"
        arguments = [f"--model={tmp_path}/prompted", f"--input={path}", f"--output={output}"]
        assert start(encode, *arguments, *kind.split())[0] == 0
        want = BiEncoder.load(str(model)).encode([prompt + text for text in CONTENTS])
        np.testing.assert_array_equal(np.load(output), want)
    queries = write_rows(tmp_path / "queries.jsonl", [{"_id": "q", "text": "mabo"}])
    arguments = [f"--model={tmp_path}/prompted", f"--corpus={path}", f"--queries={queries}"]
    assert start(search, *arguments, f"--run={tmp_path}/out.trec")[0] == 0
    query, *documents = BiEncoder.load(str(model)).encode(
        ["kelu mabo", *(f"the {text}" for text in CONTENTS)]
    )
    scores = read_run(tmp_path / "out.trec")["q"]
    for name, document in zip(("one", "2", "three"), documents, strict=True):
        assert abs(scores[name] - query @ document) < 1e-5


def test_evaluate_refuses_two_datasets_of_one_name(start, tiny, model, tmp_path):
    other = shutil.copytree(tiny.collection, tmp_path / "tiny")
    given = [f"--model={model}", f"--dataset={tiny.collection},{other}"]
    result = start(evaluate, *given, f"--output={tmp_path}/out")
    assert fails(result, f"{other}: another given dataset has the same name, and both ")
    assert not (tmp_path / "out").exists()


def test_a_model_is_never_saved_over_something_else(model, tmp_path):
    encoder = BiEncoder.load(str(model))
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=f"^{tmp_path}: exists and is not a model folder"):
        encoder.save(tmp_path)
    assert list(content(tmp_path)) == ["thesis.tex"]
    for _ in range(2):  # a new folder, then an existing model
        encoder.save(tmp_path / "model")
    assert len(list(tmp_path.iterdir())) == 2


def test_saved_weights_open_in_float32_whatever_the_source_says(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))
    BiEncoder.load(str(folder)).save(tmp_path / "new")
    assert "torch_dtype" not in json.loads((tmp_path / "new" / "config.json").read_text())


def test_search_is_exact(start, model, tmp_path):
    documents, queries = [], []
    for i in range(30):
        query, title, text = texts(i, i % 5)
        documents.append({"_id": f"d{i}", "title": title, "text": text})
        queries.append({"_id": f"q{i}", "text": query})
    (tmp_path / "my model").symlink_to(model)  # not a valid tag of a TREC run
    arguments = [
        f"--model={tmp_path}/my model",
        f"--corpus={write_rows(tmp_path / 'corpus.jsonl', documents)}",
        f"--queries={write_rows(tmp_path / 'queries.jsonl', queries[:7])}",
        f"--run={tmp_path}/out.trec",
        "--k=4",
    ]
    status, out, _ = start(search, *arguments)
    assert (status, out) == (0, f"7 queries, 30 documents: {tmp_path}/out.trec\n")
    encoder = BiEncoder.load(str(model))
    scores = encoder.encode([q["text"] for q in queries[:7]]) @ (
        encoder.encode([f"{d['title']} {d['text']}" for d in documents]).T
    )
    assert (tmp_path / "out.trec").read_text().splitlines()[0].endswith(" my_model")
    run = read_run(tmp_path / "out.trec")
    assert list(run) == [f"q{i}" for i in range(7)]
    for i in range(7):
        best = np.argsort(-scores[i])[:4]
        assert list(run[f"q{i}"]) == [f"d{j}" for j in best]
        np.testing.assert_allclose(list(run[f"q{i}"].values()), scores[i, best], atol=1e-6)
    before = content(tmp_path)
    assert fails(start(search, *arguments), f"{tmp_path}/out.trec: already exists")
    assert content(tmp_path) == before


def test_search_and_evaluate_with_cut_vectors(start, tiny, model, tmp_path):
    """Both commands rank by the first dimensions of the vectors, as computed by hand."""
    queries, corpus = tiny.collection / "queries.jsonl", tiny.collection / "corpus.jsonl"
    given = [f"--model={model}", "--dimensions=3"]
    status, *_ = start(
        search, *given, f"--corpus={corpus}", f"--queries={queries}", f"--run={tmp_path}/out.trec"
    )
    assert status == 0
    encoder = BiEncoder.load(str(model))
    asked, said = (
        encoder.encode([document.content for document in encode.stream_texts(path)], dimensions=3)
        for path in (queries, corpus)
    )
    assert asked.shape == (40, 3)
    by_hand = asked @ said.T
    run = read_run(tmp_path / "out.trec")
    for i in range(40):
        got = [run[f"q{i}"][f"c{j}"] for j in range(40)]
        np.testing.assert_allclose(got, by_hand[i], atol=1e-6)
    status, out, _ = start(
        evaluate, *given, f"--dataset={tiny.collection}", f"--output={tmp_path}/out"
    )
    assert status == 0
    assert out.startswith("tiny, test: 8 queries, 40 documents, cut to 3 dimensions\n")
    same = read_run(tmp_path / "out" / "tiny" / "model.test.trec")
    assert same.keys() == {f"q{i}" for i in range(32, 40)}
    for query, documents in same.items():
        for document, score in documents.items():
            np.testing.assert_allclose(score, run[query][document], atol=1e-6)
    results = json.loads((tmp_path / "out" / "tiny" / "results.test.json").read_text())
    assert results["models"] == {
        "model": {
            "dimensions": 3, "query_prompt": "", "document_prompt": "",
            "fingerprint": encoder.fingerprint,
        }
    }  # fmt: skip
    given[1] = "--dimensions=17"
    result = start(evaluate, *given, f"--dataset={tiny.collection}", f"--output={tmp_path}/new")
    assert fails(result, "dimensions is 17; expected 1 to 16, the size of the encoder's vectors")
    assert not (tmp_path / "new").exists()


def test_search_refuses_an_id_twice(start, model, tmp_path):
    path = write_rows(tmp_path / "corpus.jsonl", [{"_id": "a", "text": "the"}] * 2)
    queries = write_rows(tmp_path / "queries.jsonl", [{"_id": "a", "text": "the"}])
    arguments = [f"--model={model}", f"--corpus={path}", f"--queries={queries}"]
    result = start(search, *arguments, f"--run={tmp_path}/out.trec")
    assert fails(result, f"{path}:2: _id 'a' occurs twice")


def test_evaluate_gives_the_numbers_of_the_run(start, tiny, finished, model, tmp_path):
    status, out, err = start(
        evaluate,
        f"--model={model}",
        f"--baseline={tiny.encoder}",
        f"--dataset={tiny.collection}",
        f"--output={tmp_path}/out",
    )
    assert status == 0
    assert [line for line in err.splitlines() if not line.startswith("tiny, ")] == []
    folder = tmp_path / "out" / "tiny"
    own, here = (
        json.loads((path / "results.test.json").read_text()) for path in (finished / "eval", folder)
    )
    names = {"trained": "model", "start": "baseline", "bm25": "bm25"}
    assert here["means"] == {names[name]: means for name, means in own["means"].items()}
    assert here["tests"]["model - baseline"] == own["tests"]["trained - start"]
    assert (here["split"], here["queries"]) == ("test", 8)

    def values(path, names):
        lines = (path / "per_query.test.tsv").read_text().splitlines()[1:]
        return {(names[system], *rest) for system, *rest in (line.split("\t") for line in lines)}

    assert values(folder, {n: n for n in names.values()}) == values(finished / "eval", names)
    for theirs, ours in names.items():
        one = read_run(finished / "eval" / f"{theirs}.test.trec")
        two = read_run(folder / f"{ours}.test.trec")
        assert {q: list(documents) for q, documents in two.items()} == {
            q: list(documents) for q, documents in one.items()
        }
    assert out.startswith("tiny, test: 8 queries, 40 documents\n")
    assert f"{own['means']['trained']['nDCG@10']:.4f}" in out


def test_evaluate_of_another_split_and_of_two_collections(start, tiny, finished, model, tmp_path):
    other = shutil.copytree(tiny.collection, tmp_path / "other")
    arguments = [
        f"--model={model}",
        f"--dataset={tiny.collection},{other}",
        f"--output={tmp_path}/out",
        "--split=dev",
    ]
    status, out, _ = start(evaluate, *arguments)
    assert status == 0
    assert [line for line in out.splitlines() if ", dev: " in line] == [
        "tiny, dev: 8 queries, 40 documents",
        "other, dev: 8 queries, 40 documents",
    ]
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    best = max(r["nDCG@10"] for r in records if r["kind"] == "dev")
    for name in ("tiny", "other"):
        results = json.loads((tmp_path / "out" / name / "results.dev.json").read_text())
        assert results["means"]["model"]["nDCG@10"] == pytest.approx(best, abs=1e-12)
        assert list(results["tests"]) == ["model - bm25"]
    before = content(tmp_path / "out")
    assert fails(
        start(evaluate, *arguments), f"{tmp_path}/out/tiny: already contains results; give"
    )
    assert content(tmp_path / "out") == before


def test_evaluate_of_wrong_input(start, tiny, model, tmp_path):
    (tmp_path / "part").mkdir()
    for name in ("corpus.jsonl", "queries.jsonl"):
        shutil.copy(tiny.collection / name, tmp_path / "part")
    (tmp_path / "part" / "qrels").mkdir()
    shutil.copy(tiny.collection / "qrels" / "train.tsv", tmp_path / "part" / "qrels")
    given = [f"--model={model}", f"--output={tmp_path}/out"]
    missing = start(evaluate, *given, f"--dataset={tiny.collection},{tmp_path}/none")
    assert fails(missing, f"dataset '{tmp_path}/none': neither a folder nor an embedded collection")
    part = start(evaluate, *given, f"--dataset={tmp_path}/part")
    assert fails(part, f"{tmp_path}/part: no split 'test'; its splits: train")
    assert fails(
        start(evaluate, *given), "--dataset is missing; give --dataset=VALUE (BEIR folders"
    )
    assert not (tmp_path / "out").exists()
