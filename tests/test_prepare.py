"""Tests that prepare makes a run's data in advance."""

import numpy as np
import pytest

from selfdistill_jax.data.tokens import TokenTable
from selfdistill_jax.errors import InputError
from selfdistill_jax.train.data import hard_negatives
from tests import tiny as helpers
from tests.tiny import load_batches, prepare


def test_says_what_is_trained_on(tiny, tmp_path):
    cache = tmp_path / "cache"
    text = prepare(tiny.config(data__cache=str(cache), data__document_length=6, train__steps=6))
    summary, texts, batches = text.split("\n\n")
    assert summary.splitlines() == [
        "tiny: 24 training examples with 1 negative each: 0 given with the data, 24 drawn (random)",
        "judged queries: train 24, dev 8, test 8",
        f"cache folder: {cache}",
    ]
    head, _, queries, documents = (line.split() for line in texts.splitlines())
    assert " ".join(head) == "in training texts mean tokens 95 % longest limit truncated"
    # [CLS], two subjects, a place, [SEP]
    assert queries == ["queries", "24", "5", "5", "5", "8", "0.0%"]
    # Two subjects, a place, "the" up to twice, and "of", which is not in the vocabulary.
    lengths = np.array([6 + number % 3 for number in range(40)])
    mean, high = f"{lengths.mean():.0f}", f"{np.quantile(lengths, 0.95):.0f}"
    cut = f"{(lengths > 6).mean():.1%}"
    assert documents == ["documents", "40", mean, high, "8", "6", cut]
    assert batches.startswith("6 steps of 8 triplets, 2.00 epochs; a batch has 136 tokens and ")
    assert batches.endswith(" padding, on 8 cpu devices")


def test_the_run_finds_all_of_it(tiny, tmp_path, monkeypatch):
    config = tiny.config(data__negatives="mined", data__cache=str(tmp_path / "cache"))
    text = prepare(config)
    assert "0 given with the data, 24 drawn (mined)" in text
    before = helpers.content(tmp_path / "cache")

    def again(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(hard_negatives, "_by_encoder", again)
    monkeypatch.setattr(TokenTable, "from_texts", again)
    load_batches(config)
    assert helpers.content(tmp_path / "cache") == before


def test_negatives_of_their_own(tiny, tmp_path):
    rows = [{"query": "mabo tiri", "positive": "hasit", "negative": "vokel"}] * 3
    rows += [{"query": "kelu", "positive": "jurad"}] * 9
    file = helpers.write_rows(tmp_path / "some.jsonl", rows)
    text = prepare(tiny.config(data__triplets=str(file), train__steps=1))
    assert "12 training examples with 1 negative each: 3 given with the data, 9 drawn" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train__batch_size": 12}, r"^config\.train\.batch_size is 12, which 8 devices"),
        ({"loss__error": "l3"}, r"^config\.loss: "),
        ({"data__dataset": "nowhere"}, r"^dataset 'nowhere': neither a folder"),
    ],
)
def test_wrong_settings(tiny, settings, message):
    with pytest.raises(InputError, match=message):
        prepare(tiny.config(**settings))
