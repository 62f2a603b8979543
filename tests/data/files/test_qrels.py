"""Tests that columns of relevance judgements are read by name, and unclear ones refused."""

import pytest

from selfdistill_jax.data.files.qrels import read_qrels_lines
from selfdistill_jax.errors import InputError


def read(tmp_path, text, **options):
    path = tmp_path / "test.tsv"
    path.write_text(text)
    return list(read_qrels_lines(path, **options))


@pytest.mark.parametrize("trec", [False, True])
@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("query-id\tcorpus-id\tscore", "q\td\t2"),
        ("corpus-id\tscore\tquery-id", "d\t2\tq"),
        ("score\tquery-id\tcorpus-id", "2\tq\td"),
        ("Query_ID \tcorpus_id\tSCORE", "q \td\t 2"),
        ("query-id\tdoc-id\trelevance", "q\td\t2"),
        ("document_id\tquery_id\tscore", "d\tq\t2"),
    ],
)
def test_columns_are_read_by_name(tmp_path, header, row, trec):
    assert read(tmp_path, f"{header}\n{row}\n", trec=trec) == [(2, "q", "d", 2)]


@pytest.mark.parametrize("trec", [False, True])
@pytest.mark.parametrize(
    "header",
    ["query-id\tcorpus-id\trating", "qid\tcorpus-id\tscore", "query-id\tquery_id\tscore"],
)
def test_a_header_that_is_not_understood_is_refused(tmp_path, header, trec):
    names = ", ".join(map(repr, header.split("\t")))
    message = f"^{tmp_path}/test.tsv:1: .*{names}; expected 'query-id', 'corpus-id' and 'score'"
    with pytest.raises(InputError, match=message):
        read(tmp_path, f"{header}\nq\td\t1\n", trec=trec)


def test_unknown_names_are_no_judgement(tmp_path):
    with pytest.raises(InputError, match=r":1: score is 'label'; expected a whole number"):
        read(tmp_path, "a\tb\tlabel\nq\td\t1\n")


def test_an_id_may_be_the_name_of_a_column(tmp_path):
    assert read(tmp_path, "score\tcorpus-id\t1\n") == [(1, "score", "corpus-id", 1)]


@pytest.mark.parametrize("trec", [False, True])
def test_a_pair_is_judged_once(tmp_path, trec):
    rows = "q\td\t2\nq\te\t0\nq\td\t2\nr\td\t0\n"
    assert [row.line for row in read(tmp_path, rows, trec=trec)] == [1, 2, 4]
    with pytest.raises(InputError, match=r"test.tsv:6: .*'e' of .*'q' is judged 1 here and 0 in l"):
        read(tmp_path, f"{rows}\nq\te\t1\n", trec=trec)


def test_trec_columns_only_where_they_are_expected(tmp_path):
    row = "q 0 d -1\n"
    assert read(tmp_path, row, trec=True) == [(1, "q", "d", -1)]
    for text, count in ((row, 1), (row.replace(" ", "\t"), 4)):
        with pytest.raises(InputError, match=f":1: {count} columns; expected query-id, corpus-id"):
            read(tmp_path, text)
