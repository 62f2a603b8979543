"""Tests that several training files are read, weighted, and mixed into batches."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from selfdistill_jax.data.example_order import mean_and_variance, order_of_examples
from selfdistill_jax.data.examples.mixed import SourceFile, parse_source
from selfdistill_jax.data.sources.registry import open_source
from selfdistill_jax.data.store import Examples, open_collection
from selfdistill_jax.errors import InputError
from tests.tiny import texts, train, write_rows


@pytest.fixture
def files(tmp_path):
    """Writes pairs in two formats, of 30 and 10 examples."""
    rows = [texts(i, i % 4) for i in range(40)]
    pairs = [{"query": q, "positive": a} for q, a, _ in rows[:30]]
    triplets = [
        {"anchor": q, "positive": a, "negative": rows[i][2]}
        for i, (q, a, _) in enumerate(rows[30:])
    ]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    write_rows(tmp_path / "triplets.jsonl", triplets)
    return tmp_path / "pairs.jsonl", tmp_path / "triplets.jsonl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jsonl", SourceFile("a.jsonl")),
        ("'my file.csv' weight=0.5", SourceFile("my file.csv", 0.5)),
        ("b prompt='q: ' columns=query=x", SourceFile("b", prompt="q: ", columns="query=x")),
    ],
)
def test_entries(text, expected):
    assert str(parse_source(text)) == str(expected)  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no file; expected a file and, after it, weight=NUMBER"),
        ("a.jsonl 'weight", "No closing quotation"),
        ("a.jsonl wieght=2", "unknown 'wieght=2'; expected a file and, after it, weight=NUMBER"),
        ("a.jsonl b.jsonl", "unknown 'b.jsonl'"),
        ("a.jsonl weight=0", "expected a weight above 0"),
        ("a.jsonl weight=much", "expected a weight above 0"),
        ("a.jsonl weight=1 weight=2", "weight is given twice"),
    ],
)
def test_wrong_entries(text, message):
    with pytest.raises(InputError, match=r"^config\.data\.sources: ") as caught:
        parse_source(text)
    assert message in str(caught.value)


def test_rows_of_all_files(files, tmp_path):
    sources = [SourceFile(str(files[0]), prompt="ask: "), SourceFile(str(files[1]))]
    source = open_source(sources=sources)
    found = open_collection(source, tmp_path / "cache")
    examples = found.examples()
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    queries = [f"ask: {row['query']}" if "query" in row else row["anchor"] for row in lines]
    positives = {query: row["positive"] for query, row in zip(queries, lines, strict=True)}
    for query, positive, number in zip(
        examples.query, examples.positive, examples.source, strict=True
    ):
        text = found.queries[query]
        assert positives[text] == found.documents[positive]
        assert number == (not text.startswith("ask: "))
    assert set(examples.source) == {0, 1}
    changed = [sources[0]._replace(prompt=""), sources[1]]
    assert open_source(sources=changed).fingerprint() != source.fingerprint()
    # A weight changes the order of training only, so the same tables serve.
    heavier = [sources[0]._replace(weight=3.0), sources[1]]
    assert open_source(sources=heavier).fingerprint() == source.fingerprint()


def test_what_does_not_fit_is_refused(files, tmp_path):
    ids = tmp_path / "ids.jsonl"
    write_rows(ids, [{"query_id": "q1", "positive_id": "d1"}])
    sources = [SourceFile(str(files[0])), SourceFile(str(ids))]
    with pytest.raises(InputError, match=r"pairs\.jsonl has texts, but .*ids\.jsonl has ids; give"):
        open_source(sources=sources)
    with pytest.raises(InputError, match=r"ids\.jsonl has ids, whose texts are the dataset's"):
        open_source(dataset="pydocs", sources=[SourceFile(str(ids), prompt="q: ")])
    with pytest.raises(InputError, match=r"both config\.data.triplets and config.data.sources"):
        open_source(triplets=str(files[0]), sources=sources)
    with pytest.raises(InputError, match=r"write columns=… after each file there"):
        open_source(columns="query=q", sources=sources)
    with pytest.raises(InputError, match=r"has 128 entries; expected 127 at most"):
        open_source(sources=sources[:1] * 128)


def examples_of(*counts):
    source = np.repeat(np.arange(len(counts), dtype=np.int8), counts)
    zeros = np.zeros(len(source), np.int32)
    return Examples(zeros, zeros, zeros[:, None], zeros[:, None], source)


def shares(order, batches):
    taken = Counter()
    for step in range(batches):
        taken.update(order[step].tolist())
    return taken


@pytest.mark.parametrize("mix", ["examples", "batches"])
@pytest.mark.parametrize("weights", [(1.0, 3.0), (math.nan, math.nan), (math.nan, 10.0)])
def test_files_are_mixed_by_weight(mix, weights):
    counts = 30, 10
    examples = examples_of(*counts)
    options = {"seed": 5, "batch_size": 4, "weights": weights, "mix": mix}
    order = order_of_examples(examples, **options)
    taken = shares(order, 200)
    per_file = [sum(n for i, n in taken.items() if examples.source[i] == s) for s in (0, 1)]
    share = [n if math.isnan(w) else w for n, w in zip(counts, weights, strict=True)]
    expected = np.array(share) / sum(share) * 800
    np.testing.assert_allclose(per_file, expected, atol=4)
    for numbers in ({i: n for i, n in taken.items() if examples.source[i] == s} for s in (0, 1)):
        assert max(numbers.values()) - min(numbers.values()) <= 1  # epochs of each file
    of_batches = [set(examples.source[order[step]].tolist()) for step in range(50)]
    assert all(len(files) == 1 for files in of_batches) == (mix == "batches")
    # A pure function of seed and step.
    again = order_of_examples(examples, **options)
    assert [again[i].tolist() for i in (7, 3)] == [order[i].tolist() for i in (7, 3)]
    other = order_of_examples(examples, **{**options, "seed": 6})
    assert other[0].tolist() != order[0].tolist()


def test_files_of_one_size_have_different_orders():
    options = {"seed": 5, "batch_size": 8, "weights": (1.0, 1.0), "mix": "batches"}
    order = order_of_examples(examples_of(8, 8), **options)
    first, second = (order[step].tolist() for step in (0, 1))
    assert sorted(first) == list(range(8))
    assert sorted(second) == list(range(8, 16))
    assert [number + 8 for number in first] != second


def test_mean_and_variance_of_a_batch():
    examples, draw = examples_of(40, 10), np.random.default_rng(0)
    values = np.concatenate([draw.normal(5, 1, 40), draw.normal(9, 2, 10)])
    weights = 1.0, 3.0
    order = order_of_examples(examples, seed=0, batch_size=40, weights=weights, mix="examples")
    drawn = np.concatenate([values[order[step]] for step in range(50)])
    found = mean_and_variance(values, examples, weights=weights, mix="examples")
    np.testing.assert_allclose(found, (drawn.mean(), drawn.var()), rtol=0.01)
    found = mean_and_variance(values, examples, weights=weights, mix="batches")
    np.testing.assert_allclose(found, (values[40:].mean(), values[40:].var()))


@pytest.mark.parametrize("mix", ["examples", "batches"])
def test_a_run_on_several_files(files, tiny, tmp_path, mix):
    entries = (f"{files[0]} weight=1", f"{files[1]} weight=1 prompt='ask: '")
    settings = {"data__sources": entries, "data__mix": mix, "data__dataset": ""}
    config = tiny.config(**settings, data__cache=str(tmp_path / "cache"), train__batch_size=8)
    assert train(config, tmp_path / "run") is not None
