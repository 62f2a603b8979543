"""Tests training from Python with examples in memory, from a file, and with faulty ones."""

import gc

import numpy as np
import pytest

from selfdistill_jax import BiEncoder
from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.errors import InputError
from selfdistill_jax.fit import fit, write_examples
from tests.tiny import metrics, texts, train, write_rows

PAIRS = [(row[0], f"{row[1]} {row[2]}") for row in (texts(i, i % 5) for i in range(45))]
SETTINGS = {
    "data.query_length": 8,
    "data.document_length": 12,
    "train.learning_rate": 0.02,
    "evaluation.retention": "",
    "evaluation.interpolation": (1.0,),
    "encoder.max_length": 14,
}


@pytest.fixture(scope="module")
def model(tiny):
    return BiEncoder.load(str(tiny.encoder))


@pytest.fixture(autouse=True)
def _log_stays(monkeypatch):
    """Leaves the log to pytest: `show_log` would outlast the test."""
    monkeypatch.setattr("selfdistill_jax.fit.show_log", lambda: None)


@pytest.fixture
def settings(tiny):
    return SETTINGS | {"data.cache": str(tiny.root / "cache"), "train.dtype": "float32"}


def test_pairs_become_a_better_encoder(model, settings, tmp_path):
    before = model.encode(PAIRS[0][0])
    fitted = model.fit(PAIRS, epochs=6, workdir=tmp_path / "mine", settings=settings)
    assert str(fitted) == (tmp_path / "mine" / "result.txt").read_text() == fitted.text
    assert fitted.run.values["trained"]["nDCG@10"]
    assert fitted.folder == tmp_path / "mine"
    saved = read_folder(str(tmp_path / "mine" / "model"))
    np.testing.assert_array_equal(
        fitted.model.encode(PAIRS[0][0]), BiEncoder(saved).encode(PAIRS[0][0])
    )
    np.testing.assert_array_equal(model.encode(PAIRS[0][0]), before)
    # The same call prints the finished run.
    again = model.fit(PAIRS, epochs=6, workdir=tmp_path / "mine", settings=settings)
    assert again.text == fitted.text
    with pytest.raises(InputError, match="mine holds a run with another config"):
        model.fit(PAIRS[1:], epochs=6, workdir=tmp_path / "mine", settings=settings)


def test_fit_trains_as_the_command_does(model, tiny, settings, tmp_path):
    rows = [{"query": q, "positive": p} for q, p in PAIRS]
    path = write_rows(tmp_path / "own.jsonl", rows)
    steps = {"train.steps": 3, "train.batch_size": 8, "train.warmup_steps": 2,
             "train.evaluate_every": 4, "train.checkpoint_every": 5}  # fmt: skip
    fit(str(tiny.encoder), path, loss="distributed", workdir=tmp_path / "a",
        settings=settings | steps | {"train.decay": "constant"})  # fmt: skip
    config = tiny.config(
        data__dataset="", data__triplets=str(path), evaluation__interpolation=(1.0,), train__steps=3
    )
    with config.unlocked():
        config.data.dev_queries = 300
        config.evaluation.dev_documents = 1500
    train(config, tmp_path / "b")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    files = [tmp_path / name / "model" / "model.safetensors" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_default_lengths_and_a_temporary_folder(model, settings, tmp_path):
    fitted = model.fit(PAIRS, settings=settings)
    config = fitted.run.config["train"]
    assert (config["batch_size"], config["steps"]) == (40, 1)  # of 45, a tenth is held out
    assert fitted.folder is None
    assert "/model" not in fitted.text
    fitted.model.save(tmp_path / "saved")
    vector = BiEncoder.load(str(tmp_path / "saved")).encode("mabo")
    np.testing.assert_array_equal(vector, fitted.model.encode("mabo"))
    folder = fitted.model.encoder.folder
    assert folder.is_dir()
    del fitted
    gc.collect()
    assert not folder.exists()
    fitted = model.fit(PAIRS, epochs=2, settings=settings | {"train.batch_size": 16})
    assert fitted.run.config["train"]["steps"] == 5


def test_rows_of_any_format(tmp_path):
    rows = [("q", "p"), ["q", "p", "n"], {"anchor": "q", "positive": "p"}]
    path = write_examples(iter(rows), tmp_path / "new")
    assert path.read_text() == (
        '{"query": "q", "positive": "p", "negatives": []}\n'
        '{"query": "q", "positive": "p", "negatives": ["n"]}\n'
        '{"anchor": "q", "positive": "p"}\n'
    )
    assert write_examples(rows, tmp_path / "new") == path
    assert write_examples(rows[:2], tmp_path / "new") != path


def test_length_of_a_run_is_that_of_its_examples(model, settings):
    """Half of the pairs are negatives, and do not count."""
    rows = [
        {"sentence1": q, "sentence2": text, "label": int(text == p)}
        for i, (q, p) in enumerate(PAIRS)
        for text in (p, PAIRS[i - 1][1])
    ]
    fitted = model.fit(rows, settings=settings)
    assert fitted.run.config["train"]["batch_size"] == 40


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (["text"], r"example 0 is 'text'; expected \(query, positive\)"),
        ([("q", "p"), ("q",)], r"example 1 is \('q',\); expected"),
        ([{"query": b"q"}], r"example 0: Object of type bytes .*; expected texts and numbers"),
        ([("q", 1)], r"examples-\w+.jsonl:1: field 'positive' is a number; expected a string"),
        ([], "no triplets; expected"),
        ([("q", "p")], "1 training triplets are fewer than one batch of 8"),
    ],
)
def test_faulty_examples(model, settings, examples, message):
    with pytest.raises(InputError, match=message):
        model.fit(examples, settings=settings)


def test_faulty_settings(model, tiny):
    with pytest.raises(InputError, match=r"config.train.step: .*did you mean 'train.steps'"):
        model.fit(PAIRS, settings={"train.step": 3})
    with pytest.raises(InputError, match=r"loss 'softmx': expected .*did you mean 'softmax'"):
        model.fit(PAIRS, loss="softmx")
    with pytest.raises(InputError, match="save this model, and load it from there"):
        BiEncoder(read_folder(str(tiny.encoder))).fit(PAIRS)
