"""The compare command, from its flags to the printed tables."""

import pytest

from selfdistill_jax import compare
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.retrieval.metrics import evaluate
from selfdistill_jax.retrieval.significance import paired_test
from selfdistill_jax.retrieval.trec import write_run

QRELS = {f"q{i}": {f"d{i}": 1, "d99": 0} for i in range(12)}
GOOD = {f"q{i}": {f"d{i}": 1.0, "x": 0.5} for i in range(12)}
POOR = {f"q{i}": {f"d{i}": 1.0, "x": 2.0 if i % 3 else 0.5} for i in range(12)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{q}\t{d}\t{r}\n" for q, documents in QRELS.items() for d, r in documents.items()]
    (tmp_path / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(rows) + "none\td\t0\n"
    )
    write_run("poor.trec", POOR, tag="poor")
    write_run("good.trec.gz", GOOD, tag="good")
    write_run("part.trec", dict(list(GOOD.items())[:9]), tag="part")
    return tmp_path


def start(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        run_command(compare.main, flag_values=compare._FLAGS, argv=["compare", *arguments])
    return exit_.value.code or 0, *capsys.readouterr()


def test_tables(folder, capsys):
    status, out, err = start(capsys, "--qrels=test.tsv", "poor.trec", "good.trec.gz")
    assert (status, err) == (0, "")
    test = paired_test(
        evaluate(QRELS, POOR, ["MRR@10"])["MRR@10"], evaluate(QRELS, GOOD, ["MRR@10"])["MRR@10"]
    )
    rows = [line.split() for line in out.splitlines()]
    assert out.startswith("12 of 13 judged queries have a relevant document and count.\n")
    assert ["poor", "0.7540", "0.6667", "1.0000"] in rows
    # 4 x 1 and 8 x 1 / log2(3) = 0.6309
    assert ["good", "1.0000", "1.0000", "1.0000", "+0.2460", f"{test.p_randomization:.4f}"] in rows
    assert rows[-2] == [
        "good", "MRR@10", "+0.3333", f"[{test.ci_low:+.4f},", f"{test.ci_high:+.4f}]",
        f"{test.p_randomization:.4f}", f"{test.p_t:.4f}", "8", "0", "4",
    ]  # fmt: skip
    assert max(map(len, out.splitlines())) <= 100


def test_measures_and_markdown(folder, capsys):
    arguments = "--qrels=test.tsv", "--measures=P@1,MAP@5", "--markdown"
    _, out, _ = start(capsys, "poor.trec", "part.trec", *arguments)
    assert "| system |    P@1 |  MAP@5 | diff P@1 |      p |" in out
    assert "part has no results for 3 of 12 queries, which score 0.\n" in out
    assert "| part   | 0.7500 | 0.7500 |" in out


def test_one_run_is_not_tested(folder, capsys):
    _, out, _ = start(capsys, "--qrels=test.tsv", "poor.trec")
    assert "diff" not in out


def test_runs_of_one_name_are_told_apart(folder, capsys):
    (folder / "b").mkdir()
    write_run("b/poor.trec", GOOD, tag="b")
    _, out, _ = start(capsys, "--qrels=test.tsv", "poor.trec", "b/poor.trec")
    assert "\npoor.trec " in out
    assert "\nb/poor.trec " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["poor.trec"], "--qrels is missing; give the file of relevance judgements"),
        (["--qrels=test.tsv"], "no runs given; name at least one TREC run file after the flags"),
        (["--qrels=test.tsv", "no.trec"], "no.trec: no such file"),
        (["--qrels=test.tsv", "a.trec", "a.trec"], "a.trec: given twice; name each run once"),
        (["--qrels=test.tsv", "--measures="], "--measures is empty; give one or more, such as nDCG@10"),  # noqa: E501 one line as printed
        (["--qerls=test.tsv"], "unknown flag --qerls; did you mean --qrels?"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(folder, capsys, arguments, message):
    assert start(capsys, *arguments) == (2, "", f"error: {message}\n")


def test_unknown_measure_and_foreign_run(folder, capsys):
    status, _, err = start(capsys, "--qrels=test.tsv", "--measures=nDCG@10,foo", "poor.trec")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("error: unknown measure 'foo'; expected nDCG@k")
    write_run("foreign.trec", {"none": {"d": 1.0}}, tag="foreign")
    status, _, err = start(capsys, "--qrels=test.tsv", "foreign.trec")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("error: foreign.trec: none of its queries has a relevant document in")


OWN = {"q0": {"q0": 3.0, "d0": 2.0}, "q1": {"x": 1.0, "q1": 0.5}, "q2": {"d2": 2.0}}


def test_a_query_s_own_document_is_left_out(folder, capsys):
    (folder / "own.tsv").write_text("q0\td0\t1\nq1\td1\t1\nq2\td2\t1\n")
    write_run("own.trec", OWN, tag="own")
    status, out, _ = start(capsys, "--qrels=own.tsv", "own.trec")
    assert status == 0
    assert out.startswith(
        "own: 2 of 3 queries found the document with their own id; these results are left out, as "
        "in BEIR.\n"
    )
    assert ["own", "0.6667", "0.6667", "0.6667"] in [line.split() for line in out.splitlines()]


def test_own_ids_that_are_judged_relevant_are_kept(folder, capsys):
    (folder / "own.tsv").write_text("q0\tq0\t1\nq1\tq1\t0\nq1\td1\t1\nq2\td2\t1\n")
    write_run("own.trec", OWN, tag="own")
    _, out, _ = start(capsys, "--qrels=own.tsv", "own.trec")
    assert "own id" not in out
    assert ["own", "0.6667", "0.6667", "0.6667"] in [line.split() for line in out.splitlines()]


def test_help(folder, capsys):
    status, out, _ = start(capsys, "--help")
    assert status == 0
    assert out.startswith("Compares TREC runs")
    assert [line for line in out.splitlines() if line.startswith("  --")] == [
        "  --markdown", "  --measures", "  --qrels",
    ]  # fmt: skip
