"""Tests that known columns of a triplet file are found by name and unknown ones refused."""

import itertools
import random

import pytest

from tests.data.sources.test_triplet_file import ROWS, named, refusal, write

COLUMNS = {
    "query": ["q a", "q b"],
    "positive": ["p a", "p b"],
    "negative": ["n a", "p a"],
    "positive_score": [1.5, 2],
    "negative_score": [-1, 0.25],
}
WANTED = list(zip(*COLUMNS.values(), strict=True))
# Columns that are ignored, among them query ids in a file of texts.
BESIDE = {"id": ["1", "2"], "URL": ["", "x"], "query_id": ["q1", "q2"]}


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_any_order_of_columns(tmp_path, kind):
    path = tmp_path / f"a.{kind.replace('csv', 'tsv')}"
    draw = random.Random(0)
    for names in itertools.permutations(COLUMNS):
        # Adds an unused column and other spellings of names at random.
        beside = draw.choice([*BESIDE, None])
        columns = {**COLUMNS, **({beside: BESIDE[beside]} if beside else {})}
        names = list(names)
        if beside:
            names.insert(draw.randrange(6), beside)
        spelt = {"query": draw.choice(["query", "Query", "anchor"])}
        spelt["negative"] = draw.choice(["negative", "NEGATIVE", "negative "])
        header = [spelt.get(name, name) for name in names]
        rows = list(zip(*(columns[name] for name in names), strict=True))
        if kind == "jsonl":
            write(path, [dict(zip(header, row, strict=True)) for row in rows])
        else:
            mark = '"' if kind == "csv" else ""
            lines = ["\t".join(f"{mark}{cell}{mark}" for cell in row) for row in (header, *rows)]
            path.write_text("".join(f"{line}\n" for line in lines))
        assert named(path) == WANTED, names


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_columns_that_are_not_used_are_logged_once(tmp_path, caplog, kind):
    path = tmp_path / f"a.{kind}"
    row = {"query": "a", "id": "1", "positive": "b", "URL": "c"}
    if kind == "tsv":
        path.write_text("\t".join(row) + 3 * ("\n" + "\t".join(row.values())))
    else:
        write(path, [row] * 3)
    with caplog.at_level("INFO", logger="selfdistill_jax"):
        assert [t[:3] for t in named(path)] == [("a", "b", None)] * 3
    noun = "columns" if kind == "tsv" else "fields"
    assert caplog.messages == [f"{path}: {noun} that are not used: id, URL"]


SEVERAL = "several negatives for a query: give a JSONL file with a list named 'negatives'"
LABELS = "rows with labels are not trained on: keep the positive pairs as query and positive"
# Names beside a query, those of them that are refused, and the advice.
REFUSED = [
    ("positive negative_1 negative_2", "negative_1 negative_2", SEVERAL),
    ("positive Hard_Negatives", "Hard_Negatives", SEVERAL),
    ("positive label", "label", LABELS),
    ("positive negative similarity", "similarity", LABELS),
    ("answer", "answer", "rename the"),
    ("positive remark", "remark", "rename the"),
    ("positive_text negative_text", "positive_text negative_text", "rename the"),
]
# A header without any known name.
STRANGE = [
    ("question answer", "question answer", "rename the"),
    ("sentence1 sentence2 label", "sentence1 sentence2 label", LABELS),
    ("0 1 2", "0 1 2", "rename the"),
]


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
@pytest.mark.parametrize(
    ("names", "unknown", "advice"), [*((f"query {n}", *r) for n, *r in REFUSED), *STRANGE]
)
def test_names_that_are_not_understood(tmp_path, kind, names, unknown, advice):
    path = tmp_path / f"a.{kind}"
    names = names.split()
    if kind == "tsv":
        path.write_text("\t".join(names) + "\n" + "\t".join(f"some {name}" for name in names))
    else:
        write(path, [{name: f"some {name}" for name in names}])
    noun = {"tsv": "column", "jsonl": "field"}[kind] + "s" * (" " in unknown)
    message = refusal(path)
    unknown_names = ", ".join(map(repr, unknown.split()))
    assert message.startswith(
        f"{path}:1: unknown {noun} {unknown_names}; expected query, positive, "
    )
    assert advice in message


def test_a_later_row_with_other_fields(tmp_path):
    path = write(tmp_path / "a.jsonl", [*ROWS, {**ROWS[0], "label": 0}])
    assert refusal(path).startswith(f"{path}:5: unknown field 'label'; expected query, positive, ")
    # A null in an unknown field is allowed, but a later row must not have a value there.
    row = {"query": "a", "positive": "b", "neg": None, "label": None, "positive_score": None}
    assert [t[:3] for t in named(write(path, [row] * 2))] == [("a", "b", None)] * 2
    write(path, [row, {**row, "neg": []}])
    assert refusal(path).startswith(f"{path}:2: unknown field 'neg'")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("query positive negative Negative", "s 'negative' and 'Negative' are both read as nega"),
        ("query positive anchor", "s 'query' and 'anchor' are both read as query; remove one"),
        ("query negative", " 'positive' is missing; add it ("),
        ("positive negative", " 'query' is missing; add it ("),
    ],
)
@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_names_given_twice_or_not_at_all(tmp_path, kind, names, message):
    path = tmp_path / f"a.{kind}"
    names = names.split()
    if kind == "tsv":
        path.write_text("\t".join(names) + "\n" + "\t".join("abcd"[: len(names)]))
    else:
        write(path, [dict(zip(names, "abcd", strict=False))])
    noun = {"tsv": "column", "jsonl": "field"}[kind]
    assert refusal(path).startswith(f"{path}:1: {noun}{message}")


@pytest.mark.parametrize("first", ["query\tpassage of a text", "q1\td1\td2", "doc7\tdoc8", "1\t2"])
def test_first_row_that_is_no_header(tmp_path, first):
    path = tmp_path / "a.tsv"
    path.write_text(f"{first}\n")
    assert [cell for cell in named(path)[0][:3] if cell] == first.split("\t")
