"""Tests that a run learns the same from the same examples in any format."""

import jax
import numpy as np
import pytest

from tests.data.examples.test_file import save
from tests.tiny import load_batches, texts, train

QUERIES, TITLES, BODIES = zip(*(texts(i, i % 5) for i in range(40)), strict=True)
POSITIVES = [f"{title} {body}" for title, body in zip(TITLES, BODIES, strict=True)]
NEGATIVES = [[POSITIVES[(i + step) % 40] for step in (1, 7)] for i in range(40)]
EXAMPLES = list(zip(QUERIES, POSITIVES, NEGATIVES, strict=True))


def own(folder):
    rows = [{"query": q, "positive": p, "negatives": n} for q, p, n in EXAMPLES]
    return save(folder / "own.jsonl", rows), ""


def columns_of_sentence_transformers(folder):
    rows = [
        {"anchor": q, "positive": p, "negative_1": n[0], "negative_2": n[1]} for q, p, n in EXAMPLES
    ]
    return save(folder / "a.csv.zst", rows), ""


def lists_of_flag_embedding(folder):
    rows = [{"query": q, "pos": [p], "neg": n, "type": "normal"} for q, p, n in EXAMPLES]
    for part in range(4):
        save(folder / f"train-{part}.parquet", rows[part * 10 : part * 10 + 10])
    return folder, ""


def passages_of_tevatron(folder):
    rows = [
        {
            "query": query,
            "positive_passages": [{"docid": "", "title": title, "text": body}],
            "negative_passages": [{"title": "", "text": text} for text in negatives],
        }
        for query, title, body, negatives in zip(QUERIES, TITLES, BODIES, NEGATIVES, strict=True)
    ]
    return save(folder / "a.jsonl", rows), ""


def labelled_pairs(folder):
    rows = [
        {"sentence1": q, "sentence2": text, "label": int(text == p)}
        for q, p, n in EXAMPLES
        for text in (p, *n)
    ]
    return save(folder / "a.arrow", rows), ""


def columns_named_by_hand(folder):
    rows = [{"question": q, "context": p, "doc": n[0], "passage": n[1]} for q, p, n in EXAMPLES]
    columns = "query=question,positive=context,negative=doc,negative=passage"
    return save(folder / "a.tsv", rows), columns


def config_of(tiny, written, **settings):
    path, columns = written
    return tiny.config(
        data__dataset="",
        data__triplets=str(path),
        data__columns=columns,
        data__negatives_per_query=2,
        train__steps=3,
        evaluation__split="none",
        **settings,
    )


@pytest.fixture(scope="module")
def expected(tiny, tmp_path_factory):
    """The first batch and the trained weights with our own format."""
    folder = tmp_path_factory.mktemp("own")
    return outcome(tiny, own(folder), folder)


def outcome(tiny, written, folder):
    config = config_of(tiny, written)
    batch = jax.tree.leaves(load_batches(config)[0])
    train(config, folder / "run")
    return batch, (folder / "run" / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "write",
    [
        columns_of_sentence_transformers,
        lists_of_flag_embedding,
        passages_of_tevatron,
        labelled_pairs,
        columns_named_by_hand,
    ],
)
def test_a_run_learns_the_same_from_all_formats(tiny, tmp_path, expected, write):
    (tmp_path / "data").mkdir()
    batch, model = outcome(tiny, write(tmp_path / "data"), tmp_path)
    for found, wanted in zip(batch, expected[0], strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert model == expected[1]
