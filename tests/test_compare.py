"""Tests the compare command, from its flags to the printed tables."""

import pytest

from selfdistill_jax import compare
from selfdistill_jax.retrieval.metrics import evaluate
from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.retrieval.trec import write_run

QRELS = {f"q{i}": {f"d{i}": 1, "d99": 0} for i in range(12)}
GOOD = {f"q{i}": {f"d{i}": 1.0, "x": 0.5} for i in range(12)}
POOR = {f"q{i}": {f"d{i}": 1.0, "x": 2.0 if i % 3 else 0.5} for i in range(12)}
OWN = {"q0": {"q0": 3.0, "d0": 2.0}, "q1": {"x": 1.0, "q1": 0.5}, "q2": {"d2": 2.0}}


@pytest.fixture
def run(start, tmp_path, monkeypatch):
    """Returns ``run(*arguments)``, which calls compare in a folder with judgements and runs."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{q}\t{d}\t{r}\n" for q, documents in QRELS.items() for d, r in documents.items()]
    (tmp_path / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(rows) + "none\td\t0\n"
    )
    write_run("poor.trec", POOR, tag="poor")
    write_run("good.trec.gz", GOOD, tag="good")
    write_run("part.trec", dict(list(GOOD.items())[:9]), tag="part")
    write_run("foreign.trec", {"none": {"d": 1.0}}, tag="foreign")
    write_run("own.trec", OWN, tag="own")
    return lambda *arguments: start(compare, *arguments)


def test_tables_have_means_and_paired_tests(run):
    status, out, err = run("--qrels=test.tsv", "poor.trec", "good.trec.gz")
    assert (status, err) == (0, "")
    test = paired_test(*(evaluate(QRELS, r, ["MRR@10"])["MRR@10"] for r in (POOR, GOOD)))
    rows = [line.split() for line in out.splitlines()]
    assert out.startswith("12 of 13 judged queries")
    assert ["poor", "0.7540", "0.6667", "1.0000"] in rows
    # 4 x 1 and 8 x 1 / log2(3) = 0.6309
    assert ["good", "1.0000", "1.0000", "1.0000", "+0.2460", f"{test.p_randomization:.4f}"] in rows
    assert rows[-2] == [
        "good", "MRR@10", "+0.3333", f"[{test.ci_low:+.4f},", f"{test.ci_high:+.4f}]",
        f"{test.p_randomization:.4f}", f"{test.p_t:.4f}", "8", "0", "4",
    ]  # fmt: skip


def test_missing_queries_score_0_in_the_measures_asked_for(run):
    _, out, _ = run("--qrels=test.tsv", "poor.trec", "part.trec", "--measures=P@1,MAP@5",
                    "--markdown")  # fmt: skip
    assert "| system |    P@1 |  MAP@5 | diff P@1 |      p |" in out
    assert "part has no results for 3 of 12 queries" in out
    assert "| part   | 0.7500 | 0.7500 |" in out
    assert "diff" not in run("--qrels=test.tsv", "poor.trec")[1]  # one run is not tested


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    (tmp_path / "b").mkdir()
    write_run("b/poor.trec", GOOD, tag="b")
    _, out, _ = run("--qrels=test.tsv", "poor.trec", "b/poor.trec")
    assert "\npoor.trec " in out
    assert "\nb/poor.trec " in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["poor.trec"], "--qrels is missing"),
        (["--qrels=test.tsv"], "no runs given"),
        (["--qrels=test.tsv", "no.trec"], "no.trec: no such file"),
        (["--qrels=test.tsv", "a.trec", "a.trec"], "a.trec: given twice"),
        (["--qrels=test.tsv", "--measures="], "--measures is empty"),
        (["--qrels=test.tsv", "--measures=nDCG@10,foo", "poor.trec"], "'foo'; expected nDCG@k"),
        (["--qrels=test.tsv", "foreign.trec"], "foreign.trec: none of its queries"),
        (["--qerls=test.tsv"], "did you mean --qrels?"),
    ],
)
def test_wrong_input_is_one_line(run, arguments, named):
    status, _, err = run(*arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("error: ")
    assert named in err


@pytest.mark.parametrize(
    ("qrels", "own"),
    [
        ("q0\td0\t1\nq1\td1\t1\nq2\td2\t1\n", "own: 2 of 3 queries found the document with their"),
        ("q0\tq0\t1\nq1\tq1\t0\nq1\td1\t1\nq2\td2\t1\n", ""),  # one is judged relevant
    ],
)
def test_a_query_s_own_document_is_left_out_unless_it_is_judged_relevant(run, tmp_path, qrels, own):
    (tmp_path / "own.tsv").write_text(qrels)
    status, out, _ = run("--qrels=own.tsv", "own.trec")
    assert status == 0
    assert out.startswith(own or "3 of 3 judged")
    assert ["own", "0.6667", "0.6667", "0.6667"] in [line.split() for line in out.splitlines()]
