"""Tests benchmarks against peers: their common input, the figures from clocks, a run of ours."""

import json

import jax
import numpy as np
import pytest

from benchmarks import common, encode, jobs, linearity, step_profile, versus
from selfdistill_jax.data.tokenizer import Tokenizer
from selfdistill_jax.errors import InputError
from tests import versus as versus_run
from tests.real import accuracy
from tests.tiny import PLACES, SPLITS, texts, write_rows

LENGTHS = {"query": 8, "positive": 12, "negative": 12}


def folder(path, documents, pairs):
    """Writes a BEIR folder of documents (id -> text) and pairs of query and document ids."""
    (path / "qrels").mkdir()
    write_rows(path / "corpus.jsonl", [{"_id": i, "text": t} for i, t in documents.items()])
    queries = sorted({query for query, _ in pairs}) or ["q"]
    write_rows(path / "queries.jsonl", [{"_id": q, "text": f"text of {q}"} for q in queries])
    lines = "".join(f"{query}\t{document}\t1\n" for query, document in pairs)
    (path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return str(path)


def test_triplets_are_the_pairs_in_random_orders_round_and_round(tiny):
    number = len(SPLITS["train"])
    rows, again, other = (
        jobs.make_triplets(str(tiny.collection), 2 * number + 5, i) for i in (0, 0, 1)
    )
    assert rows == again != other
    assert len(rows) == 2 * number + 5
    pairs = [(row["query"], row["positive"]) for row in rows]
    known = {texts(i, i % len(PLACES)) for i in SPLITS["train"]}
    expected = {(query, f"{title} {text}") for query, title, text in known}
    assert set(pairs[:number]) == set(pairs[number : 2 * number]) == expected
    assert pairs[:number] != pairs[number : 2 * number]
    assert len({row["negative"] for row in rows}) > number / 2


def test_no_negative_is_a_positive_nor_its_copy(tmp_path):
    documents = {"a": "one", "b": "two", "copy-of-a": "one", "c": "three"}
    path = folder(tmp_path, documents, [("q1", "a"), ("q1", "b"), ("q2", "c")])
    rows = jobs.make_triplets(path, 60, 0)
    assert {row["negative"] for row in rows if row["query"] == "text of q1"} == {"three"}
    assert {row["negative"] for row in rows if row["query"] == "text of q2"} == {"one", "two"}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([], "no training pairs"), ([("q", "a"), ("q", "b")], "has all documents as positives")],
)
def test_triplets_that_cannot_be_made(tmp_path, pairs, message):
    path = folder(tmp_path, {"a": "one", "b": "two"}, pairs)
    with pytest.raises(InputError, match=message):
        jobs.make_triplets(path, 4, 0)


def test_useful_tokens_are_those_left_after_the_cut(tiny):
    rows = [
        {"query": "mabo", "positive": "hasit vokel", "negative": "the " * 20},
        {"query": "mabo " * 20, "positive": "hasit", "negative": "hasit"},
    ]
    # [CLS] and [SEP] count, and stay when a text is cut.
    expected = (3 + 4 + 12) + (8 + 3 + 3)
    assert jobs.useful_tokens(Tokenizer(tiny.encoder), rows, LENGTHS) == expected


def test_figures_leave_out_the_first_two_steps_and_the_last():
    timing = jobs.Timing(7.0, 9.5, [10.0, 30.0, 32.0, 36.0, 36.0])
    found = jobs.figures(timing, job_seconds=40.0, batch_size=6, tokens_per_step=90.0)
    assert found == {
        "triplets_per_second": 2.0,
        "useful_tokens_per_second": 30.0,
        "first_step_seconds": 7.0,
        "first_update_seconds": 9.5,
        "job_seconds": 40.0,
    }


def test_summaries_keep_every_round_and_drop_what_was_not_measured():
    runs = [{"x": x, "device_peak_gb": None, "facts": {"of": x}} for x in (3.0, 1.0, 2.0)]
    expected = {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 1.0, 2.0]}
    assert versus.summaries(runs) == {"x": expected, "facts": {"of": 2.0}}


def test_speedups_are_medians_of_each_rounds_ratio():
    rates = {"ours": [6.0, 8.0, 100.0], "released": [2.0, 4.0, 4.0]}
    runs = {
        side: [{"triplets_per_second": rate, "job_seconds": 24 / rate} for rate in values]
        for side, values in rates.items()
    }
    assert versus.speedups(runs, "triplets_per_second") == {"released": 3.0}
    assert versus.speedups(runs, "job_seconds") == {"released": pytest.approx(3.0)}
    assert versus.speedups({"released": runs["released"]}, "job_seconds") == {}


class Clock:
    """Stands in for a worker on a machine that gets slower with every run."""

    now = 0.0

    def __init__(self, tokens):
        self._tokens = tokens

    def run(self):
        begin = Clock.now
        Clock.now += self._tokens * (1 + Clock.now / 1e4)
        return Clock.now - begin


def test_linearity_is_of_equal_work_and_unmoved_by_a_drift():
    tokens = {"8": 8, "32": 32, "64": 64}
    workers = {size: Clock(count) for size, count in tokens.items()}
    rounds = [linearity.there_and_back(workers, tokens) for _ in range(3)]
    assert rounds[0]["8"] < rounds[1]["8"] < rounds[2]["8"]
    found = linearity.compare(rounds)
    for one in found.values():
        assert one["to_the_mean"]["median"] == pytest.approx(1, abs=3e-3)  # 5e-3 if one way


@pytest.fixture
def given(tiny, tmp_path, monkeypatch):
    """Returns ``given(*more)``: arguments of a benchmark of steps, with separate caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    flags = [f"--dataset={tiny.collection}", f"--model={tiny.encoder}", "--query_length=8"]
    yield lambda *more: [*flags, "--document_length=12", f"--output={tmp_path / 'out.json'}", *more]
    jax.config.update("jax_compilation_cache_dir", before)


def test_linearity_of_a_collection(given, tmp_path, monkeypatch):
    """All sizes run in this process; the benchmark itself starts a process for each size."""

    class Here:
        def __init__(self, setup, **arguments):
            self._run, self.facts = setup(**arguments)
            self.close = lambda: 0.5

        def run(self):
            self._run()
            return self.facts["useful_tokens"] / 1e6

    monkeypatch.setattr(linearity, "Worker", Here)
    linearity.main(given("--rounds=1", "--batch_sizes", "8", "24"))
    found = json.loads((tmp_path / "out.json").read_text())
    small, large = (found["sizes"][size] for size in ("8", "24"))
    # A query has 5 tokens; a positive and a negative have 6 to 8 each.
    assert 17 * 8 <= small["useful_tokens"] <= 21 * 8 < large["useful_tokens"] <= 21 * 24
    assert large["kept_gb"] > small["kept_gb"] > 0
    assert small["to_the_mean"]["median"] == pytest.approx(1)


def test_an_operations_time_is_its_own():
    events = [("outer", 0, 1000), ("inner", 200, 300), ("inner", 600, 100), ("least", 610, 50)]
    found = step_profile.own_times(step_profile.Event(n, s, d) for n, s, d in events)
    expected = {"outer": 600, "inner": 350, "least": 50}
    assert found == {name: pytest.approx(n / 1e9) for name, n in expected.items()}


def test_a_profile_of_a_step(given, tmp_path):
    """Every kind of operation takes time; together they take less than all devices' time."""
    step_profile.main(given("--batch_size=8", "--steps=2"))
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["kinds"].keys() == set(step_profile.KINDS)
    assert min(found["kinds"].values()) > 0
    assert sum(found["kinds"].values()) < found["devices"] * found["profiled_seconds"]


@pytest.mark.parametrize("program", [versus, encode])
def test_a_missing_library_is_one_line(tiny, monkeypatch, program):
    monkeypatch.setattr(common, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^error: .*`peers`.*$"):
        program.main([f"--dataset={tiny.collection}", f"--model={tiny.encoder}"])


def test_a_side_that_fails_says_why(tiny):
    arguments = [f"--dataset={tiny.collection}", f"--model={tiny.encoder}", "--sides=ours"]
    with pytest.raises(SystemExit, match="query_length is 300"):
        versus.main([*arguments, "--steps=4", "--batch_size=4", "--query_length=300"])


def test_a_run_of_ours(tiny, tmp_path):
    lengths = f"--query_length={LENGTHS['query']}", f"--document_length={LENGTHS['positive']}"
    options = "--sides=ours", "--ours_precision=float32", "--ours_config=train.remat=inputs"
    text = versus_run.run(tiny, tmp_path, *options, *lengths)
    assert str(tmp_path.parent) not in text  # no paths of this machine
    found = json.loads(text)
    assert found["ratios"] == {}
    ours = found["ours"]
    assert ours.pop("precision") == "float32"
    assert min(ours.pop("facts").values()) > 0
    for values in ours.values():
        assert values["rounds"] == [values["median"]]
        assert values["min"] == values["median"] == values["max"] > 0
    first, update, job = (
        ours[f"{name}_seconds"]["median"] for name in ("first_step", "first_update", "job")
    )
    assert first < update < job
    rows = jobs.make_triplets(str(tiny.collection), 16, 0)
    tokens = jobs.useful_tokens(Tokenizer(tiny.encoder), rows, LENGTHS)
    assert found["settings"]["tokens_per_triplet"] == tokens / 16


def test_our_side_cuts_at_the_length_asked_for(tiny):
    same_start = ["hasit vokel jurad", "hasit vokel gimon"]
    given = {"model": str(tiny.encoder), "texts": same_start, "precision": "float32"}
    _, cut = encode.ours(length=4, **given)
    run, whole = encode.ours(length=5, **given)
    np.testing.assert_array_equal(*cut["vectors"])
    assert np.abs(np.subtract(*whole["vectors"])).max() > 1e-3
    np.testing.assert_array_equal(run(), whole["vectors"])


def test_comparison_of_encoders():
    seconds = {"ours": [2.0, 4.0], "sentence_transformers": [6.0, 4.0]}
    facts = {
        side: {"vectors": np.full((2, 3), i / 8), "precision": "float32", "peak_gb": i}
        for i, side in enumerate(seconds)
    }
    found = encode.compare(seconds, facts, texts=8, tokens=80)
    assert (found["ratio"], found["largest_difference"]) == (2.0, 0.125)
    ours = found["ours"]
    assert ours["texts_per_second"] == {"median": 3.0, "min": 2.0, "max": 4.0}
    assert ours["useful_tokens_per_second"] == {"median": 30.0, "min": 20.0, "max": 40.0}
    assert encode.compare({"ours": seconds["ours"]}, facts, texts=8, tokens=80) == {"ours": ours}


@pytest.mark.parametrize(("loss", "within"), [(0.0, True), (0.009, True), (0.011, False)])
def test_accuracy_is_compared_with_what_a_seed_changes(loss, within):
    """The reference's seeds differ by 0.01: a loss of 0.009 is noise, but one of 0.011 is not."""
    queries = [i / 50 for i in range(50)]

    def runs(shift):
        return [{f"q{i}": v + s / 100 + shift for i, v in enumerate(queries)} for s in range(3)]

    reference, half = accuracy.KINDS
    table, found = accuracy.compare({reference: runs(0), half: runs(-loss)})
    assert found == within
    assert "varies by 0.0100" in table
