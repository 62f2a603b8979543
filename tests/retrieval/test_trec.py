import gzip
import os

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from selfdistill_jax.errors import InputError
from selfdistill_jax.retrieval.trec import (
    count_own_relevant,
    ranking,
    read_qrels,
    read_run,
    run_from_rows,
    without_own,
    write_run,
)

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdeéz"), st.sampled_from([0.0, 1.0, 1 + 1e-9, 2.0])))
def test_ranking_is_trec_evals(documents):
    # With a single relevant document, trec_eval's reciprocal rank reveals that document's rank.
    seen = {
        document: pytrec_eval.RelevanceEvaluator({"q": {document: 1}}, {"recip_rank"}).evaluate(
            {"q": documents}
        )["q"]["recip_rank"]
        for document in documents
    }
    assert [seen[document] for document in ranking(documents)] == [
        pytest.approx(1 / rank) for rank in range(1, len(documents) + 1)
    ]


def test_write_run_gives_the_six_columns(tmp_path):
    path = tmp_path / "a.trec"
    write_run(path, {"q2": {"x": 0.5, "y": 2.0, "z": 0.5}, "q1": {"x": -1e-7}, "q0": {}}, tag="t")
    assert path.read_text() == (
        "q2 Q0 y 1 2 t\nq2 Q0 z 2 0.5 t\nq2 Q0 x 3 0.5 t\nq1 Q0 x 1 -1e-07 t\n"
    )
    assert os.listdir(tmp_path) == ["a.trec"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), float32s, min_size=1))
def test_float32_scores_come_back_exactly(tmp_path_factory, documents):
    path = tmp_path_factory.mktemp("run") / "a.trec"
    write_run(path, {"q": documents}, tag="t")
    assert {d: np.float32(s) for d, s in read_run(path)["q"].items()} == documents


def test_gz_comes_back_and_is_reproducible(tmp_path):
    run = {"q": {"a": 1.0, "b": 0.5}}
    for name in ("a.trec.gz", "b.trec.gz"):
        write_run(tmp_path / name, run, tag="t")
    assert gzip.decompress((tmp_path / "a.trec.gz").read_bytes()).startswith(b"q Q0 a 1 1 t\n")
    assert (tmp_path / "a.trec.gz").read_bytes() == (tmp_path / "b.trec.gz").read_bytes()
    assert (tmp_path / "a.trec.gz").read_bytes()[4:8] == bytes(4)  # gzip's timestamp
    assert read_run(tmp_path / "a.trec.gz") == run


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({"q 1": {"a": 1.0}}, "t", "'q 1'"),
        ({"q": {"a\tb": 1.0}}, "t", r"'a\\tb'"),
        ({"q": {"": 1.0}}, "t", "'' is empty"),
        ({"q": {"a": 1.0}}, "my tag", "'my tag'"),
        ({"q": {"a": float("nan")}}, "t", "document 'a' is nan"),
    ],
)
def test_write_run_refuses_and_leaves_the_old_file(tmp_path, run, tag, message):
    path = tmp_path / "a.trec"
    path.write_text("old")
    with pytest.raises(InputError, match=message) as error:
        write_run(path, {"fine": {"a": 1.0}} | run, tag=tag)
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.trec"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 a 1 1.0 t\nq Q0 b 2 0.5\n", r":2: 5 columns; expected the 6"),
        ("\nq Q0 a 1 high t\n", r":2: score is 'high'; expected a finite number"),
        ("q Q0 a 1 nan t\n", r":1: score is 'nan'"),
        ("q Q0 a 1 2 t\nr Q0 a 1 2 t\nq Q0 a 2 1 t\n", r":3: document 'a' is listed twice"),
        ("", r"a\.trec: no lines"),
    ],
)
def test_read_run_names_file_and_line(tmp_path, text, message):
    path = tmp_path / "a.trec"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_run(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_read_run_ignores_ranks_and_takes_tabs(tmp_path):
    (tmp_path / "a").write_text("q\tQ0\ta\t9\t0.5\tt\nq Q0 b 9 1e0 t\r\n")
    assert read_run(tmp_path / "a") == {"q": {"a": 0.5, "b": 1.0}}


@pytest.mark.parametrize(
    "text",
    [
        "q 0 a 2\nq 0 b 0\nr 0 a -1\n",
        "q\t0\ta\t2\nq\t0\tb\t0\nr\t0\ta\t-1\n",
        "query-id\tcorpus-id\tscore\nq\ta\t2\nq\tb\t0\nr\ta\t-1\n",
        "q\ta\t2\r\nq\tb\t0\r\nq\tb\t0\r\nr\ta\t-1\r\n",
    ],
)
@pytest.mark.parametrize("name", ["qrels", "qrels.gz"])
def test_read_qrels_takes_both_formats(tmp_path, text, name):
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_qrels(tmp_path / name) == {"q": {"a": 2, "b": 0}, "r": {"a": -1}}


def test_beir_ids_may_hold_spaces(tmp_path):
    (tmp_path / "q").write_text("query-id\tcorpus-id\tscore\nq 1\ta b\t1\n")
    assert read_qrels(tmp_path / "q") == {"q 1": {"a b": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q 0 a 1\nq a 1\n", r":2: 3 columns; expected .* the same in every line"),
        ("q 0 a 1\nq 0 b 0.5\n", r":2: relevance is '0\.5'; expected a whole number"),
        ("q\ta\tone\n", r":1: score is 'one'"),
        ("q Q0 a 1 0.5 t\n", r":1: 6 columns"),
        ("q 0 a 1\nq 0 b 1\nq 0 a 2\n", r":3: document 'a' of query 'q' is judged 2 here and 1 in"),
        ("query-id\tcorpus-id\tscore\n", r"qrels: no judgements"),
    ],
)
def test_read_qrels_names_file_and_line(tmp_path, text, message):
    path = tmp_path / "qrels"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_qrels(path)
    assert str(error.value).startswith(str(path))


def test_run_from_rows_drops_rows_that_are_no_result():
    scores = np.array([[2.0, 1.0], [0.5, 0.0]], np.float32)
    run = run_from_rows(["q", "r"], ["a", "b"], scores, np.array([[1, 0], [0, -1]], np.int32))
    assert run == {"q": {"b": 2.0, "a": 1.0}, "r": {"a": 0.5}}
    assert type(run["q"]["b"]) is float


def test_own_documents_that_are_relevant():
    assert count_own_relevant({"a": {"b": 1}, "c": {"c": 0}, "d": {"d": -1}}) == 0
    assert count_own_relevant({"1": {"2": 1}, "2": {"2": 1, "1": 0}}) == 1


def test_without_own_keeps_the_first_k_others():
    run = {"a": {"b": 3.0, "a": 2.0, "c": 1.0}, "x": {"b": 3.0, "c": 2.0, "a": 1.0}, "e": {}}
    assert without_own(run, 2) == {
        "a": {"b": 3.0, "c": 1.0},
        "x": {"b": 3.0, "c": 2.0},
        "e": {},
    }
    assert without_own(run)["x"] == run["x"]
    assert list(without_own(run)["a"]) == ["b", "c"]
